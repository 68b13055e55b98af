"""A surrogate network trained on the model's predictions, whose adversarial points may transfer to the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks import craft
from advreg.attacks.verification import logits_of
from advreg.diagnosis.context import DiagnosisContext, all_rows, in_batches
from advreg.threat import ThreatModel

_BATCH = 64
_STEPS = 100  # with twice as many, points transfer no better


def surrogate_of(context: DiagnosisContext, *, adversarial: bool = True) -> nn.Module:
    """Return the surrogate of a diagnosis; each kind is trained once, on the training data if given, else on the examples.

    Args:
        context: model, examples and figure.
        adversarial: whether it is trained on attacked inputs.

    Returns:
        The surrogate; trained once for each kind.
    """
    if adversarial not in context.surrogates:
        x, y = context.train or (context.x, context.y)
        context.surrogates[adversarial] = train_surrogate(
            context.model, x.to(context.x), y, context.threat, steps=_STEPS, adversarial=adversarial, seed=context.seed
        )
    return context.surrogates[adversarial]


def train_surrogate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 300,
    adversarial: bool = True,
    seed: int = 0,
) -> nn.Module:
    """Return a small convolutional network trained on these inputs, with the model's predictions as labels.

    Args:
        model: network to imitate; only its predicted classes are used.
        x: inputs ``(N, C, H, W)`` or ``(N, F)``.
        y: their labels ``(N,)``.
        threat: threat model of the training, at half its eps.
        steps: number of Adam steps.
        adversarial: whether to train on two steps of PGD, which transfers better, or on clean inputs.
        seed: seed of weights and batches.

    Returns:
        The surrogate, in eval mode.

    Example:
        >>> model, x = nn.Linear(4, 3).eval(), torch.rand(8, 4)
        >>> net = train_surrogate(model, x, model(x).argmax(1), ThreatModel("linf", 0.1), steps=1, adversarial=False)
        >>> net(x).shape
        torch.Size([8, 3])

    Reference: Papernot et al., "Practical black-box attacks against machine learning", ASIA CCS 2017, arXiv:1602.02697.
    """
    logits = in_batches(all_rows(x), lambda part: logits_of(model, x[part]))
    half = threat.with_eps(float(threat.eps) / 2)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = nn.Sequential(ToUnitBox(threat), _network(x, logits.shape[1])).to(x)
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for step in range(steps):
            rows = torch.randint(len(x), (_BATCH,)).to(x.device)
            batch, target = x[rows], logits[rows].argmax(1)
            if adversarial:
                batch = craft(net, batch, target, half, steps=2, ids=rows, seed=step).x_adv
            loss = F.cross_entropy(net(batch), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.requires_grad_(False).eval()


class ToUnitBox(nn.Module):
    """Scale inputs from the box to [0, 1], the range that the initial weights suit."""

    def __init__(self, threat: ThreatModel) -> None:
        super().__init__()
        self.low, self.width = threat.box[0], threat.width

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled inputs."""
        return (x - self.low) / self.width


def _network(x: Tensor, classes: int) -> nn.Module:
    if x.ndim != 4:
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 128), nn.ReLU(), nn.Linear(128, classes))
    return nn.Sequential(
        nn.Conv2d(x.shape[1], 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(32 * 49, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )
