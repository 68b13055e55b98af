"""The result of an attack on a language model: completions and costs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from advreg.errors import DataError, ModelError
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.endpoint import ServiceModel
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.pass_counting import Passes, count_passes


@dataclass(frozen=True, repr=False)
class LanguageAttackResult:
    """The completions that an attack obtained; a judge decides afterwards which of them are harmful.

    Attributes:
        attack: name of the attack.
        prompts: the prompt of each request; the first candidate where there are several.
        completions: one list of completions for each request; the attack succeeds if any of them is harmful.
        forwards: example-forwards; a whole prompt counts once, and so does each generated token.
        backwards: example-backwards.
        loss: mean ``-log p`` of the target's tokens for each request; empty if the attack has no target.
        asked: the prompts of all candidates, parallel to ``completions``; empty if each request has one prompt.
        converged: whether the search of each request had converged; empty if the attack does not measure it.
        queries: queries of an attacking service.
    """

    attack: str
    prompts: list[str]
    completions: list[list[str]]
    forwards: int
    backwards: int
    loss: list[float] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    converged: list[bool] = field(default_factory=list)
    queries: int = 0

    def queries_of(self, index: int) -> int:
        """Return the share of the queries that a request counts; the shares add up to all queries.

        Args:
            index: place of the request.

        Example:
            >>> found = LanguageAttackResult("pair", ["a", "b"], [["x"], ["y"]], 0, 0, queries=5)
            >>> found.queries_of(0), found.queries_of(1)
            (3, 2)
        """
        each, more = divmod(self.queries, len(self.prompts))
        return each + (index < more)

    def __repr__(self) -> str:
        cost = f"forwards={self.forwards}, backwards={self.backwards}"
        queries = f", queries={self.queries}" if self.queries else ""
        return f"LanguageAttackResult({self.attack!r}, n={len(self.prompts)}, {cost}{queries})"


def count_model_passes(*models: LanguageModel | None) -> AbstractContextManager[Passes]:
    """Count example-forwards and example-backwards of models inside the block, at their output embeddings.

    Args:
        *models: the models; None and services are skipped.

    Raises:
        ModelError: a network has no layer that returns token logits.
    """
    own = [model for model in models if model is not None and not isinstance(model, ServiceModel)]
    heads = [model.network.get_output_embeddings() for model in own]
    if None in heads:
        name = own[heads.index(None)].name
        raise ModelError(f"{name} has no layer that returns token logits; give a causal language model")
    return count_passes(*heads)


def require_targets(requests: Sequence[HarmfulRequest]) -> list[HarmfulRequest]:
    """Return the requests as a list, each of which has a target.

    Raises:
        DataError: a request has no target.

    Example:
        >>> len(require_targets([HarmfulRequest(0, "How do I open a lock?", "Sure, here is how")]))
        1
    """
    bare = next((request.id for request in requests if not request.target.strip()), None)
    if bare is not None:
        raise DataError(f"request {bare} has no target; give the beginning of a completion that complies")
    return list(requests)


def batches(requests: Sequence[HarmfulRequest], size: int) -> Iterator[list[HarmfulRequest]]:
    """Yield batches of at most ``size`` requests, in order."""
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


def describe_attack(attack: object) -> str:
    """Return the name of an attack with the options that `functools.partial` binds to it.

    Example:
        >>> describe_attack(functools.partial(max, key=3))
        'max(key=3)'
    """
    if isinstance(attack, functools.partial):
        options = ", ".join(f"{key}={value!r}" for key, value in sorted(attack.keywords.items()))
        return f"{describe_attack(attack.func)}({options})"
    return str(getattr(attack, "__qualname__", type(attack).__name__))


def complete_variants(
    attack: str,
    lm: LanguageModel,
    variants: Sequence[Sequence[str]],
    *,
    max_new_tokens: int,
    batch_size: int,
    system: str | None = None,
    temperature: float = 0.0,
    seeds: Sequence[Sequence[int]] | None = None,
) -> LanguageAttackResult:
    """Query the model with all variants of all requests.

    Args:
        attack: name of the attack, for the result.
        lm: the model under attack.
        variants: prompts, one list for each request.
        max_new_tokens: length limit of a completion, in tokens.
        batch_size: number of prompts in one batch.
        system: the system prompt; the chat template's default if None.
        temperature: temperature of the draws; 0 takes the likeliest tokens.
        seeds: a seed of the draws for each variant; not used at temperature 0.

    Returns:
        One completion of each variant.

    Raises:
        ModelError: the network has no layer that returns token logits.

    Example:
        >>> complete_variants("direct", None, [], max_new_tokens=8, batch_size=4)
        LanguageAttackResult('direct', n=0, forwards=0, backwards=0)
    """
    flat = [variant for each in variants for variant in each]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "system": system}
    if temperature and seeds is not None:
        options |= {"temperature": temperature, "seeds": [seed for each in seeds for seed in each]}
    with count_model_passes(lm if flat else None) as counts:
        texts = iter(generate(lm, flat, **options) if flat else [])
    completions = [[next(texts) for _ in each] for each in variants]
    prompts = [list(each) for each in variants]
    return LanguageAttackResult(
        attack, [each[0] for each in prompts], completions, counts.forwards, counts.backwards, asked=prompts
    )
