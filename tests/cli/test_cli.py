"""The command line as a newcomer meets it: three commands in a row, and one sentence for every mistake."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agentmixer_cli.app import app
from commands import ON_A_DEVICE, agentmixer
from pages import read

from agentmixer.export.exporter import Exported
from agentmixer.host.agent_link import AgentLost
from agentmixer.host.lock_step import Host
from agentmixer.train.run import Run

TINY = [
    f"--set={s}"
    for s in (
        "num_envs=8",
        "rollout_length=16",
        "minibatches=2",
        "epochs=2",
        "chunk_length=4",
        "hidden=16",
        "eval_episodes=8",
        "final_episodes=8",
    )
]


def test_three_commands_in_a_row(tmp_path: Path) -> None:
    trained = agentmixer("train", "smacv2", "protoss_5v5", "--steps", "256", *TINY, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.splitlines()[-1] == "next: agentmixer export --per-agent onnx"
    run = next(tmp_path.glob("runs/smacv2/protoss_5v5/agentmixer_ppo/*-s0"))
    assert {f.name for f in run.iterdir()} == {
        "config.toml",
        "lock",
        "metrics.jsonl",
        "summary.json",
        "train.log",
        "run.html",
        "checkpoints",
        "tensorboard",
    }

    exported = agentmixer("export", "--per-agent", "onnx", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.splitlines()[-1] == "next: agentmixer deploy-sim"
    again = agentmixer("export", "--per-agent", "onnx", cwd=tmp_path)
    assert again.returncode == 2 and "give --replace to lose what is there" in again.stderr
    assert len(list(tmp_path.glob("bundles/*"))) == 1

    deployed = agentmixer("deploy-sim", "--episodes", "2", "--deadline-ms", "10000", cwd=tmp_path)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert deployed.stdout.splitlines()[-1] == "verdict: PASS"
    report = next(tmp_path.glob("bundles/*/reports/deploy_sim.json"))
    (parity,) = [check for check in json.loads(report.read_text())["checks"] if check["name"] == "parity"]
    assert parity["actions"] > 0 and parity["different"] == 0

    assert report.with_suffix(".npz").is_file()
    drawn = agentmixer("replay", "--episode", "1", "--agent", "agent_3", "--size", "120", cwd=tmp_path)
    assert drawn.returncode == 0 and (report.parent / "replay_1_agent_3.gif").is_file(), drawn.stderr

    late = agentmixer("deploy-sim", "--episodes", "1", "--deadline-ms", "0.01", cwd=tmp_path)
    assert late.returncode == 1
    assert late.stdout.splitlines()[-1].startswith("verdict: FAIL: deadline: ")
    page = report.with_name("report.html")
    assert f"page {page.relative_to(tmp_path)}" in late.stdout.splitlines()
    assert "The deployed team does not always decide in time." in read(page.read_text()).text

    evaluated = agentmixer("evaluate", "--episodes", "8", "--policy", "joint", "--sampled", "--json", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["episodes"] == 8

    listed = agentmixer("runs", cwd=tmp_path)
    assert listed.returncode == 0
    where, figures, what = listed.stdout.splitlines()[:3]
    assert where == str(run.relative_to(tmp_path))
    assert "win rate " in figures and "finished at 256" in figures
    assert what.startswith("  smacv2 protoss_5v5, agentmixer_ppo default, seed 0; ") and "num_envs=8" in what
    (told,) = json.loads(agentmixer("runs", "--json", cwd=tmp_path).stdout)
    assert (told["run"], told["step"], told["seed"]) == (str(run.relative_to(tmp_path)), 256, 0)


def test_ctrl_c_and_resume(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "agentmixer_cli.main",
        "train",
        "matrix",
        "climbing",
        "--steps",
        "1e9",
        "--out",
        "run",
        *TINY,
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "continue with: agentmixer train matrix climbing --resume --out run" in error
    steps = int(json.loads(metrics.read_text().splitlines()[-1])["step"])
    resumed = agentmixer(
        "train", "matrix", "climbing", "--resume", "--out", "run", "--steps", steps + 128, cwd=tmp_path
    )
    assert resumed.returncode == 0, resumed.stderr
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()][-2:] == [steps, steps + 128]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "smac", "protoss_5v5"], "unknown task 'smac'; did you mean 'smacv2'?"),
        (["train", "smacv2", "protos_5v5"], "no scenario 'protos_5v5'; did you mean 'protoss_5v5'?"),
        (["train", "smacv2", "protoss_5v5", "--preset", "papers"], "unknown preset 'papers'; did you mean 'paper'?"),
        (
            ["train", "smacv2", "protoss_5v5", "--set", "actor_rl=1"],
            "unknown setting 'actor_rl'; did you mean 'actor_lr'?",
        ),
        (
            ["train", "smacv2", "protoss_5v5", "--set", "lr=1"],
            "unknown setting 'lr'; did you mean 'actor_lr' or 'critic_lr' or 'lr_decay' or 'pm_lr'?",
        ),
        (["train", "smacv2", "protoss_5v5", "--set", "lr"], "takes key=value, got 'lr'; did you mean 'actor_lr' or"),
        (
            ["train", "predator_prey", "5x5", "--env-arg", "actor_lr=1"],
            "actor_lr is a setting and not an option of the task; use --set actor_lr=...",
        ),
        (
            ["compare", "matrix", "climbing", "--vary", "pm=mixer,none", "--set", "pm=none"],
            "--vary and --set both give pm; leave one of them out",
        ),
        (
            ["train", "predator_prey", "5x5", "--set", "penalty=-1"],
            "penalty is an option of the task and not a setting; use --env-arg penalty=-1",
        ),
        (
            ["compare", "predator_prey", "5x5", "--set", "penalty=-1"],
            "penalty is an option of the task and not a setting; use --env-arg penalty=-1",
        ),
        (
            ["train", "smacv2", "protoss_5v5", "--steps", "1M"],
            "between 1 and 1000000000000, got 1M, which is typed 1000000",
        ),
        (["train", "smacv2", "protoss_5v5", "--set", "total_steps=1.5M"], "got 1.5M, which is typed 1500000"),
        (["train", "smacv2", "protoss_5v5", "--steps", "400k"], "got 400k, which is typed 400000"),
        (["train", "smacv2", "protoss_5v5", "--steps", "1,000,000"], "got 1,000,000, which is typed 1000000"),
        (["compare", "smacv2", "protoss_5v5", "--steps", "1M"], "got 1M, which is typed 1000000"),
        (["train", "predator_prey", "5x5", "--env-arg", "preys=1k"], "got 1k, which is typed 1000"),
        (
            ["train", "smacv2", "protoss_5v5", "--set", "gamma=2"],
            "gamma must be a finite number between 0.0 and 1.0, got 2",
        ),
        (
            ["train", "smacv2", "protoss_5v5", "--set", "chunk_length=5"],
            "chunk_length 5 does not divide rollout_length 16",
        ),
        (
            ["train", "smacv2", "protoss_5v5", "--steps", "0"],
            "--steps must be a whole number between 1 and 1000000000000, got 0",
        ),
        (["train", "smacv2", "protoss_5v5", "--device", "tpu"], "unknown device 'tpu'; known: cpu, cuda"),
        (["train", "smacv2", "protoss_5v5", "--resume"], "no run of smacv2 protoss_5v5 found under runs/"),
        (
            ["train", "smacv2", "protoss_5v5", "--resume", "--seed", "0"],
            "leave out --set, --env-arg, --algorithm, --preset, --seed",
        ),
        (
            ["export"],
            "no run with a checkpoint found under runs/; train one first: agentmixer train smacv2 protoss_5v5",
        ),
        (["export", "nowhere"], "nowhere holds no run"),
        (["export", "--per-agent", "onyx"], "unknown export format 'onyx'; did you mean 'onnx'?"),
        (["deploy-sim"], "no bundle found under bundles/; export one first: agentmixer export --per-agent onnx"),
        (["deploy-sim", "nowhere"], "nowhere holds no bundle"),
        (["evaluate"], "no run with a checkpoint found"),
        (["runs"], "no run found under runs/"),
        (["tasks", "chess"], "unknown task 'chess'"),
        (["analyze"], "no run with a checkpoint found under runs/"),
        (["train", "mamujoco", "Ant-4x3"], "no scenario 'Ant-4x3'; did you mean 'Ant-4x2'?"),
        (
            ["train", "mamujoco", "Ant-4x2", "--env-arg", "agent_obsk=2"],
            "option agent_obsk must be one of 0, 1, none, got 2",
        ),
        (["train", "predator_prey", "5x5", "--env-arg", "penality=-1"], "did you mean 'penalty'?"),
        (["train", "predator_prey", "5x5", "--env-arg", "penalty"], "--env-arg takes key=value, got 'penalty'"),
        (["train", "predator_prey", "5x5", "--env-arg", "penality"], "got 'penality'; did you mean 'penalty'?"),
        (["train", "matrix", "climbing", "--env-arg", "sze=3"], "unknown option 'sze'; known: none"),
        (
            ["settings", "mapo"],
            "unknown algorithm 'mapo'; did you mean 'mappo'? known: agentmixer_ppo, agentmixer_sac, ail, armappo, happo, magpo, mappo, mappo_full, mat",
        ),
        (["settings", "--task", "matrx"], "unknown task 'matrx'; did you mean 'matrix'?"),
        (["train", "predator_prey", "5x5", "--env-arg", "predators=1"], "it takes at least 2 to catch a prey"),
        (["train", "matrix", "gone.json"], "there is no file gone.json"),
        (["train", "matrix", "/dev/null/x.npy"], "cannot be read as payoffs"),
        (["train", "matrix", "climbing", "--set", "max_grad_norm=inf"], "max_grad_norm must be a finite number"),
        (
            ["train", "matrix", "climbing", "--set", "final_episodes=1e30"],
            "final_episodes must be a whole number between 1 and 1000000",
        ),
        (["train", "pettingzoo", "nowhere:make_env"], "module 'nowhere' cannot be imported"),
        (["train", "pettingzoo", "mpe2.simple_spread_v3:paralel_env"], "did you mean 'parallel_env'?"),
        (["train", "smacv2", "protoss_5v5", "--env-arg", "map=1"], "unknown option 'map'"),
        (["train", "smacv2"], "Missing argument 'scenario'; see "),
        (["deploy-sim", "--episodes", "0"], "--episodes must be a whole number of at least 1, got 0; see "),
        (
            ["deploy-sim", "--episodes=1k"],
            "of at least 1, got 1k, which is typed 1000; see agentmixer deploy-sim --help",
        ),
        (
            ["deploy-sim", "--deadline-ms", "inf"],
            "--deadline-ms must be a finite number between 0.01 and 4000000.0, got",
        ),
        (
            ["evaluate", "--episodes", "1,000"],
            "--episodes must be a whole number of at least 1, got 1,000, which is typed 1000",
        ),
        (["evaluate", "--episodes", "1e3"], "--episodes takes digits alone, got 1e3, which is typed 1000; see "),
        (["evaluate", "--seed", "x"], "--seed must be a whole number between 0 and 2147483647, got x; see "),
        (
            ["pin", "k", "--team", "a", "--release", "1.5"],
            "--release must be a whole number between 0 and 2147483647, got 1.5",
        ),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["train", "smacv2", "protoss_5v5", "--out", "/dev/null/run"], "/dev/null/run: Not a directory"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = agentmixer(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_second_train_into_a_directory_loses_nothing(trained: Run, tmp_path: Path) -> None:
    before = {f: f.read_bytes() for f in trained.path.rglob("*") if f.is_file()}
    result = agentmixer("train", "smacv2", "protoss_5v5", "--out", trained.path, cwd=tmp_path)
    assert result.returncode == 2
    assert "exists already" in result.stderr
    assert {f: f.read_bytes() for f in trained.path.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize("damage", ["byte", "agent", "schema"])
def test_a_damaged_bundle_is_refused_by_deploy_sim(exported: Exported, damage: str, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported.path, tmp_path / "bundle"))
    model, team = bundle / "agents/agent_2/policy.onnx", bundle / "team.json"
    if damage == "byte":
        model.write_bytes(model.read_bytes()[:-1] + b"?")
    elif damage == "agent":
        shutil.rmtree(model.parent)
    else:
        team.write_text(team.read_text().replace('"schema_version": 4', '"schema_version": 7', 1))
    result = agentmixer("deploy-sim", bundle, cwd=tmp_path)
    assert result.returncode == 2
    assert {"byte": "agent_2/policy.onnx", "agent": "agent_2 is missing", "schema": "schema version 7"}[
        damage
    ] in result.stderr
    assert "Traceback" not in result.stderr


def test_a_lost_agent_fails_and_its_report_stands_beside_an_older_one(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(exported.path, tmp_path / "bundle"))
    report = tmp_path / "report.json"
    report.write_text('{"passed": true}')

    def lost(self: Host, *_: object) -> None:
        raise AgentLost("agent agent_3 hung up; its process ended with status -9")

    monkeypatch.setattr(Host, "step", lost)
    result = agentmixer("deploy-sim", bundle, "--episodes", "1", "--report", report, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert result.stdout.splitlines()[-1].startswith("verdict: FAIL: running: agent agent_3 hung up")
    assert report.read_text() == '{"passed": true}'
    assert json.loads((tmp_path / "report-2.json").read_text())["passed"] is False and "report-2.json" in result.stdout
    page = read((tmp_path / "report-2.json.html").read_text())
    assert "agent agent_3 hung up; its process ended with status -9" in page.text


def test_tasks_lists_every_scenario_and_what_the_stand_in_lacks(tmp_path: Path) -> None:
    result = agentmixer("tasks", cwd=tmp_path)
    assert result.returncode == 0
    for race in ("protoss", "terran", "zerg"):
        for size in ("5v5", "10v10", "10v11", "20v20", "20v23"):
            assert f"{race}_{size}" in result.stdout
    for word in ("medivac", "baneling", "splash"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("task", "example"), [("matrix", "climbing"), ("gymnasium", "ID"), ("pettingzoo", "MODULE:FACTORY")]
)
def test_a_task_that_is_asked_for_is_the_one_to_train_next(task: str, example: str, tmp_path: Path) -> None:
    listed = agentmixer("tasks", task, cwd=tmp_path)
    assert listed.stdout.splitlines()[-1] == f"next: agentmixer train {task} {example}"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["train"], "train"),
        (["train", "matrix", "climbing", "--bogus"], "train"),
        (["train", "matrix", "climbing", "--steps"], "train"),
        (["verify", "--agent"], "verify"),
        (["pin", "key"], "pin"),
        (["deploy-sim", "--episodes", "0"], "deploy-sim"),
        (["frobnicate"], ""),
        (["--bogus"], ""),
    ],
)
def test_a_usage_error_names_the_help_of_its_command(arguments: list[str], command: str, tmp_path: Path) -> None:
    result = agentmixer(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.endswith(f"; see {' '.join(['agentmixer', *command.split()])} --help\n")


def test_a_usage_error_says_the_same_however_the_command_was_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agentmixer_cli.main", "pin"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.stderr.endswith("; see agentmixer pin --help\n")


@pytest.mark.parametrize(
    "command", ["train", "export", "deploy-sim", "evaluate", "tasks", "settings", "runs", "analyze", "doctor"]
)
def test_help_shows_a_working_example(command: str, tmp_path: Path) -> None:
    result = agentmixer(command, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert f"Example: agentmixer {command}" in result.stdout


def test_every_command_answers_in_json_if_asked(tmp_path: Path) -> None:
    for command in app.registered_commands:
        assert "--json" in agentmixer(command.name, "--help", cwd=tmp_path).stdout, command.name


def test_runs_are_listed_without_what_trains(trained: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_A_DEVICE, "runs", "--root", str(trained.path.parent)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(trained.path)


def test_listing_tasks_needs_no_simulator(tmp_path: Path) -> None:
    code = "import sys; sys.modules['jax'] = sys.modules['torch'] = None; from agentmixer_cli.main import main; sys.argv = ['agentmixer', 'tasks']; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["train smacv2 protoss_5v5", "settings", "compare matrix climbing"])
def test_a_device_installation_says_what_training_needs(command: str, tmp_path: Path) -> None:
    """None of the packages that only training needs can be imported, as where only the base install is."""
    result = subprocess.run(
        [sys.executable, "-c", ON_A_DEVICE, *command.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: this command needs '") and result.stderr.count("\n") == 1
    assert "pip install 'agentmixer[train]'" in result.stderr


@pytest.mark.parametrize("place", [".", "/"])
@pytest.mark.parametrize("command", ["keygen PLACE", "verify BUNDLE --trusted PLACE", "pin PLACE --team a"])
def test_a_folder_is_no_place_of_a_key(command: str, place: str, exported: Exported, tmp_path: Path) -> None:
    words = [{"PLACE": place, "BUNDLE": exported.path}.get(word, word) for word in command.split()]
    result = agentmixer(*words, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {place} is ") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
