"""Agents as C: they decide as their graphs do, on this machine's processor and on those of small boards."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import pytest
from agentmixer_cli.app import app
from conftest import quiet, tiny_spec
from test_every_task import started
from traced_agents import KINDS, traced
from typer.testing import CliRunner

from agentmixer.contract.manifest import C_FILE, C_FILES, C_HEADER_FILE, C_TEST_FILE, AgentManifest
from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export import c_code
from agentmixer.export.exporter import Exported, Forms, export
from agentmixer.export.graph_step import graph_step
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.golden import Golden, silence
from agentmixer.runtime.verify import verify
from agentmixer.train import trainer
from agentmixer.train.run import Run

FIRMWARE = Path(__file__).parents[2] / "examples" / "firmware"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler here")


class Made(NamedTuple):
    manifest: AgentManifest
    model: bytes
    golden: Golden
    files: dict[str, bytes]


def made(spec: TaskSpec, index: int, **settings: object) -> Made:
    """One agent and its files of C."""
    agent = traced(spec, index, **settings)
    return Made(*agent, c_code.c_files(agent.model, agent.manifest, agent.golden))


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_that_is_compiled_computes_what_the_exported_graph_does(kind: str) -> None:
    spec, index, settings = KINDS[kind]
    agent = made(spec, index, **settings)
    written = c_code._vectorised(onnx.load_from_string(agent.model))
    assert not {node.op_type for node in written.graph.node} & {"Split"}
    ours, theirs = graph_step(written.SerializeToString()), graph_step(agent.model)
    for t in range(20):
        trace, row = agent.golden, slice(t, t + 1)
        rows = trace.obs[row], trace.action_mask[row], trace.state_out[row], trace.noise[row]
        for a, b in zip(ours(*rows), theirs(*rows), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_the_self_test_repeats_the_trace_and_fails_where_the_code_is_another(kind: str) -> None:
    spec, index, settings = KINDS[kind]
    agent = made(spec, index, **settings)
    assert c_code.run_self_test(agent.files) == f"agent {agent.manifest.agent}: 200 of 200 golden actions equal"
    other = made(spec, index, **settings, seed=1)
    with pytest.raises(
        AgentMixerError, match=r"does not decide as the trained network did on this machine \(agent .*: \d+ of 200"
    ):
        c_code.run_self_test(agent.files | {C_FILE: other.files[C_FILE]})


class Library:
    """policy.c as a shared library, called as firmware calls it."""

    def __init__(self, agent: Made, folder: Path):
        for name, data in agent.files.items():
            (folder / name).write_bytes(data)
        library = folder / "policy.so"
        subprocess.run(
            ["cc", *c_code.FLAGS, *WARNINGS, "-shared", "-fPIC", "-o", library, folder / C_FILE, "-lm"], check=True
        )
        self.code, self.real = ctypes.CDLL(str(library)), isinstance(agent.manifest.action_space, Box)
        self.width = int(np.prod(agent.manifest.tensor("action").shape))

    def act(self, obs: np.ndarray, mask: np.ndarray | None) -> tuple[int, list[float]]:
        action = np.full(self.width, 77, np.float32 if self.real else np.int32)
        given = None if mask is None else mask.ctypes.data_as(ctypes.c_void_p)
        status = self.code.agent_act(obs.ctypes.data_as(ctypes.c_void_p), given, action.ctypes.data_as(ctypes.c_void_p))
        return status, action.tolist()


@needs_compiler
def test_what_is_no_observation_or_allows_nothing_gives_the_fallback_and_changes_nothing(tmp_path: Path) -> None:
    agent = made(tiny_spec(), 0)
    library, golden = Library(agent, tmp_path), agent.golden
    nothing = np.zeros(4, bool)
    broken = golden.obs[0].copy()
    broken[3] = np.nan
    library.code.agent_reset()
    for t in range(20):
        assert library.act(broken, golden.action_mask[t]) == (1, [0])
        assert library.act(golden.obs[t], nothing) == (2, [0])
        assert library.act(golden.obs[t], golden.action_mask[t]) == (0, [golden.action[t]])


@needs_compiler
def test_a_scenario_of_any_name_stands_in_a_comment() -> None:
    agent = made(tiny_spec(), 0)
    named = msgspec.structs.replace(agent.manifest, scenario="a */ b\n#error \\")
    assert c_code.run_self_test(c_code.c_files(agent.model, named, agent.golden))


@needs_compiler
def test_two_agents_are_linked_as_the_page_says(tmp_path: Path) -> None:
    """docs/c-code.md's commands, and a program that asks both about the same observation."""
    agents = [made(tiny_spec(), 0, seed=seed) for seed in (0, 1)]
    page = (Path(__file__).parents[2] / "docs" / "c-code.md").read_text()
    hidden = [line for line in page.splitlines() if line.startswith("objcopy")]
    assert len(hidden) == 2
    for number, agent in enumerate(agents):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in agent.files.items():
            (folder / name).write_bytes(data)
        subprocess.run(["cc", *c_code.FLAGS, "-c", C_FILE, "-o", "agent_1.o"], cwd=folder, check=True)
        for line in hidden:
            subprocess.run(line.replace("agent_1_", f"agent_{number}_").split(), cwd=folder, check=True)
    program = "int {0}_act(const float*, const bool*, int*); void {0}_reset(void);"
    (tmp_path / "two.c").write_text(
        "#include <stdbool.h>\n#include <stdio.h>\n" + "".join(program.format(f"agent_{n}") for n in (0, 1))
        + "int main(void) { float obs[7] = {1, -2, 3}; bool mask[4] = {true, true, true, true}; int a, b; agent_0_reset(); "
        "agent_1_reset(); agent_0_act(obs, mask, &a); agent_1_act(obs, mask, &b); printf(\"%d %d\", a, b); return 0; }"
    )  # fmt: skip
    subprocess.run(["cc", "two.c", "0/agent_1.o", "1/agent_1.o", "-lm", "-o", "two"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "two"], capture_output=True, text=True, check=True).stdout
    obs, mask = np.array([[1, -2, 3, 0, 0, 0, 0]], np.float32), np.ones((1, 4), bool)
    state = np.zeros((1, agents[0].manifest.memory), np.float32)
    assert said == " ".join(str(int(graph_step(agent.model)(obs, mask, state, silence(1))[0][0])) for agent in agents)


def test_what_c_cannot_do_is_refused_before_any_work(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(AgentMixerError, match="an agent as C cannot do --when-unusual fall-back"):
        export(trained, tmp_path / "bundle", when_unusual="fall back", forms=Forms(c=True))


@needs_compiler
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("#error no", "the C code does not compile on this machine"),
        ("int main(void) { return 3; }", "does not decide as"),
    ],
)
def test_why_c_is_not_exported_is_said(source: str, words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        c_code.run_self_test({C_FILE: b"\n", C_TEST_FILE: source.encode()})


def test_a_near_tie_of_the_trace_may_be_decided_either_way() -> None:
    agent = made(tiny_spec(), 0)
    policy = agent.golden.policy.copy()
    policy[3, :2] = policy[3].max() + np.array([1e-6, 0], np.float32)
    found = c_code._ties(agent.manifest, agent.golden._replace(policy=policy))
    assert found[3] and found.sum() == 1


@needs_compiler
def test_a_reset_forgets_what_is_kept(tmp_path: Path) -> None:
    agent = made(tiny_spec(), 0)
    library, golden = Library(agent, tmp_path), agent.golden

    def episode() -> list[tuple[int, list[float]]]:
        library.code.agent_reset()
        return [library.act(golden.obs[t], golden.action_mask[t]) for t in range(50)]

    assert episode() == episode() == [(0, [action]) for action in golden.action[:50]]


@needs_compiler
def test_export_c_writes_the_files_verify_covers_them_and_devices_load_the_rest(tmp_path: Path) -> None:
    run = started("matrix", "climbing", tmp_path / "run", {}, hidden=8, total_steps=128)
    assert trainer.train(run, quiet())
    done = CliRunner().invoke(app, ["export", str(run.path), "--per-agent", "c", "--out", str(tmp_path / "bundle")])
    assert done.exit_code == 0, done.output
    assert "agent agent_1: 256 of 256 golden actions equal" in done.output
    folder = tmp_path / "bundle" / "agents" / "agent_0"
    files = read_agent(folder)
    assert set(C_FILES) < set(files.manifest.files)
    assert files.manifest.files["policy.onnx"] in (folder / C_HEADER_FILE).read_text()
    assert verify(tmp_path / "bundle").passed

    code = folder / C_FILE
    code.write_text(code.read_text().replace("0x1.", "0x0.", 1))
    report = verify(tmp_path / "bundle")
    assert [check.sentence for check in report.checks if check.status == "failed"] == [
        f"{code} is not what was exported (its SHA-256 differs); copy or export the bundle again"
    ]
    code.unlink()
    with pytest.raises(AgentMixerError, match=r"policy\.c is missing"):
        read_agent(folder)


def test_c_that_the_manifest_does_not_list_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder = tmp_path / "agent_0"
    shutil.copytree(exported.path / "agents" / "agent_0", folder)
    (folder / C_FILE).write_text("int main(void) { return 0; }")
    with pytest.raises(AgentMixerError, match=r"policy\.c is not listed in the manifest"):
        read_agent(folder)
    assert not verify(folder).passed


def test_without_the_compiler_of_graphs_the_sentence_says_what_to_install(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c_code._compiler.cache_clear()
    monkeypatch.setitem(sys.modules, "emx_onnx_cgen.compiler", None)
    with pytest.raises(AgentMixerError, match=r"needs emx-onnx-cgen.*pip install 'agentmixer\[c\]'"):
        export(trained, tmp_path / "bundle", forms=Forms(c=True))
    assert not (tmp_path / "bundle").exists()


#: Processor, its floating-point unit, and the board that QEMU has it on.
BOARDS = {"cortex-m4": ("fpv4-sp-d16", "mps2-an386"), "cortex-m7": ("fpv5-sp-d16", "mps2-an500")}


@pytest.mark.parametrize("kind", ["masked, memory", "real-valued, moments"])
@pytest.mark.parametrize("processor", [*BOARDS, "aarch64"])
def test_other_processors_repeat_the_trace(processor: str, kind: str, tmp_path: Path) -> None:
    spec, index, settings = KINDS[kind]
    agent = made(spec, index, **settings)
    for name, data in agent.files.items():
        (tmp_path / name).write_bytes(data)
    if processor == "aarch64":
        compiler, emulator = "aarch64-linux-gnu-gcc", ["qemu-aarch64"]
        command = ["-static", C_FILE, C_TEST_FILE]
    else:
        unit, board = BOARDS[processor]
        compiler = "arm-none-eabi-gcc"
        emulator = ["qemu-system-arm", "-M", board, "-semihosting", "-nographic", "-kernel"]
        command = [
            f"-mcpu={processor}", f"-mfpu={unit}", "-mthumb", "-mfloat-abi=hard", "-ffunction-sections",
            "-fdata-sections", "-Wl,--gc-sections", "-nostartfiles", "--specs=rdimon.specs",
            "-T", str(FIRMWARE / "mps2.ld"), str(FIRMWARE / "startup.c"), C_FILE, C_TEST_FILE,
        ]  # fmt: skip
    if missing := [tool for tool in (compiler, emulator[0]) if not shutil.which(tool)]:
        pytest.skip(f"no {' and no '.join(missing)} here")
    subprocess.run([compiler, *c_code.FLAGS, *WARNINGS, *command, "-lm", "-o", "self_test"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [*emulator, "self_test" if processor != "aarch64" else "./self_test"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (
        0,
        f"agent {agent.manifest.agent}: 200 of 200 golden actions equal",
    )
