"""Weights files: matching weights load, others are rejected by name, and no code of a file runs."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from advreg.errors import WeightsError
from advreg.models import describe, read_state, state_sha256
from advreg.models.normalize import Normalized
from advreg.models.weights import load_weights


def _net(seed=0, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, classes))


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Bomb:
    """An object whose unpickling would leave a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _forms(state):
    return {
        "plain": state,
        "nested": {"epoch": 3, "state_dict": state},
        "model": {"model": state, "optimizer": {"state": {}}},
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "compiled": {"state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}},
    }


@pytest.mark.parametrize("form", ["plain", "nested", "model", "parallel", "compiled"])
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_of_every_usual_form_are_read(tmp_path, form, legacy):
    state = _net().state_dict()
    torch.save(_forms(state)[form], tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    assert _same(read_state(tmp_path / "w.pt"), state)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_are_known_by_their_content_too(tmp_path, name):
    state = _net().state_dict()
    save_file(state, tmp_path / name)
    assert _same(read_state(tmp_path / name), state)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_loading_gives_the_model_the_weights_of_the_file(tmp_path, suffix):
    source, target = _net(1), _net(2)
    path = tmp_path / f"w.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(source.state_dict(), path)
    load_weights(target, path)
    assert _same(source.state_dict(), target.state_dict())


def test_weights_of_the_inner_network_fit_a_normalised_one(tmp_path):
    torch.save(_net(1).state_dict(), tmp_path / "w.pt")
    model = Normalized(_net(2), [0.5], [0.5])
    load_weights(model, tmp_path / "w.pt")
    assert _same(model.net.state_dict(), _net(1).state_dict())
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    other = Normalized(_net(3), [0.1], [0.2])
    load_weights(other, tmp_path / "whole.pt")
    assert _same(model.state_dict(), other.state_dict())


def test_a_missing_batch_counter_is_no_obstacle(tmp_path):
    state = _net(1).state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "w.pt")
    model = _net(2)
    load_weights(model, tmp_path / "w.pt")
    assert torch.equal(model.state_dict()["3.weight"], state["3.weight"])


def _changed(**changes):
    state = _net(1).state_dict()
    state.update({key.replace("_", "."): value for key, value in changes.items()})
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (_changed(**{"3_weight": torch.zeros(10, 8)}), r"'3.weight' is \(10, 8\) in the file, \(3, 8\) in the model"),
        (_changed(**{"3_bias": None}), r"no '3.bias' \(3,\) in the file"),
        (_changed(**{"4_bias": torch.zeros(5)}), r"'4.bias' \(5,\) is not in the model"),
        (_changed(**{"0_bias": torch.full((2,), float("nan"))}), "'0.bias' holds NaN"),
    ],
)
def test_mismatched_weights_leave_the_model_unchanged(tmp_path, state, message):
    torch.save(state, tmp_path / "w.pt")
    model = _net(2)
    before = state_sha256(model)
    with pytest.raises(WeightsError, match=rf"{tmp_path / 'w.pt'}.*{message}") as caught:
        load_weights(model, tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert state_sha256(model) == before


@pytest.mark.parametrize("form", ["pickle", "torch", "legacy", "module"])
def test_a_pickle_with_code_is_rejected_and_not_run(tmp_path, form):
    path, trace = tmp_path / "w.pth", tmp_path / "it_ran"
    bomb = {"w": Bomb(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif form == "module":
        torch.save(_net(), path)
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(WeightsError, match=rf"{path}: pickled Python objects, which may run code") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["pt", "legacy", "safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.6, 0.97])
def test_a_truncated_file_is_rejected_in_one_line(tmp_path, kind, part):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    state = _net().state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(WeightsError, match=rf"{path}: .*(truncated|damaged)") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, {"state_dict": {"a": "b"}}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_rejected(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="without a state dict"):
        read_state(tmp_path / "w.pt")


def test_absent_files_folders_and_text_are_rejected(tmp_path):
    (tmp_path / "text.pt").write_text("weights, honestly")
    for path, message in [
        ("absent.pt", "no weights file"),
        (".", "no weights file"),
        ("text.pt", "not a weights file"),
    ]:
        with pytest.raises(WeightsError, match=message):
            read_state(tmp_path / path)


def test_the_hash_is_of_names_types_shapes_and_values_alone():
    own = state_sha256(_net(1))
    assert state_sha256(_net(1).to(memory_format=torch.channels_last).eval()) == own
    changed = _net(1)
    changed[3].bias.data[0] += 1e-6
    renamed = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Identity()})
    again = nn.ModuleDict({"b": renamed["a"], "a": nn.Identity()})
    hashes = [own, *map(state_sha256, [_net(2), changed, _net(1).double(), _net(1).bfloat16(), renamed, again])]
    assert len(set(hashes)) == len(hashes)


def test_describe_names_counts_and_hashes():
    model = _net()
    message = describe(model)
    assert message == {"name": "Sequential", "parameters": 20 + 4 + 27, "sha256": state_sha256(model)}


def test_infinite_constants_of_a_model_are_no_divergence(tmp_path):
    net = _net(1)
    net.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    load_weights(net, tmp_path / "net.safetensors")
    net.mask.zero_()
    with pytest.raises(WeightsError, match="'mask' holds NaN or infinity"):
        load_weights(net, tmp_path / "net.safetensors")
