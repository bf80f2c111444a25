"""The commands that README and docs show, and how each of them is run.

Whoever adds a command to a page adds its line here, in the chapter whose earlier lines leave what it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
#: results.md and its archive name commands of many commits, each with its own.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if not page.name.startswith("results")),
]
PROGRAMS = ("agentmixer", "make", "pip", "python", "python3", ".venv/bin/python", ".")


def commands(page: Path) -> list[str]:
    """The lines of its fenced blocks that are commands, without remarks and without what is in brackets."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in [] if language else block.splitlines():
            line = re.sub(r"\s+(#|\[).*", "", line).strip()
            if line.partition(" ")[0] in PROGRAMS:
                found.append(line)
    return found


class How(NamedTuple):
    """How a line is run. more: what is added to it; ends: with which exit codes it may end; why_not: why it is not run; it is
    parsed all the same."""

    more: str = ""
    ends: tuple[int, ...] = (0,)
    why_not: str = ""


def no(why: str) -> How:
    return How(why_not=why)


AS_IT_IS = How()
SMALL = (
    "--steps 512 --set num_envs=8 --set rollout_length=16 --set minibatches=2 --set chunk_length=4 --set hidden=16"
    " --set eval_episodes=4 --set final_episodes=4"
)
CUT = How(SMALL)
#: A machine with other work on it may be late, and a team of 512 steps is not what is judged here.
TIMED = How("--episodes 2 --deadline-ms 2000", (0, 1))
FAULTS = How("--episodes 1 --deadline-ms 200", (0, 1, 2))  # 2: the machine is too busy to judge

#: Chapters, each in a folder of its own. Lines that begin with ">" are in no page: they prepare for the next one.
STORY: tuple[dict[str, How], ...] = (
    {  # README's first page
        "agentmixer train smacv2 protoss_5v5": CUT,
        "agentmixer export --per-agent onnx": AS_IT_IS,
        "agentmixer deploy-sim": TIMED,
        "agentmixer replay": AS_IT_IS,
        "agentmixer replay --agent agent_3": AS_IT_IS,
        "agentmixer replay --episode 3 --arm deployed --mp4 three.mp4": How("--episode 1", (0, 2)),  # 2: no ffmpeg
        "agentmixer report": AS_IT_IS,
        "agentmixer report --live": How("", (0, 2)),  # 2: no npm
        "agentmixer runs": AS_IT_IS,
        "agentmixer doctor": AS_IT_IS,
        "agentmixer tasks": AS_IT_IS,
        "agentmixer tasks --algorithms": AS_IT_IS,
        "agentmixer settings agentmixer_ppo --task mamujoco": AS_IT_IS,
        "agentmixer settings agentmixer_ppo --task smacv2": AS_IT_IS,
        "agentmixer show": AS_IT_IS,
        "agentmixer verify": AS_IT_IS,
        "agentmixer probe bundles/<bundle>/agents/agent_0": AS_IT_IS,
        # After the command that writes logs; so short a training and a log may show anything.
        "agentmixer audit bundles/<bundle>/agents/agent_0 --log logs/agent_0.npz": How("", (0, 1, 2)),
        "agentmixer evaluate --policy joint --sampled --episodes 500": How("--episodes 4"),
        "agentmixer locality": How("", (0, 1)),  # so short a training may leave an actor that heeds nothing
        "agentmixer isolation": AS_IT_IS,
        "agentmixer parity": AS_IT_IS,
        "agentmixer mutations": How("", (0, 1)),  # the same
        "agentmixer deploy-sim --margin 0.05 --require-isolation": How("--episodes 5 --deadline-ms 2000", (0, 1)),
        "agentmixer deploy-sim --fault drop=0.05 --fault kill=agent_2@100": How(
            "--episodes 4 --deadline-ms 200", (0, 1, 2)
        ),
        "agentmixer deploy-sim --fault drop=0.05 --fault delay=20ms:p=0.1 --fault kill=agent_2@100 "
        "--fault stop=agent_1@50:for=500ms": How("--episodes 4 --deadline-ms 200", (0, 1, 2)),
        "agentmixer deploy-sim --fault scale=agent_0:own.health:57.3 --log logs": How("--episodes 2"),
        "agentmixer deploy-sim --wiring-matrix": How("--episodes 1"),
        "agentmixer keygen release.key && agentmixer export --sign release.key --replace && "
        "agentmixer verify --trusted release.key.pub": AS_IT_IS,
        "agentmixer deploy-sim --trusted release.key.pub": TIMED,
        "agentmixer agent bundles/<bundle>/agents/agent_0 --control control_loop:device --steps 1000": no(
            "it is typed where the example lies"
        ),
        "agentmixer agent bundles/<bundle>/agents/agent_0 --control golden --rate-hz 50 --steps 1000": How("--steps 5"),
        "agentmixer keygen --tls": AS_IT_IS,
        "agentmixer agent agent_0 --listen 0.0.0.0:7447 --tls keys/agent_0": no("it is typed on a device, and waits"),
        "agentmixer agent agent_0 --control my_robot:device": no("the module is the reader's"),
        "agentmixer pack agent_0 --machine aarch64": no("make dist-check packs"),
        "agentmixer deploy-sim --devices devices.toml": no("it needs devices"),
        "agentmixer pack bundles/<bundle>/agents/agent_0 --machine aarch64 --python 3.11": no("make dist-check packs"),
        "> cp -r bundles/<bundle>/agents/agent_0 .": AS_IT_IS,
        "agentmixer verify agent_0": AS_IT_IS,
        "agentmixer verify agent_0 --trusted release.key.pub": AS_IT_IS,
        "agentmixer pin release.key.pub --team smacv2-protoss_5v5 --release 3": AS_IT_IS,
    },
    {  # signing
        "> agentmixer train passage two_agents --steps 2000": AS_IT_IS,
        "agentmixer keygen release.key": AS_IT_IS,
        "agentmixer export --sign release.key": AS_IT_IS,
        "pip install 'agentmixer[c]'": no("the tests' own environment has it"),
        "agentmixer export --quantize int8": How("--out bundles/int8", (0, 1)),  # 1: so short a training does not hold
        "agentmixer export --sampled": How("--out bundles/drawn"),
        "agentmixer export --per-agent c": How("--out bundles/as-c"),
        "agentmixer export --leapp": How("--out bundles/for-leapp"),
        "agentmixer export --sign release.key --team warehouse --release 7": How("--out bundles/release-7"),
        "agentmixer pin release.key.pub --team warehouse --release 7": AS_IT_IS,
    },
    {  # other tasks and algorithms, as short as they go
        "agentmixer train mamujoco Ant-4x2": CUT,
        "agentmixer train mamujoco 'Humanoid-9|8' --env-arg agent_obsk=1": CUT,
        "agentmixer train predator_prey 5x5 --env-arg penalty=-1": CUT,
        "agentmixer train passage two_agents": CUT,
        "agentmixer train coordsum 3x10-30": CUT,
        "agentmixer train matrix climbing --algorithm mappo": CUT,
        "agentmixer train matrix payoffs/mine.json": CUT,
        "agentmixer train matrix climbing": CUT,
        "agentmixer analyze": AS_IT_IS,
        "> agentmixer export": AS_IT_IS,
        "agentmixer deploy-sim --fault-matrix": FAULTS,
        "agentmixer deploy-sim --fault-matrix --deadline-ms 50": FAULTS,
        "agentmixer train pettingzoo mypackage.mymodule:make_env": CUT,
        "agentmixer train pettingzoo mypackage.mymodule:make_env --env-arg size=5 --env-arg map=small": CUT,
        "agentmixer train pettingzoo mpe2.simple_spread_v3:parallel_env --env-arg max_cycles=25": CUT,
        "agentmixer train gymnasium CartPole-v1": CUT,
        "agentmixer train gymnasium Pendulum-v1 --env-arg g=9.81": CUT,
        "agentmixer train gymnasium mypackage:MyEnv-v0": CUT,
        "agentmixer tasks walkers": AS_IT_IS,
        "agentmixer train walkers two_walkers --steps 100000": CUT,
        "agentmixer train ring eight_cells --steps 100000": CUT,
    },
    {  # runs that are named, resumed, begun from and compared
        "agentmixer train smacv2 zerg_10v10 --steps 2e6 --seed 1 --preset paper --set actor_lr=3e-4 --out runs/mine": How(
            SMALL + " --set eval_interval=256"
        ),
        "agentmixer train smacv2 zerg_10v10 --resume --out runs/mine": How("--steps 1024"),  # the run was not interrupted
        "agentmixer train smacv2 zerg_10v10 --from runs/mine --set actor_lr=1e-4": How("--steps 256 --set final_episodes=4"),
        "agentmixer export runs/mine --step best": AS_IT_IS,
        "agentmixer train smacv2 protoss_5v5 --seeds 0-4": How(SMALL + " --seeds 0-1 --set eval_interval=256"),
        "agentmixer plot runs/smacv2/protoss_5v5 --metric eval_win_rate --metric entropy": AS_IT_IS,
        "agentmixer compare passage two_agents --vary pm=mixer,attention,none --seeds 0-4": How("--steps 1000 --seeds 0-1"),
    },
    {  # from somebody else
        "> agentmixer train pettingzoo mypackage.mymodule:make_env --out stranger/run " + SMALL: AS_IT_IS,
        "> agentmixer export stranger/run --out stranger/bundle": AS_IT_IS,
        "agentmixer deploy-sim stranger/bundle --run stranger/run --task-code mypackage.mymodule:make_env": TIMED,
    },
    {
        "python examples/own_environment.py": How("--steps 256"),
    },
    {  # not run here
        "agentmixer export --elements elements.toml": no("tests/export/test_elements.py reads such a file"),
        "make demo": no("its three commands are README's, with more steps"),
        "make test": no("it would run itself"),
        "make lint": no("make test runs it"),
        ".venv/bin/python -m pytest tests/runtime/test_agent.py": no("make test runs it"),
        ".venv/bin/python -m pytest tests/runtime/test_agent.py -k reset": no("make test runs it"),
        "python3 -m venv .venv": no("make dist-check installs"),
        ". .venv/bin/activate": no("make dist-check installs"),
        "pip install -c constraints.txt -e '.[train]'": no("make dist-check installs"),
        "pip install -e ./examples": no("tests/installed_examples.py does what it does"),
        "agentmixer train smacv2 protoss_5v5 --steps 300000": no("README's first command, with more steps"),
        "agentmixer train smacv2 protoss_5v5 --backend sc2 --env-restarts 1000": no("needs StarCraft II"),
        "agentmixer train pettingzoo mypackage.mymodule:make_env --workers ray": no("needs a Ray cluster"),
        "agentmixer train passage two_agents --algorithm spo": no("tests/docs/test_extending.py adds spo"),
        "agentmixer compare passage two_agents --vary pm=mixer,mean,none --seeds 0-4": no("test_extending.py adds mean"),
    },
)  # fmt: skip

HOW = {line: how for chapter in STORY for line, how in chapter.items() if not line.startswith(">")}
