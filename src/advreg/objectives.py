"""Objectives that an attack maximises: functions ``(logits (B, K), y (B,)) -> (B,)``.

``y`` holds labels, integers ``(B,)``; or probabilities ``(B, K)``, of mixed labels or of another model's output; or, for
`targeted_dlr` and `rival_margin`, integers ``(B, 1 + R)``: the label, then the other classes that should overtake it. A
targeted attack maximises the negative of the same functions, with ``y`` the target class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg._lazy import deprecated

Objective = Callable[[Tensor, Tensor], Tensor]


def labels_of(y: Tensor) -> Tensor:
    """Return the labels ``(B,)`` of labels, of probabilities ``(B, K)``, or of labels with other classes.

    Args:
        y: labels ``(B,)``, probabilities ``(B, K)``, or integers ``(B, 1 + R)``: the label, then other classes.

    Returns:
        Integers ``(B,)``.

    Example:
        >>> labels_of(torch.tensor([[0.1, 0.9]])).tolist(), labels_of(torch.tensor([[2, 0, 1]])).tolist()
        ([1], [2])
    """
    if y.ndim == 1:
        return y
    return y.argmax(1) if y.is_floating_point() else y[:, 0]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return ``-log softmax(z)_y`` of each example; with probabilities ``y``, the soft cross-entropy.

    Args:
        logits: ``(B, K)``.
        y: labels ``(B,)`` or probabilities ``(B, K)``.

    Returns:
        Values ``(B,)``.

    Example:
        >>> round(cross_entropy(torch.zeros(1, 2), torch.tensor([0])).item(), 4)  # log 2
        0.6931
    """
    return F.cross_entropy(logits, y, reduction="none")


def kl(logits: Tensor, y: Tensor) -> Tensor:
    """Return ``KL(y || softmax(z))`` of each example; ``y`` are the probabilities ``(B, K)`` of a reference.

    Args:
        logits: ``(B, K)``.
        y: probabilities ``(B, K)`` of the reference.

    Returns:
        Values ``(B,)``.

    Example:
        >>> kl(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]])).item()
        0.0
    """
    log_reference = y.clamp_min(1e-12).log()
    terms = y * (log_reference - logits.log_softmax(1))
    return terms.masked_fill(torch.isneginf(logits) & (y == 0), 0.0).sum(1)  # classes that a mask rules out


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return ``max_{i != y} z_i - z_y``, positive exactly if the example is misclassified.

    Args:
        logits: ``(B, K)``.
        y: labels ``(B,)`` or probabilities ``(B, K)``.

    Returns:
        Values ``(B,)``.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1])).tolist()
        [-2.0, 2.0]

    Reference: Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, arXiv:1608.04644.
    """
    own = labels_of(y)[:, None]
    return logits.scatter(1, own, -math.inf).amax(1) - logits.gather(1, own)[:, 0]


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return ``max_{i != y} p_i - p_y`` of the softmax, bounded unlike the margin of logits (PMA, CVPR 2025).

    Args:
        logits: ``(B, K)``.
        y: labels ``(B,)`` or probabilities ``(B, K)``.

    Returns:
        Values ``(B,)`` in [-1, 1].

    Example:
        >>> round(probability_margin(torch.tensor([[1.0, 1.0], [9.0, -9.0]]), torch.tensor([0, 0]))[1].item(), 3)
        -1.0
    """
    return margin(logits.softmax(1), y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference-of-logits ratio ``(max_{i != y} z_i - z_y) / (z_(1) - z_(3))``.

    It is invariant to shifts and scalings of the logits, so it does not vanish on overconfident networks. With 2 classes
    there is no third logit, and it is the margin.

    Args:
        logits: ``(B, K)``.
        y: labels ``(B,)`` or probabilities ``(B, K)``.

    Returns:
        Values ``(B,)``.

    Example:
        >>> dlr(torch.tensor([[4.0, 3.0, 2.0]]), torch.tensor([0])).item()  # (3 - 4) / (4 - 2)
        -0.5

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, arXiv:2003.01690.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return _ratio(margin(logits, y), top[:, 0] - top[:, 2])


def rival_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return ``max_t z_t - z_y``, ``t`` over the other classes in ``y``; positive only if the example is misclassified.

    Args:
        logits: ``(B, K)``.
        y: integers ``(B, 1 + R)``: the label, then one or more other classes.

    Returns:
        Values ``(B,)``.

    Example:
        >>> rival_margin(torch.tensor([[4.0, 3.0, 1.0]]), torch.tensor([[0, 2]])).item()
        -3.0
    """
    return logits.gather(1, y[:, 1:]).amax(1) - logits.gather(1, y[:, :1])[:, 0]


def targeted_dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the targeted ratio ``(max_t z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)``, ``t`` the other classes in ``y``.

    With fewer than 4 classes there is no fourth logit, and it is `rival_margin`, ``max_t z_t - z_y``.

    Args:
        logits: ``(B, K)``.
        y: integers ``(B, 1 + R)``: the label, then one or more other classes; the published loss has one.

    Returns:
        Values ``(B,)``.

    Example:
        >>> z = torch.tensor([[4.0, 3.0, 1.0, 0.0]])
        >>> targeted_dlr(z, torch.tensor([[0, 2]])).item()  # (1 - 4) / (4 - 0.5)
        -0.8571428656578064

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, arXiv:2003.01690.
    """
    gap = rival_margin(logits, y)
    if not scale_free(logits.shape[1]):
        return gap
    top = logits.topk(4, dim=1).values
    return _ratio(gap, top[:, 0] - (top[:, 2] + top[:, 3]) / 2)


def _ratio(gap: Tensor, size: Tensor) -> Tensor:
    """Return the ratio of a difference-of-logits loss; the gap alone if a mask of -inf leaves too few classes."""
    return gap / torch.where(torch.isfinite(size), size + 1e-12, 1.0)


def scale_free(classes: int) -> bool:
    """Return whether `dlr` and `targeted_dlr` are both ratios for this number of classes, and neither is a margin.

    Args:
        classes: number of classes.

    Returns:
        True with 4 classes or more.
    """
    return classes >= 4


def negate(objective: Objective) -> Objective:
    """Return the objective of a targeted attack: the same function with negative sign.

    Args:
        objective: any objective.

    Returns:
        The objective of the same arguments.

    Example:
        >>> negate(margin)(torch.tensor([[3.0, 1.0]]), torch.tensor([0])).item()
        2.0
    """

    def toward(logits: Tensor, y: Tensor) -> Tensor:
        return -objective(logits, y)

    return toward


def has_finite_logits(logits: Tensor) -> Tensor:
    """Return whether each row has finite logits, or -inf for classes that a mask rules out: ``(B,)``.

    Args:
        logits: ``(B, K)``, or outputs of another task ``(B, ...)``.

    Returns:
        Booleans ``(B,)``.

    Example:
        >>> z = torch.tensor([[1.0, -torch.inf], [torch.nan, 0.0], [torch.inf, 0.0]])
        >>> has_finite_logits(z).tolist()
        [True, False, False]
    """
    rows = logits if logits.ndim == 2 else logits[:, None].flatten(1)
    largest = rows.amax(1)  # NaN where any logit is
    return largest.abs() < math.inf  # False for NaN; one comparison fewer than isfinite, at every query


def are_probabilities(z: Tensor) -> bool:
    """Return whether outputs ``(B, K)`` are non-negative and every row sums to 1 (to 1e-5).

    Args:
        z: outputs ``(B, K)``.

    Returns:
        True where all rows are probabilities.

    Example:
        >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.tensor([[1.0, 1.0]]))
        (True, False)
    """
    return bool(rows_of_probabilities(z).all())


def rows_of_probabilities(z: Tensor) -> Tensor:
    """Return whether each row of ``z (B, K)`` is non-negative and sums to 1 (to 1e-5), ``(B,)``.

    Args:
        z: outputs ``(B, K)``.

    Returns:
        Booleans ``(B,)``.

    Example:
        >>> rows_of_probabilities(torch.tensor([[0.5, 0.5], [2.0, -1.0]])).tolist()
        [True, False]
    """
    return (z >= 0).all(1) & ((z.double().sum(1) - 1).abs() < 1e-5)


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Return whether each row's largest logit is the label's ``(B,)``; a row with NaN or +inf is not correct.

    Args:
        logits: ``(B, K)``.
        y: labels ``(B,)`` or probabilities ``(B, K)``.

    Returns:
        Booleans ``(B,)``.

    Example:
        >>> correct(torch.tensor([[2.0, 1.0], [torch.inf, 0.0]]), torch.tensor([0, 0])).tolist()
        [True, False]
    """
    return is_label_largest(logits, y) & has_finite_logits(logits)


def is_label_largest(logits: Tensor, y: Tensor) -> Tensor:
    """Return whether each row's largest logit is the label's ``(B,)``, whatever NaN and infinity mean.

    Args:
        logits: ``(B, K)``.
        y: labels ``(B,)`` or probabilities ``(B, K)``.

    Returns:
        Booleans ``(B,)``.

    Example:
        >>> is_label_largest(torch.tensor([[2.0, 1.0]]), torch.tensor([0])).tolist()
        [True]
    """
    return logits.argmax(1) == labels_of(y)


def fooled(logits: Tensor, y: Tensor, targeted: bool = False) -> Tensor:
    """Return whether the model misclassifies each example, or predicts the target class if ``targeted``: ``(B,)``.

    An output of NaN or infinity is neither the right class nor the target class: an untargeted attack that causes it
    succeeds, as in the reference evaluation.

    Args:
        logits: ``(B, K)``.
        y: labels ``(B,)``; the target classes if ``targeted``.
        targeted: whether ``y`` holds the classes that the adversary wants.

    Returns:
        Booleans ``(B,)``.

    Example:
        >>> z = torch.tensor([[2.0, 1.0], [1.0, 2.0], [torch.nan, 0.0]])
        >>> fooled(z, torch.tensor([0, 0, 0])).tolist(), fooled(z, torch.tensor([0, 0, 0]), targeted=True).tolist()
        ([False, True, True], [True, False, False])
    """
    right = correct(logits, y)
    return right if targeted else ~right


def replace_nan(loss: Tensor) -> Tensor:
    """Return losses with NaN replaced by -inf, so that they can be compared.

    Args:
        loss: values ``(B,)``.

    Returns:
        Values ``(B,)`` without NaN.

    Example:
        >>> replace_nan(torch.tensor([1.0, torch.nan])).tolist()
        [1.0, -inf]
    """
    return loss.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"negated": "negate", "ranked": "replace_nan"})
