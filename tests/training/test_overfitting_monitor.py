"""The guard: what it takes for catastrophic overfitting, and that a run it mended is a better and a resumable one."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import advreg
from advreg.attacks import pgd
from advreg.config import AttackConfig, Config
from advreg.errors import TrainingError
from advreg.trainer import events
from advreg.training import dry_run, overfitting_monitor, per_example_state, rollback, setup
from advreg.training.checkpoint import TrainingProgress
from advreg.training.epoch import train_epoch
from advreg.training.inner import escalation
from advreg.training.overfitting_monitor import ProbeAccuracy
from advreg.training.policies import Moment
from advreg.training.step import Tally, take_step
from tests.training import small
from tests.training.test_resume import outcome

START = Moment(epoch=1, step=0, steps=15)


@pytest.mark.parametrize(
    ("probe", "best", "one_step", "ill"),
    [
        (ProbeAccuracy(0.9, 0.66, 0.50), 0.50, True, True),  # a gap of 16 points, and no progress
        (ProbeAccuracy(0.9, 0.64, 0.50), 0.50, True, False),  # a gap of 14
        (ProbeAccuracy(0.9, 0.90, 0.51), 0.50, True, False),  # a wide gap while accuracy under PGD still rises
        (ProbeAccuracy(0.9, 0.90, 0.50), 0.50, False, False),  # no sign of anything where training takes several steps
        (ProbeAccuracy(0.9, 0.30, 0.29), 0.50, False, True),  # a drop of 21 points, whatever the attack
        (ProbeAccuracy(0.9, 0.31, 0.31), 0.50, True, False),  # a drop of 19
        (ProbeAccuracy(0.3, 0.29, 0.29), 0.50, True, False),  # a drop of 21, with clean accuracy
    ],
)
def test_signs_of_catastrophic_overfitting(probe, best, one_step, ill):
    assert (overfitting_monitor.detect_catastrophic_overfitting(probe, best, one_step=one_step) is not None) == ill


def test_what_is_label_leaking():
    assert overfitting_monitor.detect_label_leaking(ProbeAccuracy(0.80, 0.83, 0.1))
    assert overfitting_monitor.detect_label_leaking(ProbeAccuracy(0.80, 0.81, 0.1)) is None


@pytest.mark.parametrize(("clean", "leaks"), [(0.16, False), (0.18, True)])
def test_no_label_leaks_at_chance_level(clean, leaks):
    watcher = overfitting_monitor.Guard(
        "warn", 1, torch.zeros(100, 1), torch.arange(100) % 10, advreg.ThreatModel("linf", 0.1)
    )
    assert (watcher.assess(ProbeAccuracy(clean, 0.3, 0.1), one_step=False)[1] is not None) == leaks


class Bent(torch.nn.Module):
    """Wrong at 0.5, where the loss rises with x, and right far from there: one step away from right lands on right."""

    def forward(self, x):
        away = x.flatten(1)[:, :1] - 0.5
        margin = 5 * (away / 0.05) ** 2 - 1 - 0.1 * away
        return torch.cat([margin, -margin], 1)


def test_a_pulse_is_taken_where_the_step_lands():
    x, y = torch.full((8, 1, 1, 1), 0.5), torch.zeros(8, dtype=torch.int64)
    probe = overfitting_monitor.measure_probe(Bent().train(), x, y, advreg.ThreatModel("linf", 0.1))
    assert probe == ProbeAccuracy(clean_accuracy=0.0, fgsm_accuracy=1.0, pgd_accuracy=0.0)
    assert overfitting_monitor.detect_catastrophic_overfitting(probe, best=0.0, one_step=True)


def test_a_pulse_leaves_model_and_draws_alone(data, tmp_path):
    made = setup.prepare(small.config(data, tmp_path / "run"))
    made.model.train()
    before, drawn = copy.deepcopy(made.model.state_dict()), torch.get_rng_state()
    overfitting_monitor.measure_probe(made.model, made.guard.x, made.guard.y, made.threat)
    assert str(before) == str(made.model.state_dict())
    assert torch.equal(drawn, torch.get_rng_state())
    assert made.model.training
    assert len(made.guard.x) == 100


def test_attacks_grow_stronger_until_they_cost_too_much():
    section, names = AttackConfig("fgsm", step_size=0.01, start="zero"), []
    while (section := escalation.next_stronger(section)) is not None:  # type: ignore[assignment]
        names.append((section.name, section.steps if section.name == "pgd" else 1))
        assert section.step_size == "auto"
    assert names == [("n-fgsm", 1), ("pgd", 2), ("pgd", 4), ("pgd", 8), ("pgd", 16)]


def test_each_trouble_is_reported_once_until_it_is_over():
    watcher = overfitting_monitor.Guard(
        "warn", 1, torch.zeros(100, 1), torch.arange(100) % 10, advreg.ThreatModel("linf", 0.1)
    )
    watcher.memory = overfitting_monitor.Memory(best=0.5)
    bad, good = ProbeAccuracy(0.5, 0.9, 0.1), ProbeAccuracy(0.9, 0.5, 0.5)
    message = [watcher.assess(probe, one_step=True) for probe in (bad, bad, good, bad)]
    assert [(ill is not None, leak is not None) for ill, leak in message] == [
        (True, True), (False, False), (False, False), (True, True),
    ]  # fmt: skip


def test_rollback_restores_all_but_the_schedule_position(data, tmp_path):
    made = setup.prepare(small.config(data, tmp_path / "run"))
    batches = list(made.batches.epoch(0))
    made.model.train()
    take_step(made, batches[0], START)
    before = copy.deepcopy((made.model.state_dict(), made.optimizer.state_dict()["state"], made.attack.section))
    healthy = rollback.snapshot_state(made, Tally())
    for batch in batches[1:3]:
        take_step(made, batch, START)
    made.attack.strengthen()
    lr = made.optimizer.param_groups[0]["lr"]
    rollback.roll_back(made, healthy)
    after = (made.model.state_dict(), made.optimizer.state_dict()["state"], made.attack.section)
    assert str(before) == str(after)
    assert (made.scheduler.last_epoch, made.optimizer.param_groups[0]["lr"]) == (3, lr)
    take_step(made, batches[3], START)
    rollback.roll_back(made, healthy)  # as often as need be: the copy is not what is trained
    assert str(before[0]) == str(made.model.state_dict())
    assert rollback.slow_down(made) == pytest.approx(made.scheduler.get_last_lr()[0])
    full = made.scheduler.lr_lambdas[0](5) * made.config.optimizer.lr
    take_step(made, batches[3], START)
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(full / 2)


def test_rollback_aligns_stored_perturbations_with_crops(data, tmp_path):
    made = setup.prepare(small.config(data, tmp_path / "run", "attack.name=stored", "recipe.name=pgi"))
    made.model.eval()

    def starts(epoch):
        found = [made.attack(made.model, b.x, b.y, made.threat, ids=b.ids) for b in made.batches.epoch(epoch)]
        return torch.cat([each.x_start for each in found])

    starts(1)
    per_example_state.start_epoch(made.stateful_parts, 2)
    healthy = rollback.snapshot_state(made, Tally())
    before = starts(2)
    rollback.roll_back(made, healthy)
    assert torch.equal(before, starts(2))


@pytest.mark.parametrize(
    ("mode", "attack", "message"),
    [
        ("warn", ["attack.name=fgsm"], "none: train.guard = 'repair' would go back and on"),
        ("warn", ["attack.name=stored", "recipe.name=pgi"], "none: no stronger attack follows 'stored'; try a lower"),
        ("repair", ["attack.name=stored", "recipe.name=pgi"], "none: no stronger attack follows 'stored'; try a lower"),
        ("repair", ["attack.steps=16"], "none: no stronger attack follows 'pgd-16'; try a lower optimizer.lr"),
    ],
)
def test_trouble_without_repair_is_reported_with_a_remedy(data, tmp_path, monkeypatch, mode, attack, message):
    monkeypatch.setattr(overfitting_monitor, "measure_probe", scripted_pulse)
    run = advreg.fit(guarded(data, tmp_path / "run", "attack.name=pgd", *attack, f"train.guard={mode}"))
    lines = [line for line in run.read_log("metrics.jsonl") if line.get("trouble") == "catastrophic overfitting"]
    assert len(lines) == 1
    assert lines[0]["action"].startswith(message)


def scripted_pulse(model, x, y, threat, task):
    """Overfitting after nine steps, which going back undoes: a function of the model, as real probes are."""
    steps = int(model[1].num_batches_tracked)
    return ProbeAccuracy(0.9, 0.9, 0.1) if steps == 9 else ProbeAccuracy(0.9, 0.5, 0.5 + steps / 1000)


def guarded(data, out, *changes):
    return small.config(data, out, "attack.name=fgsm", "train.guard=repair", "train.guard_every=2", *changes)


def test_a_repaired_run_continues_with_a_stronger_attack(data, tmp_path, monkeypatch):
    monkeypatch.setattr(overfitting_monitor, "measure_probe", scripted_pulse)
    seen: list[events.Event] = []
    run = advreg.fit(guarded(data, tmp_path / "run"), on_event=seen.append)
    message = [event for event in seen if isinstance(event, events.Guarded)]
    assert [(event.epoch, event.step, event.trouble) for event in message] == [(2, 4, "catastrophic overfitting")]
    assert message[0].action == "rolled back, attack is now n-fgsm"
    lines = run.read_log("metrics.jsonl")
    assert [line.get("event", line["epoch"]) for line in lines] == [1, "guard", 2, 3]
    assert (lines[1]["step"], lines[1]["pgd_accuracy"], lines[1]["action"]) == (4, 0.1, message[0].action)
    assert lines[2]["forwards"] == 200, "what was taken back was paid for"
    assert lines[2]["train_accuracy"] * 60 == pytest.approx(round(lines[2]["train_accuracy"] * 60)), (
        "but does not count"
    )
    kept = torch.load(run / "checkpoint.pt", weights_only=True)
    assert kept["memory"]["attack"]["section"]["name"] == "n-fgsm"
    assert kept["memory"]["guard"]["repairs"] == 1
    assert int(kept["model"]["1.num_batches_tracked"]) == 13, "two steps of fifteen were undone"


@pytest.mark.parametrize(
    ("epoch", "step", "more"),
    [
        (1, 5, []),
        (2, 3, []),
        (2, 5, []),
        (3, 1, []),
        (3, 1, ["policy.name=iaat", "average.name=ema", "train.awp=0.01"]),
        (
            3,
            1,
            [
                "recipe.name=free",
                "attack.name=none",
                "train.batch_size=40",
                "recipe.options.replays=2",
                "train.guard_every=3",
            ],
        ),
    ],
)
def test_a_killed_repaired_run_ends_with_the_same_bytes(data, tmp_path, monkeypatch, epoch, step, more):
    monkeypatch.setattr(overfitting_monitor, "measure_probe", scripted_pulse)
    advreg.fit(guarded(data, tmp_path / "whole", *more))

    def kill(event):
        if isinstance(event, events.Step) and (event.epoch, event.step) == (epoch, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advreg.fit(guarded(data, tmp_path / "cut", *more), on_event=kill)
    advreg.fit(guarded(data, tmp_path / "cut", *more), resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    guards = [
        [line for line in advreg.RunFolder(tmp_path / name).read_log("metrics.jsonl") if line.get("event") == "guard"]
        for name in ("cut", "whole")
    ]
    assert guards[0] == guards[1] != []


def test_a_warning_changes_nothing_but_the_log(data, tmp_path, monkeypatch):
    monkeypatch.setattr(overfitting_monitor, "measure_probe", scripted_pulse)
    for mode in ("off", "warn"):
        advreg.fit(guarded(data, tmp_path / mode, f"train.guard={mode}"))
    assert outcome(tmp_path / "off") == outcome(tmp_path / "warn")
    assert "none: train.guard = 'repair'" in (tmp_path / "warn" / "metrics.jsonl").read_text()
    assert "guard" not in (tmp_path / "off" / "metrics.jsonl").read_text()


def test_a_run_that_diverges_goes_back_and_goes_slower(data, tmp_path):
    run = advreg.fit(guarded(data, tmp_path / "run", "model.name=tests.training.small:diverging", "train.epochs=2"))
    lines = [line for line in run.read_log("metrics.jsonl") if "event" in line]
    assert [(line["step"], line["trouble"]) for line in lines] == [(step, "divergence") for step in (3, 4, 5)]
    assert "learning rate halved" in lines[0]["action"]
    kept = torch.load(run / "checkpoint.pt", weights_only=True)
    assert kept["scheduler"]["base_lrs"] == [0.05 / 8]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept["model"].values())


class Silent(small.Fuse):
    """Learns as if nothing were wrong while it answers NaN in eval mode, after some steps: weights as finite as ever."""

    def forward(self, z):
        self.seen += self.training
        return z if self.training or self.seen <= self.forwards else z * float("nan")


def silent(forwards=7):
    return torch.nn.Sequential(small.network(), Silent(forwards))


@pytest.mark.parametrize(("forwards", "steps"), [(7, [3, 4, 5]), (9, [5])])
def test_finite_weights_that_answer_nan_are_a_divergence_too(data, tmp_path, forwards, steps):
    network = ["model.name=tests.training.test_overfitting_monitor:silent", f"model.options.forwards={forwards}"]
    run = advreg.fit(guarded(data, tmp_path / "run", *network, "train.guard_every=1", "train.epochs=2"))
    lines = [line for line in run.read_log("metrics.jsonl") if "event" in line]
    assert [(line["epoch"], line["step"], line["trouble"]) for line in lines] == [(2, k, "divergence") for k in steps]
    assert lines[0]["said"] == f"the network returns NaN or infinity after step {steps[0]} of epoch 2"


class Exploding(small.Fuse):
    """Outputs logits a million times larger after some steps: finite, and as wrong as they are large."""

    def forward(self, z):
        self.seen += self.training
        return z * 1e6 if self.seen > self.forwards else z


def exploding(forwards=7):
    return torch.nn.Sequential(small.network(), Exploding(forwards))


def test_a_finite_blow_up_is_a_divergence(data, tmp_path):
    changes = ["model.name=tests.training.test_overfitting_monitor:exploding", "train.guard_every=1", "train.epochs=2"]
    run = advreg.fit(guarded(data, tmp_path / "run", *changes))
    lines = [line for line in run.read_log("metrics.jsonl") if "event" in line]
    assert {line["trouble"] for line in lines} == {"divergence"}
    assert "the loss on clean training examples is" in lines[0]["said"]
    with pytest.raises(TrainingError, match="the loss on clean training examples is"):
        advreg.fit(guarded(data, tmp_path / "warned", *changes, "train.guard=warn"))
    advreg.fit(guarded(data, tmp_path / "off", *changes, "train.guard=off"))


def test_an_estimate_does_not_mind_where_its_steps_lead(data, tmp_path):
    network = ["model.name=tests.training.test_overfitting_monitor:silent", "model.options.forwards=2"]
    assert dry_run.estimated_seconds(setup.prepare(guarded(data, tmp_path / "run", *network)), 1) > 0


class Masked(torch.nn.Module):
    """Has a buffer of -inf that is meant to be so, as attention has."""

    def __init__(self):
        super().__init__()
        self.network = small.network()
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    def forward(self, x):
        return self.network(x) @ self.mask.exp()


@pytest.mark.parametrize("mode", ["off", "repair"])
def test_a_constant_of_infinity_is_no_divergence(data, tmp_path, mode):
    changes = ["model.name=tests.training.test_overfitting_monitor:Masked", "train.epochs=1", f"train.guard={mode}"]
    run = advreg.fit(guarded(data, tmp_path / "run", *changes))
    assert [line.get("event") for line in run.read_log("metrics.jsonl")] == [None]


def test_a_run_that_diverges_again_and_again_is_given_up(data, tmp_path):
    hopeless = guarded(data, tmp_path / "run", "model.name=tests.training.small:diverging", "train.epochs=30")
    with pytest.raises(TrainingError, match=r"training diverged: the loss is nan .* lower optimizer\.lr") as error:
        advreg.fit(hopeless)
    assert "\n" not in str(error.value)
    assert "train.guard" not in str(error.value), "it was asked to repair"


PROVOKED = [
    "model.name=zoo:mnist-small", "data.validation=57000", "train.validation_steps=1", "threat.eps=0.2",
    "attack.name=fgsm", "attack.start=zero", "recipe.name=madry", "optimizer.name=adam", "optimizer.lr=3e-3",
    "train.epochs=5", "train.guard_every=12", "train.device=cpu",
]  # fmt: skip


def _provoked(tmp_path, mode):
    """Train on 3,000 images with FGSM from the clean point at a large eps: PGD's accuracy there, and what was said."""
    made = setup.prepare(Config().replace_with([*PROVOKED, f"train.guard={mode}", f"train.out={tmp_path}"]))
    made = replace(made, validation_set=made.validation_set.select(range(300)))
    message: list[events.Guarded] = []
    progress = TrainingProgress()
    for number in range(1, made.config.train.epochs + 1):
        progress = train_epoch(
            made, number, progress, lambda e: message.append(e) if isinstance(e, events.Guarded) else None
        )
    x, y = made.validation_set.tensors()
    return float((~pgd(made.model.eval(), x, y, made.threat, steps=20).broken).float().mean()), message


def test_real_catastrophic_overfitting_is_repaired(tmp_path):
    warned, message = _provoked(tmp_path, "warn")
    repaired, mended = _provoked(tmp_path, "repair")
    assert warned < 0.2
    assert {event.trouble for event in message} == {"catastrophic overfitting"}
    assert repaired > warned + 0.2
    assert mended[0].action.startswith("rolled back, attack is now n-fgsm")
