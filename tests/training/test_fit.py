"""What a run leaves behind, what it refuses before it begins, and what it says on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import advreg
from advreg.config import Config
from advreg.errors import AdvregError, ConfigError, TrainingError
from advreg.trainer import events
from advreg.training import checkpoint, dry_run, setup, validation
from tests.training import small


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run with what it said."""
    seen: list[events.Event] = []
    out = tmp_path_factory.mktemp("run") / "run"
    return advreg.fit(small.config(data, out), on_event=seen.append), seen


def test_folder_holds_what_other_verbs_read(finished):
    run, _ = finished
    names = {entry.name for entry in run.path.iterdir() if not entry.name.startswith(".")}
    assert names == {
        "run.toml", "model.json", "environment.json", "metrics.jsonl",
        "model.safetensors", "last.safetensors", "checkpoint.pt",
    }  # fmt: skip
    assert Config.load(run / "run.toml").train.epochs == 3
    assert run.read_json("model.json")["name"] == "tests.training.small:network"
    assert run.read_json("environment.json")["torch"] == torch.__version__


def test_best_weights_are_those_of_the_best_epoch(finished, data):
    run, _ = finished
    held = setup.prepare(Config.load(run / "run.toml")).validation_set
    model = advreg.load_model(str(run.path))
    score = validation.validate(model, held, advreg.ThreatModel("linf", 0.05), 3)
    ranks = [(r["robust_accuracy"], r["clean_accuracy"]) for r in run.read_log("metrics.jsonl")]
    assert (score.robust_accuracy, score.clean_accuracy) == max(ranks)
    assert ranks[-1] > (0.4, 0.4), "it has learned something"


def test_events_tell_the_whole_story(finished):
    run, seen = finished
    assert isinstance(seen[0], events.Started)
    assert seen[0].seconds > 0
    assert (seen[0].epochs, seen[0].steps) == (3, 5)
    assert [e.record for e in seen if isinstance(e, events.Checkpointed)] == run.read_log("metrics.jsonl")
    assert [(e.epoch, e.step) for e in seen if isinstance(e, events.Step)] == [
        (epoch, step) for epoch in (1, 2, 3) for step in range(1, 6)
    ]
    best = [e.epoch for e in seen if isinstance(e, events.Checkpointed) and e.best]
    assert seen[-1] == events.Finished(3, best[-1], 5, 5)


def test_metrics_are_counted_not_guessed(finished):
    run, _ = finished
    records = run.read_log("metrics.jsonl")
    assert [record["step"] for record in records] == [5, 10, 15]
    hits = [record["train_accuracy"] * 100 for record in records]
    assert hits == pytest.approx([round(hit) for hit in hits])
    assert [(record["forwards"], record["backwards"]) for record in records] == [(300, 300)] * 3, "PGD-2 and the loss"
    assert records[-1]["lr"] == pytest.approx(min(record["lr"] for record in records))


def test_estimate_changes_nothing(data, tmp_path):
    made = setup.prepare(small.config(data, tmp_path / "run"))
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    modes = [module.training for module in made.model.modules()]
    assert dry_run.estimated_seconds(made, 2) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in made.model.state_dict().items())
    assert [module.training for module in made.model.modules()] == modes
    assert made.optimizer.state_dict()["state"] == {}
    assert made.scheduler.last_epoch == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.validation=120", "data.validation is 120, but"),
        ("model.name=zoo:mnist-cnm", "Did you mean 'mnist-cnn'"),
        ("model.name=zoo:mnist-dnn", "cannot take inputs of shape"),
        ("data.name=mnits", "Did you mean 'mnist'"),
        ("data.augment=flop", "Did you mean 'flip'"),
        ("threat.norm=linf2", "Did you mean 'linf'"),
        ("threat.eps=8", "wider than the box"),
        ("train.device=gpu0", "device 'gpu0' cannot be used"),
        ("recipe.name=madri", "Did you mean 'madry'"),
        ("schedule.options.final=0", "no option 'final'"),
        ("model.weights=absent.pt", "absent.pt"),
        ("seed=18446744073709551616", "seed is 18446744073709551616; allowed: from -2^63"),
        ("model.name=tests.training.test_fit:frozen", "no weight of the network requires a gradient"),
    ],
)
def test_bad_configurations_are_rejected_and_write_nothing(data, tmp_path, change, message):
    out = tmp_path / "run"
    with pytest.raises(AdvregError) as error:
        advreg.fit(small.config(data, out, change))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not out.exists()


def frozen():
    return small.network().requires_grad_(False)


def test_a_policy_has_room_for_every_example(data, tmp_path):
    crowded = small.config(data, tmp_path / "run", "policy.name=iaat", "policy.options.examples=99")
    with pytest.raises(
        ConfigError, match=r"policy\.options\.examples is 99, but 100 images are trained on; leave it out"
    ):
        advreg.fit(crowded)


def test_a_network_that_torch_cannot_compile_is_one_line(data, tmp_path, monkeypatch):
    def lacking(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nand a second line")

    torch.compiler.reset()  # code that other tests compiled would run without asking the backend
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend=lacking))
    with pytest.raises(ConfigError, match=r"torch cannot compile here: .*No working C\+\+ compiler found") as error:
        advreg.fit(small.config(data, tmp_path / "run", "train.compile=true"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("told", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": ""}, {"WORLD_SIZE": "two"}])
def test_incomplete_torchrun_variables_are_rejected(data, tmp_path, monkeypatch, told):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is '(2|two)', .*start several processes with torchrun"):
        advreg.fit(small.config(data, tmp_path / "run"))


def test_processes_that_do_not_know_where_to_meet_are_rejected(data, tmp_path, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"process 0 of 2 cannot join: .*MASTER_ADDR.*; start all with torchrun"):
        advreg.fit(small.config(data, tmp_path / "run"))


def test_unchecked_configuration_is_checked(data, tmp_path):
    with pytest.raises(ConfigError, match="seed is 'x'"):
        advreg.fit(Config(seed="x"))  # type: ignore[arg-type]


def test_divergence_stops_and_keeps_the_last_complete_epoch(data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"training diverged: .* epoch 2, step 3"):
        advreg.fit(small.config(data, out, "model.name=tests.training.small:diverging"))
    kept = torch.load(out / checkpoint.NAME, weights_only=True)
    assert kept["progress"]["epoch"] == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept["model"].values())
    assert [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1]


def test_adversary_that_cannot_reach_eps_is_announced(data, tmp_path):
    weak = small.config(data, tmp_path / "run", "attack.step_size=0.01")
    with pytest.warns(UserWarning, match=r"2 steps of 0\.01 cannot reach eps = 0\.05"):
        run = setup.prepare(weak)
    assert run.attack.section.step_size == 0.01, "announced, not changed"


@pytest.mark.parametrize(
    "changes",
    [
        ["attack.name=none", "recipe.name=standard"],
        ["attack.name=fgsm"],
        ["data.validation=0"],
        ["threat.norm=l2", "threat.eps=0.5"],
        ["optimizer.name=adamw", "optimizer.weight_decay=0.01", "train.gradient_clip=1.0"],
        ["train.precision=bfloat16", "train.channels_last=true"],
    ],
    ids=lambda changes: changes[0],
)
def test_every_way_to_train_trains_and_repeats(data, tmp_path, changes):
    weights = []
    for name in ("a", "b"):
        run = advreg.fit(small.config(data, tmp_path / name, "train.epochs=2", *changes))
        weights.append((run / "model.safetensors").read_bytes())
        assert torch.isfinite(advreg.load_model(str(run.path))(torch.rand(2, 1, 8, 8))).all()
    assert weights[0] == weights[1]
    record = run.read_log("metrics.jsonl")[-1]
    assert (record["clean_accuracy"] is None) == ("data.validation=0" in changes)
    assert (record["robust_accuracy"] is None) == (changes[0] in ("attack.name=none", "data.validation=0"))


def test_fine_tuning_starts_from_the_weights_given(data, tmp_path, finished):
    run, _ = finished
    tuned = small.config(data, tmp_path / "run", f"model.weights={run / 'model.safetensors'}")
    start = setup.prepare(tuned).model.state_dict()
    assert all(
        torch.equal(start[name], tensor) for name, tensor in advreg.load_model(str(run.path)).state_dict().items()
    )


def test_held_out_images_are_never_trained_on(data, tmp_path):
    made = setup.prepare(small.config(data, tmp_path / "run"))
    trained, held = made.batches.dataset.images, made.validation_set.images
    assert (len(trained), len(held)) == (100, 20)
    assert not any(torch.equal(a, b) for a in trained for b in held)


def test_run_folder_holds_no_path_but_the_configured_one(finished):
    run, _ = finished
    for name in ("model.json", "environment.json", "metrics.jsonl"):
        assert str(Path(run.path).parent) not in run.read_text(name)
