"""examples/bundle_walk.ipynb runs from top to bottom, and is kept without what it printed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from agentmixer.export.exporter import Exported

FILE = Path(__file__).parents[2] / "examples" / "bundle_walk.ipynb"


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(FILE, as_version=4)


def test_it_is_kept_without_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)


def test_it_runs_from_top_to_bottom(notebook: Any, exported: Exported, tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree(exported.path, tmp_path / "bundles" / "team")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.text for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert "0 different actions" in said and "passed: True" in said and "obs[0]" in said and "digests - " in said
