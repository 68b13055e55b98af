"""Activation outliers among the admitted examples, and whether what they share moves clean images to their class.

Adversarial examples are outliers by nature, so being one proves nothing. A backdoor's examples share a pattern; a challenger
that learned it obeys the pattern on clean images more than the trusted base does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advreg.attacks.verification import logits_of
from advreg.hardening.backdoor_checks import BackdoorProbe

MARGIN = 0.05
"""Share of the clean images that the shared pattern may move to the class more than on the base."""

_OUTLIER = 3.5  # median absolute deviations
_LEAST = 3  # outliers; what fewer share may be chance


def features_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return the inputs of a model's last linear layer ``(B, F)``; its logits if it has none.

    Args:
        model: in eval mode.
        x: images ``(B, C, H, W)`` in [0, 1].
    """
    seen: list[Tensor] = []
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    hooks = [part.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach())) for part in layers[-1:]]
    try:
        logits = logits_of(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    found = torch.cat([one.flatten(1) for one in seen]) if seen else logits
    return found if len(found) == len(x) else logits


def find_activation_outliers(model: nn.Module, x: Tensor, clean: Tensor) -> Tensor:
    """Return whether each example is an outlier among a class's clean examples ``(N,)`` bool.

    Its features lie farther from their mean than the clean ones' median distance by 3.5 median absolute deviations.

    Args:
        model: the trusted base.
        x: admitted examples of one class ``(N, C, H, W)``.
        clean: trusted examples of that class.

    Reference: Tran et al., "Spectral signatures in backdoor attacks", NeurIPS 2018.
    """
    known = features_of(model, clean)
    centre = known.mean(0)
    usual = (known - centre).norm(dim=1)
    deviation = 1.4826 * (usual - usual.median()).abs().median()
    distance: Tensor = (features_of(model, x) - centre).norm(dim=1)
    found: Tensor = distance > usual.median() + _OUTLIER * deviation
    return found


def shared_pattern(x: Tensor, clean: Tensor) -> Tensor:
    """Return what examples share beyond clean images ``(C, H, W)``: the median of their differences to the nearest ones.

    Args:
        x: examples ``(N, C, H, W)``.
        clean: trusted images of all classes.
    """
    nearest = torch.cdist(x.flatten(1), clean.flatten(1)).argmin(1)
    return (x - clean[nearest]).median(0).values


def activation_outliers(
    challenger: nn.Module,
    base: nn.Module,
    admitted: tuple[Tensor, Tensor],
    clean: tuple[Tensor, Tensor],
    classes: Sequence[str],
) -> BackdoorProbe:
    """Check that no pattern shared by admitted outliers moves clean images to their class more than on the base.

    Args:
        challenger: in eval mode.
        base: the trusted base.
        admitted: the snapshot's examples and labels.
        clean: trusted images, none of them trained on, and labels.
        classes: class names.

    Returns:
        The check, with the class to which the shared pattern moves most images.
    """
    found = [
        (moved, int(label))
        for label in torch.unique(admitted[1]).tolist()
        if (moved := _moved(challenger, base, admitted[0][admitted[1] == label], clean, int(label))) is not None
    ]
    if not found:
        return BackdoorProbe("activations", True, "no class holds enough outliers to share a pattern")
    moved, label = max(found)
    says = (
        f"what the outliers of class {classes[label]} share moves {moved:+.1%} of the clean images to it, compared with the "
        f"base ({MARGIN:+.0%} allowed; {len(found)} classes with outliers)"
    )
    return BackdoorProbe("activations", moved <= MARGIN, says)


def _moved(challenger: nn.Module, base: nn.Module, x: Tensor, clean: tuple[Tensor, Tensor], label: int) -> float | None:
    """Return how many more clean images the shared pattern moves to a class than on the base, as a share; None without one."""
    images, labels = clean
    mine, others = images[labels == label], images[labels != label]
    if not len(mine) or not len(others):
        return None
    outliers = x[find_activation_outliers(base, x, mine)]
    if len(outliers) < _LEAST:
        return None
    stamped = (others + shared_pattern(outliers, images)).clamp(0, 1)
    reached = [(logits_of(model, stamped).argmax(1) == label).double().mean() for model in (challenger, base)]
    return float(reached[0] - reached[1])
