"""A suffix of free embeddings: more than any text can do, so an upper bound of what an attacker with the weights can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from advreg.errors import ConfigError
from advreg.language.attacks.result import LanguageAttackResult, batches, passes, with_targets
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Encoded, encode
from advreg.language.models.embeddings import answer_nll, answer_places, embed, embedding_norm, forward
from advreg.language.models.generation import generate, moved
from advreg.language.models.loading import LanguageModel
from advreg.language.perturbation import best_iterate, iterates, sign_descent
from advreg.module_modes import eval_mode

START = " !"


def soft_prompt(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    tokens: int = 20,
    steps: int = 100,
    step_size: float = 0.05,
    checkpoints: int = 3,
    seed: int = 0,
    max_new_tokens: int = 48,
    batch_size: int = 8,
    system: str | None = None,
    judge: LanguageModel | None = None,
) -> LanguageAttackResult:
    """Follow each request by embeddings that nothing bounds, moved until its target is likely; answer at several iterates.

    ``suffix <- suffix - step_size sign(grad NLL) / sqrt(D)``, from the embeddings of exclamation marks.

    Args:
        lm: the model that is searched; a copy in bfloat16 may do.
        requests: requests with targets.
        tokens: length of the suffix.
        steps: steps.
        step_size: length of a step of one token, as a share of the mean norm of the embeddings.
        checkpoints: iterates that are answered: the best, and others spread evenly over the steps.
        seed: not used; every attack takes one.
        max_new_tokens: length of the longest completion.
        batch_size: requests at a time.
        system: the system's words; what the chat template says by itself if None.
        judge: the original, in float32, whose completions and losses count; ``lm`` itself if None.

    Returns:
        ``checkpoints`` completions for each request; the loss of the best iterate.

    Raises:
        ConfigError: a number below 1.
        DataError: a request without target.

    Reference: Schwinn et al., NeurIPS 2024, "Soft prompt threats".
    """
    if min(tokens, steps, checkpoints) < 1 or checkpoints > steps:
        given = f"tokens is {tokens}, steps {steps}, checkpoints {checkpoints}"
        raise ConfigError(f"{given}; give at least 1 of each, and no more checkpoints than steps")
    original = judge or lm
    completions: list[list[str]] = []
    loss: list[float] = []
    with passes(lm, judge) as spent:
        for part in batches(with_targets(requests), batch_size):
            prompts = [request.prompt for request in part]
            encoded = encode(lm, prompts, [request.target for request in part], system=system, ended=False)
            found = suffixes(lm, encoded, tokens, steps, step_size, checkpoints)
            loss += _judged(original, encoded, found[0])
            said = [
                generate(original, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, suffix=suffix, system=system)
                for suffix in found
            ]  # fmt: skip
            completions += [list(texts) for texts in zip(*said, strict=True)]
    return LanguageAttackResult(
        "soft_prompt", [request.prompt for request in requests], completions, spent.forwards, spent.backwards, loss
    )


def suffixes(
    lm: LanguageModel, encoded: Encoded, tokens: int, steps: int, step_size: float, checkpoints: int
) -> list[Tensor]:
    """Return the best suffixes of a batch ``(B, S, D)``, then those at ``checkpoints - 1`` moments spread over the steps."""
    kind = torch.promote_types(lm.dtype, torch.float32)
    moments = {steps * k // checkpoints for k in range(1, checkpoints)}
    kept: list[Tensor] = []

    def loss(suffix: Tensor) -> Tensor:
        return suffix_nll(lm, encoded, suffix)

    with eval_mode(lm.network, freeze=True):
        start = _start(lm, tokens).to(kind).expand(len(encoded), -1, -1)
        pairs = iterates(loss, start, sign_descent(step_size * embedding_norm(lm)), steps)
        found, _ = best_iterate(_keeping(pairs, moments, kept))
    return [found, *kept]


def _keeping(
    pairs: Iterable[tuple[Tensor, Tensor]], moments: set[int], kept: list[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Hand the pairs on, and put the points of some moments aside."""
    for k, (point, value) in enumerate(pairs):
        if k in moments:
            kept.append(point)
        yield point, value


@torch.no_grad()
def _start(lm: LanguageModel, tokens: int) -> Tensor:
    """Return the embeddings ``(1, S, D)`` of as many exclamation marks."""
    ids = lm.tokenizer(START, add_special_tokens=False)["input_ids"][-1:] * tokens
    return embed(lm, torch.tensor([ids], device=lm.device))


@torch.no_grad()
def _judged(lm: LanguageModel, encoded: Encoded, suffix: Tensor) -> list[float]:
    with eval_mode(lm.network, freeze=True):
        values: list[float] = suffix_nll(lm, encoded, suffix).tolist()
    return values


def suffix_nll(lm: LanguageModel, encoded: Encoded, suffix: Tensor) -> Tensor:
    """Return the mean NLL of the answers ``(B,)`` when the user's words are followed by a suffix ``(B, S, D)``."""
    points, mask = moved(lm, encoded, None, suffix)
    return answer_nll(forward(lm, points, mask, last=answer_places(encoded)).logits, encoded)
