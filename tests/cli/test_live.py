"""Training that is watched: on a terminal, by a page, and in train.log."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import time
from pathlib import Path

import pytest
from agentmixer_cli.live import view
from agentmixer_cli.terminal import Terminal
from agentmixer_cli.watched import watched
from commands import Process
from conftest import quiet

from agentmixer import tasks
from agentmixer.train import records, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run
from agentmixer.train.watching import Seen, Standing

#: Three updates of 8 steps without JAX, judged after each.
SMALL = {
    "num_envs": 2, "rollout_length": 4, "total_steps": 24, "chunk_length": 4, "minibatches": 1, "epochs": 1, "hidden": 8,
    "share_parameters": False, "checkpoint_interval": 8, "eval_interval": 8, "eval_episodes": 2, "final_episodes": 2,
}  # fmt: skip


def small(path: Path, seed: int = 3) -> Run:
    backend, options = tasks.check("mamujoco", "Reacher-2x1", None, {})
    config = AgentMixerPPO.configure().replace(SMALL)
    return runs.create(
        "mamujoco", "Reacher-2x1", backend, "agentmixer_ppo", "default", seed, "cpu", options, config, path
    )


def lines(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def check_log(run: Run) -> None:
    """train.log has a line for each evaluation in metrics.jsonl: its time, step, speed, and figure with the interval."""
    judged = [line for line in lines(run) if "eval_return" in line]
    wanted = [
        f"0:00:{int(line['seconds']):02}  step {line['step']:>10}  {line['steps_per_second']:>6,.0f} steps/s  decentralised "
        f"greedy: return {line['eval_return']:.2f} [{line['eval_return_low']:.2f}, {line['eval_return_high']:.2f}]"
        for line in judged
    ]
    assert (run.path / "train.log").read_text().splitlines() == wanted


def test_the_view_shows_the_figures_of_every_seed() -> None:
    first = {
        "step": 100,
        "eval_return": 1.0,
        "eval_win_rate": 0.25,
        "eval_win_rate_low": 0.1,
        "eval_win_rate_high": 0.5,
    }
    second = {"step": 200, "eval_return": 1.0, "eval_win_rate": 0.75}
    newest = {"step": 200, "train_win_rate": 0.5, "mode_agreement": 0.98, "actor_kl": 0.0123, "entropy": "\x1b[2J"}
    seen = [Seen(newest, [first, second]), Seen({"entropy": 2}, [{**first, "eval_win_rate": 0.65}])]
    out = io.StringIO()
    Terminal(file=out, width=80).print(view([4, 7], Standing(200, 800, 40.0, 75.9, seen)))
    bar, *head, one, two, mean = out.getvalue().splitlines()
    assert bar.split()[1:] == ["200", "of", "800", "80", "steps/s", "together", "0:01:15", "left"]
    assert head[-1].split() == [
        "seed",
        "win",
        "rate,",
        "each",
        "alone",
        "evaluations",
        "joint",
        "agreement",
        "entropy",
        "kl",
    ]
    assert one.split() == ["4", "0.750", "(no", "interval)", "▃▇", "0.500", "0.980", "-", "0.012"]
    assert two.split() == ["7", "0.650", "[0.100,", "0.500]", "▆", "-", "-", "2.000", "-"]
    assert mean.split()[:2] == ["mean", "0.700"]
    out.truncate(0)
    Terminal(file=out, width=80).print(view([4], Standing(0, 800, 0.0, None, [Seen({}, [])])))
    assert "0 of 800" in out.getvalue() and "left" not in out.getvalue()


def test_a_watched_run_leaves_its_view_its_page_and_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentmixer_cli.watched.SHARE", 1e9)  # a page at every evaluation, however fast they come
    run, pages = small(tmp_path / "run"), list[str]()
    terminal = Terminal(file=io.StringIO(), force_terminal=True, width=100)
    with watched([run], terminal) as watch:

        def both(now: Standing) -> None:
            watch(now)
            pages.append((run.path / "run.html").read_text())

        assert trainer.train_together([run], terminal, watch=both)
    assert isinstance(terminal.file, io.StringIO)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.file.getvalue())
    assert "24 of 24" in shown and "judging" in shown and "steps/s  sampled joint" not in shown
    for line in lines(run):
        assert f"{line['eval_return']:.4g} [" in shown
    assert all('http-equiv="refresh" content="10"' in page for page in pages)
    assert "Training: step 0 of 24." in pages[0] and "Training: step 24 of 24." in pages[-1]
    finished = (run.path / "run.html").read_text()
    assert 'http-equiv="refresh"' not in finished and "Trained for 24 steps." in finished
    check_log(run)


def test_the_log_of_a_run_killed_before_a_line_is_whole_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = small(tmp_path / "run"), records._Growing.add

    def killed(self: records._Growing, line: str) -> None:
        if self._path.name == "train.log" and "step         16" in line:
            raise SystemError("killed")
        real(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(records._Growing, "add", killed)
        with pytest.raises(SystemError):
            trainer.train(run, quiet())
    assert len((run.path / "train.log").read_text().splitlines()) == 1
    (run.path / "train.log").open("a").write("half a li")
    assert trainer.train(runs.extend(runs.load(run.path), None, None), quiet(), resume=True)
    check_log(run)
    assert len(lines(run)) == 3


def test_nothing_is_written_through_a_link_and_training_goes_on_without_a_page(tmp_path: Path) -> None:
    run, precious = small(tmp_path / "run"), tmp_path / "precious"
    precious.write_text("mine")
    (run.path / "run.html").symlink_to(precious)
    terminal = Terminal(file=io.StringIO(), width=200)
    with watched([run], terminal) as watch:
        assert trainer.train_together([run], terminal, watch=watch)
    assert isinstance(terminal.file, io.StringIO)
    assert precious.read_text() == "mine" and run.summary is not None
    (note,) = [line for line in terminal.file.getvalue().splitlines() if line.startswith("note: ")]
    assert note.startswith(f"note: {run.path}/run.html")


def test_train_draws_on_a_terminal_and_hears_ctrl_c(tmp_path: Path) -> None:
    """A pseudo-terminal of 80 columns; Ctrl-C once the first evaluation is drawn."""
    master, slave = pty.openpty()
    asked = [f"--set={key}={value}" for key, value in {**SMALL, "total_steps": 10**9}.items()]
    process = Process("train", "mamujoco", "Reacher-2x1", "--seeds", "0-1", *asked, cwd=tmp_path, terminal=slave)
    shown = read_until(master, b"mean")
    process.send_signal(signal.SIGINT)
    shown += read_until(master, b"\x1b[?25h")  # the cursor is shown again
    done = process.done(timeout=60)
    os.close(master)
    os.close(slave)
    said = "interrupted; continue with: agentmixer train mamujoco Reacher-2x1 --resume --seeds 0-1\n"
    assert (done.returncode, done.stderr) == (130, said)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace"))
    assert re.search(r"return, each alone +evaluations", text) and re.search(r"\n +1  -\d", text)
    pages = [page.read_text() for page in tmp_path.glob("runs/**/run.html")]
    assert len(pages) == 2
    assert all('http-equiv="refresh"' not in page and "--resume" in page for page in pages)


def read_until(terminal: int, what: bytes) -> bytes:
    """What appears on a terminal up to `what`, for at most two minutes."""
    found, deadline = b"", time.monotonic() + 120
    while what not in found and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            found += os.read(terminal, 1 << 16)
    assert what in found, found[-2000:]
    return found
