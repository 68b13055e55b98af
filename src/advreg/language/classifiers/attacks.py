"""Embedding PGD on text classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advreg.errors import ConfigError
from advreg.language.classifiers.examples import check_examples
from advreg.language.classifiers.model import (
    TextClassifier,
    classifier_logits,
    embedding_width,
    mean_norm,
    tokenize_batch,
)
from advreg.language.perturbation import project, steepest_direction
from advreg.module_modes import eval_mode


def classifier_embedding_pgd(
    classifier: TextClassifier,
    texts: Sequence[str],
    labels: Sequence[int],
    *,
    eps: float = 0.1,
    steps: int = 10,
    step_size: float | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Attack the embeddings of texts by PGD in an l2 ball around each token, and return which texts break.

    The result bounds the effect of word changes of that size from above: the adversarial point need not be a text.

    Args:
        classifier: the classifier; it runs in eval mode without gradients of its weights.
        texts: ``N`` texts.
        labels: class of each text; a misclassified text counts as broken.
        eps: radius of each token's ball, as a fraction of the mean embedding norm.
        steps: gradient steps; at least 1.
        step_size: l2 length of a token's step, in units of the mean embedding norm; ``2.5 eps / steps`` if None.
        batch_size: number of texts in one batch.

    Returns:
        ``(N,)`` bool, on the CPU: broken at any step.

    Raises:
        ConfigError: ``eps`` is negative, or there are no steps.
        DataError: there are no texts, their number is not that of the labels, or a label is no class of the head.
        ModelError: the head has no classes that exclude each other.

    Reference: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, arXiv:1706.06083, on
    embeddings.
    """
    check_examples(classifier, texts, labels)
    if not 0 <= eps < float("inf") or steps < 1 or batch_size < 1:
        raise ConfigError(
            f"eps is {eps}, steps {steps}, batch_size {batch_size}; give eps >= 0, and at least 1 of each"
        )
    unit = mean_norm(classifier)
    size = unit * (2.5 * eps / steps if step_size is None else step_size)
    truth = torch.tensor(labels, device=classifier.device)
    parts = [slice(begin, begin + batch_size) for begin in range(0, len(texts), batch_size)]
    with eval_mode(classifier.network, freeze=True):
        broken = [_attack_batch(classifier, texts[part], truth[part], unit * eps, steps, size) for part in parts]
    return torch.cat(broken).cpu()


def _attack_batch(
    classifier: TextClassifier, texts: Sequence[str], labels: Tensor, eps: float, steps: int, step_size: float
) -> Tensor:
    """Return which texts of a batch break; ``eps`` and ``step_size`` in units of the embeddings."""
    batch = tokenize_batch(classifier, texts)
    delta = torch.zeros(*batch.ids.shape, embedding_width(classifier), device=classifier.device)
    broken = torch.zeros_like(labels, dtype=torch.bool)
    for step in range(steps + 1):
        delta.requires_grad_()
        logits = classifier_logits(classifier, batch, delta)
        broken |= logits.argmax(1) != labels
        if step == steps or bool(broken.all()):
            break
        (grad,) = torch.autograd.grad(cross_entropy(logits, labels, reduction="sum"), delta)
        grad = grad * batch.content.unsqueeze(-1)
        delta = project(delta.detach() + step_size * steepest_direction(grad, "token"), eps, "token")
    return broken
