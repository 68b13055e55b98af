"""Every length of an attack follows the width of the box: the same function in another box breaks the same examples."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel, attacks
from advreg.attacks.minimum_norm import SparseThreat
from advreg.attacks.patch import patch
from advreg.attacks.spatial import spatial
from advreg.threat import NORMS
from tests.attacks.models import small_cnn

BOXES = ((-1.0, 1.0), (0.0, 255.0), (-1000.0, 1000.0), (0.0, 1 / 1024))
EPS = {"linf": 0.02, "l2": 0.15, "l1": 0.8, "l0": 2.0}
EVERY = (*NORMS, "l0")
WARM = functools.partial(attacks.cosine_pgd, steps=5)
HELPERS = {
    "AttackResult",
    "CraftedExamples",
    "attack_at_each_eps",
    "corruptions",
    "craft",
    "minimum_distance",
    "refine_by_bisection",
    "refine_by_radius",
    "verify",
}


def _transfer(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> attacks.AttackResult:
    other = small_cnn(dtype=x.dtype)
    other[5].weight.data += 0.02 * torch.randn(5, 72, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return attacks.transfer(model, x, y, threat, surrogate=InBox(other, threat.box).eval())


def _patch(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> attacks.AttackResult:
    return patch(model, x, y, size=2, steps=10, box=threat.box)


def _spatial(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> attacks.AttackResult:
    return spatial(model, x, y, degrees=10, pixels=1, grid=(3, 3), box=threat.box)


ATTACKS: dict[str, tuple[Callable[..., attacks.AttackResult], tuple[str, ...]]] = {
    "fgsm": (attacks.fgsm, NORMS),
    "pgd": (functools.partial(attacks.pgd, steps=8), NORMS),
    "mifgsm": (attacks.mifgsm, NORMS),
    "nifgsm": (attacks.nifgsm, NORMS),
    "cosine_pgd": (functools.partial(attacks.cosine_pgd, steps=8), NORMS),
    "apgd": (functools.partial(attacks.apgd, steps=20), NORMS),
    "apgd-t": (functools.partial(attacks.apgd_targeted, steps=10), NORMS),
    "apgd-large": (functools.partial(attacks.apgd, steps=20, large_eps=True), ("l1",)),
    "square": (functools.partial(attacks.square, queries=60), NORMS),
    "square-warm": (functools.partial(attacks.square, queries=40, warm_start=WARM), NORMS),
    "random_search": (functools.partial(attacks.random_search, queries=30), NORMS),
    "spsa": (functools.partial(attacks.spsa, steps=8, samples=16), ("linf",)),
    "hopskipjump": (functools.partial(attacks.hopskipjump, queries=500, gradient_samples=32), ("linf", "l2")),
    "transfer": (_transfer, NORMS),
    "shrinking_pgd": (functools.partial(attacks.shrinking_pgd, restarts=1), NORMS),
    "fab": (functools.partial(attacks.fab, steps=8), NORMS),
    "fab-t": (functools.partial(attacks.fab, steps=8, target_classes=3, restarts=2), NORMS),
    "fmn": (functools.partial(attacks.fmn, steps=20, restarts=2), EVERY),
    "ddn": (functools.partial(attacks.ddn, steps=20, restarts=2), ("l2",)),
    "deepfool": (attacks.deepfool, NORMS),
    "carlini_wagner": (functools.partial(attacks.carlini_wagner, binary_search_steps=4, steps=30, weight=0.1), ("l2",)),
    "patch": (_patch, ("linf",)),
    "spatial": (_spatial, ("linf",)),
}
CASES = [(name, norm) for name, (_, norms) in ATTACKS.items() for norm in norms]


class InBox(nn.Module):
    """A network on [0, 1], behind the change of units from another box."""

    def __init__(self, net: nn.Module, box: tuple[float, float]) -> None:
        super().__init__()
        self.net, self.box = net, box

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of inputs in the box."""
        low, high = self.box
        logits: Tensor = self.net((x - low) / (high - low))
        return logits


def images(n: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images in [0, 1] with some pixels at the faces of the box, and their labels, one of them wrong."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, 1, 8, 8, generator=g, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    y = small_cnn(dtype=torch.float64)(x).argmax(1)
    y[0] = (y[0] + 1) % 5
    return x, y


def ball(norm: str, box: tuple[float, float], eps: float) -> ThreatModel | SparseThreat:
    """Return the threat model with ``eps`` in shares of the box's width (a count in l0)."""
    return SparseThreat(eps, box) if norm == "l0" else ThreatModel(norm, eps * (box[1] - box[0]), box)


@functools.cache
def attacked(
    name: str, norm: str, box: tuple[float, float], eps: float, dtype: torch.dtype = torch.float64
) -> attacks.AttackResult:
    (x, y), (low, high) = images(), box
    inputs = (low + (high - low) * x.to(dtype)).clamp(low, high)
    model = InBox(small_cnn(dtype=dtype), box).eval()
    return ATTACKS[name][0](model, inputs, y, ball(norm, box, eps))


def test_every_public_attack_is_among_the_cases() -> None:
    named = {"apgd_targeted": "apgd-t"}
    tabular = {"capgd", "mutate"}  # tested in tests/attacks/tabular, in boxes of single features
    assert {named.get(name, name) for name in set(attacks.__all__) - HELPERS - tabular} <= set(ATTACKS)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_every_box_gives_the_same_broken_examples(name: str, norm: str, box: tuple[float, float]) -> None:
    here, there = (attacked(name, norm, b, EPS[norm]) for b in ((0.0, 1.0), box))
    assert 1 < int(here.broken.sum()) < len(here.broken)
    assert torch.equal(there.broken, here.broken)
    assert torch.equal(there.cost, here.cost)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_every_box_gives_the_same_count_in_float32(name: str, norm: str) -> None:
    """One example of 24 may be as near to the boundary as the rounding of a box with ends of 1000."""
    here, there = (attacked(name, norm, b, EPS[norm], torch.float32) for b in ((0.0, 1.0), (-1000.0, 1000.0)))
    assert abs(int(there.broken.sum()) - int(here.broken.sum())) <= 1


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(
    ("name", "norm"), [c for c in CASES if c[0] in {"fab", "fmn", "ddn", "deepfool", "carlini_wagner"}]
)
def test_every_box_gives_the_same_distances(name: str, norm: str, box: tuple[float, float]) -> None:
    here, there = (attacked(name, norm, b, 0.0) for b in ((0.0, 1.0), box))
    width = 1.0 if norm == "l0" else box[1] - box[0]
    torch.testing.assert_close(there.min_distance / width, here.min_distance, rtol=1e-6, atol=1e-9)
