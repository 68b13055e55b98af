"""Attacks on the embeddings of text classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

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
    """Tell which texts an attack on their embeddings gets wrong: projected ascent on the loss, l2 of each token.

    An upper bound on what changes of words of that size could do: no text need lie where it ends.

    Args:
        classifier: it is put in eval mode, its weights gather no gradient.
        texts, labels: what to attack; a text that is wrong already counts as broken.
        eps: radius of each token, relative to the mean norm of the embeddings.
        steps, step_size: of the ascent; by default ``2.5 eps / steps``.

    Returns:
        ``(N,)`` bool, broken at any step.
    """
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
