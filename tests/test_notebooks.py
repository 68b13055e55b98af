"""The notebooks run from their first cell to their last, in a kernel of their own, and are kept with their outputs."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

nbclient = pytest.importorskip(
    "nbclient", reason="nbclient is missing: pip install 'advreg[docs]' to run the notebooks"
)
nbformat = pytest.importorskip(
    "nbformat", reason="nbformat is missing: pip install 'advreg[docs]' to run the notebooks"
)
pytest.importorskip("ipykernel", reason="ipykernel is missing: pip install 'advreg[docs]' to run the notebooks")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the kernel's own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_outputs_match_the_kept_ones(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kept = nbformat.read(path, as_version=4)
    run = copy.deepcopy(kept)
    nbclient.NotebookClient(run, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells), (
        "a cell was never run: execute the notebook and keep its outputs"
    )
    assert [len(cell.outputs) for cell in cells] == [
        len(cell.outputs) for cell in run.cells if cell.cell_type == "code"
    ]


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 2
