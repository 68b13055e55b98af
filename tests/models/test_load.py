"""Names to models: the user's factory, a run folder, and other libraries with their normalisation put inside."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import advreg
from advreg.errors import MissingExtraError, ModelError, WeightsError
from advreg.models import describe, state_sha256

FACTORIES = """
from torch import nn

def make(classes=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))

def nothing():
    pass
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "ownnets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("ownnets", None)


@pytest.fixture
def run(tmp_path):
    """A run folder as training leaves it."""
    model = advreg.load_model("zoo:mnist-dnn", classes=3, widths=[5])
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    spec = {**model.advreg_spec, "sha256": state_sha256(model)}
    (tmp_path / "model.json").write_text(json.dumps(spec))
    return tmp_path


def test_a_factory_gets_the_options_and_its_model_remembers_them(here):
    model = advreg.load_model("ownnets:make", classes=5)
    assert model(torch.rand(1, 1, 2, 2)).shape == (1, 5)
    assert not model.training
    assert model.advreg_spec == {"name": "ownnets:make", "options": {"classes": 5}}
    assert describe(model)["name"] == "ownnets:make"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ownnets:mak", {}, "Did you mean 'make'"),
        ("ownnets:nothing", {}, "returned NoneType; it must return a torch.nn.Module"),
        ("ownnets:make", {"clases": 3}, "the factory failed: TypeError"),
        ("absentnets:make", {}, "cannot import absentnets"),
        ("runs/none", {}, "unknown model 'runs/none'"),
    ],
)
def test_a_name_that_does_not_work_is_one_line(here, name, options, message):
    with pytest.raises(ModelError, match=message) as caught:
        advreg.load_model(name, **options)
    assert "\n" not in str(caught.value)


def test_a_run_folder_is_a_model_even_after_it_moved(run, tmp_path_factory):
    before = advreg.load_model(str(run))
    moved = run.rename(tmp_path_factory.mktemp("elsewhere") / "run")
    after = advreg.load_model(str(moved))
    assert state_sha256(before) == state_sha256(after)
    assert after.advreg_spec == {"name": "zoo:mnist-dnn", "options": {"classes": 3, "widths": [5]}}


def test_other_weights_of_a_run_load_by_name(run):
    best = advreg.load_model("zoo:mnist-dnn", classes=3, widths=[5])
    save_file(best.state_dict(), run / "best.safetensors")
    assert state_sha256(advreg.load_model(str(run), weights=run / "best.safetensors")) == state_sha256(best)


def test_a_run_folder_with_replaced_weights_is_rejected(run):
    other = advreg.load_model("zoo:mnist-dnn", classes=3, widths=[5])
    save_file(other.state_dict(), run / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model.json says .*was replaced"):
        advreg.load_model(str(run))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 3, "options": {}}', '{"name": "zoo:mnist-cnn"}'])
def test_a_damaged_model_json_is_named(run, content):
    (run / "model.json").write_text(content)
    with pytest.raises(ModelError, match=r"model\.json: .*restore it from the run") as caught:
        advreg.load_model(str(run))
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_runs_and_options_for_runs_are_rejected(run, tmp_path):
    with pytest.raises(ModelError, match="has its own options; remove classes"):
        advreg.load_model(str(run), classes=3)
    (run / "model.json").unlink()
    with pytest.raises(ModelError, match="is no run folder: it has no model"):
        advreg.load_model(str(run))


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("timm:resnet18", "timm", r"timm is not installed; pip install 'advreg\[vision\]'"),
        ("torchvision:resnet18", "torchvision.models", "torchvision is installed, but cannot be imported"),
    ],
)
def test_a_missing_library_names_the_command(monkeypatch, name, module, message):
    package = ModuleType(module.partition(".")[0])
    package.__spec__ = ModuleSpec(package.__name__, None)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=message):
        advreg.load_model(name)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('libtorch.so: undefined symbol')", "ImportError: libtorch.so: undefined symbol"),
        ("import a_library_that_timm_needs", "ModuleNotFoundError: No module named 'a_library_that_timm_needs'"),
        ("raise RuntimeError('operator nms does not exist')", "RuntimeError: operator nms does not exist"),
    ],
)
def test_a_broken_library_is_not_called_missing(tmp_path, monkeypatch, code, reason):
    (tmp_path / "timm.py").write_text(code)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError) as caught:
        advreg.load_model("timm:resnet18")
    advice = "pip install --force-reinstall 'advreg[vision]'"
    assert str(caught.value) == f"timm is installed, but cannot be imported ({reason}); {advice}"


def test_a_file_of_python_is_its_module(tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "filed.py").write_text("import torch\ndef build():\n    return torch.nn.Flatten()\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(advreg.load_model("nets/filed.py:build"), torch.nn.Flatten)


def _library(asked):
    def make(name, **options):
        asked.append((name, options))
        net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0)}
        return net

    return SimpleNamespace(
        create_model=make,
        get_model=make,
        is_model=lambda name: name == "toy",
        list_models=lambda: ["toy"],
    )


def test_a_timm_model_takes_raw_pixels(monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "timm", _library(asked))
    model = advreg.load_model("timm:toy.a1_in1k", num_classes=2)
    assert asked == [("toy.a1_in1k", {"pretrained": True, "num_classes": 2})]
    x = torch.rand(2, 3, 4, 4)
    assert torch.allclose(model(x), model.net((x - 0.5) / torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1)))
    with pytest.raises(ModelError, match=r"timm has no model 'toi'\. Did you mean 'toy'"):
        advreg.load_model("timm:toi")


def test_own_weights_of_torchvision_models_need_no_download(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setitem(sys.modules, "torchvision.models", _library(asked))
    model = advreg.load_model("torchvision:toy")
    assert model.normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    torch.save(model.net.state_dict(), tmp_path / "w.pt")
    own = advreg.load_model("torchvision:toy", weights=tmp_path / "w.pt")
    advreg.load_model("torchvision:toy", pretrained="IMAGENET1K_V1")
    assert [options["weights"] for _, options in asked] == ["DEFAULT", None, "IMAGENET1K_V1"]
    assert state_sha256(own) == state_sha256(model)
