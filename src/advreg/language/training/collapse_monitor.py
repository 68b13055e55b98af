"""Detection of collapse: a model that refuses benign prompts, or repeats itself.

A model trained to refuse may end up refusing everything, or in loops; no loss on the training set shows either. The probe uses
a few prompts and is no measurement: evaluation has a judge that is calibrated by people's labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from advreg.language.datasets import REFUSAL, InstructionExample
from advreg.language.judges.stock_refusals import is_stock_refusal
from advreg.language.models.chat import encode
from advreg.language.models.embeddings import answer_nll, answer_span, logits
from advreg.language.models.generation import generate
from advreg.language.models.loading import LanguageModel
from advreg.module_modes import eval_mode

RISE = 0.3  # of either share, over its value before training
WORDS, TOKENS = 3, 24  # of a repeated sequence, and of a completion


@dataclass(frozen=True)
class CollapseProbe:
    """Figures of a model on benign examples that it never learns from.

    Attributes:
        refused: share of examples that the model refuses, or for which a refusal is likelier than the right answer.
        repetition: mean share of word sequences in a completion that occurred earlier in it.
        utility_nll: mean loss of the right answers.
    """

    refused: float
    repetition: float
    utility_nll: float


def measure_collapse(lm: LanguageModel, held: Sequence[InstructionExample], tokens: int = TOKENS) -> CollapseProbe:
    """Probe a model in eval mode; its modes are restored, and no global random draw is used up.

    Args:
        lm: the model.
        held: benign examples.
        tokens: length of the completions.
    """
    prompts = [example.prompt for example in held]
    completions = generate(lm, prompts, max_new_tokens=tokens)
    right = _nll(lm, prompts, [example.answer for example in held])
    refusal = _nll(lm, prompts, [REFUSAL] * len(held))
    refused = torch.tensor([is_stock_refusal(text) for text in completions], device=right.device) | (refusal < right)
    repeated = sum(repetition(text) for text in completions) / len(completions)
    return CollapseProbe(int(refused.sum()) / len(held), repeated, float(right.mean()))


@torch.no_grad()
def _nll(lm: LanguageModel, prompts: list[str], answers: list[str]) -> torch.Tensor:
    with eval_mode(lm.network, freeze=True):
        encoded = encode(lm, prompts, answers)
        return answer_nll(logits(lm, encoded, last=answer_span(encoded)), encoded)


def repetition(completion: str, words: int = WORDS) -> float:
    """Return the share of word sequences that occurred earlier in a completion; 0 for a short one.

    Args:
        completion: the text.
        words: length of a sequence.

    Example:
        >>> repetition("one two three four"), repetition("go on go on go on")
        (0.0, 0.5)
    """
    spelled = completion.lower().split()
    sequences = [tuple(spelled[i : i + words]) for i in range(len(spelled) - words + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def detect_collapse(probe: CollapseProbe, before: CollapseProbe) -> str | None:
    """Return the sign of a collapse since the start of training, or None.

    Args:
        probe: the probe.
        before: the probe before training.

    Example:
        >>> detect_collapse(CollapseProbe(0.5, 0.1, 1.0), before=CollapseProbe(0.1, 0.1, 1.2))
        'over-refusal: 50% of benign prompts are refused, 10% before training'
    """
    if probe.refused > before.refused + RISE:
        return f"over-refusal: {probe.refused:.0%} of benign prompts are refused, {before.refused:.0%} before training"
    if probe.repetition > before.repetition + RISE:
        was = f"{before.repetition:.0%} before training"
        return f"repetition: {probe.repetition:.0%} of what is said was said before in the same answer, {was}"
    return None
