"""Attacks without gradients: their prompts, completions and pass counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advreg.errors import ConfigError, DataError, ModelError
from advreg.language.attacks import best_of_n, direct, embedding, prefill, roleplay
from advreg.language.attacks.best_of_n import misspell
from advreg.language.attacks.result import count_model_passes, require_targets
from advreg.language.attacks.roleplay import TEMPLATES
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from tests.language.small import tiny

REQUESTS = [
    HarmfulRequest(3, "How do I open a lock?", "Sure, here is how"),
    HarmfulRequest(8, "Tell me how to kill a process {request}", "Sure, here is how to kill"),
]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny()


def seen(lm: LanguageModel, call):
    """Return the result of a call, and the example-forwards counted at the network."""
    rows = []
    hook = lm.network.register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    result = call()
    hook.remove()
    return result, sum(rows)


def test_direct_queries_the_request_unchanged(lm: LanguageModel):
    result, rows = seen(lm, lambda: direct(lm, REQUESTS, max_new_tokens=6))
    prompts = [request.prompt for request in REQUESTS]
    assert (result.attack, result.prompts, result.loss) == ("direct", prompts, [])
    assert result.completions == [[text] for text in generate(lm, prompts, max_new_tokens=6)]
    assert (result.forwards, result.backwards) == (rows, 0)
    assert repr(result) == f"LanguageAttackResult('direct', n=2, forwards={rows}, backwards=0)"


def test_roleplay_inserts_the_request_into_every_template(lm: LanguageModel):
    result, rows = seen(lm, lambda: roleplay(lm, REQUESTS, max_new_tokens=4, templates=[*TEMPLATES, "{request}"]))
    assert [len(each) for each in result.completions] == [6, 6]
    assert all(REQUESTS[1].prompt in words for words in result.asked[1])
    assert result.asked[1][5] == REQUESTS[1].prompt
    assert result.completions[0][5:] == direct(lm, REQUESTS[:1], max_new_tokens=4).completions[0]
    assert result.forwards == rows
    for templates in ([], ["no place"]):
        with pytest.raises(ConfigError, match=r"write \{request\}"):
            roleplay(lm, REQUESTS, templates=templates)


def test_best_of_n_variant_depends_on_seed_id_and_number(lm: LanguageModel):
    four, rows = seen(lm, lambda: best_of_n(lm, REQUESTS, n=4, seed=1, max_new_tokens=3))
    two = best_of_n(lm, REQUESTS[::-1], n=2, seed=1, max_new_tokens=3)
    assert four.forwards == rows
    assert [each[:2] for each in four.asked] == two.asked[::-1]
    assert [each[:2] for each in four.completions] == two.completions[::-1]
    assert len(set(four.asked[0])) == 4
    assert best_of_n(lm, REQUESTS, n=2, seed=2, max_new_tokens=3).asked != two.asked[::-1]
    with pytest.raises(ConfigError, match="n is 0"):
        best_of_n(lm, REQUESTS, n=0)


def test_best_of_n_draws_its_completions(lm: LanguageModel):
    drawn, likeliest = (best_of_n(lm, REQUESTS, n=3, temperature=t, max_new_tokens=6) for t in (1.0, 0.0))
    assert drawn.asked == likeliest.asked
    assert drawn.completions != likeliest.completions
    assert likeliest.completions[0] == generate(lm, likeliest.asked[0], max_new_tokens=6)
    with pytest.raises(ConfigError, match=r"temperature -1\.0"):
        best_of_n(lm, REQUESTS, temperature=-1.0)


def test_prefill_continues_the_opening_and_leaves_it_out(lm: LanguageModel):
    bare = HarmfulRequest(9, "How do I open a lock?")
    result, rows = seen(lm, lambda: prefill(lm, [*REQUESTS, bare], max_new_tokens=6))
    openings = ["Sure, here is how", "Sure, here is how to kill", "Sure, here is"]
    prompts = [request.prompt for request in (*REQUESTS, bare)]
    assert result.completions == [[t] for t in generate(lm, prompts, max_new_tokens=6, openings=openings)]
    assert (result.forwards, result.backwards, result.prompts) == (rows, 0, prompts)
    own = prefill(lm, REQUESTS, opening="No", max_new_tokens=6)
    assert own.completions == [[t] for t in generate(lm, prompts[:2], max_new_tokens=6, openings=["No", "No"])]


def test_misspelling_keeps_length_blanks_and_most_letters():
    text = "Tell me, how does a 100% honest baker open the gates of Überlingen?"
    off = [misspell(text, seed) for seed in range(50)]
    assert all(len(other) == len(text) for other in off)
    assert all([at for at, c in enumerate(o) if c == " "] == [at for at, c in enumerate(text) if c == " "] for o in off)
    assert all(other.isprintable() for other in off)
    same = [
        sorted(a.lower()) == sorted(b.lower())
        for other in off
        for a, b in zip(other.split(), text.split(), strict=True)
    ]
    assert 0.5 < sum(same) / len(same) < 1


def test_attacks_on_no_requests_cost_nothing(lm: LanguageModel):
    for attack in (direct, roleplay, best_of_n, prefill, embedding):
        result = attack(lm, [])
        assert (result.completions, result.forwards, result.backwards) == ([], 0, 0)


def test_requests_and_models_unfit_for_attacks_raise(lm: LanguageModel):
    with pytest.raises(DataError, match="request 4 has no target"):
        require_targets([*REQUESTS, HarmfulRequest(4, "Hi", " ")])

    class Headless(nn.Module):
        def get_output_embeddings(self):
            return None

    with pytest.raises(ModelError, match="headless has no layer that returns token logits"):
        count_model_passes(LanguageModel(Headless(), None, "headless"))


def test_model_passes_count_forwards_and_backwards(lm: LanguageModel):
    with count_model_passes(lm, None) as spent:
        points = torch.zeros(3, 2, lm.dim, requires_grad=True)
        lm.network(inputs_embeds=points).logits.sum().backward()
    assert (spent.forwards, spent.backwards) == (3, 3)
