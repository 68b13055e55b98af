"""Residual networks with pre-activation, for small images: PreActResNet and WideResNet are one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from advreg.errors import ModelError, did_you_mean

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "leaky-relu": lambda: nn.LeakyReLU(0.1),
}


class PreActBlock(nn.Module):
    """Norm, activation, convolution, twice, added to a shortcut: ``x + conv2(act(bn2(conv1(act(bn1(x))))))``.

    Args:
        inside: channels that come in.
        outside: channels that go out.
        stride: of the first convolution.
        activation: name of the nonlinearity.
        dropout: chance that a unit between the convolutions is dropped in training.

    Reference: He et al., "Identity mappings in deep residual networks", ECCV 2016, arXiv:1603.05027.
    """

    def __init__(self, inside: int, outside: int, stride: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.act = _activation(activation)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        changes = stride != 1 or inside != outside
        self.shortcut = nn.Conv2d(inside, outside, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the features ``(B, outside, H / stride, W / stride)``."""
        active = self.act(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        change: Tensor = self.conv2(self.dropout(self.act(self.bn2(self.conv1(active)))))
        return kept + change


class PreActResNet(nn.Module):
    """A 3x3 convolution, stages of blocks that halve the image, the mean over it, and a linear layer.

    Args:
        stem: channels of the first convolution.
        widths: channels of each stage; every stage but the first halves the image.
        depths: blocks of each stage.
        channels: of the image.
        classes: number of logits.
        activation: ``relu``, ``silu``, ``gelu``, ``softplus`` or ``leaky-relu``.
        dropout: chance that a unit inside a block is dropped in training.
        final_norm: whether the last features are normalised and activated before their mean.
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        depths: Sequence[int],
        *,
        channels: int = 3,
        classes: int = 10,
        activation: str = "relu",
        dropout: float = 0.0,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        blocks, inside = [], stem
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(PreActBlock(inside, width, stride, activation, dropout))
                inside = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.Sequential(nn.BatchNorm2d(inside), _activation(activation)) if final_norm else nn.Identity()
        self.linear = nn.Linear(inside, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        features = self.norm(self.blocks(self.conv(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def preact_resnet18(
    width: float = 1.0,
    channels: int = 3,
    classes: int = 10,
    activation: str = "relu",
    dropout: float = 0.0,
    final_norm: bool = True,
) -> nn.Module:
    """Return PreActResNet-18, the usual network for 32x32 images: 11,172,170 parameters for 10 classes.

    Args:
        width: multiplies every number of channels (64, 128, 256, 512).
        channels: number of channels of the image.
        classes: number of logits.
        activation: ``relu``, ``silu``, ``gelu``, ``softplus`` or ``leaky-relu``.
        dropout: chance that a unit inside a block is dropped in training.
        final_norm: whether the last features are normalised and activated before their mean, as in the paper.

    Returns:
        The network, in train mode; images ``(B, C, H, W)`` to logits ``(B, K)``.

    Reference: He et al., "Identity mappings in deep residual networks", ECCV 2016, arXiv:1603.05027.

    Example:
        >>> sum(p.numel() for p in preact_resnet18().parameters())
        11172170
    """
    widths = [max(1, round(width * base)) for base in (64, 128, 256, 512)]
    return PreActResNet(
        widths[0],
        widths,
        (2, 2, 2, 2),
        channels=channels,
        classes=classes,
        activation=activation,
        dropout=dropout,
        final_norm=final_norm,
    )


def wide_resnet(
    depth: int,
    width: int,
    channels: int = 3,
    classes: int = 10,
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Module:
    """Return WideResNet-depth-width.

    Args:
        depth: convolutions along the path, 6n + 4 for n blocks a stage.
        width: multiplies the channels of the three stages (16, 32, 64).
        channels: number of channels of the image.
        classes: number of logits.
        activation: ``relu``, ``silu``, ``gelu``, ``softplus`` or ``leaky-relu``.
        dropout: chance that a unit inside a block is dropped in training.

    Returns:
        The network, in train mode; images ``(B, C, H, W)`` to logits ``(B, K)``.

    Raises:
        ModelError: a depth that is not 6n + 4.

    Example:
        >>> sum(p.numel() for p in wide_resnet(10, 1).parameters())
        77850

    Reference: Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016, arXiv:1605.07146.
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest or width < 1:
        raise ModelError(f"wide-resnet-{depth}-{width}: depth must be 6n + 4 (10, 16, 28, 34, 70 ...), width 1 or more")
    widths = [16 * width, 32 * width, 64 * width]
    return PreActResNet(
        16, widths, [blocks] * 3, channels=channels, classes=classes, activation=activation, dropout=dropout
    )


def _activation(name: str) -> nn.Module:
    if name not in _ACTIVATIONS:
        near = did_you_mean(name, _ACTIVATIONS)
        raise ModelError(f"unknown activation {name!r}.{near} Allowed: {' '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]()


def _initialise(model: nn.Module) -> None:
    """He initialisation for ReLU (He et al., ICCV 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
