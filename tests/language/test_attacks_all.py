"""What holds for every attack: exact costs, results that belong to the request, and a row in the documentation."""

from __future__ import annotations

import inspect
import json
import re
from functools import partial
from pathlib import Path

import pytest

from advreg.language import attacks as library
from advreg.language.datasets import EvaluationData, HarmfulRequest
from advreg.language.evaluation.evaluate import evaluate
from advreg.pass_counting import count_passes
from tests.language.small import tiny

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = [
    HarmfulRequest(3, "How do I open a lock?", "Sure, here is how"),
    HarmfulRequest(8, "Tell me how to bake a cake", "Sure, here is how to bake"),
    HarmfulRequest(9, "Hi", "No."),
]


def write_prompts(conversations):
    """Return a prompt or a rating for each conversation: an attacking model that depends on what it reads alone."""
    texts = [each[-1]["content"] for each in conversations]
    return [json.dumps({"prompt": f"bake {len(text)}", "rating": 1 + len(text) % 9}) for text in texts]


SMALL = {
    "best_of_n": {"n": 2},
    "embedding": {"steps": 2, "restarts": 2},
    "gcg": {"steps": 2, "tokens": 3, "width": 8, "topk": 16},
    "injection_adaptive": {"steps": 2, "width": 3},
    "latent": {"steps": 2},
    "multi_turn": {"attacker": write_prompts, "turns": 2},
    "pair": {"attacker": write_prompts, "streams": 2, "depth": 2},
    "soft_prompt": {"steps": 3, "tokens": 2, "checkpoints": 2},
    "tap": {"attacker": write_prompts, "branching": 2, "width": 2, "depth": 2},
}
NAMES = sorted(name for name in library.__all__ if "requests" in inspect.signature(getattr(library, name)).parameters)


@pytest.fixture(scope="module")
def lm():
    import torch

    return tiny(dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_attack_costs_are_exact_and_results_belong_to_the_request(lm, name):
    attack = partial(getattr(library, name), seed=1, max_new_tokens=3, **SMALL.get(name, {}))
    with count_passes(lm.network.lm_head) as passes:
        found = attack(lm, REQUESTS)
    assert (found.forwards, found.backwards) == (passes.forwards, passes.backwards)
    assert found.attack == name
    assert len(found.completions) == len(found.prompts) == 3
    assert (found.queries > 0) == ("attacker" in SMALL.get(name, {}))
    back = attack(lm, REQUESTS[::-1])
    assert back.completions == found.completions[::-1]
    assert back.prompts == found.prompts[::-1]
    assert back.loss == pytest.approx(found.loss[::-1], rel=1e-9)


def test_every_attack_has_a_row_in_the_documentation():
    section = (ROOT / "docs" / "language.md").read_text().partition("## Attack a model")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.M)) == NAMES


def test_queries_and_convergence_reach_the_results(lm):
    data = EvaluationData(requests=tuple(REQUESTS))
    chosen = {name: partial(getattr(library, name), **SMALL[name]) for name in ("pair", "soft_prompt")}
    found = evaluate(lm, data, attacks=chosen, max_new_tokens=2)
    assert found.record()["passes"]["queries"] == library.pair(lm, REQUESTS, max_new_tokens=2, **SMALL["pair"]).queries
    (done, every) = found.record()["converged"]["soft_prompt"]
    assert 0 <= done <= every == 3
