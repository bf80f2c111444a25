"""An agent as C: time against the ONNX Runtime session of the same graph, and its size and instructions on small processors.

    python benchmarks/c_code.py [bundles/<bundle>/agents/agent_0 ...]

The newest bundle's first agent unless some are named; they need not have been exported as C. A decision is timed over the golden
steps, in turn with the session, whose call from Python is counted in. The table of processors needs their compilers and QEMU.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from table import Row, show

from agentmixer.contract.manifest import AGENTS_FOLDER, C_FILE, C_TEST_FILE
from agentmixer.export.c_code import c_files
from agentmixer.runtime.agent import make_session
from agentmixer.runtime.bundle import AgentFiles, newest, read_agent
from agentmixer.runtime.golden import Golden, parse

FIRMWARE = Path(__file__).parents[1] / "examples" / "firmware"
#: How the C is compiled here. None has -ffast-math.
FLAGS = ("-O2", "-O3", "-O3 -march=native")
ROUNDS = 40
_ARM = "-mthumb -mfloat-abi=hard -ffunction-sections -fdata-sections"
#: Processor -> compiler, its options, what links a program, and what runs it.
PROCESSORS = {
    "x86-64": ("gcc", "-O2", "", ""),
    "aarch64": ("aarch64-linux-gnu-gcc", "-O2", "-static", "qemu-aarch64"),
    "Cortex-M4F": ("arm-none-eabi-gcc", f"-Os -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 {_ARM}", "board", "qemu-system-arm -M mps2-an386"),
    "Cortex-M7": ("arm-none-eabi-gcc", f"-Os -mcpu=cortex-m7 -mfpu=fpv5-sp-d16 {_ARM}", "board", "qemu-system-arm -M mps2-an500"),
}  # fmt: skip

#: Replays the golden steps; what `timed` calls.
_LOOP = """
void replay(int rounds) { for (int r = 0; r < rounds; ++r) { if (main_() != 0) { printf("wrong\\n"); } } }
"""


def timed(files: AgentFiles, golden: Golden, folder: Path, flags: str) -> tuple[float, float]:
    """Microseconds a decision, best round each: of the C, and of the session."""
    test = (
        (folder / C_TEST_FILE)
        .read_text()
        .replace("int main(void)", "static int main_(void)")
        .replace("printf(", "if (0) printf(")
    )
    (folder / "loop.c").write_text(test + _LOOP)
    library = folder / f"loop{hash(flags)}.so"
    subprocess.run(
        ["gcc", "-std=c99", *flags.split(), "-shared", "-fPIC", "-o", library, C_FILE, "loop.c", "-lm"],
        cwd=folder,
        check=True,
    )
    replay, session = ctypes.CDLL(str(library)).replay, make_session(files.model)
    steps, outputs = len(golden.reset), [spec.name for spec in files.manifest.outputs]
    given = {"obs": golden.obs, "action_mask": golden.action_mask, "noise": golden.noise, "state_in": golden.state_out}
    feeds = [{spec.name: given[spec.name][t : t + 1] for spec in files.manifest.inputs} for t in range(steps)]
    best = [float("inf")] * 2
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        replay(1)
        middle = time.perf_counter()
        for feed in feeds:
            session.run(outputs, feed)
        spent = middle - begin, time.perf_counter() - middle
        best = [min(pair) for pair in zip(best, spent, strict=True)]
    return best[0] / steps * 1e6, best[1] / steps * 1e6


def on_processor(name: str, folder: Path) -> list[str]:
    """What a processor makes of it: golden steps, flash, RAM kept, stack, instructions a decision."""
    compiler, flags, link, emulator = PROCESSORS[name]
    if missing := [tool for tool in (compiler, *emulator.split()[:1]) if not shutil.which(tool)]:
        return [f"no {' and no '.join(missing)} here", "", "", "", ""]

    def run(command: str) -> str:
        done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return (done.stdout or done.stderr).strip()

    def build(target: str, *sources: str) -> None:
        board = f"-nostartfiles --specs=rdimon.specs -Wl,--gc-sections -T {FIRMWARE}/mps2.ld {FIRMWARE}/startup.c"
        options = board if link == "board" else link
        command = f"{compiler} -std=c99 {flags} -I. {options} {C_FILE} {' '.join(sources)} -lm -o {target}"
        subprocess.run(command.split(), cwd=folder, check=True)

    build("test", C_TEST_FILE)
    subprocess.run(f"{compiler} -std=c99 {flags} -c {C_FILE} -o policy.o".split(), cwd=folder, check=True)
    text, data, bss = run(f"{compiler.removesuffix('gcc')}size policy.o").splitlines()[1].split()[:3]
    stack = instructions = "-"
    if link == "board":
        said = run(f"{emulator} -semihosting -nographic -kernel test")
        build("measure", str(FIRMWARE / "measure.c"))
        counted = run(f"{emulator} -icount shift=0 -semihosting -nographic -kernel measure").split()
        instructions, stack = f"{int(counted[0]):,}", " ".join(counted[2:-3])
    else:
        said = run(f"{emulator} ./test".strip())
    return [said.split(": ")[-1], f"{int(text):,}", f"{int(data) + int(bss):,}", stack, instructions]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", type=Path, nargs="*")
    chosen = parser.parse_args().agents or [sorted((newest() / AGENTS_FOLDER).iterdir())[0]]
    console, rows = Console(width=140), []
    table = Table("agent", "processor", "self-test", "flash, bytes", "RAM kept", "stack", "instructions a decision")
    for place in chosen:
        files = read_agent(place)
        golden = parse(files.golden, files.manifest)
        name = f"{files.manifest.scenario} {files.manifest.agent}"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for file, data in c_files(files.model, files.manifest, golden).items():
                (folder / file).write_bytes(data)
            for flags in FLAGS:
                ours, session = timed(files, golden, folder, flags)
                rows.append(Row(f"{name}, {flags}", ours, "µs", "its session, called from Python", session))
            for processor in PROCESSORS:
                table.add_row(name, processor, *on_processor(processor, folder))
    show(console, rows)
    console.print(table)


if __name__ == "__main__":
    main()
