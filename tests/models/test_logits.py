"""Outputs that hold more than logits: tuples, dicts, output objects, and models of Hugging Face if installed."""

from __future__ import annotations

import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import advreg
from advreg.errors import ModelError
from advreg.models import extract_logits, wrap_logits

NETS = """
import torch
from torch import nn

class Talkative(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form, self.layer = form, nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, x):
        z = self.layer(x)
        forms = {
            "tensor": z, "tuple": (z, x), "list": [x, z], "loss": (z.sum(), z), "dict": {"features": x, "out": z},
            "named": {"logits": z, "other": 2 * z}, "object": type("Output", (), {"logits": z})(),
        }
        return forms[self.form]

def make(form):
    torch.manual_seed(0)
    return Talkative(form)
"""
FORMS = ["tensor", "tuple", "list", "loss", "dict", "named", "object"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "talkativenets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("talkativenets", None)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_output_is_measured_like_logits(here, form):
    x, y = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3
    threat = advreg.ThreatModel("linf", 4 / 255)
    plain, other = (advreg.load_model("talkativenets:make", form=name) for name in ("tensor", form))
    assert torch.equal(plain(x), other(x))
    wanted, found = (advreg.evaluate(net, (x, y), threat=threat, protocol="basic") for net in (plain, other))
    assert (found.clean_accuracy, found.robust_accuracy) == (wanted.clean_accuracy, wanted.robust_accuracy)
    assert (found.forwards, found.backwards) == (wanted.forwards, wanted.backwards)
    assert torch.equal(found.broken, wanted.broken)


def test_weights_keep_their_names_and_gradients_reach_them(here, tmp_path):
    net = advreg.load_model("talkativenets:make", form="tuple")
    save_file({f"_orig_mod.module.{key}": value for key, value in net.state_dict().items()}, tmp_path / "w.safetensors")
    again = advreg.load_model("talkativenets:make", weights=tmp_path / "w.safetensors", form="dict")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    again(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in again.parameters())


def test_a_talkative_network_can_be_exported(here, tmp_path):
    from advreg.export import torch_file

    net = advreg.load_model("talkativenets:make", form="named")
    x = torch.rand(5, 3, 8, 8)
    program = torch.export.load(torch_file(net, (3, 8, 8), tmp_path / "net.pt2")).module()
    assert torch.allclose(program(x), net(x), atol=1e-5)


def test_named_tuples_are_read_by_name():
    z, auxiliary = torch.zeros(2, 3), torch.ones(2, 3)
    assert extract_logits(namedtuple("Out", "aux logits")(auxiliary, z)) is z
    assert extract_logits(SimpleNamespace(logits=z)) is z


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "NoneType"),
        ((torch.zeros(3),), "tuple"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}, "dict with a, b"),
        (SimpleNamespace(scores=torch.zeros(2, 3)), "SimpleNamespace"),
    ],
)
def test_an_output_without_logits_is_rejected_in_one_line(answer, message):
    with pytest.raises(ModelError, match=f"returns {message}, without one tensor") as caught:
        extract_logits(answer)
    assert "\n" not in str(caught.value)


def test_the_error_for_your_own_network_has_a_remedy():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)), x

    net, data = Two(16, 3).eval(), (torch.rand(4, 1, 4, 4), torch.arange(4) % 3)
    with pytest.raises(ModelError, match=r"wrap_logits\(model\)"):
        advreg.evaluate(net, data, threat=advreg.ThreatModel("linf", 0.1))
    assert advreg.evaluate(wrap_logits(net), data, threat=advreg.ThreatModel("linf", 0.1)).n == 4


def test_a_real_hugging_face_network_with_names_for_its_classes():
    library = pytest.importorskip(
        "transformers", reason="transformers is missing: pip install transformers to run this"
    )
    from advreg.cli.model_metadata import class_names

    names = {0: "cat", 1: "dog", 2: "pig"}
    config = library.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
        id2label=names, label2id={name: k for k, name in names.items()},
    )  # fmt: skip
    net = wrap_logits(library.ViTForImageClassification(config).eval())
    found = advreg.pgd(net, torch.rand(4, 3, 16, 16), torch.arange(4) % 3, advreg.ThreatModel("linf", 8 / 255), steps=2)
    assert found.x_adv.shape == (4, 3, 16, 16)
    assert class_names("own:vit", net) == ["cat", "dog", "pig"]
