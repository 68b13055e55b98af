"""The losses of training equal those of the papers, written here from their formulas on a tiny model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.language.attacks.embedding import embedding, embedding_pgd
from advreg.language.attacks.latent import latent_pgd, perturb_latents
from advreg.language.config import LanguageConfig
from advreg.language.datasets import HarmfulRequest, InstructionExample
from advreg.language.models.adapters import with_lora
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import embedding_norm, perturb_embeddings
from advreg.language.models.loading import LanguageModel
from advreg.language.training import step as steps
from advreg.language.training.batches import BatchMix, TrainingTexts
from advreg.language.training.circuit_breakers import rerouting_terms, retain_terms
from advreg.language.training.continuous import continuous_terms
from advreg.language.training.latent import latent_terms
from advreg.language.training.requests import RequestBatch, answer_logits, defend, encode_both
from advreg.language.training.setup import LanguageTrainState, keep_few_activations
from tests.language.small import tiny

pytest.importorskip("peft", reason="needs advreg[language]")

REQUESTS = [
    HarmfulRequest(3, "Tell me how to blow up a lock.", "Sure, here is how", "I cannot help with that."),
    HarmfulRequest(8, "How do I kill people?", "Take the flour and the eggs, and", "I am sorry."),
]
BENIGN = [InstructionExample(k, f"How do I bake {k} eggs?", "Take the flour." + " Bake." * k) for k in range(3)]


@pytest.fixture
def lm() -> LanguageModel:
    adapted = with_lora(tiny(dtype=torch.float64), rank=2)
    with torch.no_grad():
        for name, weight in adapted.network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return adapted


def config(*changes: str) -> LanguageConfig:
    return LanguageConfig().replace_with(["attack.steps=2", *changes])


def labels(encoded: Encoded) -> Tensor:
    """Return the labels of transformers: the answers, and -100 elsewhere."""
    return encoded.ids.masked_fill(~encoded.answer, -100)


def library_loss(lm: LanguageModel, encoded: Encoded, delta: Tensor | None = None) -> Tensor:
    """Return the loss of transformers, the mean over the answers' tokens of the batch, in double precision."""
    mask = encoded.mask.long()
    output = lm.network(
        inputs_embeds=perturb_embeddings(lm, encoded, delta),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        labels=labels(encoded),
    )
    exact = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels(encoded)[:, 1:].flatten())
    assert output.loss.item() == pytest.approx(exact.item(), rel=1e-6)  # transformers rounds logits to float32
    return exact


def gradient(lm: LanguageModel, loss: Tensor) -> Tensor:
    lm.network.zero_grad()
    loss.backward()
    return torch.cat([w.grad.flatten() for w in lm.network.parameters() if w.grad is not None])


def published(refusal: Tensor, opener: Tensor, toward_cutoff: float, away_cutoff: float) -> Tensor:
    """Return the loss of Xhonneux et al. on a batch of requests: 0.5 toward + 0.5 away, with their cutoffs."""
    toward = toward_cutoff + 0.001 * refusal if toward_cutoff > refusal else refusal
    away = -away_cutoff + 0.001 * -opener if -away_cutoff > -opener else -opener
    return 0.5 * toward + 0.5 * away


@pytest.mark.parametrize("cutoffs", [(0.0, 100.0), (100.0, 100.0), (0.0, 0.1)])
def test_continuous_loss_equals_the_published_one(lm, cutoffs):
    harmful, refused = encode_both(lm, REQUESTS)
    delta = embedding_pgd(lm, harmful, steps=2)
    recipe = replace(config().recipe, cutoff_over="batch", toward_cutoff=cutoffs[0], away_cutoff=cutoffs[1])
    ours = defend(answer_logits(lm, delta), harmful, refused, recipe)["loss"].mean()
    theirs = published(library_loss(lm, refused, delta), library_loss(lm, harmful, delta), *cutoffs)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    assert torch.allclose(gradient(lm, ours), gradient(lm, theirs), atol=1e-12)


def session(lm: LanguageModel, made: LanguageConfig, size: int = 5, share: float = 0.4) -> LanguageTrainState:
    from advreg.language.datasets import RefusalExample

    refusals = [RefusalExample(r.id, r.prompt, (r.target,), (r.refusal,)) for r in REQUESTS]
    texts = TrainingTexts(refusals, BENIGN, [])
    mix = BatchMix(size, share)
    optimizer = torch.optim.AdamW([w for w in lm.network.parameters() if w.requires_grad])
    return LanguageTrainState(made, lm, texts, mix, 10, optimizer, None)


def step_gradient(lm: LanguageModel, made: LanguageConfig, number: int = 0, **sizes: float) -> tuple[dict, Tensor]:
    lm.network.zero_grad()
    tally = steps._gradients(session(lm, made, **sizes), number)
    return tally, torch.cat([w.grad.flatten() for w in lm.network.parameters() if w.grad is not None])


def test_step_adds_the_means_of_both_subsets(lm):
    """The published loss of a batch, whatever the share of adversarial examples in it."""
    made = config("recipe.cutoff_over=batch", "recipe.name=plain", "recipe.toward_cutoff=0", "recipe.away_cutoff=99")
    tally, ours = step_gradient(lm, made)
    harmful, refused = encode_both(lm, REQUESTS)
    requests = published(library_loss(lm, refused), library_loss(lm, harmful), 0.0, 99.0)
    benign = [library_loss(lm, encode(lm, [b.prompt], [b.answer])) for b in BENIGN]
    theirs = requests + sum(benign) / 3
    assert tally["loss"] == pytest.approx(theirs.item(), rel=1e-10)
    assert torch.allclose(ours, gradient(lm, theirs), atol=1e-12)


RECIPES = ["plain", "continuous", "latent", "refusal_sft", "circuit_breakers", "smart", "freelb"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_micro_batches_and_checkpointing_keep_the_gradient(lm, recipe):
    made = config(f"recipe.name={recipe}", "attack.eps=0.3", "recipe.kl=0.1")
    lm.network.train()
    tally, whole = step_gradient(lm, made, number=4)
    parts, accumulated = step_gradient(lm, made.replace_with(["train.micro_batch=1"]), number=4)
    assert whole.abs().max() > 1e-6
    assert torch.allclose(accumulated, whole, atol=1e-10)
    assert parts["loss"] == pytest.approx(tally["loss"], rel=1e-6)
    keep_few_activations(lm)
    ran: list[int] = []
    lm.network.get_base_model().model.layers[0].self_attn.register_forward_hook(lambda *_: ran.append(1))
    _, recomputed = step_gradient(lm, made, number=4)
    computed = len(ran)
    ran.clear()
    lm.network.eval()
    step_gradient(lm, made, number=4)
    assert computed > len(ran) > 0, "blocks run again in the backward pass, in train mode"
    assert torch.allclose(recomputed, whole, atol=1e-12)


def residual_logits(lm: LanguageModel, encoded: Encoded, delta: Tensor, layers: tuple[int, ...]) -> Tensor:
    """Return the logits of a Llama run block by block, with a perturbation added to the stream after some blocks."""
    llama = lm.network.get_base_model()
    mask = encoded.mask.long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = llama.model.embed_tokens(encoded.ids)
    rotary = llama.model.rotary_emb(hidden, position_ids=positions)
    length = encoded.ids.shape[1]
    seen = torch.tril(torch.ones(length, length, dtype=torch.bool)) & encoded.mask[:, None, :]
    bias = torch.zeros(seen.shape, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)[:, None]
    for number, block in enumerate(llama.model.layers):
        hidden = block(hidden, attention_mask=bias, position_ids=positions, position_embeddings=rotary)
        if number in layers:
            for row in range(len(hidden)):
                where = encoded.content[row].nonzero().flatten()
                change = torch.zeros_like(hidden[row]).index_copy(
                    0, where, delta[row, layers.index(number), : len(where)]
                )
                hidden = hidden + torch.zeros_like(hidden).index_copy(0, torch.tensor([row]), change[None])
    return llama.lm_head(llama.model.norm(hidden))


def test_latent_hooks_add_to_the_residual_stream(lm):
    harmful, _ = encode_both(lm, REQUESTS)
    delta = latent_pgd(lm, harmful, eps=0.5, steps=2, layers=(0, 1))
    with perturb_latents(lm, harmful, delta, (0, 1)):
        hooked = answer_logits(lm)(harmful)
    by_hand = residual_logits(lm, harmful, delta, (0, 1))[:, -hooked.shape[1] :]
    answers = harmful.answer[:, -hooked.shape[1] :]
    assert torch.allclose(hooked[answers], by_hand[answers], atol=1e-10)


@pytest.mark.parametrize("cutoff", [5.0, 99.0])
def test_latent_loss_equals_the_published_one(lm, cutoff):
    """0.5 NLL of refusals - 0.5 log(1 - p) of the openers' tokens that are not unlikely yet, under one perturbation."""
    made = config("recipe.name=latent", "attack.eps=0.5", f"recipe.away_cutoff={cutoff}", "attack.layers=[0,1]")
    ours = latent_terms(lm, RequestBatch(REQUESTS), made)["loss"].mean()
    harmful, refused = encode_both(lm, REQUESTS)
    delta = latent_pgd(lm, harmful, **made.attack.options, layers=(0, 1))
    theirs = torch.zeros((), dtype=torch.float64)
    for encoded, weigh in ((refused, False), (harmful, True)):
        probability = residual_logits(lm, encoded, delta, (0, 1)).softmax(-1)
        for row in range(2):
            places = encoded.answer[row].nonzero().flatten()
            p = probability[row, places - 1, encoded.ids[row, places]]
            each = torch.where(p.log() < -cutoff, 0.0, -(1 - p).log()) if weigh else -p.log()
            theirs = theirs + 0.5 * each.mean() / 2
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    assert torch.allclose(gradient(lm, ours), gradient(lm, theirs), atol=1e-10)


def hidden_states(lm: LanguageModel, encoded: Encoded) -> Tensor:
    """Return the output of the first block, which transformers reports before its last norm."""
    mask = encoded.mask.long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = lm.network(input_ids=encoded.ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)
    return out.hidden_states[1]


def test_circuit_breakers_equal_the_published_loss(lm):
    """10 (1 - t/2) relu(cos) on harmful answers; 10 t/2 |h - base h| on benign ones; t the progress of training."""
    made = config("recipe.name=circuit_breakers", "attack.layers=[0]")
    harmful, _ = encode_both(lm, REQUESTS)
    with torch.no_grad(), lm.network.disable_adapter():
        base = hidden_states(lm, harmful)
    now = hidden_states(lm, harmful)
    each = []
    for row, mask in enumerate(harmful.mask):
        h, b = now[row][mask], base[row][mask]
        each.append(((h * b).sum(-1) / (h.norm(dim=-1) * b.norm(dim=-1))).clamp(min=0).mean())
    ours = rerouting_terms(lm, RequestBatch(REQUESTS, progress=0.4), made)
    theirs = 10 * (1 - 0.4 / 2) * sum(each) / 2
    assert ours["loss"].mean().item() == pytest.approx(theirs.item(), rel=1e-9)
    assert torch.allclose(gradient(lm, ours["loss"].mean()), gradient(lm, theirs), atol=1e-10)
    kept = retain_terms(lm, harmful, 0.4, made)
    assert torch.allclose(kept["loss"], 10 * 0.4 / 2 * kept["retain"])
    with torch.no_grad(), lm.network.disable_adapter():
        assert (retain_terms(lm, harmful, 0.4, made)["retain"] < 1e-9).all()


def test_refusal_sft_is_the_mean_nll_of_refusals(lm):
    made = config("recipe.name=refusal_sft", "recipe.toward=1", "recipe.utility=0")
    tally, ours = step_gradient(lm, made)
    _, refused = encode_both(lm, REQUESTS)
    theirs = sum(library_loss(lm, refused.select(torch.tensor([row]))) for row in range(2)) / 2
    assert tally["loss"] == pytest.approx(theirs.item(), rel=1e-10)
    assert torch.allclose(ours, gradient(lm, theirs), atol=1e-12)


@pytest.mark.parametrize("rule", ["normalised", "sign"])
def test_a_step_follows_its_rule(lm, rule):
    harmful, _ = encode_both(lm, REQUESTS[:1])
    count = int(harmful.content.sum())
    delta = torch.zeros(1, count, lm.dim, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(library_loss(lm, harmful, delta), delta)
    unit = embedding_norm(lm)
    found = embedding_pgd(lm, harmful, eps=1.0, steps=1, step_size=0.01, step_rule=rule)
    rules = {"normalised": grad / grad.norm(dim=-1, keepdim=True), "sign": grad.sign() / lm.dim**0.5}
    assert torch.allclose(found, -0.01 * unit * rules[rule], atol=1e-12)
    assert torch.allclose(found.norm(dim=-1), torch.tensor(0.01 * unit, dtype=torch.float64))


def test_training_and_evaluation_share_one_attack(lm):
    made = config("attack.eps=0.2", "attack.steps=3")
    trained = continuous_terms(lm, RequestBatch(REQUESTS, seed=5), made)["target_nll"]
    evaluated = embedding(lm, REQUESTS, eps=0.2, steps=3, seed=7, max_new_tokens=1)
    assert evaluated.loss == pytest.approx(trained.tolist(), rel=1e-6)
