"""What this machine lacks, and the way out. Packages are looked for without importing them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """Something that is missing here. what: a sentence without a full stop; way_out: what mends it, a command if one does."""

    what: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.what}; {self.way_out}"


def installed(package: str) -> bool:
    """Whether a package can be imported, by the name that `import` takes. A folder of that name without an `__init__.py`,
    such as a repository's, is no package."""
    try:
        found = importlib.util.find_spec(package)
    except ImportError:
        return False
    except ValueError:  # it is loaded already, and was made without a file
        return True
    return found is not None and found.origin is not None


def missing_packages(packages: Iterable[str], way_out: str = "pip install 'agentmixer[train]'") -> list[Problem]:
    """One problem that names all packages that are not installed; none if all are."""
    absent = [package for package in packages if not installed(package)]
    if not absent:
        return []
    are = "package {} is" if len(absent) == 1 else "packages {} are"
    return [Problem(f"the {are.format(', '.join(absent))} not installed", way_out)]
