"""PAIR and TAP: an attacking model rewrites the request, sees the response and its score, and tries again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from advreg.language.attacks.attacker import (
    FEEDBACK,
    INSTRUCTIONS,
    RATING,
    STRATEGIES,
    TOPIC,
    Attacker,
    QueryBudget,
    one_question,
    parse_prompt,
    parse_rating,
    require_attacker,
    require_replies,
)
from advreg.language.attacks.result import LanguageAttackResult, count_model_passes
from advreg.language.datasets import HarmfulRequest
from advreg.language.models.chat import Message
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.runtime import derived_seed

_BEST = 10.0
CompletePrompts = Callable[[list[str]], list[str]]
"""From prompts to the completions of the model under attack."""


@dataclass(frozen=True)
class AttackTree:
    """The shape of a search.

    Attributes:
        roots: independent beginnings.
        branching: new prompts from each leaf at each level.
        width: leaves that remain after each level.
        depth: number of levels.
        prunes: whether prompts that left the topic are dropped before the model under attack sees them.
    """

    roots: int
    branching: int
    width: int
    depth: int
    prunes: bool


@dataclass(frozen=True)
class _Leaf:
    """A conversation with the attacking model; the prompt it wrote last, its completion and its score."""

    turns: tuple[Message, ...]
    prompt: str = ""
    completion: str = ""
    score: float = 0.0


def pair(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    attacker: Attacker | None = None,
    streams: int = 3,
    depth: int = 3,
    budget: int = 60,
    deadline: float = 600.0,
    seed: int = 0,
    max_new_tokens: int = 48,
    system: str | None = None,
) -> LanguageAttackResult:
    """Let an attacking model refine each request in independent streams, by the response and its score.

    Args:
        lm: the model under attack.
        requests: harmful requests; targets are not used.
        attacker: the attacking model, such as `ChatService.complete`; it also scores the responses from 1 to 10.
        streams: independent streams, each with a strategy of its own.
        depth: prompts of each stream.
        budget: largest number of queries of the attacking model for each request.
        deadline: seconds after which the search for a request ends with its best prompt so far.
        seed: seed of the strategies; each request has draws of its own.
        max_new_tokens: length limit of a completion, in tokens.
        system: the system prompt of the model under attack; its own if None.

    Returns:
        The completion with the highest score of each request, its prompt, and the queries of the attacking model.

    Raises:
        ConfigError: there is no attacking model, or a number is below 1.
        ModelError: the attacking model gave no usable reply, so the attack did not run.

    Example:
        >>> pair(None, [])
        Traceback (most recent call last):
        advreg.errors.ConfigError: pair needs an attacking model; add url=http://host/v1 and model=NAME, or pass attacker=

    Reference: Chao et al., "Jailbreaking black box large language models in twenty queries", 2023, arXiv:2310.08419.
    """
    tree = AttackTree(roots=streams, branching=1, width=streams, depth=depth, prunes=False)
    limits = QueryBudget(
        require_attacker("pair", attacker, streams=streams, depth=depth, budget=budget), budget, deadline
    )
    return _run("pair", lm, requests, tree, limits, seed=seed, max_new_tokens=max_new_tokens, system=system)


def tap(
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    *,
    attacker: Attacker | None = None,
    branching: int = 3,
    width: int = 4,
    depth: int = 4,
    budget: int = 150,
    deadline: float = 600.0,
    seed: int = 0,
    max_new_tokens: int = 48,
    system: str | None = None,
) -> LanguageAttackResult:
    """Let an attacking model grow a tree of prompts; prompts off the topic and those with low scores are pruned.

    Args:
        lm: the model under attack.
        requests: harmful requests; targets are not used.
        attacker: the attacking model, such as `ChatService.complete`; it also scores the responses and prunes.
        branching: new prompts from each leaf at each level.
        width: leaves that remain after each level.
        depth: number of levels.
        budget: largest number of queries of the attacking model for each request.
        deadline: seconds after which the search for a request ends with its best prompt so far.
        seed: seed of the strategies; each request has draws of its own.
        max_new_tokens: length limit of a completion, in tokens.
        system: the system prompt of the model under attack; its own if None.

    Returns:
        The completion with the highest score of each request, its prompt, and the queries of the attacking model.

    Raises:
        ConfigError: there is no attacking model, or a number is below 1.
        ModelError: the attacking model gave no usable reply, so the attack did not run.

    Example:
        >>> tap(None, [], attacker=lambda conversations: [], width=0)
        Traceback (most recent call last):
        advreg.errors.ConfigError: tap: width is 0; give at least 1

    Reference: Mehrotra et al., "Tree of attacks: jailbreaking black-box LLMs automatically", NeurIPS 2024, arXiv:2312.02119.
    """
    known = require_attacker("tap", attacker, branching=branching, width=width, depth=depth, budget=budget)
    tree = AttackTree(roots=1, branching=branching, width=width, depth=depth, prunes=True)
    limits = QueryBudget(known, budget, deadline)
    return _run("tap", lm, requests, tree, limits, seed=seed, max_new_tokens=max_new_tokens, system=system)


def _run(
    name: str,
    lm: LanguageModel,
    requests: Sequence[HarmfulRequest],
    tree: AttackTree,
    limits: QueryBudget,
    *,
    seed: int,
    max_new_tokens: int,
    system: str | None,
) -> LanguageAttackResult:
    """Search for each request with a budget of its own, and count the passes and the queries."""
    best: list[_Leaf] = []
    queries = 0

    def complete(prompts: list[str]) -> list[str]:
        return generate(lm, prompts, max_new_tokens=max_new_tokens, system=system)

    with count_model_passes(lm if requests else None) as counts:
        for request in requests:
            own = QueryBudget(limits.attacker, limits.queries, limits.deadline)
            search = _TreeSearch(name, request, tree, own, derived_seed(seed, request.id))
            best.append(search.run(complete))
            queries += own.spent
    prompts, texts = [leaf.prompt for leaf in best], [[leaf.completion] for leaf in best]
    return LanguageAttackResult(name, prompts, texts, counts.forwards, counts.backwards, queries=queries)


@dataclass(frozen=True)
class _TreeSearch:
    """The search for one request."""

    name: str
    request: HarmfulRequest
    tree: AttackTree
    budget: QueryBudget
    seed: int

    def run(self, complete: CompletePrompts) -> _Leaf:
        """Return the leaf of the highest score, the first of them where several have it."""
        leaves = self._roots()
        best = _Leaf(())
        for level in range(self.tree.depth):
            grown = self._grow(leaves, complete, first=level == 0)
            if not grown:
                break
            leaves = sorted(grown, key=lambda leaf: -leaf.score)[: self.tree.width]
            best = max(best, leaves[0], key=lambda leaf: leaf.score)
            if best.score >= _BEST:
                break
        return best

    def _roots(self) -> list[_Leaf]:
        strategies = random.Random(self.seed).sample(STRATEGIES, len(STRATEGIES))
        goal = self.request.prompt
        texts = [
            INSTRUCTIONS.format(goal=goal, strategy=strategies[k % len(strategies)]) for k in range(self.tree.roots)
        ]
        return [_Leaf(({"role": "system", "content": text},)) for text in texts]

    def _grow(self, leaves: Sequence[_Leaf], complete: CompletePrompts, *, first: bool) -> list[_Leaf]:
        """Return the children of some leaves: as many as the budget allows, each with a completion and a score."""
        each = 3 if self.tree.prunes else 2  # queries of a child
        parents = [leaf for leaf in leaves for _ in range(self.tree.branching)]
        while parents and not self.budget.allows(each * len(parents)):
            parents.pop()
        conversations = [self._request_prompt(leaf, k) for k, leaf in enumerate(parents)]
        replies = self.budget.ask(conversations)
        prompts = [parse_prompt(reply) for reply in replies]
        if first:
            require_replies(self.name, self.request.id, prompts)
        children = [
            _Leaf((*turns, {"role": "assistant", "content": str(reply)}), prompt)
            for turns, reply, prompt in zip(conversations, replies, prompts, strict=True)
            if prompt is not None
        ]
        return self._score(self._on_topic(children) if self.tree.prunes else children, complete)

    def _request_prompt(self, leaf: _Leaf, number: int) -> tuple[Message, ...]:
        """Return the conversation that requests the next prompt after a leaf."""
        text = (
            FEEDBACK.format(completion=leaf.completion, score=leaf.score) if leaf.prompt else "Write the first prompt."
        )
        variant = (
            f" Variant {number % self.tree.branching + 1}: differ from the others." if self.tree.branching > 1 else ""
        )
        return (*leaf.turns, {"role": "user", "content": text + variant})

    def _on_topic(self, leaves: list[_Leaf]) -> list[_Leaf]:
        """Return the leaves with prompts on the topic; all of them where none is, so that the search goes on."""
        goal = self.request.prompt
        replies = self.budget.ask([one_question(TOPIC.format(goal=goal, prompt=leaf.prompt)) for leaf in leaves])
        kept = [
            leaf for leaf, reply in zip(leaves, replies, strict=True) if (reply or "").strip().lower().startswith("yes")
        ]
        return kept or leaves

    def _score(self, leaves: list[_Leaf], complete: CompletePrompts) -> list[_Leaf]:
        texts = complete([leaf.prompt for leaf in leaves]) if leaves else []
        goal = self.request.prompt
        replies = self.budget.ask([one_question(RATING.format(goal=goal, completion=text)) for text in texts])
        return [
            _Leaf(leaf.turns, leaf.prompt, text, parse_rating(reply))
            for leaf, text, reply in zip(leaves, texts, replies, strict=True)
        ]
