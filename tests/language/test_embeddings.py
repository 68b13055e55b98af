"""Perturbed embeddings: user tokens only, in units of the network's embeddings, with any padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from advreg.errors import DataError
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import (
    answer_nll,
    answer_span,
    answer_tokens_nll,
    embed,
    embedding_norm,
    logits,
    perturb_embeddings,
    scatter_to_user_tokens,
)
from advreg.language.models.loading import LanguageModel
from tests.language.small import tiny, transformers

PROMPTS = ["Tell me how to bake a cake.", "Hi", "How do I open a lock, or kill a process?"]
ANSWERS = ["Sure, here is how to bake a cake: take", "No.", "I cannot help with that."]


def learned_positions() -> LanguageModel:
    """Return a network with learned absolute positions, which reveals wrong position ids."""
    base = tiny()
    config = transformers.GPT2Config(
        vocab_size=len(base.tokenizer),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    return replace(base, network=transformers.GPT2LMHeadModel(config).double().eval())


def gemma() -> LanguageModel:
    """Return a network whose embedding layer scales by sqrt(dim), with sliding-window attention in every other block."""
    base = tiny()
    config = transformers.Gemma3TextConfig(
        vocab_size=len(base.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        max_position_embeddings=512,
        initializer_range=0.2,
        layer_types=["sliding_attention", "full_attention"],
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return replace(base, network=transformers.Gemma3ForCausalLM(config).double().eval())


MODELS = {
    "gemma": gemma,
    "llama": lambda: tiny(dtype=torch.float64),
    "scaled": lambda: tiny(scale=6.0, dtype=torch.float64),
    "gpt2": learned_positions,
}


@pytest.fixture(scope="module", params=list(MODELS))
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return MODELS[request.param]()


def random_delta(lm: LanguageModel, encoded, seed: int = 0) -> torch.Tensor:
    shape = (len(encoded), int(encoded.content.sum(1).max()), lm.dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_embedding_inputs_give_the_logits_of_ids(lm: LanguageModel):
    encoded = encode(lm, PROMPTS, ANSWERS)
    positions = (encoded.mask.cumsum(1) - 1).clamp(min=0)
    by_ids = lm.network(input_ids=encoded.ids, attention_mask=encoded.mask.long(), position_ids=positions).logits
    assert torch.equal(logits(lm, encoded), by_ids)


def test_embedding_norm_is_that_of_the_network_input():
    lm = tiny(scale=6.0, dtype=torch.float64)
    rows = lm.network.get_input_embeddings().weight.detach().norm(dim=1).mean()
    assert embedding_norm(lm) == pytest.approx(6 * float(rows), rel=1e-12)


def test_forward_passes_share_no_cache(lm: LanguageModel):
    calls = []
    hook = lm.network.register_forward_pre_hook(lambda _m, _a, options: calls.append(options), with_kwargs=True)
    logits(lm, encode(lm, PROMPTS, ANSWERS))
    hook.remove()
    assert [(options["use_cache"], "cache" in options, "past_key_values" in options) for options in calls] == [
        (False,) * 3
    ]


def test_logits_do_not_depend_on_padding(lm: LanguageModel):
    encoded = encode(lm, PROMPTS, ANSWERS)
    delta = random_delta(lm, encoded)
    together = logits(lm, encoded, delta)
    for row in range(len(PROMPTS)):
        alone = encode(lm, [PROMPTS[row]], [ANSWERS[row]])
        length = alone.ids.shape[1]
        torch.testing.assert_close(
            logits(lm, alone, delta[row : row + 1])[0], together[row, -length:], rtol=0, atol=1e-10
        )


def test_perturbation_changes_user_tokens_only(lm: LanguageModel):
    encoded = encode(lm, PROMPTS, ANSWERS)
    before, after = embed(lm, encoded.ids), perturb_embeddings(lm, encoded, random_delta(lm, encoded))
    assert torch.equal(before[~encoded.content], after[~encoded.content])
    assert (before[encoded.content] != after[encoded.content]).any(1).all()


def test_delta_fits_a_prompt_with_any_answer_and_padding(lm: LanguageModel):
    harmful, refusal = (
        encode(lm, PROMPTS, ANSWERS),
        encode(lm, PROMPTS[::-1] + ["x" * 90], ["No, never, not at all."] * 4),
    )
    delta = random_delta(lm, harmful)
    wide = torch.zeros(4, int(refusal.content.sum(1).max()), lm.dim, dtype=delta.dtype)
    wide[:3, : delta.shape[1]] = delta.flip(0)
    assert harmful.ids.shape != refusal.ids.shape
    moved, again = scatter_to_user_tokens(delta, harmful), scatter_to_user_tokens(wide, refusal)
    for row in range(3):
        one, other = harmful.mask[row] & ~harmful.answer[row], refusal.mask[2 - row] & ~refusal.answer[2 - row]
        assert torch.equal(harmful.ids[row][one], refusal.ids[2 - row][other])
        assert torch.equal(moved[row][one], again[2 - row][other])


def test_gradient_is_nonzero_at_user_tokens_only(lm: LanguageModel):
    encoded = encode(lm, PROMPTS, ANSWERS)
    delta = random_delta(lm, encoded).requires_grad_()
    answer_nll(logits(lm, encoded, delta), encoded).sum().backward()
    counts = encoded.content.sum(1)
    used = torch.arange(delta.shape[1]) < counts[:, None]
    assert (delta.grad[used] != 0).any(1).all()
    assert (delta.grad[~used] == 0).all()
    assert delta.grad.isfinite().all()


def test_answer_nll_is_the_mean_over_answer_tokens(lm: LanguageModel):
    encoded = encode(lm, PROMPTS, ANSWERS)
    scores = logits(lm, encoded).detach()
    each, mean = answer_tokens_nll(scores, encoded), answer_nll(scores, encoded)
    for row in range(3):
        places = encoded.answer[row].nonzero()[:, 0].tolist()
        messages = [-float(scores[row, at - 1].log_softmax(-1)[encoded.ids[row, at]]) for at in places]
        assert each[row, places].tolist() == pytest.approx(messages, rel=1e-10)
        assert float(mean[row]) == pytest.approx(sum(messages) / len(messages), rel=1e-10)
    assert (each[~encoded.answer] == 0).all()


def test_answer_span_suffices_for_the_answer_nll(lm: LanguageModel):
    encoded = encode(lm, PROMPTS, ANSWERS)
    last = answer_span(encoded)
    short = logits(lm, encoded, last=last)
    assert short.shape[1] == last
    torch.testing.assert_close(answer_nll(short, encoded), answer_nll(logits(lm, encoded), encoded), rtol=1e-12, atol=0)


def test_bfloat16_model_has_float32_delta_norm_and_loss():
    lm = tiny(dtype=torch.bfloat16)
    encoded = encode(lm, PROMPTS, ANSWERS)
    delta = torch.zeros(3, int(encoded.content.sum(1).max()), lm.dim, requires_grad=True)
    loss = answer_nll(logits(lm, encoded, delta), encoded)
    (grad,) = torch.autograd.grad(loss.sum(), delta)
    assert perturb_embeddings(lm, encoded, delta).dtype == torch.bfloat16
    assert loss.dtype == grad.dtype == torch.float32
    assert embedding_norm(lm) == pytest.approx(embedding_norm(tiny()), rel=1e-3)


def test_delta_fits_empty_prompts_and_raises_if_too_small():
    lm = tiny()
    empty = encode(lm, [""], ["No."])
    assert not scatter_to_user_tokens(torch.zeros(1, 0, lm.dim), empty).any()
    with pytest.raises(DataError, match="1 x 2 rows for 1 examples"):
        scatter_to_user_tokens(torch.zeros(1, 2, lm.dim), encode(lm, ["Tell me how to bake"]))
