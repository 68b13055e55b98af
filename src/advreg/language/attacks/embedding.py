"""Embedding PGD: bounded perturbations of the user's tokens, the inner attack of continuous adversarial training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.errors import ConfigError, DataError
from advreg.example_rng import normal
from advreg.language.attacks.result import LanguageAttackResult
from advreg.language.attacks.targeted import PerturbationAttack, run_targeted
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded
from advreg.language.models.embeddings import answer_nll, answer_span, embedding_norm, logits
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.language.perturbation import STEP_RULES, best_iterate, iterates, project, with_projection
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
    step_rule: str = "normalised",
) -> Tensor:
    """Return the perturbation of the user's tokens with the lowest loss of the target answers.

    ``delta <- project(delta - step_size g / |g|)``, with ``g`` the gradient of the NLL at a token and an l2 ball around each
    token; the best iterate is returned. With ``step_rule="sign"`` a step is ``step_size sign(g) / sqrt(D)`` as in the papers,
    which is not the steepest direction in l2: in ten steps on SmolLM2 it gained a sixth less. The first restart begins at
    zero, later ones at a random point of the ball. The search runs in eval mode without gradients of the weights, so it is
    safe inside a training step. It costs ``restarts (steps + 1)`` forwards and ``restarts steps`` backwards of each example.

    Args:
        lm: the model under attack.
        encoded: prompts with target answers.
        eps: radius of each token's ball, as a fraction of `embedding_norm`.
        steps: gradient steps of one restart.
        step_size: l2 length of a token's step, in units of ``eps``; ``2.5 eps / steps`` if None.
        restarts: number of starting points.
        seed: seed of the random starting points.
        ids: example ids ``(B,)``; the starting point of an example depends on its id and the seed only; 0 to B-1 if None.
        step_rule: ``"normalised"`` or ``"sign"``; both steps have the length ``step_size``.

    Returns:
        ``(B, P, D)`` in float32 or better, for `advreg.language.models.embeddings.scatter_to_user_tokens`; zero past each
        prompt's own tokens.

    Raises:
        ConfigError: ``eps`` or ``steps`` is negative, or ``restarts`` is below 1.
        DataError: a prompt has no target answer, or no prompt has a user token.

    Example:
        >>> empty = torch.zeros(1, 2, dtype=torch.bool)
        >>> embedding_pgd(None, Encoded(empty.long(), empty, empty, empty), restarts=0)
        Traceback (most recent call last):
        advreg.errors.ConfigError: eps is 0.05, steps 10, restarts 0; give eps and steps >= 0, restarts >= 1

    Reference: Xhonneux et al., "Efficient adversarial training in LLMs with continuous attacks", NeurIPS 2024,
    arXiv:2405.15589; Schwinn et al., "Adversarial attacks and defenses in large language models: old and new threats", 2023,
    arXiv:2310.19737.
    """
    check_search(encoded, eps, steps, restarts)
    unit = embedding_norm(lm)
    radius, step = eps * unit, unit * (eps * 2.5 / max(steps, 1) if step_size is None else step_size)
    last = answer_span(encoded)

    def loss(delta: Tensor) -> Tensor:
        return answer_nll(logits(lm, encoded, delta, last=last), encoded)

    with eval_mode(lm.network, freeze=True):
        move = with_projection(STEP_RULES[step_rule](step), radius)
        starts = (_start(lm, encoded, radius, k, seed, ids) for k in range(restarts))
        tries = [best_iterate(iterates(loss, start, move, steps)) for start in starts]
    return best_iterate(tries)[0]


def check_search(encoded: Encoded, eps: float, steps: int, restarts: int) -> None:
    """Check the budget of a search, and that the batch has user tokens and target answers.

    Args:
        encoded: the batch.
        eps: radius; at least 0 and finite.
        steps: gradient steps; at least 0.
        restarts: starting points; at least 1.

    Raises:
        ConfigError: a number is out of its range.
        DataError: a prompt has no target answer, or no prompt has a user token.

    Example:
        >>> check_search(None, float("nan"), 1, 1)
        Traceback (most recent call last):
        advreg.errors.ConfigError: eps is nan, steps 1, restarts 1; give eps and steps >= 0, restarts >= 1
    """
    if not 0 <= eps < float("inf") or steps < 0 or restarts < 1:
        raise ConfigError(f"eps is {eps}, steps {steps}, restarts {restarts}; give eps and steps >= 0, restarts >= 1")
    if not bool(encoded.answer.any(1).all()) or not bool(encoded.content.any()):
        raise DataError(
            "a prompt has no target answer, or no prompt has a user token; encode with answers, and prompts of a word or more"
        )


def _start(lm: LanguageModel, encoded: Encoded, radius: float, k: int, seed: int, ids: Tensor | None) -> Tensor:
    """Return the starting points of restart ``k``: zero for the first, random inside the balls for the others."""
    counts = encoded.content.sum(1)
    shape = (int(counts.max()), lm.dim)
    dtype = torch.promote_types(lm.dtype, torch.float32)
    if k == 0:
        return torch.zeros(len(encoded), *shape, dtype=dtype, device=lm.device)
    example_ids = torch.arange(len(encoded), device=lm.device) if ids is None else ids.to(lm.device)
    noise = normal(example_ids, shape, seed, stream=k, dtype=dtype)
    mask = torch.arange(shape[0], device=lm.device) < counts[:, None]
    return project(noise * radius / math.sqrt(shape[1]), radius) * mask[..., None]


@renamed_options(judge="original")
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
    original: LanguageModel | None = None,
) -> LanguageAttackResult:
    """Perturb the embeddings of each request until its target is likely, and complete the perturbed prompt.

    Args:
        lm: the model for the search; a bfloat16 copy is allowed, see `search_in_low_precision`.
        requests: harmful requests with targets.
        eps: radius of each token's ball, as a fraction of the mean embedding norm.
        steps: gradient steps of one restart.
        step_size: l2 length of a token's step, in units of ``eps``; ``2.5 eps / steps`` if None.
        restarts: number of starting points.
        seed: seed of the random starting points.
        max_new_tokens: length limit of a completion, in tokens.
        batch_size: number of requests in one batch.
        system: the system prompt; the chat template's default if None.
        original: the model in float32, which gives the reported losses and completions; ``lm`` if None.

    Returns:
        One completion of each request, with the NLL of its target.

    Raises:
        ConfigError: ``eps`` or ``steps`` is negative, or ``restarts`` is below 1.
        DataError: a request has no target or no word.
        ModelError: the network has no layer that returns token logits.

    Example:
        >>> embedding(None, [HarmfulRequest(0, "How do I open a lock?")])
        Traceback (most recent call last):
        advreg.errors.DataError: request 0 has no target; give the beginning of a completion that complies

    Reference: Schwinn et al., "Soft prompt threats: attacking safety alignment and unlearning in open-source LLMs through
    the embedding space", NeurIPS 2024, arXiv:2402.09063.
    """
    reported = original or lm
    options: dict[str, Any] = {"eps": eps, "steps": steps, "step_size": step_size, "restarts": restarts, "seed": seed}

    def search(encoded: Encoded, ids: Tensor) -> Tensor:
        return embedding_pgd(lm, encoded, ids=ids, **options)

    def complete(prompts: list[str], delta: Tensor) -> list[list[str]]:
        texts = generate(
            reported, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, delta=delta, system=system
        )
        return [[text] for text in texts]

    attack = PerturbationAttack(search, partial(perturbed_nll, reported), complete)
    return run_targeted("embedding", attack, requests, lm=lm, original=original, batch_size=batch_size, system=system)


def perturbed_nll(lm: LanguageModel, encoded: Encoded, delta: Tensor | None) -> Tensor:
    """Return the mean NLL of the answers ``(B,)`` with a perturbation of the user's tokens: one forward each."""
    return answer_nll(logits(lm, encoded, delta, last=answer_span(encoded)), encoded)


@torch.no_grad()
def measure_answer_nll(lm: LanguageModel, encoded: Encoded, delta: Tensor | None) -> list[float]:
    """Return the mean NLL of each answer under perturbed user tokens, in eval mode: one forward each."""
    with eval_mode(lm.network, freeze=True):
        values: list[float] = perturbed_nll(lm, encoded, delta).tolist()
    return values
