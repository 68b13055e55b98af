"""What is done for size changes what a run costs, not what it learns."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import advreg
from advreg.config import Config
from advreg.data import stream
from advreg.trainer import events
from advreg.training.validation import hold_out
from tests.data.test_streaming import write_folder
from tests.training import small
from tests.training.test_distributed import compare
from tests.training.test_resume import outcome

ROOT = Path(__file__).resolve().parents[2]
SMOOTH = "model.name=tests.training.small:smooth"


def test_a_batch_in_parts_teaches_what_the_batch_does(data, tmp_path):
    """16 does not divide by 3, nor 100 by 16: parts are unequal. The tolerance is that of processes, for the same reason."""
    changes = [SMOOTH, "train.batch_size=16"]
    whole = advreg.fit(small.config(data, tmp_path / "whole", *changes))
    parts = advreg.fit(small.config(data, tmp_path / "parts", *changes, "train.accumulate=3"))
    compare(whole, parts)


def test_a_compiled_run_learns_the_same(data, tmp_path, monkeypatch):
    """Traced, but not turned into kernels, which would take a minute: the bytes are those of the plain run."""
    compiled, compile_ = [], torch.compile

    def traced(model):
        compiled.append(model)
        return compile_(model, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    plain = advreg.fit(small.config(data, tmp_path / "plain", "train.epochs=1"))
    assert compiled == []
    other = advreg.fit(small.config(data, tmp_path / "other", "train.epochs=1", "train.compile=true"))
    assert outcome(plain.path) == outcome(other.path)
    assert compiled


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for kernels on the CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_kernels_learn_the_same(data, tmp_path):
    plain = advreg.fit(small.config(data, tmp_path / "plain", SMOOTH, "train.epochs=1"))
    compiled = advreg.fit(small.config(data, tmp_path / "compiled", SMOOTH, "train.epochs=1", "train.compile=true"))
    compare(plain, compiled)


def tiny_resnet(num_classes: int, pretrained: bool) -> torch.nn.Module:
    """Stand in for the network of a configuration, with the options that it gives."""
    assert not pretrained
    conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
    pool = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(8), torch.nn.ReLU(), *pool, torch.nn.Linear(8, num_classes))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """ImageNet's configuration on a folder of 36 images: only the network is another, and the sizes."""
    root = write_folder(tmp_path_factory.mktemp("imagenet"))

    def made(out, *changes):
        smaller = ["data.validation=6", "data.workers=2", "train.epochs=2", "train.batch_size=10"]
        network = ["model.name=tests.training.test_scale:tiny_resnet"]
        here = [f"data.name=folder:{root}?size=16&broken=skip", "train.device=cpu", f"train.out={out}"]
        return Config.load(ROOT / "configs" / "imagenet-fast.toml").replace_with([*smaller, *network, *here, *changes])

    return made


@pytest.mark.parametrize("eps", ["2/255", "4/255"])
def test_imagenet_configuration_trains_on_a_folder(imagenet, tmp_path, eps):
    run = advreg.fit(imagenet(tmp_path / "run", f"threat.eps={eps}"))
    assert [line["step"] for line in run.read_log("metrics.jsonl") if "event" not in line] == [3, 6]
    assert run.read_json("model.json")["shape"] == [3, 16, 16]
    assert advreg.load_model(str(run.path))(torch.rand(2, 3, 16, 16)).shape == (2, 1000)


def test_a_killed_streamed_run_ends_with_the_same_bytes(imagenet, tmp_path):
    def kill(event):
        if isinstance(event, events.Step) and (event.epoch, event.step) == (2, 2):
            raise KeyboardInterrupt

    whole = advreg.fit(imagenet(tmp_path / "whole", "data.workers=0"))
    with pytest.raises(KeyboardInterrupt):
        advreg.fit(imagenet(tmp_path / "cut", "data.workers=0"), on_event=kill)
    advreg.fit(imagenet(tmp_path / "cut", "data.workers=0"), resume=True)
    assert outcome(whole.path) == outcome(tmp_path / "cut")


def test_a_streamed_run_learns_what_one_in_memory_does(imagenet, tmp_path):
    streamed = advreg.fit(imagenet(tmp_path / "streamed", "data.crop=center"))
    inside = advreg.fit(imagenet(tmp_path / "inside", "data.stream=false", "data.workers=0", "data.crop=center"))
    assert outcome(streamed.path) == outcome(inside.path)


@pytest.mark.filterwarnings("ignore:.*is skipped")
def test_broken_images_do_not_end_a_run(tmp_path):
    name = f"folder:{write_folder(tmp_path / 'photos', n=6)}?size=16&broken=skip"
    changes = ["data.stream=true", f"data.name={name}", "data.validation=6", "train.batch_size=1", "train.epochs=2"]
    config = small.config(tmp_path, tmp_path / "run", "model.name=tests.training.test_scale:tiny_resnet", *changes)
    config = config.replace_with(["model.options.num_classes=3", "model.options.pretrained=false"])
    hold_out(stream(name)[0], 6, config.seed)[0].paths[0].write_bytes(b"broken")
    run = advreg.fit(config)
    assert [(line["step"], line["examples"]) for line in run.read_log("metrics.jsonl") if "event" not in line] == [
        (12, 11),
        (24, 11),
    ]
    assert run.read_json("model.json")["shape"] == [3, 16, 16]
