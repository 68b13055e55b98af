"""Small networks for images of MNIST's size, from the papers that use them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from advreg.errors import ModelError


def mnist_dnn(
    widths: Sequence[int] = (200, 100, 100), channels: int = 1, size: int = 28, classes: int = 10
) -> nn.Module:
    """Return a fully connected ReLU network, 784-200-100-100-10 by default.

    Args:
        widths: sizes of the hidden layers.
        channels: number of channels of the image.
        size: side of the image in pixels.
        classes: number of logits.

    Returns:
        The network, in train mode; images ``(B, C, H, W)`` to logits ``(B, K)``.

    Example:
        >>> sum(p.numel() for p in mnist_dnn().parameters())
        188210

    Reference: Kolter and Madry, "Adversarial robustness: theory and practice", NeurIPS 2018 tutorial, chapter 3.
    """
    sizes = [channels * size * size, *widths]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


def mnist_cnn(channels: int = 1, size: int = 28, classes: int = 10) -> nn.Module:
    """Return four 3x3 convolutions (32, 32 stride 2, 64, 64 stride 2) and a hidden layer of 100.

    Args:
        channels: number of channels of the image.
        size: side of the image in pixels.
        classes: number of logits.

    Returns:
        The network, in train mode; images ``(B, C, H, W)`` to logits ``(B, K)``.

    Reference: Kolter and Madry, "Adversarial robustness: theory and practice", NeurIPS 2018 tutorial, chapter 4.
    """
    plan = [(channels, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2)]
    convolutions = [
        layer
        for inside, outside, stride in plan
        for layer in (nn.Conv2d(inside, outside, 3, stride=stride, padding=1), nn.ReLU())
    ]
    side = _side(_halve(_halve(size)), size)
    head = (nn.Flatten(), nn.Linear(64 * side * side, 100), nn.ReLU(), nn.Linear(100, classes))
    return nn.Sequential(*convolutions, *head)


def mnist_small(channels: int = 1, size: int = 28, classes: int = 10, batchnorm: bool = False) -> nn.Module:
    """Return two 4x4 convolutions of stride 2 (16, 32) and a hidden layer of 100.

    Args:
        channels: number of channels of the image.
        size: side of the image in pixels.
        classes: number of logits.
        batchnorm: whether a BatchNorm follows each hidden layer, as certified training wants it.

    Returns:
        The network, in train mode; images ``(B, C, H, W)`` to logits ``(B, K)``.

    Reference: Wong and Kolter, "Provable defenses against adversarial examples via the convex outer adversarial polytope",
    ICML 2018, arXiv:1711.00851.
    """
    side = _side(size // 2 // 2, size)
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * side * side, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    ]
    if batchnorm:
        for position, norm in ((6, nn.BatchNorm1d(100)), (3, nn.BatchNorm2d(32)), (1, nn.BatchNorm2d(16))):
            layers.insert(position, norm)
    return nn.Sequential(*layers)


class MnistTrades(nn.Module):
    """Four unpadded 3x3 convolutions (32, 32, pool, 64, 64, pool) and two hidden layers of 200, with dropout.

    Args:
        channels: of the image.
        size: side of the image in pixels, 16 or more.
        classes: number of logits.
        dropout: chance that a hidden unit is dropped in training.

    Reference: Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019, arXiv:1901.08573.
    """

    def __init__(self, channels: int = 1, size: int = 28, classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__()
        side = _side(((size - 4) // 2 - 4) // 2, size)
        self.feature_extractor = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, 3),
                relu2=nn.ReLU(),
                maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, 3),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(64, 64, 3),
                relu4=nn.ReLU(),
                maxpool2=nn.MaxPool2d(2),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(64 * side * side, 200),
                relu1=nn.ReLU(),
                drop=nn.Dropout(dropout),
                fc2=nn.Linear(200, 200),
                relu2=nn.ReLU(),
                fc3=nn.Linear(200, classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        logits: Tensor = self.classifier(self.feature_extractor(x).flatten(1))
        return logits


def _side(side: int, size: int) -> int:
    if side < 1:
        raise ModelError(f"images of {size}x{size} are too small for this network; give a larger size")
    return side


def _halve(size: int) -> int:
    return (size + 1) // 2  # a padded 3x3 convolution of stride 2
