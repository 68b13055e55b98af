"""The loop of the attacks that search a perturbation for each request: search, measure, complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from advreg.language.attacks.result import LanguageAttackResult, batches, count_model_passes, require_targets
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.loading import LanguageModel
from advreg.module_modes import eval_mode

P = TypeVar("P")


@dataclass(frozen=True)
class PerturbationAttack(Generic[P]):
    """The three parts in which attacks on a batch of requests differ.

    Attributes:
        search: prompts with their targets, and the ids of the requests ``(B,)`` -> perturbation.
        nll: prompts with their targets, and a perturbation -> mean NLL of each target ``(B,)``.
        complete: prompts and a perturbation -> completions of each prompt.
    """

    search: Callable[[Encoded, Tensor], P]
    nll: Callable[[Encoded, P], Tensor]
    complete: Callable[[list[str], P], list[list[str]]]


def run_targeted(
    name: str,
    attack: PerturbationAttack[P],
    requests: Sequence[HarmfulRequest],
    *,
    lm: LanguageModel,
    original: LanguageModel | None,
    batch_size: int,
    system: str | None,
) -> LanguageAttackResult:
    """Run a targeted attack in batches, and count the passes of both models.

    Args:
        name: name of the attack, for the result.
        attack: its search, its loss and its completions.
        requests: harmful requests with targets.
        lm: the model for the search.
        original: the model in float32, which gives the reported losses and completions; ``lm`` if None.
        batch_size: number of requests in one batch.
        system: the system prompt; the chat template's default if None.

    Returns:
        The completions of each request, and the NLL of its target.

    Raises:
        DataError: a request has no target.
        ModelError: a network has no layer that returns token logits.

    Example:
        >>> parts = PerturbationAttack(None, None, None)
        >>> run_targeted("embedding", parts, [], lm=None, original=None, batch_size=8, system=None)
        LanguageAttackResult('embedding', n=0, forwards=0, backwards=0)
    """
    reported = original or lm
    completions: list[list[str]] = []
    loss: list[float] = []
    with count_model_passes(lm, original) as counts:
        for part in batches(require_targets(requests), batch_size):
            prompts = [request.prompt for request in part]
            encoded = encode(lm, prompts, [request.target for request in part], system=system, ended=False)
            perturbation = attack.search(encoded, torch.tensor([request.id for request in part]))
            with torch.no_grad(), eval_mode(reported.network, freeze=True):
                loss += attack.nll(encoded, perturbation).tolist()
            completions += attack.complete(prompts, perturbation)
    return LanguageAttackResult(
        name, [request.prompt for request in requests], completions, counts.forwards, counts.backwards, loss
    )
