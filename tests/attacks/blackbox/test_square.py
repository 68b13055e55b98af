"""Square: its schedule, its windows, and its distance from known optima."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from advreg import ThreatModel, load_data, load_model
from advreg.attacks import pgd
from advreg.attacks.blackbox import square, window_share
from advreg.attacks.blackbox.square_windows import WindowGrid, bumps, put, take
from advreg.objectives import margin

from ..models import best_linear_gain, linear, small_cnn


@pytest.mark.parametrize(
    ("window", "halvings"),
    [
        (0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (200, 2), (201, 3), (500, 3), (501, 4), (1000, 4), (1001, 5),
        (2000, 5), (2001, 6), (4000, 6), (4001, 7), (4999, 7), (6001, 8), (8001, 9), (9999, 9),
    ],
)  # fmt: skip
def test_windows_halve_after_fixed_numbers_of_queries(window: int, halvings: int) -> None:
    assert window_share(window) == 0.8 / 2**halvings
    assert window_share(window, p=0.3) == 0.3 / 2**halvings


def test_rescaled_schedule_is_proportional_to_its_budget() -> None:
    assert [window_share(k, budget=100) for k in (0, 1, 2, 5, 6, 99)] == [
        0.8, 0.8 / 2**2, 0.8 / 2**2, 0.8 / 2**3, 0.8 / 2**4, 0.8 / 2**9,
    ]  # fmt: skip
    assert all(window_share(k, budget=10_000) == window_share(k) for k in range(0, 10_000, 37))


@pytest.mark.parametrize(
    ("shape", "share", "size"),
    [
        ((3, 32, 32), 0.8, (29, 29)), ((1, 28, 28), 0.00625, (2, 2)), ((1, 8, 8), 0.001, (1, 1)),
        ((30,), 0.2, (1, 6)), ((2, 40), 0.5, (1, 20)), ((1, 4, 100), 0.8, (4, 80)), ((1, 100, 4), 0.8, (80, 4)),
    ],
)  # fmt: skip
def test_window_covers_its_share(shape: tuple[int, ...], share: float, size: tuple[int, int]) -> None:
    assert WindowGrid.of(torch.zeros(1, *shape)).window(share) == size


def test_windows_stay_inside_and_reach_every_cell() -> None:
    grid = WindowGrid(2, 5, 7)
    u = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    u[0], u[1] = 0.0, 1 - 2.0**-24
    cells = grid.place(u, (2, 3))
    painted = put(torch.zeros(400, 2, 35), cells, 1.0)
    assert (painted.sum(2) == 6).all()
    assert (painted.sum((0, 1)) > 0).all()
    assert painted[0, 0].nonzero()[:, 0].tolist() == [0, 1, 2, 7, 8, 9]
    assert painted[1, 1].nonzero()[:, 0].tolist() == [25, 26, 27, 32, 33, 34]
    torch.testing.assert_close(take(painted, cells), torch.ones(400, 2, 6))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (5, 5), (1, 9), (4, 7)])
def test_bump_has_equal_positive_and_negative_mass(size: tuple[int, int]) -> None:
    both = bumps(*size)
    assert both.shape == (2, size[0] * size[1])
    assert (both != 0).all()
    for pattern in both if size != (1, 1) else []:
        torch.testing.assert_close(pattern[pattern > 0].norm(), pattern[pattern < 0].norm())
    if size == (5, 5):
        torch.testing.assert_close(both[0].view(5, 5), both[1].view(5, 5).T)


class Recorder:
    """A model with constant outputs that records its inputs."""

    def __init__(self, better: float = 0.0) -> None:
        self.seen: list[torch.Tensor] = []
        self.better = better

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.clone())
        loss = torch.full((len(x),), -1e6 + self.better * len(self.seen))
        return torch.stack([-loss, torch.zeros(len(x))], 1)


def test_square_linf_starts_with_stripes_and_repaints_windows() -> None:
    recorder, x = Recorder(), torch.full((6, 3, 10, 10), 0.5)
    square(recorder, x, torch.zeros(6, dtype=torch.int64), ThreatModel("linf", 0.1), queries=300)
    _, start, *queries, _ = recorder.seen
    torch.testing.assert_close((start - x).abs(), torch.full_like(x, 0.1))
    assert torch.equal(start, start[:, :, :1].expand_as(start))
    assert start.flatten(1).unique(dim=0).shape[0] == 6
    different = set()
    for k, point in enumerate(queries):
        changed = (point != start).any(1)
        side = WindowGrid(3, 10, 10).window(window_share(k))[0]
        assert (changed.flatten(1).sum(1) <= side**2).all()
        assert changed.flatten(1).any(1).all()  # no query is spent on what is known
        torch.testing.assert_close((point - x).abs(), torch.full_like(x, 0.1))
        different.add(changed.flatten(1).unique(dim=0).shape[0])
    assert max(different) > 4  # every example has a window of its own


def queried_points(norm: str, channels: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Return the clean inputs, the start and the queries of Square on a model with constant outputs."""
    x = torch.full((4, channels, 10, 10), 0.5, dtype=torch.float64)
    recorder = Recorder()
    square(recorder, x, torch.zeros(4, dtype=torch.int64), ThreatModel(norm, 0.5), queries=600)
    _, start, *queries, _ = recorder.seen
    return x, start, queries


@pytest.mark.parametrize(("norm", "channels"), [("l2", 2), ("l1", 1)])
def test_square_l2_and_l1_change_two_windows(norm: str, channels: int) -> None:
    _, start, queries = queried_points(norm, channels)
    for k, point in enumerate(queries):
        side = WindowGrid(channels, 10, 10).odd_window(window_share(k))[0]
        moved = ((point - start).abs() > 1e-9).any(1).flatten(1).sum(1)
        assert (moved <= 2 * side**2).all()
        assert (moved > 0).all()


@pytest.mark.parametrize(("norm", "channels"), [("l2", 2), ("l1", 1), ("l1", 3)])
def test_square_l2_and_l1_use_the_whole_budget(norm: str, channels: int) -> None:
    x, start, queries = queried_points(norm, channels)
    for point in [start, *queries]:
        torch.testing.assert_close(
            ThreatModel(norm, 0.5).distance(point, x), torch.full((4,), 0.5, dtype=torch.float64)
        )


def test_square_l1_breaks_as_much_as_the_reference(shared: Path) -> None:
    """The published program breaks 6 of these 16 with each of two seeds."""
    model = load_model("zoo:mnist-small", weights=shared / "checkpoints" / "mnist_wk17a_linf0.1.pth")
    x, y = load_data("mnist")[1].tensors(n=16)
    broken = [
        int(square(model, x, y, ThreatModel("l1", 6.0), queries=1000, seed=seed).broken.sum()) for seed in (1, 2, 3)
    ]
    assert sum(broken) >= 14


def test_l1_bumps_are_steeper_and_of_unit_length() -> None:
    for order, falloff in ((1, 4), (2, 2)):
        pattern = bumps(1, 7, order)[0]
        torch.testing.assert_close(pattern.norm(p=order), torch.tensor(1.0, dtype=torch.float64))
        rise = [sum((j + 1.0) ** -falloff for j in range(m, 3)) for m in range(3)]  # rings of the longer half, by hand
        torch.testing.assert_close(pattern[5] / pattern[4], torch.tensor(rise[0] / rise[1], dtype=torch.float64))


def test_square_margin_never_falls() -> None:
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = small_cnn()
    y, threat = model(x).argmax(1), ThreatModel("linf", 0.02)
    losses = [square(model, x, y, threat, queries=n, early_stop=False).loss for n in (1, 5, 25, 125)]
    for before, after in itertools.pairwise(losses):
        assert (after >= before - 1e-6).all()
    assert (losses[-1] > losses[0]).all()


@pytest.mark.parametrize(
    ("norm", "eps", "shape", "share"),
    [
        ("linf", 0.05, (1, 6, 6), 1.0),
        ("linf", 0.05, (36,), 1.0),
        ("linf", 0.05, (1, 3, 12), 1.0),
        ("l2", 0.3, (1, 6, 6), 0.8),
        ("l1", 0.8, (36,), 0.8),
    ],
)
def test_square_breaks_all_breakable_linear_examples(
    norm: str, eps: float, shape: tuple[int, ...], share: float
) -> None:
    x = torch.rand(50, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model, threat = linear(36, seed=3), ThreatModel(norm, eps)
    y = model(x).argmax(1)
    best = margin(model(x), y).detach()
    direction = (model[1].weight[1] - model[1].weight[0]).detach()
    for label, w in ((0, direction), (1, -direction)):
        best[y == label] += best_linear_gain(w, x[y == label], threat)
    found = square(model, x, y, threat, queries=1200)
    possible = best > 0
    assert not (found.broken & ~possible).any()
    assert 12 < possible.sum() < 45
    assert found.broken.sum() >= share * possible.sum()


def test_square_breaks_a_model_that_hides_its_gradient() -> None:
    inner = small_cnn()

    def masked(x: torch.Tensor) -> torch.Tensor:
        return inner((x * 32).round() / 32)

    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    y, threat = masked(x).argmax(1), ThreatModel("linf", 0.2)
    possible = pgd(inner, x, y, threat).broken
    assert pgd(masked, x, y, threat, start="zero").broken.sum() == 0
    assert possible.sum() > 20
    assert square(masked, x, y, threat, queries=1200, rescale=True).broken.sum() >= 0.8 * possible.sum()
