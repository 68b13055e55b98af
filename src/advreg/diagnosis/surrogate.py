"""A network of one's own, trained adversarially on what the model answers: its adversarial points may travel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks import craft
from advreg.attacks.verification import logits_of
from advreg.diagnosis.context import DiagnosisContext, all_rows, in_batches
from advreg.threat import ThreatModel

_BATCH = 64
_STEPS = 100  # twice as many make points that travel no better


def surrogate_of(subject: DiagnosisContext, *, adversarial: bool = True) -> nn.Module:
    """Return the surrogate of a diagnosis, trained on the training data where there are some, once for all who need it.

    Args:
        subject: model, examples and figure.
        adversarial: whether it is trained on attacked inputs.

    Returns:
        The surrogate; trained once for each kind.
    """
    if adversarial not in subject.surrogates:
        x, y = subject.train or (subject.x, subject.y)
        subject.surrogates[adversarial] = train_surrogate(
            subject.model, x.to(subject.x), y, subject.threat, steps=_STEPS, adversarial=adversarial, seed=subject.seed
        )
    return subject.surrogates[adversarial]


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
    """Return a small convolutional network trained on these inputs, labelled as the model labels them.

    Args:
        model: the network to imitate; queried for labels only.
        x: inputs ``(N, C, H, W)`` or ``(N, F)``; training images where there are some.
        y: their labels ``(N,)``, which give the least number of classes.
        threat: threat model of the surrogate's training, at half its eps.
        steps: steps of Adam.
        adversarial: whether it is trained on two steps of PGD, which makes its gradients transfer better, or on clean inputs.
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
    answers = in_batches(all_rows(x), lambda part: logits_of(model, x[part]))
    half = threat.with_eps(float(threat.eps) / 2)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = nn.Sequential(ToUnitBox(threat), _network(x, answers.shape[1])).to(x)
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for step in range(steps):
            rows = torch.randint(len(x), (_BATCH,)).to(x.device)
            a, wanted = x[rows], answers[rows].argmax(1)
            if adversarial:
                a = craft(net, a, wanted, half, steps=2, ids=rows, seed=step).x_adv
            loss = F.cross_entropy(net(a), wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.requires_grad_(False).eval()


class ToUnitBox(nn.Module):
    """Bring inputs from the box to [0, 1], where the initial weights are at home."""

    def __init__(self, threat: ThreatModel) -> None:
        super().__init__()
        self.low, self.width = threat.box[0], threat.width

    def forward(self, x: Tensor) -> Tensor:
        """Return the inputs as shares of the box."""
        return (x - self.low) / self.width


def _network(x: Tensor, classes: int) -> nn.Module:
    if x.ndim != 4:
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 128), nn.ReLU(), nn.Linear(128, classes))
    return nn.Sequential(
        nn.Conv2d(x.shape[1], 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, classes),
    )  # fmt: skip
