"""The user's words moved a little in embedding space: cheap, and the inner attack of continuous adversarial training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg.errors import ConfigError, DataError
from advreg.example_rng import normal
from advreg.language.attacks.result import LanguageAttackResult
from advreg.language.attacks.targeted import PerturbationAttack, run_targeted
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded
from advreg.language.models.embeddings import answer_nll, answer_span, embedding_norm, logits
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.language.perturbation import best_iterate, iterates, project, steepest_descent, with_projection
from advreg.module_modes import eval_mode


def embedding_pgd(
    lm: LanguageModel,
    encoded: Encoded,
    *,
    eps: float = 0.05,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Tensor:
    """Return the perturbation of the user's words that makes the answers likeliest.

    ``delta <- project(delta - step_size g / |g|)`` with ``g`` the gradient of the NLL at a token, every token inside an l2
    ball, best iterate kept. (The papers step along the sign of the gradient, which is not the steepest direction of that
    ball: in ten steps it gained a sixth less on SmolLM2.) The first try starts at zero, further ones inside the ball. The
    network is in eval mode and its weights have no gradients meanwhile, so it can be called in the middle of training.

    Args:
        lm: the model.
        encoded: prompts with the answers that an attacker wants.
        eps: radius of each token's ball, as a share of the mean norm of the embeddings as the network sees them.
        steps: steps of each try.
        step_size: length of a step of one token, in the units of eps; ``2.5 eps / steps`` if None.
        restarts: how many tries.
        seed: of the starts after the first.
        ids: example ids ``(B,)`` that the starts belong to.

    Returns:
        ``(B, P, D)`` in float32 or better, for `advreg.language.models.embeddings.scatter_to_user_tokens`; zero past each
        prompt's own tokens.

    Raises:
        ConfigError: a negative eps or steps, or no try.
        DataError: no answers, or no word of a user's.

    Reference: Xhonneux et al., NeurIPS 2024; Schwinn et al. 2023.
    """
    check_search(encoded, eps, steps, restarts)
    unit = embedding_norm(lm)
    radius, step = eps * unit, unit * (eps * 2.5 / max(steps, 1) if step_size is None else step_size)
    last = answer_span(encoded)

    def loss(delta: Tensor) -> Tensor:
        return answer_nll(logits(lm, encoded, delta, last=last), encoded)

    with eval_mode(lm.network, freeze=True):
        move = with_projection(steepest_descent(step), radius)
        starts = (_start(lm, encoded, radius, k, seed, ids) for k in range(restarts))
        tries = [best_iterate(iterates(loss, start, move, steps)) for start in starts]
    return best_iterate(tries)[0]


def check_search(encoded: Encoded, eps: float, steps: int, restarts: int) -> None:
    """Refuse budgets that cannot be, and batches with nothing to move or nothing to make likely.

    Raises:
        ConfigError, DataError: in one line.
    """
    if not 0 <= eps < float("inf") or steps < 0 or restarts < 1:
        raise ConfigError(f"eps is {eps}, steps {steps}, restarts {restarts}; give eps and steps >= 0, restarts >= 1")
    if not bool(encoded.answer.any(1).all()) or not bool(encoded.content.any()):
        raise DataError("a prompt has no answer, or no prompt has a word of the user's; encode with answers")


def _start(lm: LanguageModel, encoded: Encoded, radius: float, k: int, seed: int, ids: Tensor | None) -> Tensor:
    """Return zero for the first try, else points inside the balls, on the tokens that there are."""
    counts = encoded.content.sum(1)
    shape = (int(counts.max()), lm.dim)
    kind = torch.promote_types(lm.dtype, torch.float32)
    if k == 0:
        return torch.zeros(len(encoded), *shape, dtype=kind, device=lm.device)
    own = torch.arange(len(encoded), device=lm.device) if ids is None else ids.to(lm.device)
    drawn = normal(own, shape, seed, stream=k, dtype=kind)
    used = torch.arange(shape[0], device=lm.device) < counts[:, None]
    return project(drawn * radius / math.sqrt(shape[1]), radius) * used[..., None]


def embedding(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    eps: float = 0.05,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 8,
    system: str | None = None,
    judge: LanguageModel | None = None,
) -> LanguageAttackResult:
    """Move the words of each request until its target is likely, and let the model answer.

    Args:
        lm: the model that is searched; a copy in bfloat16 may do.
        requests: requests with targets.
        eps, steps, step_size, restarts, seed: as for `embedding_pgd`.
        max_new_tokens: length of the longest completion.
        batch_size: requests at a time.
        system: the system's words; what the chat template says by itself if None.
        judge: the original, in float32, whose completions and losses count; ``lm`` itself if None.

    Returns:
        One completion for each request.

    Raises:
        ConfigError, DataError: as for `embedding_pgd`, or a request without target.
    """
    original = judge or lm
    options: dict[str, Any] = {"eps": eps, "steps": steps, "step_size": step_size, "restarts": restarts, "seed": seed}

    def search(encoded: Encoded, ids: Tensor) -> Tensor:
        return embedding_pgd(lm, encoded, ids=ids, **options)

    def complete(prompts: list[str], delta: Tensor) -> list[list[str]]:
        texts = generate(
            original, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, delta=delta, system=system
        )
        return [[text] for text in texts]

    attack = PerturbationAttack(search, partial(perturbed_nll, original), complete)
    return run_targeted("embedding", attack, requests, lm=lm, judge=judge, batch_size=batch_size, system=system)


def perturbed_nll(lm: LanguageModel, encoded: Encoded, delta: Tensor | None) -> Tensor:
    """Return the mean NLL of the answers ``(B,)`` with a perturbation of the user's tokens: one forward each."""
    return answer_nll(logits(lm, encoded, delta, last=answer_span(encoded)), encoded)


@torch.no_grad()
def measure_answer_nll(lm: LanguageModel, encoded: Encoded, delta: Tensor | None) -> list[float]:
    """Return the mean NLL of the answers with the user's words moved, by the model that judges: one forward each."""
    with eval_mode(lm.network, freeze=True):
        values: list[float] = perturbed_nll(lm, encoded, delta).tolist()
    return values
