"""`advreg init`: its file loads, has comments and overwrites no other; help needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advreg.cli.app import app
from advreg.cli.init import run_init
from advreg.config import Config, toml
from advreg.config.features import read_features
from advreg.errors import AdvregError, ConfigError, DataError, RunError, ThreatError
from advreg.models import load
from advreg.training import fit


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k in range(24):
        folder = tmp_path / "photos" / ("cat", "dog", "pig")[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / f"{k}.png")
    return tmp_path / "photos"


def own_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    (folder / "owninit.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def write_table(path: Path, rows: int = 60) -> Path:
    lines = [f"{20 + 3 * k % 40},{(k * 7919) % 101 - 50},{k % 2}" for k in range(rows)]
    path.write_text("\n".join(["age,debt,paid", *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("data", "threat", "model", "eps", "box"),
    [
        ("mnist", None, None, 0.1, [0, 1]),
        ("cifar10", None, None, 8 / 255, [0, 1]),
        ("mnist", "l2:0.5", "zoo:mnist-small", 0.5, [0, 1]),
        ("mnist", "l1:12", "owninit:make", 12, [0, 1]),
        ("csv:t.csv?label=paid", "linf:0.2@-99,99", None, 0.2, [-99, 99]),
        ("csv:t.csv?label=paid&box=-88,88", "linf:0.2", None, 0.2, [-88, 88]),
    ],
)
def test_written_configuration_holds_the_options(tmp_path, monkeypatch, data, threat, model, eps, box) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.csv")
    own_network(tmp_path, monkeypatch)
    config = Config.from_dict(toml.read(run_init(tmp_path / "run.toml", data, threat, model)))
    assert config.data.name == data
    assert (config.threat.eps, config.threat.box) == (eps, box)
    assert model in (None, config.model.name)
    assert config.attack.name == "pgd"


def test_classes_of_a_folder_are_counted(tmp_path: Path, photos: Path) -> None:
    config = Config.load(run_init(tmp_path / "run.toml", f"folder:{photos}?size=64", None, None))
    assert config.model.options == {"classes": 3, "channels": 3}
    assert config.data.validation == 2


def test_every_section_has_a_comment(tmp_path: Path) -> None:
    lines = run_init(tmp_path / "run.toml", "mnist", None, None).read_text().splitlines()
    for section in Config().to_dict():  # those of features are left out where empty
        if section != "seed":
            place = lines.index(f"[{section}]")
            assert lines[place - 1].startswith("# "), section


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    out = run_init(tmp_path / "run.toml", "mnist", None, None)
    before = out.read_bytes()
    with pytest.raises(RunError, match=r"run\.toml exists"):
        run_init(out, "cifar10", None, None)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("data", "threat", "kind"),
    [
        ("folder:nowhere", None, DataError),
        ("mnist", "linf", ThreatError),
        ("mnist", "linff:0.1", ThreatError),
        ("mnist", "linf:0", ThreatError),
        ("mnist", "linf:8@0", ThreatError),
        ("mnist", "linf:8@0,high", ThreatError),
        ("csv", None, DataError),
        ("mnits", None, DataError),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(tmp_path: Path, data: str, threat: str | None, kind: type) -> None:
    with pytest.raises(kind) as caught:
        run_init(tmp_path / "run.toml", data, threat, None)
    assert isinstance(caught.value, AdvregError)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_help_and_init_work_without_torch(tmp_path: Path) -> None:
    script = """
import sys
from typer.testing import CliRunner
from advreg.cli.app import app
for verb in ([], ["attack"], ["init"], ["export"], ["report"], ["doctor"]):
    found = CliRunner().invoke(app, [*verb, "--help"], env={"NO_COLOR": "1"})
    assert found.exit_code == 0, verb
    assert chr(27) not in found.output
print(CliRunner().invoke(app, ["init", "--out", sys.argv[1], "--json"]).output)
assert "torch" not in sys.modules
"""
    out = tmp_path / "run.toml"
    found = subprocess.run([sys.executable, "-c", script, str(out)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == {
        "file": str(out),
        "data": "mnist",
        "model": "zoo:mnist-cnn",
        "threat": "linf:0.1",
    }


def test_small_network_takes_the_size_of_the_images(tmp_path: Path, photos: Path) -> None:
    config = Config.load(run_init(tmp_path / "run.toml", f"folder:{photos}?size=20", None, "zoo:mnist-small"))
    net = load(config.model.name, **config.model.options)
    assert net(torch.rand(2, 3, 20, 20)).shape == (2, 3)


def test_file_reports_class_imbalance(tmp_path: Path, photos: Path) -> None:
    for k in range(20):
        Image.new("RGB", (8, 8)).save(photos / "cat" / f"more{k}.png")
    text = run_init(tmp_path / "run.toml", f"folder:{photos}", None, None).read_text()
    assert "# classes are unequal: 28 images of cat, 8 of dog" in text
    assert Config.load(tmp_path / "run.toml").model.options["classes"] == 3


def test_init_of_own_network_names_the_flag_that_trains_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_network(tmp_path, monkeypatch)
    app(["init", "--out", str(tmp_path / "run.toml"), "--model", "owninit:make"], standalone_mode=False)
    assert capsys.readouterr().out.endswith("run.toml --trust-code\n")


def make_images(root: Path, sizes: list[tuple[int, int]], mode: str = "RGB") -> Path:
    for k in range(24):
        folder = root / ("cat", "dog")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new(mode, sizes[k % len(sizes)]).save(folder / f"{k}.png")
    return root


def trained(path: Path, folder: Path) -> str:
    """Return the loss of one epoch of the configuration, as text; a run that cannot train raises."""
    changes = ["train.epochs=1", "attack.steps=1", "train.guard=off", f"train.out={folder}"]
    run = fit(Config.load(path).replace_with(changes))
    assert load(str(run.path)) is not None
    return str(run.read_log("metrics.jsonl")[0]["loss"])


@pytest.mark.parametrize(
    ("make", "data", "name", "model"),
    [
        (lambda root: make_images(root / "photos", [(8, 8)]), "photos", "folder:photos", "zoo:preact-resnet18"),
        (lambda root: make_images(root / "p", [(8, 12)]), "folder:p", "folder:p", "zoo:preact-resnet18"),
        (lambda root: make_images(root / "p", [(9, 8), (7, 9)], "L"), "p", "folder:p?size=8", "zoo:preact-resnet18"),
        (lambda root: write_table(root / "t.csv"), "t.csv?label=paid", "csv:t.csv?label=paid", "zoo:mlp"),
        (lambda root: write_signals(root / "s.npz"), "s.npz", "npz:s.npz", "zoo:signal-cnn"),
    ],
)
def test_what_init_writes_trains(tmp_path, monkeypatch, make, data, name, model) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    config = Config.load(run_init(tmp_path / "run.toml", data, None, None))
    assert (config.data.name, config.model.name) == (name, model)
    assert float(trained(tmp_path / "run.toml", tmp_path / "run")) > 0


def write_signals(path: Path) -> Path:
    draws = np.random.default_rng(0)
    np.savez(path, x=3 * draws.normal(size=(40, 2, 30)), y=np.arange(40) % 2)
    return path


def test_features_of_unequal_scale_are_counted_in_standard_deviations(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{20 + 3 * k % 40},{20000 + 1000 * (k * 7919 % 31)},{k % 2}\n" for k in range(60))
    (tmp_path / "t.csv").write_text(f"age,income,paid\n{rows}")
    path = run_init(tmp_path / "run.toml", "t.csv?label=paid", None, None)
    config = Config.load(path)
    assert (config.data.name, config.threat.eps) == ("csv:t.csv?label=paid&scale=std", 0.1)
    assert "# the features differ in scale" in path.read_text()
    assert float(trained(path, tmp_path / "run")) > 0


def write_accounts(path: Path) -> None:
    lines = [f"{1000 + k},{(k * 7919) % 101 / 4},{k % 5},{k % 3 // 2},{1 - k % 3 // 2},{k % 2}" for k in range(60)]
    path.write_text("\n".join(["account,amount,shops,pay_card,pay_cash,fraud", *lines]) + "\n")


def test_the_label_of_a_table_drafts_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_accounts(tmp_path / "t.csv")
    path = run_init(tmp_path / "run.toml", "t.csv", None, None, target="fraud")
    features = {each.name: each for each in read_features("features.toml").features}
    assert [each.type for each in features.values()] == ["int", "real", "int", "cat", "cat"]
    assert features["pay_card"].group == features["pay_cash"].group == "pay"
    assert [each.mutable for each in features.values()] == [False, None, None, None, None]
    assert (features["amount"].low, features["amount"].high) == (0, 25)
    with pytest.raises(ConfigError, match="4 features are undecided"):
        trained(path, tmp_path / "run")
    draft = Path("features.toml")
    draft.write_text(draft.read_text().replace('"?"', "true"))
    assert float(trained(path, tmp_path / "run")) > 0
    assert "pixel" not in path.read_text()
    path.unlink()
    with pytest.raises(RunError, match=r"features\.toml exists"):
        run_init(path, "t.csv", None, None, target="fraud")


@pytest.mark.parametrize(
    ("data", "target", "words"),
    [
        ("t.csv", "frad", "Did you mean 'fraud'"),
        ("mnist", "fraud", "csv:FILE"),
        ("t.csv?label=fraud", "fraud", "csv:FILE"),
    ],
)
def test_a_label_that_names_no_column_writes_nothing(tmp_path, monkeypatch, data, target, words) -> None:
    monkeypatch.chdir(tmp_path)
    write_accounts(tmp_path / "t.csv")
    with pytest.raises(DataError, match=words):
        run_init(tmp_path / "run.toml", data, None, None, target=target)
    assert not list(tmp_path.glob("*.toml"))


def test_a_measured_box_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "t.csv")
    path = run_init(tmp_path / "run.toml", "csv:t.csv?label=paid", None, None)
    config = Config.load(path)
    assert config.threat.box == [-50.0, 59.0]
    assert "# the box is measured: the values span -50 to 59" in path.read_text()
    assert config.model.options["features"] == 2
    assert "pixel" not in path.read_text().partition("[threat]")[0].rpartition("# The threat model")[2]


def test_images_of_several_sizes_are_brought_to_one(tmp_path: Path) -> None:
    root = make_images(tmp_path / "p", [(9, 8), (7, 9)])
    text = run_init(tmp_path / "run.toml", f"folder:{root}", None, None).read_text()
    assert "# images of 2 sizes, 7x9 to 9x8: size=8 scales each and crops the middle" in text


@pytest.mark.parametrize(
    ("data", "model", "words"),
    [
        ("phots", None, "Did you mean 'photos'|Did you mean 'folder:photos'"),
        ("folder:phots", None, r"no folder phots. Did you mean 'photos'\?"),
        ("csv", None, "csv needs what to read: csv:FILE\\?label=COLUMN"),
        ("csv:t.csv", None, r"needs its label column: csv:t.csv\?label=paid"),
        ("csv:t.csv?label=pai", None, "Did you mean 'paid'"),
        ("csv:tt.csv?label=paid", None, "Did you mean 't.csv'"),
        ("fashon-mnist", None, "Did you mean 'fashion-mnist'"),
        ("folder:photos", "zoo:mnist-cnnn", "Did you mean 'mnist-cnn'|Did you mean 'zoo:mnist-cnn'"),
        ("folder:photos", "zoo:mlp", "cannot take inputs"),
        ("mnist", "nothere:make", "nothere"),
    ],
)
def test_what_cannot_train_is_not_written(tmp_path, monkeypatch, data, model, words) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos", [(8, 8)])
    write_table(tmp_path / "t.csv")
    with pytest.raises(AdvregError, match=words) as caught:
        run_init(tmp_path / "run.toml", data, None, model)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run.toml").exists()
