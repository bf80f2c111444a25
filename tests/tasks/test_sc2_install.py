"""What is said of a machine that lacks something of the real game. The folder of StarCraft is laid out by hand."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agentmixer.errors import AgentMixerError
from agentmixer.missing import Problem
from agentmixer.tasks import check, registry
from agentmixer.tasks.smacv2 import sc2_install

ROOT = Path(__file__).parents[2]
EXECUTABLE = "Versions/Base75689/SC2_x64"
MAP = "Maps/SMAC_Maps/32x32_flat.SC2Map"
#: What the real game needs beside StarCraft and its map.
PACKAGES = ("pysc2", "s2clientprotocol", "absl", "websocket", "portpicker", "psutil", "six", "numpy", "smacv2")


def lay_out(folder: Path, *files: str) -> Path:
    """A folder with these files, which may be executed."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch(0o755)
    return folder


@pytest.fixture
def present(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Which of PACKAGES can be imported: all, until one is taken out of this set."""
    names = set(PACKAGES)

    class Only:
        """Finds none of PACKAGES but those in `names`."""

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name in PACKAGES and name not in names:
                raise ModuleNotFoundError(name)

    site = tmp_path_factory.mktemp("site")
    for name in set(PACKAGES) - {"numpy"}:  # numpy is there, and in use
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("raise AssertionError('nothing is imported to see that it is there')")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setattr(sys, "meta_path", [Only(), *sys.meta_path])
    return names


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that SC2PATH names."""
    folder = tmp_path / "StarCraftII"
    folder.mkdir()
    monkeypatch.setenv("SC2PATH", str(folder))
    return folder


def test_where_everything_is_there_nothing_is_missing(present: set[str], place: Path) -> None:
    lay_out(place, EXECUTABLE, MAP)
    assert sc2_install.problems() == []
    assert sc2_install.found() == str(place)


def test_all_that_is_missing_is_named_in_the_order_of_mending(present: set[str], place: Path) -> None:
    present -= {"pysc2", "six", "smacv2"}
    assert [problem.what for problem in sc2_install.problems()] == [
        "the packages pysc2, six are not installed",
        "the package smacv2 is not installed",
        f"StarCraft II 4.10 is not in {place}, where SC2PATH points",
        f"the map 32x32_flat.SC2Map is not in {place}/Maps/SMAC_Maps",
    ]
    assert sc2_install.found() is None


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_missed(package: str, present: set[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(place, EXECUTABLE, MAP)
    present.remove(package)
    monkeypatch.delitem(sys.modules, package, raising=False)
    (problem,) = sc2_install.problems()
    assert problem.what == f"the package {package} is not installed"
    assert problem.way_out.startswith("clone github.com/oxwhirl/smacv2" if package == "smacv2" else "make sc2")
    assert sc2_install.found() == str(place)


def test_a_folder_named_like_the_package_is_no_package(
    present: set[str], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone of smacv2's repository, seen from the folder that holds it, is such a folder."""
    lay_out(place, EXECUTABLE, MAP)
    lay_out(tmp_path / "clones", "smacv2/setup.py", "smacv2/smacv2/__init__.py")
    (Path(sys.path[0]) / "smacv2" / "__init__.py").unlink()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "clones"), *sys.path])
    assert [problem.what for problem in sc2_install.problems()] == ["the package smacv2 is not installed"]
    monkeypatch.setattr(sys, "path", [str(tmp_path / "clones" / "smacv2"), *sys.path])
    assert sc2_install.problems() == []


def test_another_version_is_named(present: set[str], place: Path) -> None:
    lay_out(place, MAP, "Versions/Base80188/SC2_x64")
    (problem,) = sc2_install.problems()
    assert problem.what == f"StarCraft II in {place} is not version 4.10 (Base75689) but Base80188"
    assert "github.com/Blizzard/s2client-proto#linux-packages" in problem.way_out
    assert sc2_install.found() is None


def test_another_version_beside_the_right_one_is_no_problem(present: set[str], place: Path) -> None:
    lay_out(place, MAP, EXECUTABLE, "Versions/Base80188/SC2_x64")
    assert sc2_install.problems() == []


def test_an_executable_without_its_right_is_named_with_the_command_that_mends_it(
    present: set[str], place: Path
) -> None:
    lay_out(place, EXECUTABLE, MAP)
    (place / EXECUTABLE).chmod(0o644)
    (problem,) = sc2_install.problems()
    assert problem.what == f"{place}/{EXECUTABLE} may not be executed"
    subprocess.run(problem.way_out, shell=True, check=True)
    assert sc2_install.problems() == []


def test_the_map_is_missed(present: set[str], place: Path) -> None:
    lay_out(place, EXECUTABLE, "Maps/32x32_flat.SC2Map")
    (problem,) = sc2_install.problems()
    assert problem.what == f"the map 32x32_flat.SC2Map is not in {place}/Maps/SMAC_Maps"
    assert "pip does not install maps" in problem.way_out
    assert sc2_install.found() == str(place)


def test_unless_sc2path_is_set_the_home_folder_is_looked_into(
    present: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SC2PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "StarCraftII"
    assert sc2_install.problems()[0].what == f"StarCraft II 4.10 is not in {folder}, and SC2PATH names no other folder"
    lay_out(folder, EXECUTABLE, MAP)
    assert (sc2_install.problems(), sc2_install.found()) == ([], str(folder))


def test_a_tilde_in_sc2path_is_the_home_folder(
    present: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SC2PATH", "~/games")
    assert sc2_install.found() is None
    lay_out(tmp_path / "games", EXECUTABLE)
    assert sc2_install.found() == str(tmp_path / "games")


def test_the_backend_is_refused_with_the_first_problem(present: set[str], place: Path) -> None:
    with pytest.raises(AgentMixerError) as refused:
        check("smacv2", "protoss_5v5", "sc2")
    assert str(refused.value) == f"backend 'sc2': {sc2_install.problems()[0]}"
    assert str(refused.value).count("\n") == 0


def test_the_registry_asks_the_family(present: set[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.backend_problems("smacv2", "sc2") == sc2_install.problems() != []
    assert registry.backend_problems("smacv2", "smax") == []
    monkeypatch.delattr("agentmixer.tasks.matrix.backend_problems")
    assert registry.backend_problems("matrix", "jax") == []


def test_a_problem_is_one_sentence() -> None:
    assert str(Problem("the lamp is out", "light it")) == "the lamp is out; light it"


def test_the_versions_named_are_those_that_make_sc2_installs() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["sc2"]
    assert {requirement.partition(">=")[0] for requirement in extra} <= set(pins)
    assert "pysc2" not in " ".join(extra)
    assert (
        f"pip install --no-deps pysc2=={pins['pysc2']}" in (ROOT / "agentmixer/tasks/smacv2/sc2_install.py").read_text()
    )
