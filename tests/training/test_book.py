"""The recipe book: each configuration loads, says what is known of it, and takes a step on data of its shape."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from advreg import data
from advreg.config import Config
from advreg.data import Dataset
from advreg.training import setup
from advreg.training.dry_run import dry_run

BOOK = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.toml"))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "train.md"
SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
NARROW = {
    "zoo:preact-resnet18": ["model.options.width=0.0625"],
    "zoo:wide-resnet-34-10": ["model.name=zoo:wide-resnet-10-1"],
}


def invented(name, *, progress=None):
    """Return noise of the shape that data of this name has."""
    x = torch.rand(40, *SHAPES[name], generator=torch.Generator().manual_seed(0))
    train = Dataset.from_tensors(x, torch.arange(40) % 10, name=name)
    return train, train


@pytest.mark.parametrize("path", BOOK, ids=lambda path: path.stem)
def test_every_configuration_takes_a_step(path, monkeypatch):
    config = Config.load(path)
    if config.data.stream:
        pytest.skip("it has a test of its own, on a folder")
    monkeypatch.setattr(data, "load", invented)
    smaller = ["data.validation=4", "train.device=cpu", *NARROW.get(config.model.name, [])]
    steps = ["attack.steps=2", "attack.step_size=auto"] if config.attack.name == "pgd" else []
    made = setup.prepare(config.replace_with([*smaller, *steps]))
    dry_run(made)
    assert made.steps > 0


@pytest.mark.parametrize("path", BOOK, ids=lambda path: path.stem)
def test_every_configuration_is_ready_for_its_own_data(path):
    """As it is, with nothing made smaller; where the data are at hand, which are not fetched for this."""
    config = Config.load(path)
    if config.data.name != "mnist":
        pytest.skip(f"{config.data.name} is not in the package")
    assert len(setup.prepare(config).batches) > 100


@pytest.mark.parametrize(
    "path", [p for p in BOOK if p.stem not in ("mnist-standard", "mnist-fgsm", "mnist-pgd")], ids=lambda p: p.stem
)
def test_every_published_recipe_names_its_paper_and_whether_it_was_measured(path):
    comment = " ".join(line[2:] for line in path.read_text().splitlines() if line.startswith("#"))
    assert re.search(r"\b20\d\d\)|FastAT benchmark", comment), "the paper"
    assert re.search(r"[Pp]ublished|usual", comment), "its figure"
    assert re.search(r"[Nn]ot measured here|[Mm]easured here:", comment), "whether ours is known"


def measured() -> dict[str, str]:
    """Read the column "measured here" of the book, by name of the file."""
    (section,) = (part for part in PAGE.read_text().split("\n## ") if part.startswith("Use a published configuration"))
    rows = re.findall(r"^\| (`[^|]+`) \|[^|]*\|[^|]*\| ([^|]+) \|$", section, re.M)
    return {name: cell for names, cell in rows for name in re.findall(r"`([\w-]+)`", names)}


def test_book_says_of_every_configuration_what_was_measured():
    assert measured().keys() == {path.stem for path in BOOK}


@pytest.mark.parametrize("path", BOOK, ids=lambda path: path.stem)
def test_measured_figures_agree_with_the_file_and_say_n_seed_and_date(path):
    cell = measured()[path.stem]
    if cell == "not measured here":
        assert "Measured here" not in path.read_text()
        return
    assert re.search(r": n = \d+, seed \d+, \d{4}-\d\d-\d\d$", cell)
    comment = " ".join(line[2:] for line in path.read_text().splitlines() if line.startswith("#"))
    figures = re.findall(r"\d+\.\d+", cell.split(":")[0])
    stated = comment.split("Measured here")[1]
    assert figures
    assert all(figure in stated for figure in figures)
