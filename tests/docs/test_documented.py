"""Every command of README and docs: parsed here, and run by `make docs-test`, with training cut short."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
import typer
from agentmixer_cli.app import app
from commands import agentmixer
from documented import HOW, PAGES, ROOT, STORY, commands
from installed_examples import EXAMPLES, install_examples

#: `mypackage` and `mypackage.mymodule`, which the pages speak of.
MY_PACKAGE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

gymnasium.register("MyEnv-v0", CartPoleEnv, max_episode_steps=20)
"""
MY_MODULE = """
from mpe2 import simple_spread_v3

def make_env(size=3, map="small"):
    return simple_spread_v3.parallel_env(N=size, max_cycles=25)
"""


def parts(line: str) -> list[list[str]]:
    """The words of each command of a line; `a && b` has two."""
    return [shlex.split(part) for part in line.split(" && ")]


def test_every_command_of_the_pages_is_known() -> None:
    shown = {line: page.name for page in PAGES for line in commands(page)}
    unknown = [f"{name}: {line}" for line, name in shown.items() if line not in HOW]
    assert not unknown, "add to tests/docs/documented.py how it is run"
    assert not set(HOW) - set(shown), "no page shows these any more"


def test_every_command_is_understood() -> None:
    """agentmixer accepts the arguments; make has the target; python has the file."""
    group, targets = typer.main.get_command(app), (ROOT / "Makefile").read_text()
    whole = group.make_context("agentmixer", ["tasks"])
    for line in HOW:
        for program, *arguments in parts(line):
            if program == "agentmixer":
                name, command, rest = group.resolve_command(whole, arguments)  # type: ignore[attr-defined]
                command.make_context(name, rest, parent=whole)
            elif program == "make":
                assert re.search(rf"^{arguments[0]}:", targets, re.MULTILINE), line
            elif program == "python" and arguments[0].endswith(".py"):
                assert (ROOT / arguments[0]).is_file(), line


def test_a_wrong_command_is_not_understood() -> None:
    group = typer.main.get_command(app)
    whole = group.make_context("agentmixer", ["tasks"])
    name, command, rest = group.resolve_command(whole, ["train", "matrix", "climbing", "--stepz", "3"])  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="No such option"):
        command.make_context(name, rest, parent=whole)


def run(program: str, arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run it there. Returns its exit code and what it said."""
    bundles = sorted((folder / "bundles").glob("*"), key=lambda bundle: bundle.stat().st_mtime)
    arguments = [word.replace("<bundle>", bundles[-1].name if bundles else "") for word in arguments]
    if program == "agentmixer":
        done = agentmixer(*arguments, cwd=folder)
        return done.returncode, done.stdout + done.stderr
    if program == "cp":
        shutil.copytree(folder / arguments[1], folder / Path(arguments[1]).name)
        return 0, ""
    assert program == "python"
    other = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=600)
    return other.returncode, other.stdout + other.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the pages take for granted, and examples/ as pip installs it."""
    site, here = tmp_path / "site", tmp_path / "here"
    install_examples(site)
    for added in (EXAMPLES, site):
        monkeypatch.syspath_prepend(added)
    (here / "payoffs").mkdir(parents=True)
    (here / "payoffs" / "mine.json").write_text(json.dumps([[3, 0], [0, 2]]))
    (here / "mypackage").mkdir()
    (here / "mypackage" / "__init__.py").write_text(MY_PACKAGE)
    (here / "mypackage" / "mymodule.py").write_text(MY_MODULE)
    (here / "examples").symlink_to(EXAMPLES)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.envs.registration.registry))
    for name in ("mypackage", "mypackage.mymodule"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return here


@pytest.mark.docs
@pytest.mark.parametrize("chapter", range(len(STORY)))
def test_every_command_runs(chapter: int, folder: Path) -> None:
    failed = []
    for line, how in STORY[chapter].items():
        if how.why_not:
            continue
        *before, last = parts(line.removeprefix("> "))
        for program, *arguments in [*before, [*last, *shlex.split(how.more)]]:
            code, said = run(program, arguments, folder)
            print(code, line, flush=True)
            if code not in how.ends:
                failed.append(f"{code}: {line}\n{said}")
    assert not failed, "\n\n".join(failed)
