"""The zoo against published facts: how many parameters, and how accurate with weights that others trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import advreg
from advreg.errors import ModelError


def _count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mnist-dnn", 784 * 200 + 200 + 200 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10),
        ("mnist-cnn", 320 + 9248 + 18496 + 36928 + 3136 * 100 + 100 + 1010),
        ("mnist-small", 16 * 17 + 32 * 257 + 1568 * 100 + 100 + 1010),
        ("preact-resnet18", 11_172_170),
        ("wide-resnet-28-10", 36_479_194),
        ("wide-resnet-34-10", 46_160_474),
    ],
)
def test_parameter_counts_are_the_published_ones(name, count):
    with torch.device("meta"):  # shapes are all that is asked for
        assert _count(advreg.models.load(f"zoo:{name}")) == count


@pytest.mark.parametrize(
    ("name", "file", "correct"),
    [
        ("zoo:mnist-trades", "mnist_trades_smallcnn.pt", 9948),
        ("zoo:mnist-small", "mnist_wk17a_linf0.1.pth", 9811),
    ],
)
def test_published_networks_have_their_published_accuracy(shared, name, file, correct):
    model = advreg.load_model(name, weights=shared / "checkpoints" / file)
    x, y = advreg.load_data("mnist")[1].tensors()
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
    assert right == correct


@pytest.mark.parametrize("name", ["mnist-dnn", "mnist-cnn", "mnist-small", "mnist-trades"])
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 32, 7), (2, 21, 3)])
def test_small_networks_take_any_channels_size_and_classes(name, channels, size, classes):
    model = advreg.load_model(f"zoo:{name}", channels=channels, size=size, classes=classes)
    assert not model.training
    assert model(torch.rand(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize("size", [32, 20])
def test_residual_networks_take_any_size_width_and_activation(size):
    x = torch.rand(2, 1, size, size)
    for name, options in [
        ("preact-resnet18", {"width": 0.125, "activation": "silu"}),
        ("preact-resnet18", {"width": 0.125, "final_norm": True, "dropout": 0.1}),
        ("wide-resnet-10-1", {"activation": "gelu", "dropout": 0.3}),
    ]:
        assert advreg.load_model(f"zoo:{name}", channels=1, classes=5, **options)(x).shape == (2, 5)


def test_a_block_is_the_papers_formula():
    block = advreg.models.resnet.PreActBlock(4, 4, 1, "relu", 0.0).eval()
    x = torch.randn(2, 4, 6, 6)
    norms = [nn.functional.batch_norm] * 2
    inner = norms[0](x, block.bn1.running_mean, block.bn1.running_var)
    inner = nn.functional.conv2d(inner.relu(), block.conv1.weight, padding=1)
    inner = norms[1](inner, block.bn2.running_mean, block.bn2.running_var)
    inner = nn.functional.conv2d(inner.relu(), block.conv2.weight, padding=1)
    assert torch.allclose(block(x), x + inner, atol=1e-6)


def test_stages_halve_the_image():
    model = advreg.load_model("zoo:preact-resnet18", width=0.0625)
    assert model.blocks(model.conv(torch.rand(1, 3, 32, 32))).shape == (1, 32, 4, 4)
    model = advreg.load_model("zoo:wide-resnet-10-1")
    assert model.blocks(model.conv(torch.rand(1, 3, 32, 32))).shape == (1, 64, 8, 8)


def test_normalisation_is_inside_the_model():
    torch.manual_seed(0)
    plain = advreg.load_model("zoo:mnist-dnn", channels=3, size=4)
    torch.manual_seed(0)
    wrapped = advreg.load_model("zoo:mnist-dnn", channels=3, size=4, mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0])
    x = torch.rand(5, 3, 4, 4)
    by_hand = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    assert torch.equal(wrapped(x), plain(by_hand))
    assert {"normalize.mean", "normalize.std"} <= wrapped.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("zoo:mnist-cn", {}, "Did you mean 'mnist-cnn'"),
        ("mnist-cnn", {}, "Did you mean 'zoo:mnist-cnn'"),
        ("nothing", {}, "Allowed: zoo:mnist-cnn"),
        ("zoo:wide-resnet-29-10", {}, r"depth must be 6n \+ 4"),
        ("zoo:wide-resnet-28-0", {}, "width 1 or more"),
        ("zoo:preact-resnet18", {"activation": "rleu"}, "Did you mean 'relu'"),
        ("zoo:mnist-cnn", {"clases": 3}, "Did you mean 'classes'"),
        ("zoo:mnist-trades", {"size": 15}, "images of 15x15 are too small"),
        ("zoo:mnist-small", {"size": 3}, "images of 3x3 are too small"),
        ("zoo:mnist-cnn", {"classes": "ten"}, "cannot be built with"),
        ("zoo:mnist-cnn", {"mean": [0.1]}, "mean and std go together"),
        ("zoo:mnist-cnn", {"mean": [0.1], "std": [0.0]}, "std positive"),
        ("zoo:mnist-cnn", {"mean": [0.1], "std": [0.2, 0.3]}, "as long as each other"),
    ],
)
def test_what_the_zoo_does_not_have_is_one_line(name, options, message):
    with pytest.raises(ModelError, match=message) as caught:
        advreg.load_model(name, **options)
    assert "\n" not in str(caught.value)
