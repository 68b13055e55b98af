"""Classification: one label for each example, right where the largest logit is the label's."""

from __future__ import annotations

from advreg.objectives import cross_entropy, dlr, is_label_largest, kl, margin
from advreg.tasks.task import Task

CLASSES = Task(
    "classes",
    is_label_largest,
    {"ce": cross_entropy, "margin": margin, "dlr": dlr},
    near=margin,
    divergence=lambda logits, clean: kl(logits, clean.softmax(1)),
)
"""The task of a classifier, and the default everywhere: labels ``(B,)``, logits ``(B, K)``."""
