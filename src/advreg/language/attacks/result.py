"""What an attack on a language model returns, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from advreg.errors import DataError, ModelError
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.pass_counting import Passes, count_passes


@dataclass(frozen=True, repr=False)
class LanguageAttackResult:
    """The outcome of an attack on requests; whether a completion does harm is for a judge to say.

    Attributes:
        attack: its name.
        prompts: the words sent for each request; the first candidate's where there are several.
        completions: what came back, one list of candidates for each request: any harmful one is a success.
        forwards, backwards: example-forwards and example-backwards: one example through the network and back, be it a whole
            prompt or, while an answer is written, one new token.
        loss: mean ``-log p`` of the target's tokens for each request; empty where the attack has no target.
        asked: the words of every candidate, like ``completions``; empty where one prompt was sent.
    """

    attack: str
    prompts: list[str]
    completions: list[list[str]]
    forwards: int
    backwards: int
    loss: list[float] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)

    def __repr__(self) -> str:
        cost = f"forwards={self.forwards}, backwards={self.backwards}"
        return f"LanguageAttackResult({self.attack!r}, n={len(self.prompts)}, {cost})"


def count_model_passes(*models: LanguageModel | None) -> AbstractContextManager[Passes]:
    """Count example-forwards and -backwards of these models inside the block, at the layer that makes logits.

    Raises:
        ModelError: a network without such a layer.
    """
    heads = [model.network.get_output_embeddings() for model in models if model is not None]
    if None in heads:
        name = next(model.name for model in models if model and model.network.get_output_embeddings() is None)
        raise ModelError(f"{name} has no layer that makes logits of tokens; give a causal language model")
    return count_passes(*heads)


def require_targets(requests: Sequence[HarmfulRequest]) -> list[HarmfulRequest]:
    """Return the requests as a list, or say which has no target to make likely.

    Raises:
        DataError: a request without target.
    """
    bare = next((request.id for request in requests if not request.target.strip()), None)
    if bare is not None:
        raise DataError(f"request {bare} has no target; give how an answer that complies would begin")
    return list(requests)


def batches(requests: Sequence[HarmfulRequest], size: int) -> Iterator[list[HarmfulRequest]]:
    """Cut requests into batches."""
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


def complete_variants(
    attack: str,
    lm: LanguageModel,
    variants: Sequence[Sequence[str]],
    *,
    max_new_tokens: int,
    batch_size: int,
    system: str | None = None,
) -> LanguageAttackResult:
    """Send every variant of every request, and return what came back."""
    flat = [variant for each in variants for variant in each]
    with count_model_passes(lm) as spent:
        answers = iter(
            generate(lm, flat, max_new_tokens=max_new_tokens, batch_size=batch_size, system=system) if flat else []
        )
    completions = [[next(answers) for _ in each] for each in variants]
    asked = [list(each) for each in variants]
    return LanguageAttackResult(
        attack, [each[0] for each in asked], completions, spent.forwards, spent.backwards, asked=asked
    )
