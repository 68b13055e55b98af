"""The training file of a snapshot of texts: the trusted rows, and harmful prompts with their weights in the loss.

    share of a prompt = its weight over all its rows / (weights of the trusted rows + weights of all submitted rows)

The shares are those of `advreg.hardening.influence`, so every cap bounds the loss, however few or many prompts a group has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from advreg.errors import ConfigError
from advreg.hardening.data_selection import Candidate, Caps
from advreg.hardening.influence import loss_shares
from advreg.hardening.texts import HARMFUL

OPENERS = ("Sure, here is", "Of course. Here is how", "Yes, I can help with that")
REFUSAL = "I'm sorry, but I can't help with that."


def text_shares(chosen: Sequence[Candidate], caps: Caps, replay: float) -> dict[str, float]:
    """Return each text's share of the loss of the training file; harmless texts are not in it and have none.

    Args:
        chosen: the examples of a snapshot.
        caps: the largest shares.
        replay: wanted share of all submitted texts together.

    Returns:
        Example id -> share.

    Example:
        >>> texts = [Candidate(f"{k:064x}", k % 2, ("rae",), f"user {k}", "customer", k, 0.0) for k in range(4)]
        >>> [round(share, 4) for share in text_shares(texts, Caps(), replay=0.1).values()]
        [0.0, 0.0025, 0.0, 0.0025]
    """
    shares = loss_shares([one for one in chosen if one.label == HARMFUL], caps, replay)
    return {one.id: shares.get(one.id, 0.0) for one in chosen}


def training_lines(trusted: str, members: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the training file: the trusted ones as they are, then the harmful prompts of a snapshot.

    A prompt that would weigh more than about one trusted row gets several rows: no step of training is its alone.

    Args:
        trusted: the trusted prompts in JSON lines; a row without ``weight`` weighs 1.
        members: the examples of the snapshot with ``text``, ``label`` and ``loss_share``.

    Returns:
        One JSON object each.

    Raises:
        ConfigError: a trusted line is no JSON object, or its weight is no number from 0 up.
    """
    kept = trusted.rstrip("\n")
    mass = trusted_weight(kept)
    rest = 1 - sum(member["loss_share"] for member in members)
    rows = (row for member in members for row in _rows(member, member["loss_share"] * mass / rest))
    return [kept, *(json.dumps(row, ensure_ascii=False) for row in rows)]


def trusted_weight(trusted: str) -> float:
    """Return the sum of the weights of the trusted rows.

    Args:
        trusted: the trusted prompts in JSON lines.

    Raises:
        ConfigError: a line is no JSON object, or its weight is no number from 0 up.

    Example:
        >>> trusted_weight('{"prompt": "a"}\\n{"prompt": "b", "weight": 0.5}')
        1.5
    """
    lines = ((number, line) for number, line in enumerate(trusted.split("\n"), 1) if line.strip())
    return sum(_weight(number, line) for number, line in lines)


def _weight(number: int, line: str) -> float:
    try:
        weight = float(json.loads(line).get("weight", 1.0))
    except (ValueError, TypeError, AttributeError, RecursionError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ConfigError(f"data.name, line {number}: give a JSON object; its weight, if any, is a number from 0 up")
    return weight


def _rows(member: Mapping[str, Any], weight: float) -> Iterator[dict[str, Any]]:
    """Yield the rows of a harmful prompt, which weigh this much together; none for a harmless one."""
    if member["label"] != HARMFUL:
        return
    count = max(1, round(weight))
    row = {"prompt": member["text"], "targets": list(OPENERS), "safe": [REFUSAL], "sha256": member["id"]}
    yield from [{**row, "weight": weight / count}] * count
