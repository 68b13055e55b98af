"""Law: with every piece that remembers something, a run that was killed ends with the bytes of one that was not."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import advreg
from advreg.distributed import Ranks
from advreg.errors import ConfigError
from advreg.trainer import events
from advreg.training import setup
from tests.training import small
from tests.training.test_resume import outcome

PIECES = {
    "iaat": ["policy.name=iaat"],
    "ldes": ["policy.name=ldes"],
    "warmup": ["policy.name=warmup", "policy.options.share=0.9"],
    "friendly": ["policy.name=friendly", "policy.options.steps=2", "train.guard=warn"],
    "ema": ["average.name=ema", "average.options.decay=0.9", "average.reestimate=2"],
    "swa": ["average.name=swa", "average.options.start=0.3"],
    "awp": ["train.awp=0.01"],
    "awp-start": ["train.awp=0.01", "train.awp_start=0.5"],
    "gradalign": ["recipe.name=gradalign", "attack.name=fgsm", "attack.start=zero"],
    "gradalign-double": ["recipe.name=gradalign", "recipe.options.method=double", "attack.name=fgsm"],
    "balanced": ["data.balanced=true"],
    "cutmix": ["data.cutmix=true"],
    "stored": ["recipe.name=pgi", "attack.name=stored", "attack.reset=2"],
    "free": ["recipe.name=free", "attack.name=none", "recipe.options.replays=2"],
    "ar_at": ["recipe.name=ar_at", "model.split=adv", "model.predictor=1"],
    "nuat": ["recipe.name=nuat", "attack.name=none", "recipe.options.ramp=2"],
    "e-at": ["attack.norms=l2:0.3", "attack.union=e-at"],
    "groups": ["optimizer.decay=matrices", "optimizer.layer_decay=0.7", "optimizer.weight_decay=0.01"],
    "trades-paper": ["recipe.name=trades", "recipe.options.reference=clean", "attack.start=gaussian"],
    "margin": ["attack.objective=margin"],
    "accumulate": ["train.accumulate=3"],
    "frozen": ["train.freeze_batchnorm=true"],
    "all": ["policy.name=iaat", "average.name=ema", "train.awp=0.005", "data.cutmix=true", "recipe.name=trades"],
}


@pytest.mark.parametrize("name", PIECES)
def test_killed_and_resumed(data, tmp_path, name):
    def changed(out):
        return small.config(data, out, "train.guard=repair", "train.guard_every=2", "train.epochs=2", *PIECES[name])

    def kill(event):
        if isinstance(event, events.Step) and (event.epoch, event.step) == (2, 3):
            raise KeyboardInterrupt

    whole = advreg.fit(changed(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        advreg.fit(changed(tmp_path / "cut"), on_event=kill)
    advreg.fit(changed(tmp_path / "cut"), resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    assert torch.isfinite(advreg.load_model(str(whole.path))(torch.rand(2, 1, 8, 8))).all()


@pytest.mark.parametrize("name", PIECES)
def test_every_piece_does_something(data, tmp_path, name):
    """Two runs of an epoch, with the piece and without: the weights that are kept differ."""
    plain = small.config(data, tmp_path / "plain", "train.epochs=1")
    pieced = small.config(data, tmp_path / "pieced", "train.epochs=1", *PIECES[name])
    runs = [advreg.fit(each) for each in (plain, pieced)]
    a, b = ((run / "last.safetensors").read_bytes() for run in runs)
    assert a != b


def test_teacher_is_a_run_folder(data, tmp_path):
    teacher = advreg.fit(small.config(data, tmp_path / "teacher", "train.epochs=1"))
    taught = small.config(
        data, tmp_path / "run", "train.epochs=1", "recipe.name=distill", f"recipe.options.robust={teacher.path}"
    )
    assert advreg.fit(taught).read_log("metrics.jsonl")[-1]["robust_accuracy"] is not None


def test_weights_are_perturbed_from_the_start_share_on(data, tmp_path):
    run = advreg.fit(small.config(data, tmp_path / "run", "train.awp=0.01", "train.awp_start=0.34", "train.epochs=3"))
    spent = [line["backwards"] for line in run.read_log("metrics.jsonl") if "event" not in line]
    assert spent == [300, 400, 400], "one backward more on each of 100 images, from the second epoch on"


def test_an_average_measures_its_statistics_by_default(data, tmp_path):
    """An average over the last epoch: all weights are those without the measurement, the statistics are not."""
    changes = ("average.name=swa", "average.options.start=0.7")
    runs = [
        advreg.fit(small.config(data, tmp_path / name, *changes, *more))
        for name, more in (("auto", []), ("copied", ["average.reestimate=0"]))
    ]
    measured, copied = (load_file(run / "last.safetensors") for run in runs)
    differ = {name for name in measured if not torch.equal(measured[name], copied[name])}
    assert differ == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    spent, before = ([line["forwards"] for line in run.read_log("metrics.jsonl")] for run in runs)
    assert [a - b for a, b in zip(spent, before, strict=True)] == [0, 0, 300], "PGD-2 and one forward on 100 images"


@pytest.mark.parametrize("more", [["train.freeze_batchnorm=true"], ["recipe.name=free", "attack.name=none"]])
def test_no_statistics_are_measured_where_none_may_be(data, tmp_path, more):
    made = setup.prepare(small.config(data, tmp_path / "run", "average.name=ema", *more))
    assert made.reestimated_batches == 0


def test_what_is_measured_and_kept_is_the_average(data, tmp_path):
    run = advreg.fit(small.config(data, tmp_path / "run", *PIECES["ema"], "train.epochs=1"))
    made = setup.prepare(small.config(data, tmp_path / "other", *PIECES["ema"]))
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    made.average.load_state_dict(state["memory"]["average"])
    kept = advreg.load_model(str(run.path)).state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in made.average.model.state_dict().items())
    assert not torch.equal(kept["0.weight"], state["model"]["0.weight"])


def test_frozen_batchnorm_trains_weights_not_statistics(data, tmp_path):
    config = small.config(data, tmp_path / "run", "train.freeze_batchnorm=true", "train.epochs=1")
    before = setup.prepare(config).model.state_dict()
    after = torch.load(advreg.fit(config) / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(before[f"1.{name}"], after[f"1.{name}"]) for name in ("running_mean", "running_var"))
    assert not torch.equal(before["1.weight"], after["1.weight"])


def test_free_takes_its_steps_on_every_batch(data, tmp_path):
    run = advreg.fit(small.config(data, tmp_path / "run", *PIECES["free"], "train.epochs=1"))
    record = run.read_log("metrics.jsonl")[-1]
    assert record["step"] == 10
    assert record["robust_accuracy"] is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["recipe.name=free"], "'free', 'nuat', 'ibp' and 'crown_ibp' go with attack 'none'"),
        (["recipe.name=free", "attack.name=none", "train.accumulate=2"], "cannot go with train.accumulate"),
        (["recipe.name=free", "attack.name=none", "train.awp=0.1"], "cannot go with train.awp"),
        (["recipe.name=free", "attack.name=none", "data.cutmix=true"], "cannot go with data.cutmix"),
        (["recipe.name=free", "attack.name=none", "policy.name=iaat"], "cannot go with policy.name"),
        (["recipe.name=free", "attack.name=none", "threat.eps=0"], "threat.eps is 0"),
        (["train.awp=0.1", "train.accumulate=2"], "cannot go with train.accumulate"),
        (["model.split=adv"], "recipe.name is 'madry', which uses one route"),
        (["model.split=adv", "recipe.name=ar_at"], "give the number of BatchNorms"),
        (["model.split=adv", "recipe.name=advprop", "model.predictor=1"], "leave it out"),
        (["model.predictor=1"], "set it to 'adv'"),
        (["attack.union=msd"], "attack.norms is empty"),
        (["attack.norms=l2:1", "attack.step_size=0.1"], "attack.step_size is 0.1; set it to 'auto'"),
        (["attack.norms=l2:1", "attack.union=msd"], "attack.start is 'uniform'; set it to 'zero'"),
        (["attack.norms=l2:1", "attack.name=fgsm"], "attack.name is 'fgsm'; set it to 'pgd'"),
        (["attack.norms=l2:1", "policy.name=friendly"], "cannot go with policy 'friendly'"),
        (["recipe.name=nuat", "attack.name=none", "policy.name=iaat"], r"set policy\.name = 'fixed'"),
        (["train.awp_start=0.1"], r"train\.awp is 0"),
        (["recipe.name=mart", "data.cutmix=true"], "data.cutmix mixes labels"),
        (["recipe.name=pgi"], "set attack.name = 'stored'"),
        (["attack.name=fgsm", "attack.start=gaussian"], "'gaussian' start belongs to 'pgd'"),
        (["attack.name=stored", "attack.objective=dlr"], "leave it at 'auto'"),
        (["recipe.name=gradalign", "recipe.options.method=double", "train.compile=true"], "compiled model once"),
        (["average.reestimate=2"], "set it to 'ema' or 'swa'"),
        (["attack.name=stored", "policy.name=iaat"], r"set policy\.options\.method = 'margin'"),
        (["policy.name=friendly", "attack.name=fgsm"], "attack.name is 'fgsm'; set it to 'pgd'"),
        (["policy.name=friendly", "attack.objective=dlr"], "attack.objective is 'dlr'; set it to 'auto'"),
        (["policy.name=friendly", "train.guard=repair"], "train.guard is 'repair'; set it to 'warn' or 'off'"),
        (["recipe.name=free", "attack.name=none", "average.name=ema", "average.reestimate=2"], "reestimate = 0"),
        (["train.freeze_batchnorm=true", "average.name=swa", "average.reestimate=2"], "reestimate = 0"),
        (["attack.name=none", "recipe.name=standard", "policy.name=ldes"], r"set policy\.name = 'fixed'"),
        (["attack.name=none", "recipe.name=standard", "policy.name=iaat"], r"set policy\.name = 'fixed'"),
        (["attack.name=none", "recipe.name=standard", "policy.name=friendly"], r"set policy\.name = 'fixed'"),
        (["policy.name=warmup", "attack.name=n-fgsm", "attack.step_size=4/255"], r"set attack\.step_size = 'auto'"),
        (["attack.name=n-fgsm", "attack.start=zero"], "'zero' start belongs to 'fgsm' or 'pgd'"),
        (["attack.name=stored", "attack.start=zero"], "'zero' start belongs to 'fgsm' or 'pgd'"),
        (["policy.name=ldes", "policy.options.least=1.5"], "least is 1.5; allowed: less than 1"),
        (["average.name=ema", "average.options.decoy=0.9"], "Did you mean 'decay'?"),
        (["policy.name=iat"], "Did you mean 'iaat'?"),
        (["recipe.name=ar_at"], "split"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_impossible_combinations_are_rejected_at_once(data, tmp_path, changes, message):
    with pytest.raises(advreg.errors.AdvregError, match=message) as error:
        advreg.fit(small.config(data, tmp_path / "run", *changes))
    assert isinstance(error.value, ConfigError) or "ar_at" in changes[0]
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_free_training_is_not_spread_over_processes(data, tmp_path):
    with pytest.raises(ConfigError, match="train in one process"):
        setup.prepare(small.config(data, tmp_path / "run", *PIECES["free"]), Ranks(0, 2))
