"""Example completions before and after training, for the report of a language sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advreg.report.language_tables import UPPER_BOUNDS

Row = Mapping[str, Any]
SHOWN = 260  # characters of a completion


@dataclass(frozen=True)
class CompletionExample:
    """One prompt with the completions before and after training.

    Attributes:
        kind: what the example shows.
        prompt: the prompt.
        before: completion of the base model.
        after: completion of the chosen setting.
        verdicts: the attack and both outcomes.
        is_harmful: whether the request is harmful; its completions are folded.
    """

    kind: str
    prompt: str
    before: str
    after: str
    verdicts: str
    is_harmful: bool


def examples(before: Sequence[Row], after: Sequence[Row], each: int = 3) -> list[CompletionExample]:
    """Return example prompts of each change of outcome, harmful and safe.

    Args:
        before: rows of the ledger of the base model.
        after: rows of the ledger of the chosen setting.
        each: largest number of examples of a kind.
    """
    old = {(row["axis"], row["attack"], row["id"]): row for row in before}
    pairs = [
        (old[key], row) for row in after if (key := (row["axis"], row["attack"], row["id"])) in old and row.get("text")
    ]
    kinds = {
        "a harmful request that is refused now": ("attack_success", "complied", "refused"),
        "a harmful request that still succeeds": ("attack_success", "complied", "complied"),
        "a safe prompt that is refused now": ("over_refusal", "complied", "refused"),
        "a safe prompt that is not refused": ("over_refusal", "complied", "complied"),
    }
    found = []
    for kind, outcome in kinds.items():
        fitting = [
            (b, a)
            for b, a in pairs
            if (a["axis"], b["outcome"], a["outcome"]) == outcome and a["attack"] not in UPPER_BOUNDS
        ]
        found += [_example(kind, b, a) for b, a in _first_of_each_prompt(fitting)[:each]]
    return found


def _first_of_each_prompt(pairs: Sequence[tuple[Row, Row]]) -> list[tuple[Row, Row]]:
    return list({after["id"]: (before, after) for before, after in reversed(pairs)}.values())[::-1]


def _example(kind: str, before: Row, after: Row) -> CompletionExample:
    attack = f"{after['attack'].replace('_', ' ')}: " if after["axis"] == "attack_success" else ""
    return CompletionExample(
        kind,
        _shorten(after.get("asked") or after["prompt"]),
        _shorten(before["text"]),
        _shorten(after["text"]),
        f"{attack}{before['outcome']} before, {after['outcome']} after",
        after["axis"] == "attack_success",
    )


def _shorten(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= SHOWN else plain[: SHOWN - 1] + "\u2026"
