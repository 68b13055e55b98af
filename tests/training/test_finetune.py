"""Fine-tuning: what it changes, where it may start, and that it makes a trained network robust for little."""

from __future__ import annotations

import pytest
import torch

import advreg
from advreg.config import Config
from advreg.errors import ConfigError
from advreg.training import setup
from advreg.training.finetune import fine_tune
from tests.training import small


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """A run without an adversary."""
    out = tmp_path_factory.mktemp("plain") / "run"
    return advreg.fit(small.config(data, out, "attack.name=none", "recipe.name=standard"))


def test_it_starts_where_the_run_ended(data, tmp_path, plain):
    tuned = fine_tune(small.config(data, tmp_path / "run"), plain.path, freeze_batchnorm=True)
    assert (tuned.train.epochs, tuned.train.freeze_batchnorm) == (2, True)
    assert tuned.optimizer.lr == pytest.approx(0.005)
    assert (tuned.policy.name, dict(tuned.policy.options)) == ("warmup", {"share": 0.5})
    assert tuned.recipe.name == "madry"
    before = advreg.load_model(str(plain.path)).state_dict()
    assert all(torch.equal(before[key], value) for key, value in setup.prepare(tuned).model.state_dict().items())
    assert Config.load(advreg.fit(tuned) / "run.toml") == tuned, "the run folder says all of it"


def test_a_weights_file_and_a_name_will_do(data, tmp_path, plain):
    config = small.config(data, tmp_path / "run")
    weights = fine_tune(config, plain / "model.safetensors", ramp=0)
    assert (weights.model.name, weights.model.weights) == (config.model.name, str(plain / "model.safetensors"))
    assert weights.policy.name == "fixed"
    other = (plain / "model.safetensors").rename(tmp_path / "weights.ckpt")
    assert fine_tune(config, other).model.weights == str(other)
    other.rename(plain / "model.safetensors")
    assert fine_tune(config, "timm:resnet18").model.name == "timm:resnet18"


def test_a_ramp_of_its_own_stays(data, tmp_path, plain):
    config = small.config(data, tmp_path / "run", "policy.name=warmup", "policy.options.share=0.2")
    assert fine_tune(config, plain.path).policy == config.policy


def test_a_share_of_the_batch_is_attacked(data, tmp_path, plain):
    tuned = fine_tune(small.config(data, tmp_path / "run"), plain.path, ratio=0.25, epochs=1)
    assert (tuned.recipe.name, tuned.recipe.options["ratio"]) == ("mixed", 0.25)
    record = advreg.fit(tuned).read_log("metrics.jsonl")[-1]
    assert (record["forwards"], record["backwards"]) == (150, 150), "PGD-2 on a quarter of 100, and the loss on all"


def test_a_plain_configuration_becomes_adversarial(data, tmp_path, plain):
    config = small.config(data, tmp_path / "run", "attack.name=none", "recipe.name=standard", "train.epochs=1")
    tuned = fine_tune(config, plain.path)
    assert (tuned.attack.name, tuned.recipe.name, tuned.recipe.options["ratio"]) == ("pgd", "mixed", 0.5)
    assert fine_tune(config, plain.path, ratio=0.15).recipe.options["ratio"] == 0.15
    assert fine_tune(config, plain.path, ratio=1.0).recipe.name == "madry"
    with pytest.raises(ConfigError, match=r"threat\.eps is 0 .* would stay plain"):
        fine_tune(config.replace_with(["threat.eps=0.0"]), plain.path)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ([], {"start": "runs/absent"}, "no such folder"),
        ([], {"start": "."}, "no run folder"),
        ([], {"lr_scale": 0.0}, "lr_scale is 0.0"),
        ([], {"ramp": 1.0}, "ramp 1.0"),
        ([], {"ratio": 0.0}, "ratio 0.0"),
        ([], {"epochs": 0}, "train.epochs is 0"),
        (["recipe.name=trades"], {"ratio": 0.5}, "give ratio = 1"),
        (["policy.name=iaat"], {}, "give ramp = 0"),
    ],
)
def test_what_cannot_be_fine_tuned_is_one_line(data, tmp_path, plain, changes, options, message):
    config = small.config(data, tmp_path / "run", *changes)
    with pytest.raises(ConfigError) as error:
        fine_tune(config, **{"start": plain.path, **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
