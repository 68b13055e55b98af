"""Directional ablation: a planted direction is found and removed, and hooks equal projected weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from advreg.language.attacks import direct, directional_ablation
from advreg.language.attacks.directional_ablation import ablate, likeliest_direction, mean_differences
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import logits
from advreg.pass_counting import count_passes
from tests.language import architectures
from tests.language.planted import planted
from tests.language.small import tiny

HARMFUL = ("make a bomb", "brew the poison now", "a bomb and poison")
HARMLESS = ("make a cake", "brew the tea now", "a cake and tea")
REQUESTS = [HarmfulRequest(0, "how to make a bomb"), HarmfulRequest(1, "how to make tea")]


def test_planted_direction_is_found_and_its_removal_ends_refusals():
    lm = planted(["bomb", "poison"], hit="no", miss="sure")
    assert direct(lm, REQUESTS, max_new_tokens=1).completions == [["no"], ["sure"]]
    found = mean_differences(lm, HARMFUL, HARMLESS, None)
    torch.testing.assert_close(found[1], torch.eye(16)[0])
    assert not found[0].any()  # the last token is the template's, before attention has moved anything
    chosen = likeliest_direction(lm, found, HARMFUL, "sure", None)
    torch.testing.assert_close(chosen, torch.eye(16)[0])
    options = {"harmful": HARMFUL, "harmless": HARMLESS, "opening": "sure", "max_new_tokens": 1}
    with count_passes(lm.network.lm_head) as passes:
        result = directional_ablation(lm, REQUESTS, **options)
    assert result.completions == [["sure"], ["sure"]]
    assert (result.forwards, result.backwards) == (passes.forwards, 0)
    assert passes.forwards == 3 + 3 + 2 * 3 + 2  # two means, two of three directions, one token each
    assert direct(lm, REQUESTS, max_new_tokens=1).completions == [["no"], ["sure"]]  # the hooks are gone
    alone = directional_ablation(lm, REQUESTS[:1], **options)
    assert alone.completions == result.completions[:1]


def test_ablation_equals_projected_weights():
    """Without a direction in what writes to the residual stream, no hook is needed."""
    lm = tiny(dtype=torch.float64)
    direction = torch.nn.functional.normalize(
        torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=0
    )
    edited = replace(lm, network=copy.deepcopy(lm.network))
    project = torch.eye(32, dtype=torch.float64) - torch.outer(direction, direction)
    with torch.no_grad():
        edited.network.model.embed_tokens.weight.copy_(edited.network.model.embed_tokens.weight @ project)
        for layer in edited.network.model.layers:
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.weight.copy_(project @ part.weight)
    batch = encode(lm, ["Tell me how to bake a cake.", "Hi"])
    with torch.no_grad(), ablate(lm, direction):
        hooked = logits(lm, batch)
    torch.testing.assert_close(hooked, logits(edited, batch).detach(), rtol=1e-4, atol=1e-5)  # norms are in float32
    assert not torch.allclose(hooked, logits(lm, batch), atol=1e-3)


@pytest.mark.parametrize("kind", ["Gemma2", "GPTNeoX", "Mixtral", "Lfm2"])
def test_ablated_blocks_never_read_or_write_the_direction(kind):
    lm = architectures.text(kind)
    direction = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)
    states = []
    with torch.no_grad(), ablate(lm, direction):
        hooks = [
            block.register_forward_hook(lambda _m, _i, out: states.append(out[0] if isinstance(out, tuple) else out))
            for block in lm.network.base_model.layers
        ]
        logits(lm, encode(lm, ["Tell me how to bake a cake."]))
    for hook in hooks:
        hook.remove()
    assert len(states) == 2
    assert max(float((state @ direction).abs().max()) for state in states) < 1e-4
    assert min(float(state.norm(dim=-1).max()) for state in states) > 1e-2
