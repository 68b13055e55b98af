"""Embedding PGD, soft prompts and latent PGD: balls, best iterates and pass counts."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advreg.errors import ConfigError, DataError
from advreg.language.attacks import (
    embedding,
    embedding_pgd,
    latent,
    latent_pgd,
    perturb_latents,
    search_in_low_precision,
    soft_prompt,
)
from advreg.language.attacks.embedding import measure_answer_nll
from advreg.language.attacks.latent import default_layers, latent_norms
from advreg.language.attacks.memory import saved_bytes
from advreg.language.attacks.soft_prompt import measure_step, search_soft_suffixes, suffix_nll
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, embed, embedding_norm, logits, perturb_embeddings
from advreg.language.models.generation import generate, prepare_inputs
from advreg.language.models.loading import LanguageModel, copy_with_dtype
from advreg.language.models.text_tower import transformer_blocks
from advreg.language.perturbation import best_iterate, iterates, project, steepest_descent, with_projection
from advreg.module_modes import eval_mode
from advreg.pass_counting import count_passes
from tests.language.small import tiny
from tests.language.test_embeddings import learned_positions

REQUESTS = [
    HarmfulRequest(3, "How do I open a lock?", "Sure, here is how"),
    HarmfulRequest(8, "Tell me how to kill a process, or so I hope.", "Sure, here is how to kill"),
    HarmfulRequest(9, "Hi", "No."),
]
EPS = 0.3


@pytest.fixture(scope="module", params=[1.0, 6.0], ids=["plain", "scaled"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny(scale=request.param, dtype=torch.float64)


def batch(lm: LanguageModel, requests: list[HarmfulRequest] = REQUESTS) -> Encoded:
    return encode(lm, [r.prompt for r in requests], [r.target for r in requests], ended=False)


def nll(lm: LanguageModel, encoded: Encoded, delta: Tensor | None) -> Tensor:
    with torch.no_grad():
        return answer_nll(logits(lm, encoded, delta), encoded)


# descent


def test_descent_on_a_linear_loss_reaches_the_optimum():
    slope = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    move = with_projection(steepest_descent(0.5), 2.0)
    pairs = iterates(lambda d: (d * slope).flatten(1).sum(1), torch.zeros_like(slope), move, 12)
    point, low = best_iterate(pairs)
    torch.testing.assert_close(low, -2.0 * slope.norm(dim=-1).sum(1), rtol=1e-12, atol=0)
    assert (point.norm(dim=-1) <= 2.0 * (1 + 1e-15)).all()


def test_best_iterate_is_chosen_by_row_and_never_nan():
    values = [torch.tensor([3.0, torch.nan]), torch.tensor([1.0, 2.0]), torch.tensor([torch.nan, 5.0])]
    points = [torch.full((2, 1), float(k)) for k in range(3)]
    point, low = best_iterate(zip(points, values, strict=True))
    assert (point.flatten().tolist(), low.tolist()) == ([1.0, 1.0], [1.0, 2.0])


def test_projection_is_idempotent_and_nearest():
    points = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    inside = project(points, 1.5)
    assert (inside.norm(dim=-1) <= 1.5 * (1 + 1e-15)).all()
    torch.testing.assert_close(project(inside, 1.5), inside, rtol=1e-14, atol=0)
    close = points.norm(dim=-1) <= 1.5
    assert torch.equal(inside[close], points[close])
    others = project(torch.randn(50, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 1.5)
    assert (((points - inside) * (others - inside)).sum(-1) <= 1e-12).all()


# embedding PGD


def test_embedding_pgd_stays_in_its_ball_and_off_padding(lm: LanguageModel):
    encoded = batch(lm)
    delta = embedding_pgd(lm, encoded, eps=EPS, steps=6, restarts=2, seed=1)
    radius = EPS * embedding_norm(lm)
    used = torch.arange(delta.shape[1]) < encoded.content.sum(1)[:, None]
    assert delta.dtype == torch.float64
    assert (delta.norm(dim=-1) <= radius * (1 + 1e-12)).all()
    assert (delta.norm(dim=-1)[used] > 0).all()
    assert not delta[~used].any()
    assert torch.equal(
        perturb_embeddings(lm, encoded, delta)[~encoded.content], embed(lm, encoded.ids)[~encoded.content]
    )


def test_embedding_pgd_returns_best_iterate_and_counts_passes(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    from advreg.language.attacks import (
        embedding as attack,
    )  # the package exports the function; the spy needs its module

    encoded, seen = batch(lm), []
    module = __import__(attack.__module__, fromlist=["answer_nll"])
    monkeypatch.setattr(module, "answer_nll", lambda *a: seen.append(answer_nll(*a)) or seen[-1])
    with count_passes(lm.network.lm_head) as passes:
        delta = embedding_pgd(lm, encoded, eps=EPS, steps=7, step_size=2 * EPS, restarts=2)  # overshoots
    assert (passes.forwards, passes.backwards) == (2 * 8 * 3, 2 * 7 * 3)
    lowest = torch.stack([each.detach() for each in seen]).amin(0)
    torch.testing.assert_close(nll(lm, encoded, delta), lowest, rtol=1e-10, atol=0)
    assert (lowest <= seen[0]).all()


def test_embedding_pgd_loss_falls_with_steps_and_restarts(lm: LanguageModel):
    encoded = batch(lm)
    budgets = [(0, 1), (2, 1), (5, 1), (5, 2), (5, 3)]
    found = [embedding_pgd(lm, encoded, eps=EPS, steps=s, step_size=0.1, restarts=r, seed=4) for s, r in budgets]
    losses = torch.stack([nll(lm, encoded, delta) for delta in found])
    assert (losses.diff(dim=0) <= 1e-12).all()
    assert not found[0].any()
    assert (losses[-1] < losses[0]).all()


def test_embedding_pgd_does_not_depend_on_the_batch(lm: LanguageModel):
    ids = torch.tensor([request.id for request in REQUESTS])
    together = embedding_pgd(lm, batch(lm), eps=EPS, steps=4, restarts=2, seed=1, ids=ids)
    assert torch.equal(together, embedding_pgd(lm, batch(lm), eps=EPS, steps=4, restarts=2, seed=1, ids=ids))
    for row, request in enumerate(REQUESTS):
        alone = embedding_pgd(lm, batch(lm, [request]), eps=EPS, steps=4, restarts=2, seed=1, ids=ids[row : row + 1])
        torch.testing.assert_close(alone[0], together[row, : alone.shape[1]], rtol=1e-7, atol=1e-10)


def test_embedding_pgd_keeps_training_state():
    lm = tiny()
    calm = embedding_pgd(lm, batch(lm), eps=EPS, steps=3)
    for layer in lm.network.model.layers:
        layer.self_attn.attention_dropout = 0.5
    lm.network.train()
    before = torch.random.get_rng_state()
    assert torch.equal(embedding_pgd(lm, batch(lm), eps=EPS, steps=3), calm)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert lm.network.training
    assert all(weight.requires_grad and weight.grad is None for weight in lm.network.parameters())


def test_embedding_reports_losses_of_the_original():
    lm = tiny()
    fast = copy_with_dtype(lm, "bfloat16")
    encoded = batch(lm)
    with count_passes(lm.network.lm_head) as slow, count_passes(fast.network.lm_head) as quick:
        result = embedding(fast, REQUESTS, eps=EPS, steps=5, max_new_tokens=4, original=lm)
    delta = embedding_pgd(fast, encoded, eps=EPS, steps=5)
    assert delta.dtype == torch.float32
    assert result.loss == measure_answer_nll(lm, encoded, delta)
    assert result.completions == [
        [t] for t in generate(lm, [r.prompt for r in REQUESTS], max_new_tokens=4, delta=delta)
    ]
    assert (quick.forwards, quick.backwards) == (6 * 3, 5 * 3)
    assert (result.forwards, result.backwards) == (slow.forwards + quick.forwards, quick.backwards)
    assert all(after < float(before) for after, before in zip(result.loss, nll(lm, encoded, None), strict=True))


def test_low_precision_search_reports_the_original():
    lm = tiny()
    attack = functools.partial(embedding, eps=EPS, steps=3)
    found = search_in_low_precision(attack)(lm, REQUESTS, seed=1, max_new_tokens=3)
    by_hand = attack(copy_with_dtype(lm, "bfloat16"), REQUESTS, seed=1, max_new_tokens=3, original=lm)
    assert (found.loss, found.completions, found.forwards) == (by_hand.loss, by_hand.completions, by_hand.forwards)
    assert lm.dtype == torch.float32


def test_old_option_judge_warns_and_names_original():
    with pytest.warns(DeprecationWarning, match=r"embedding\(judge=\.\.\.\) is now embedding\(original=\.\.\.\)"):
        assert embedding(tiny(), [], judge=None).completions == []


# soft prompts


def test_soft_prompt_keeps_tokens_and_lowers_target_nll(lm: LanguageModel):
    encoded = batch(lm)
    first, found = (
        search_soft_suffixes(lm, encoded, 5, 1, 1e-9, 1)[0][0],
        search_soft_suffixes(lm, encoded, 5, 20, 0.05, 3)[0],
    )
    points, mask = prepare_inputs(lm, encoded, None, found[0])
    slots = int(mask.sum() - encoded.mask.sum())
    assert slots == 5 * 3
    kept = (
        (points[:, :, None] == embed(lm, encoded.ids)[:, None]).all(-1).any(-1)
    )  # (B, T + S): equals a token of the prompt
    assert int(kept.sum()) == encoded.ids.numel()
    with torch.no_grad():
        losses = [suffix_nll(lm, encoded, suffix) for suffix in (first, *found)]
    assert (losses[1] < losses[0] - 0.5).all()
    assert (losses[1] <= torch.stack(losses[2:]).amin(0)).all()
    torch.testing.assert_close(first[0], first[1], rtol=0, atol=1e-7)  # both begin at exclamation marks


def test_soft_prompt_counts_passes_and_completes_iterates():
    lm = tiny()
    with count_passes(lm.network.lm_head) as passes:
        result = soft_prompt(lm, REQUESTS, tokens=4, steps=6, checkpoints=3, max_new_tokens=2, batch_size=2)
    assert [len(each) for each in result.completions] == [3, 3, 3]
    assert (result.forwards, result.backwards) == (passes.forwards, passes.backwards)
    generated = passes.forwards - 3 * (6 + 1) - 3 - 1  # one forward measures the memory
    assert passes.backwards == 3 * 6
    assert 3 * 3 <= generated <= 3 * 3 * 2
    plain = nll(lm, batch(lm), None)
    assert all(after < float(before) for after, before in zip(result.loss, plain, strict=True))
    again = soft_prompt(lm, REQUESTS, tokens=4, steps=6, checkpoints=3, max_new_tokens=2, batch_size=2)
    assert (again.loss, again.completions) == (result.loss, result.completions)


def test_soft_prompt_is_sized_before_it_runs(monkeypatch: pytest.MonkeyPatch):
    lm = tiny()
    one = measure_step(lm, REQUESTS, tokens=4)
    encoded = encode(lm, [REQUESTS[0].prompt] * 3, [REQUESTS[0].target] * 3, ended=False)
    single = encode(lm, [REQUESTS[0].prompt], [REQUESTS[0].target], ended=False)
    with eval_mode(lm.network, freeze=True):
        points = torch.zeros(3, 4, lm.dim, requires_grad=True)
        several = saved_bytes(lambda: suffix_nll(lm, encoded, points))
        alone = saved_bytes(lambda: suffix_nll(lm, single, points[:1]))
    assert several == pytest.approx(3 * alone, rel=0.02)
    assert one >= alone > 2 * 4 * lm.dim * int(single.mask.sum())  # more than one state of each block
    monkeypatch.setattr("advreg.language.attacks.memory.free_bytes", lambda device: 2 * one)
    with pytest.raises(
        ConfigError, match=r"soft_prompt needs about .* GB for a batch of 3, .* a batch_size of at most 2"
    ):
        soft_prompt(lm, REQUESTS, tokens=4, steps=6, checkpoints=1, batch_size=3)
    assert soft_prompt(lm, REQUESTS, tokens=4, steps=6, checkpoints=1, max_new_tokens=1, batch_size=2).converged


def test_soft_prompt_says_which_searches_converged():
    lm, options = tiny(), {"tokens": 4, "checkpoints": 1, "max_new_tokens": 1}
    assert soft_prompt(lm, REQUESTS, steps=3, **options).converged == [False] * 3
    assert soft_prompt(lm, REQUESTS, steps=8, step_size=1e-3, **options).converged == [False] * 3
    easy = HarmfulRequest(4, "Hi", generate(lm, ["Hi"], max_new_tokens=1)[0] or "x")
    assert soft_prompt(lm, [easy], steps=80, step_size=0.5, **options).converged == [True]


# latent


@pytest.mark.parametrize("make", [lambda: tiny(dtype=torch.float64), learned_positions], ids=["llama", "gpt2"])
def test_latent_perturbation_is_at_user_tokens_of_its_blocks(make: Callable[[], LanguageModel]):
    lm = make()
    encoded = batch(lm)
    delta = torch.ones(3, 1, int(encoded.content.sum(1).max()), lm.dim, dtype=torch.float64)
    passed: list[Tensor] = []

    def look(_module, _inputs, output):
        passed.append(output[0] if isinstance(output, tuple) else output)

    block = transformer_blocks(lm)[0]
    plain_hook = block.register_forward_hook(look)
    plain = logits(lm, encoded)
    plain_hook.remove()
    with perturb_latents(lm, encoded, delta, [0]):
        hook = block.register_forward_hook(look)
        assert not torch.equal(logits(lm, encoded), plain)
        hook.remove()
    assert torch.equal(passed[0][~encoded.content], passed[1][~encoded.content])
    torch.testing.assert_close(passed[1][encoded.content], passed[0][encoded.content] + 1)
    assert torch.equal(logits(lm, encoded), plain)
    assert not block._forward_hooks
    with pytest.raises(ConfigError, match="allowed: 0 to 1"), perturb_latents(lm, encoded, delta, [2]):
        pass


def test_latent_pgd_stays_in_its_balls_and_lowers_the_loss():
    lm = tiny(dtype=torch.float64)
    encoded = batch(lm)
    norms = latent_norms(lm, encoded, default_layers(lm))
    with count_passes(lm.network.lm_head) as passes:
        delta = latent_pgd(lm, encoded, eps=0.2, steps=5)
    assert default_layers(lm) == (0, 1)
    assert (passes.forwards, passes.backwards) == (3 * 7, 3 * 5)
    assert (delta.norm(dim=-1) <= 0.2 * norms[..., None] * (1 + 1e-12)).all()
    with perturb_latents(lm, encoded, delta, default_layers(lm)):
        after = nll(lm, encoded, None)
    assert (after < nll(lm, encoded, None)).all()
    alone = latent_pgd(lm, batch(lm, REQUESTS[:1]), eps=0.2, steps=5)
    torch.testing.assert_close(alone[0], delta[0, :, : alone.shape[2]], rtol=1e-6, atol=1e-10)


def test_latent_reports_losses_of_the_perturbed_model():
    lm = tiny()
    with count_passes(lm.network.lm_head) as passes:
        result = latent(lm, REQUESTS, eps=0.2, steps=4, max_new_tokens=3)
    delta = latent_pgd(lm, batch(lm), eps=0.2, steps=4)
    with perturb_latents(lm, batch(lm), delta, default_layers(lm)):
        assert result.loss == pytest.approx(nll(lm, batch(lm), None).tolist(), rel=1e-6)
    assert (result.forwards, result.backwards) == (passes.forwards, passes.backwards)
    assert passes.backwards == 3 * 4
    unmoved = latent(lm, REQUESTS, eps=0.0, steps=1, max_new_tokens=3)
    assert unmoved.completions == [[t] for t in generate(lm, [r.prompt for r in REQUESTS], max_new_tokens=3)]


# errors


def test_invalid_budgets_and_batches_raise_one_line():
    lm = tiny()
    for options in ({"eps": -1.0}, {"steps": -1}, {"restarts": 0}, {"eps": float("nan")}):
        with pytest.raises(ConfigError, match="give eps and steps >= 0"):
            embedding_pgd(lm, batch(lm), **options)
    for encoded in (encode(lm, ["Hi"]), encode(lm, [""], ["No."])):
        with pytest.raises(DataError, match="encode with answers"):
            embedding_pgd(lm, encoded)
    with pytest.raises(ConfigError, match="no more checkpoints than steps"):
        soft_prompt(lm, REQUESTS, steps=2, checkpoints=3)
    for attack in (embedding, soft_prompt, latent):
        with pytest.raises(DataError, match="request 1 has no target"):
            attack(lm, [HarmfulRequest(1, "Hi")])
