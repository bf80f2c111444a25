"""Imports point one way, none runs in a circle, and a file's name stands in one folder only.

All imports count: those inside functions and those for type checkers too.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Rooms from the lowest to the highest; a room imports from its own level and from lower ones. "" stands for the files
#: beside the rooms, which the contract uses and which use the contract.
LEVELS = (
    {"", "contract"},
    {"tasks", "runtime"},
    {"host", "export", "train"},
    {"validate", "study"},
    {"report"},
    {"cli"},
)


def module_name(path: Path) -> str:
    """agentmixer/tasks/__init__.py -> agentmixer.tasks; path relative to the folder that holds the package."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path) -> dict[str, Path]:
    """Every module of the package and of its command line, by name."""
    files = [(base, file) for base in (root, root / "cli") for file in sorted(base.glob("agentmixer*/**/*.py"))]
    return {module_name(file.relative_to(base)): file for base, file in files}


def imported(module: str, path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Which of `modules` a module imports. A name taken from a package counts for the package's `__init__`, unless the
    name is that of a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from [name for name in (f"{base}.{alias.name}", base) if name in modules][:1]


def graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> the modules that it imports."""
    modules = sources(root)
    return {module: set(imported(module, path, modules)) for module, path in modules.items()}


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """The nodes of one circle, or none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def room(module: str, root: Path = ROOT) -> str:
    """agentmixer.tasks.base -> tasks, agentmixer.errors -> "", agentmixer_cli.main -> cli."""
    package, _, rest = module.partition(".")
    if package == "agentmixer_cli":
        return "cli"
    first = rest.partition(".")[0]
    return first if (root / package / first).is_dir() else ""


def wrong_arrows(root: Path = ROOT) -> list[str]:
    """Imports from a room into a higher one, and rooms of one level that import each other."""
    height = {name: i for i, level in enumerate(LEVELS) for name in level}
    wrong, rooms = [], defaultdict[str, set[str]](set)
    for module, targets in graph(root).items():
        for target in targets:
            ends = room(module, root), room(target, root)
            if height[ends[0]] < height[ends[1]]:
                wrong.append(f"{module} imports {target}")
            if ends[0] != ends[1] and not set(ends) <= LEVELS[0]:
                rooms[ends[0]].add(ends[1])
    met = circle(rooms)
    return wrong + ([f"rooms in a circle: {' -> '.join(met)}"] if met else [])


def repeated_names(root: Path = ROOT) -> list[str]:
    """Names of files that stand in more than one folder of the package."""
    folders = defaultdict[str, list[str]](list)
    for module, file in sources(root).items():
        if room(module, root) != "cli" and file.name not in ("__init__.py", "base.py"):
            folders[file.name].append(str(file.parent.relative_to(root)))
    return [f"{name} in {', '.join(where)}" for name, where in folders.items() if len(where) > 1]


def test_no_imports_run_in_a_circle() -> None:
    assert not circle(graph())


def test_imports_point_one_way() -> None:
    assert not wrong_arrows()


def test_a_file_name_stands_in_one_folder() -> None:
    assert not repeated_names()


def written(root: Path, **files: str) -> Path:
    """A package of these modules; `tasks__a` is agentmixer/tasks/a.py."""
    for name, text in files.items():
        path = root / "agentmixer" / (name.replace("__", "/", 1) + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_hidden_imports_are_seen(tmp_path: Path) -> None:
    """In a function, for type checkers, relative, of a module as a name, and of a name from a package."""
    written(
        tmp_path,
        tasks__a="def f():\n    from agentmixer.tasks import b\n",
        tasks__b="if TYPE_CHECKING:\n    from agentmixer.tasks.c import C\n",
        tasks__c="from . import a\nfrom .. import errors\nfrom agentmixer.tasks import name\n",
        errors="import agentmixer.tasks.a as x\nimport numpy\n",
    )
    (tmp_path / "agentmixer" / "tasks" / "__init__.py").write_text("from .a import f as name\n")
    edges = graph(tmp_path)
    tasks = "agentmixer.tasks"
    assert edges == {
        tasks: {f"{tasks}.a"},
        f"{tasks}.a": {f"{tasks}.b"},
        f"{tasks}.b": {f"{tasks}.c"},
        f"{tasks}.c": {f"{tasks}.a", "agentmixer.errors", tasks},
        "agentmixer.errors": {f"{tasks}.a"},
    }
    assert circle(edges)


def test_a_wrong_arrow_is_found(tmp_path: Path) -> None:
    written(tmp_path, runtime__a="def f():\n    import agentmixer.host.b\n", host__b="", tasks__c="", errors="")
    assert wrong_arrows(tmp_path) == ["agentmixer.runtime.a imports agentmixer.host.b"]
    written(tmp_path, runtime__a="import agentmixer.tasks.c", tasks__d="import agentmixer.runtime.a")
    assert "circle" in wrong_arrows(tmp_path)[0]
    written(tmp_path, runtime__a="", errors="import agentmixer.runtime.a")
    assert wrong_arrows(tmp_path) == ["agentmixer.errors imports agentmixer.runtime.a"]


def test_a_repeated_name_is_found(tmp_path: Path) -> None:
    written(tmp_path, host__a="", tasks__a="", tasks__base="", host__base="", tasks____init__="", host____init__="")
    assert repeated_names(tmp_path) == ["a.py in agentmixer/host, agentmixer/tasks"]
