"""Laws of language training: shares and costs are exact, and terms of weight zero change nothing."""

from __future__ import annotations

import json

import pytest
import torch

from advreg.errors import ConfigError, DataError, RunError
from advreg.language.datasets import InstructionExample, RefusalExample, read_refusal_examples
from advreg.language.models.adapters import has_adapter
from advreg.language.models.embeddings import answer_nll, logits
from advreg.language.training.batches import BatchMix, TrainingTexts, batch_at
from advreg.language.training.benign import encode_benign, learn_benign
from advreg.language.training.fit import fit_language
from advreg.language.training.folder import load_trained
from advreg.language.training.requests import encode_both
from advreg.language.training.setup import prepare
from advreg.language.training.step import take_step
from advreg.trainer.averaging import ema
from advreg.trainer.events import Checkpointed, Finished, Started, Step
from advreg.trainer.moment import Moment
from tests.language import lessons


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return lessons.write_data(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "plain"
    return fit_language(lessons.config(data, out, "recipe.name=plain", "train.ema=0"))


def texts():
    refusals = [RefusalExample(i, f"p{i}", ("a", "b"), ("x", "y")) for i in range(3)]
    return TrainingTexts(refusals, [InstructionExample(i, f"q{i}", "z") for i in range(5)], [])


@pytest.mark.parametrize("mix", [0.0, 0.05, 0.15, 0.3, 0.5, 1.0])
def test_share_of_adversarial_examples_is_exact_over_the_run(mix):
    mixture = BatchMix(8, mix)
    batches = [batch_at(texts(), mixture, step, seed=0) for step in range(50)]
    assert all(batch.size == 8 for batch in batches)
    assert sum(len(batch.requests) for batch in batches) == round(400 * mix)


def test_each_round_has_every_example_once_in_seeded_order():
    mixture = BatchMix(4, 0.25)
    ids = [example.id for step in range(5) for example in batch_at(texts(), mixture, step, 0).benign]
    assert all(sorted(ids[i : i + 5]) == [0, 1, 2, 3, 4] for i in range(0, 15, 5))
    other = [example.id for step in range(5) for example in batch_at(texts(), mixture, step, 1).benign]
    assert ids != other
    assert batch_at(texts(), mixture, 3, 0) == batch_at(texts(), mixture, 3, 0)


@pytest.mark.parametrize("name", ["plain", "continuous", "latent", "refusal_sft", "circuit_breakers"])
def test_gradient_of_a_row_is_multiplied_by_its_weight(data, tmp_path, name):
    """The gradient is affine in the weight of a row, and without the column it is that of weight 1."""
    rows = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]

    def gradient(weight):
        file = tmp_path / "weighted.jsonl"
        given = [{**row, "weight": weight} if k == 0 and weight is not None else row for k, row in enumerate(rows)]
        file.write_text("".join(json.dumps(row) + "\n" for row in given))
        changes = (f"recipe.name={name}", "train.mix=0.6", "train.batch_size=8", "train.micro_batch=2", "train.ema=0")
        made = lessons.config(data, tmp_path / "run", f"data.adversarial={file}", "train.gradient_clip=0", *changes)
        session = prepare(made)
        loss = take_step(session, 1)["loss"]
        return torch.cat([p.grad.flatten() for p in session.lm.network.parameters() if p.grad is not None]), loss

    (zero, no), (one, full), (part, partly), (plain, _) = (gradient(weight) for weight in (0, 1, 0.25, None))
    assert torch.equal(one, plain)
    assert not torch.allclose(zero, one)
    assert torch.allclose(part, zero + 0.25 * (one - zero), atol=1e-6)
    assert partly == pytest.approx(no + 0.25 * (full - no), abs=1e-6)


def test_weights_that_cannot_be_used_are_rejected(data, tmp_path):
    row = json.loads((data / "pairs.jsonl").read_text().splitlines()[0])
    for weight in (-1, "much", None, float("nan")):
        with pytest.raises(DataError, match="row 1: weight is"):
            read_refusal_examples([{**row, "weight": weight}])
    file = tmp_path / "weighted.jsonl"
    file.write_text(json.dumps({**row, "weight": 0.5}) + "\n")
    with pytest.raises(ConfigError, match="set it to 'example'"):
        prepare(lessons.config(data, tmp_path / "run", f"data.adversarial={file}", "recipe.cutoff_over=batch"))


def test_an_epoch_has_every_benign_example():
    assert BatchMix(8, 0.0).steps(benign=80, refusals=3) == 10
    assert BatchMix(8, 0.5).steps(benign=80, refusals=3) == 20
    assert BatchMix(8, 1.0).steps(benign=80, refusals=16) == 2


def test_passes_are_counted_exactly(data, tmp_path):
    """An adversarial example: 3 forwards and 2 backwards of the search, 2 of each to learn; a benign one: 1 of each."""
    run = fit_language(lessons.config(data, tmp_path / "run", "train.guard=off"))
    lines = run.read_log("metrics.jsonl")[1:]
    adversarial = sum(line["adversarial"] for line in lines)
    benign = sum(line["examples"] for line in lines) - adversarial
    assert (adversarial, benign) == (9, 15)
    assert sum(line["forwards"] for line in lines) == 5 * adversarial + benign
    assert sum(line["backwards"] for line in lines) == 4 * adversarial + benign


def test_mix_zero_is_plain_fine_tuning(data, tmp_path):
    """No adversarial file is opened, and the recipe of the adversary makes no difference."""
    runs = [
        fit_language(lessons.config(data, tmp_path / name, "train.mix=0", f"recipe.name={name}", "data.adversarial="))
        for name in ("plain", "continuous", "latent")
    ]
    assert lessons.same(lessons.weights(runs[0]), lessons.weights(runs[1]))
    assert lessons.same(lessons.weights(runs[0]), lessons.weights(runs[2]))


@pytest.mark.parametrize("name", ["smart", "alum"])
def test_a_term_of_weight_zero_changes_no_bit(data, tmp_path, plain, name):
    run = fit_language(lessons.config(data, tmp_path / "zero", f"recipe.name={name}", "recipe.smooth=0", "train.ema=0"))
    assert lessons.same(lessons.weights(run), lessons.weights(plain))
    run = fit_language(lessons.config(data, tmp_path / "one", f"recipe.name={name}", "attack.eps=1.0", "train.ema=0"))
    assert not lessons.same(lessons.weights(run), lessons.weights(plain))


def test_freelb_with_eps_zero_changes_no_bit(data, tmp_path):
    """Two ascents at one point with one dropout mask: the halves of the gradient add up to all of it."""
    changes = {"plain": "recipe.name=plain", "zero": "attack.eps=0", "one": "attack.eps=1.0"}
    plain, zero, one = (
        lessons.weights(
            fit_language(
                lessons.config(data, tmp_path / name, "recipe.name=freelb", "train.mix=0", "train.ema=0", change)
            )
        )
        for name, change in changes.items()
    )
    assert lessons.same(zero, plain)
    assert not lessons.same(one, plain)


def test_an_attack_with_eps_zero_is_plain_training(data, tmp_path):
    """Without the penalty of openers, which differs between the recipes, and without cutoffs."""
    same = ("attack.eps=0", "recipe.away=0", "recipe.toward_cutoff=0", "train.ema=0")
    plain, *others = (
        lessons.weights(fit_language(lessons.config(data, tmp_path / name, f"recipe.name={name}", *same)))
        for name in ("plain", "continuous", "latent")
    )
    for weights in others:
        assert all(torch.allclose(weights[key], weight, atol=1e-5) for key, weight in plain.items())


@pytest.mark.parametrize("name", ["continuous", "latent"])
def test_training_learns_refusal_under_attack_and_keeps_utility(data, tmp_path, name):
    configured = lessons.config(
        data, tmp_path / "run", f"recipe.name={name}", "model.name=tests.language.lessons:tiny", "train.steps=40",
        "train.every=20", "train.lr=0.02", "train.mix=0.5", "model.rank=4",
    )  # fmt: skip
    run = fit_language(configured)
    before, _, after = run.read_log("metrics.jsonl")
    session = prepare(configured)
    trained = load_trained(run)
    requests = batch_at(session.texts, session.mix, 0, 0).requests
    for lm, refused in ((session.lm, False), (trained, True)):
        harmful, refusal = encode_both(lm, requests)
        gap = answer_nll(logits(lm, harmful), harmful) - answer_nll(logits(lm, refusal), refusal)
        assert bool((gap > 1).all()) == refused
    assert after["held_nll"] < before["held_nll"]


def test_kl_to_the_base_starts_at_zero_and_limits_the_change(data, tmp_path):
    still = lessons.config(data, tmp_path / "a", "recipe.kl=1.0", "train.steps=1", "train.every=1", "train.guard=off")
    assert (
        fit_language(still.replace_with(["model.name=tests.language.lessons:tiny"])).read_log("metrics.jsonl")[1]["kl"]
        < 1e-6
    )
    moved = {}
    for weight in (0.0, 50.0):
        out = tmp_path / f"kl-{weight}"
        run = fit_language(
            lessons.config(data, out, f"recipe.kl={weight}", "train.mix=0", "train.steps=30", "train.every=30")
        )
        moved[weight] = run.read_log("metrics.jsonl")[-1]["held_nll"]
    assert moved[50.0] > moved[0.0]


def test_smarts_teacher_is_the_average(data, tmp_path):
    run = fit_language(
        lessons.config(data, tmp_path / "run", "recipe.name=smart", "recipe.teacher=1.0", "train.ema=0.9")
    )
    none = fit_language(lessons.config(data, tmp_path / "none", "recipe.name=smart", "train.ema=0.9"))
    assert not lessons.same(lessons.weights(run), lessons.weights(none))


def test_the_run_folder_holds_the_averaged_weights(data, tmp_path):
    """Recomputed from two runs of one and two steps: the first average is the weights, then they are mixed by halves."""
    one, two, averaged = (
        lessons.weights(
            fit_language(lessons.config(data, tmp_path / name, "train.guard=off", "train.every=1", *changes))
        )
        for name, changes in {
            "one": ("train.steps=1", "train.ema=0"),
            "two": ("train.steps=2", "train.ema=0"),
            "averaged": ("train.steps=2", "train.ema=0.5"),
        }.items()
    )
    for name, kept in averaged.items():
        assert torch.allclose(kept, (one[name] + two[name]) / 2, atol=1e-7)


def test_the_whole_model_can_be_trained_and_loaded(data, tmp_path):
    run = fit_language(lessons.config(data, tmp_path / "run", "model.rank=0", "train.lr=0.001"))
    trained = load_trained(run)
    assert not has_adapter(trained)
    base, _ = lessons.dropping()
    assert not torch.equal(trained.network.lm_head.weight, base.lm_head.weight)
    assert not (run / "adapter_model.safetensors").exists()


def test_only_the_adapter_learns_and_examples_weigh_the_same(data, tmp_path):
    """The summed loss of n benign examples with weight 1/n is their mean."""
    session = prepare(lessons.config(data, tmp_path / "run", "model.name=tests.language.lessons:tiny"))
    assert all("lora_" in name for name in session.trainable_weights)
    batch = encode_benign(session.lm, session.texts.benign[:3], 0, 6)
    terms = learn_benign(session.lm, batch, session.config, None, 1 / 3)
    grads = {n: w.grad.clone() for n, w in session.lm.network.named_parameters() if w.grad is not None}
    session.lm.network.zero_grad()
    loss = answer_nll(logits(session.lm, batch.encoded), batch.encoded).mean()
    loss.backward()
    assert float(terms["loss"]) / 3 == pytest.approx(loss.item(), rel=1e-5)
    for name, weight in session.lm.network.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(weight.grad, grads[name], atol=1e-6)


def test_in_place_restores_the_weights_when_the_block_raises():
    net = torch.nn.Linear(2, 2)
    average = ema(net, 0.5, warmup=False)
    average.update(net, Moment(epoch=1, step=0, steps=2))
    before = net.weight.detach().clone()
    with torch.no_grad():
        net.weight.add_(1.0)

    def interrupted():
        with average.in_place(net):
            assert torch.equal(net.weight, before)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert torch.equal(net.weight, before + 1.0)


def test_events_cover_the_whole_run(data, tmp_path):
    seen = []
    fit_language(lessons.config(data, tmp_path / "run", "data.tokens=90"), on_event=seen.append)
    assert isinstance(seen[0], Started)
    assert isinstance(seen[-1], Finished)
    assert [event.step for event in seen if isinstance(event, Step)] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in seen if isinstance(event, Checkpointed)] == [2, 4, 6]


def test_too_long_examples_are_left_out_and_counted(data, tmp_path):
    session = prepare(lessons.config(data, tmp_path / "run"))
    lengths = sorted(len(example.answer) for example in session.texts.benign)
    assert session.texts.left_out == 0
    assert len(lengths) == 10
    with pytest.raises(DataError, match=r"nothing left to train on: 17 examples are longer than 5 tokens"):
        prepare(lessons.config(data, tmp_path / "run", "data.tokens=5"))


def test_wrong_use_raises_one_line_and_writes_nothing(data, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.adversarial is empty and train\.mix is 0\.4"):
        fit_language(lessons.config(data, tmp_path / "run", "data.adversarial="))
    with pytest.raises(DataError, match=r"cannot read .*absent\.jsonl"):
        fit_language(lessons.config(data, tmp_path / "run", f"data.adversarial={tmp_path / 'absent.jsonl'}"))
    assert not (tmp_path / "run").exists()
    run = fit_language(lessons.config(data, tmp_path / "run", "train.steps=1", "train.guard=off"))
    with pytest.raises(RunError, match="already holds a run"):
        fit_language(lessons.config(data, tmp_path / "run"))
    with pytest.raises(RunError, match="or resume the run in it"):
        fit_language(run.path)


def test_metrics_are_plain_numbers(plain):
    lines = [json.loads(line) for line in (plain / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    assert {"loss", "refusal_nll", "target_nll", "utility_nll", "held_refused", "held_repetition"} <= lines[1].keys()
