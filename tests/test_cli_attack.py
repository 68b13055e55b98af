"""`advreg attack`: the written PNG is inside the threat model, and the reported classes are those of the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from advreg.cli.app import app
from advreg.cli.attack import within_bytes
from advreg.cli.model_metadata import label_of
from advreg.errors import AdvregError, ModelError
from advreg.models import InferenceOnlyModel, load
from advreg.threat import ThreatModel

NETS = """
import torch
from torch import nn

def small(channels=3, named=True):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    net(torch.zeros(1, channels, 16, 16))
    if named:
        net.classes = ["tabby, tabby cat", "airliner", "hog, pig"]
    return net

def grey():
    return small(channels=1, named=False)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photo_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("photo_nets", None)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (24, 40, 3), np.uint8)).save(tmp_path / "cat.png")
    Image.fromarray(rng.integers(0, 256, (24, 24), np.uint8)).save(tmp_path / "deep.png")
    return tmp_path


def picture(path: str) -> tuple[str, np.ndarray]:
    with Image.open(path) as image:
        return image.mode, np.asarray(image).astype(np.int64)


def attack(*arguments: str) -> dict:
    found = CliRunner().invoke(app, ["attack", *arguments, "--size", "16", "--json"])
    if found.exception is not None:
        raise found.exception
    return json.loads(found.output)


@pytest.mark.parametrize(("threat", "levels"), [("linf:4/255", 4), ("linf:0.1", 25), ("l2:0.5", None), ("l1:8", None)])
def test_written_file_is_inside_the_threat_and_verified(here: Path, threat: str, levels: int | None) -> None:
    record = attack("cat.png", "--model", "photo_nets:small", "--threat", threat, "--steps", "8")
    (image,) = record["images"]
    clean, made = (picture(image["files"][key])[1] for key in ("clean", "adversarial"))
    change = (made - clean) / 255
    size = {"linf": np.abs(change).max(), "l2": np.linalg.norm(change), "l1": np.abs(change).sum()}[
        threat.split(":")[0]
    ]
    eps = {"linf:4/255": 4 / 255, "linf:0.1": 0.1, "l2:0.5": 0.5, "l1:8": 8}[threat]
    assert 0 < size <= eps * (1 + 1e-9)
    assert levels is None or np.abs(made - clean).max() == levels
    assert image["linf"] == pytest.approx(np.abs(change).max())
    shares = load("photo_nets:small")(torch.tensor(made).permute(2, 0, 1)[None].float() / 255).softmax(1)[0].detach()
    assert image["after"][0]["confidence"] == pytest.approx(float(shares.max()), abs=1e-5)


def test_target_class_by_name_is_reached_and_shown(here: Path) -> None:
    record = attack("cat.png", "--model", "photo_nets:small", "--target", "pig", "--threat", "linf:0.5")
    (image,) = record["images"]
    assert image["reached"]
    assert image["after"][0]["class"] == "hog, pig"
    was, wanted = image["followed"]
    assert (was["class"], was["before"]) == (image["before"][0]["class"], image["before"][0]["confidence"])
    assert (wanted["class"], wanted["after"]) == ("hog, pig", image["after"][0]["confidence"])
    assert was["after"] < was["before"]
    assert wanted["before"] < wanted["after"]
    page = Path(record["page"]).read_text()
    assert "hog, pig" in page
    assert "cat.png" in page
    assert not any(word in page for word in ("http:", "https:", "@import"))
    assert picture(image["files"]["both"])[1].shape == (16, 3 * 16 + 2 * 8, 3)


def test_16_bit_image_gets_the_size_of_the_model(here: Path) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (50, 31), np.uint16)
    Image.fromarray(deep).save(here / "deep16.png")
    (image,) = attack("deep16.png", "--model", "photo_nets:small", "--steps", "2")["images"]
    mode, pixels = picture(image["files"]["clean"])
    assert (mode, pixels.shape) == ("RGB", (16, 16, 3))
    assert pixels.std() > 10  # not cut off at 255


def test_grey_model_takes_a_grey_image(here: Path) -> None:
    (image,) = attack("deep.png", "cat.png", "--model", "photo_nets:grey", "--steps", "2")["images"][:1]
    assert picture(image["files"]["adversarial"])[0] == "L"
    assert image["after"][0]["class"].startswith("class ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat.png", "--target", "airlner"], "Did you mean 'airliner'"),
        (["cat.png", "--target", "7"], "3 classes"),
        (["none.png"], "none.png"),
        (["photo_nets.py"], "not a readable image"),
        (["cat.png", "cat.png"], "two photographs are named cat"),
        (["cat.png", "--threat", "linf:80"], "wider than the box"),
        (["cat.png", "--threat", "linf:8@0,255"], "write linf:8/255"),
        (["cat.png", "--threat", "l2:255@0,255"], "write l2:1"),
        (["cat.png", "--classes", "none.txt"], "none.txt"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(here: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(AdvregError) as caught:
        attack(*arguments, "--model", "photo_nets:small")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (here / "attacked").exists()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_rounding_to_bytes_stays_inside_the_ball(norm: str) -> None:
    clean = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    exact = clean.double() / 255
    for eps in (1 / 255, 2.5 / 255, 0.1, 0.37):
        threat = ThreatModel(norm, eps)
        moved = threat.random_start((clean.float() / 255)[None], torch.tensor([7]), seed=1)[0]
        written = within_bytes(clean, moved, threat).double() / 255
        assert bool(threat.contains(written[None], exact[None], tol=1e-12))
        assert float((written - moved).abs().max()) <= 1 / 255
    assert torch.equal(within_bytes(clean, clean.float() / 255, ThreatModel(norm, 0.1)), clean)


def test_class_name_is_rejected_where_names_are_unknown() -> None:
    with pytest.raises(ModelError, match="give a number"):
        label_of("airliner", [])


def test_model_without_gradient_is_rejected(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = InferenceOnlyModel(lambda x: x.flatten(1)[:, :3])
    monkeypatch.setattr("advreg.models.load", lambda *a, **k: oracle.eval())
    with pytest.raises(ModelError, match="gives no gradient"):
        attack("cat.png", "--model", "anything")
