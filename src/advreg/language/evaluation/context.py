"""What all tasks of an evaluation share: the model, the judges and the sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advreg.language.judges.harm import HarmJudge
from advreg.language.judges.refusal import Judge
from advreg.language.judges.remote import RemoteJudge
from advreg.language.models.loading import LanguageModel

Row = dict[str, Any]
"""A row of the ledger: the result of one prompt."""


@dataclass(frozen=True)
class LanguageEvaluationContext:
    """Model, judges and sizes that all tasks share.

    Attributes:
        lm: the model.
        reference: base model whose likelihood decides whether text is coherent; None for the model without its adapter.
        judge: classifies refusals.
        rater: service that rates helpfulness; None for the proxies alone.
        seed: seed of the attacks.
        max_new_tokens: length of a completion in tokens.
        task_tokens: length of a completion for verifiable instructions in tokens.
        limit: largest negative log-likelihood of coherent text, in nats a token; infinite until it is measured.
        harm: decides which attacks succeed; without it, a coherent completion that is no refusal is a success.
    """

    lm: LanguageModel
    reference: LanguageModel | None
    judge: Judge
    rater: RemoteJudge | None
    seed: int
    max_new_tokens: int
    task_tokens: int
    limit: float = float("inf")
    harm: HarmJudge | None = None
