"""Every bound is below every valid point: all networks, norms and types in one table; and planted errors are caught by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel
from advreg.bounds import (
    InputSet,
    activations,
    affine,
    branching,
    interval_bounds,
    margin_rows,
    margins,
    optimised_margins,
    tight_intervals,
    trace,
)
from advreg.bounds.graph import Graph
from advreg.bounds.windows import local_path
from tests.bounds.networks import networks

RADII = {"linf": 0.15, "l2": 0.3, "l1": 0.5}
NETWORKS = networks()


def problem(
    name: str, norm: str, dtype: torch.dtype = torch.float64, n: int = 3
) -> tuple[Graph, InputSet, Tensor, nn.Module]:
    net, shape = NETWORKS[name]
    net = net.to(dtype)
    torch.manual_seed(1)
    x = torch.rand(n, *shape, dtype=dtype)
    with torch.no_grad():
        return trace(net, x), InputSet(x, ThreatModel(norm, RADII[norm])), net(x).argmax(1), net


def least_sampled(net: nn.Module, inputs: InputSet, y: Tensor, draws: int = 60) -> Tensor:
    """Return the least margins at many valid points, half of them at corners of the ball, ``(B, K-1)``."""
    ids, threat, x = torch.arange(len(y)), inputs.threat, inputs.x
    rows = margin_rows(y, 4, x.dtype)
    least = torch.full((len(y), 3), torch.inf, dtype=x.dtype)
    for seed in range(draws):
        point = threat.random_start(x, ids, seed)
        if seed % 2:
            point = threat.project(x + 10 * (point - x), x)
        with torch.no_grad():
            values = (net(point)[rows.examples] * rows.coefficients).sum(1)
        least = least.minimum(values.view(len(y), -1))
    return least


def bounds_of(graph: Graph, inputs: InputSet, y: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        plain, tight = interval_bounds(graph, *inputs.interval), tight_intervals(graph, inputs)
        crown = margins(graph, inputs, y, tight)
        return {
            "ibp": margins(graph, inputs, y, plain, depth=1).value,
            "crown": crown.value,
            "alpha": optimised_margins(graph, inputs, y, tight, crown).value,
        }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_are_below_every_valid_point(name: str, norm: str, dtype: torch.dtype) -> None:
    graph, inputs, y, net = problem(name, norm, dtype)
    least = least_sampled(net, inputs, y)
    for method, bound in bounds_of(graph, inputs, y).items():
        assert bool((bound <= least + 1e-5).all()), method
    for (low, high), value in zip(tight_intervals(graph, inputs), graph.values(inputs.x), strict=True):
        assert bool(((low <= value + 1e-5) & (value <= high + 1e-5)).all())


@pytest.mark.parametrize("norm", RADII)
def test_bound_of_a_linear_model_is_its_closed_form(norm: str) -> None:
    graph, inputs, y, net = problem("linear", norm)
    inner = InputSet(torch.full_like(inputs.x, 0.5), ThreatModel(norm, 0.1))  # the box is out of reach
    order = {"linf": 1, "l2": 2, "l1": float("inf")}[norm]
    rows = margin_rows(y, 4, torch.float64)
    weights = rows.coefficients @ net.weight
    expected = (rows.coefficients * net(inner.x)[rows.examples]).sum(1) - 0.1 * weights.norm(p=order, dim=1)
    assert torch.allclose(bounds_of(graph, inner, y)["crown"].flatten(), expected.detach(), atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_at_eps_0_are_the_margins(name: str) -> None:
    graph, inputs, y, net = problem(name, "linf")
    rows = margin_rows(y, 4, torch.float64)
    exact = (net(inputs.x)[rows.examples] * rows.coefficients).sum(1).view(len(y), -1)
    for bound in bounds_of(graph, InputSet(inputs.x, ThreatModel("linf", 0.0)), y).values():
        assert torch.allclose(bound, exact.detach(), atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "branches"])
def test_optimised_slopes_never_lower_a_bound(name: str) -> None:
    found = bounds_of(*problem(name, "linf")[:3])
    assert bool((found["alpha"] >= found["crown"]).all())


def test_windows_give_the_bounds_of_whole_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cnn", "grouped", "pooled", "residual", "weighted", "curved"):
        graph, inputs, _, _ = problem(name, "linf")
        last = [graph.nodes[i].inputs[0] for i in graph.activations if len(graph.nodes[i].shape) == 3][-1]
        assert local_path(graph, last) or name == "weighted"  # padding by itself keeps no window
        windowed = tight_intervals(graph, inputs)
        monkeypatch.setattr("advreg.bounds.tightening.local_path", lambda graph, position: None)
        for (low, high), (dense_low, dense_high) in zip(windowed, tight_intervals(graph, inputs), strict=True):
            assert torch.allclose(low, dense_low, atol=1e-9)
            assert torch.allclose(high, dense_high, atol=1e-9)
        monkeypatch.undo()


def test_bounds_of_examples_do_not_depend_on_their_batch() -> None:
    graph, inputs, y, _ = problem("cnn", "linf", n=4)
    whole = bounds_of(graph, inputs, y)["crown"]
    parts = [bounds_of(graph, inputs.select(torch.tensor([k])), y[k : k + 1])["crown"] for k in range(4)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-9)


@pytest.mark.parametrize("name", ["mlp", "cnn", "branches", "pooled"])
def test_branch_and_bound_proves_only_what_no_point_refutes(name: str) -> None:
    graph, inputs, y, net = problem(name, "linf")
    least = least_sampled(net, inputs, y, draws=300)
    decided = 0
    for k in range(len(y)):
        one = inputs.select(torch.tensor([k]))
        with torch.no_grad():
            intervals = tight_intervals(graph, one)
            for j, row in enumerate(margin_rows(y[k : k + 1], 4, torch.float64).coefficients):
                found = branching.branch_and_bound(graph, one, row[None], intervals, budget=300)
                decided += found.proved or found.point is not None
                assert not (found.proved and least[k, j] <= 0)
                if found.point is not None:
                    assert bool(one.threat.contains(found.point, one.x).all())
                    assert float((net(found.point) * row).sum()) <= 0
    assert decided > 0


def verify_each(*cases: tuple[str, str]) -> None:
    for name, norm in cases:
        test_bounds_are_below_every_valid_point(name, norm, torch.float64)


def _dropped_shift(*ends: Tensor, **_: object) -> activations.Lines:
    lines = activations_relu_lines(*ends[:2])
    return activations.Lines(lines.below, 0.0, lines.above, 0.0)


activations_relu_lines = activations.relu_lines


def _swapped(low: Tensor, high: Tensor, slope: Tensor | None = None) -> activations.Lines:
    lines = activations_relu_lines(low, high, slope)
    return activations.Lines(lines.above, lines.above_shift, lines.below, 0.0)


@pytest.mark.parametrize("lines", [_dropped_shift, _swapped])
def test_a_planted_error_in_a_relaxation_is_caught(
    monkeypatch: pytest.MonkeyPatch, lines: Callable[..., object]
) -> None:
    monkeypatch.setitem(
        activations.ACTIVATIONS,
        torch.ops.aten.relu.default,
        lambda *_: activations.Activation(torch.relu, lines, lambda low, high: (low < 0) & (high > 0)),
    )
    with pytest.raises(AssertionError):
        verify_each(("mlp", "linf"), ("cnn", "linf"), ("residual", "linf"))


def test_a_planted_radius_without_absolute_weights_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = affine.Kind(
        lambda run, args, shape, count: affine.Affine(run, lambda r: (r @ args[2]).abs(), None), lambda *_: True
    )
    monkeypatch.setitem(affine.AFFINE, torch.ops.aten.addmm.default, kind)
    with pytest.raises(AssertionError):
        verify_each(*(("mlp", norm) for norm in RADII))


def test_slope_below_the_leak_is_not_used() -> None:
    low, high = torch.tensor([-1.0]), torch.tensor([0.5])
    lines = activations.relu_lines(low, high, torch.zeros(1), leak=0.2)
    for z in torch.linspace(-1.0, 0.5, 31):
        value = torch.nn.functional.leaky_relu(z, 0.2)
        assert float(lines.below * z + lines.below_shift) <= float(value) + 1e-6


def test_a_domain_without_open_neurons_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a poor bound at every domain, and no counterexample, branch and bound ends without a proof."""
    graph, inputs, y, _ = problem("mlp", "linf", n=1)
    row = margin_rows(y, 4, torch.float64).coefficients[:1]
    monkeypatch.setattr(branching._Search, "_look_at_corners", lambda *_: None)
    with torch.no_grad():
        intervals = tight_intervals(graph, inputs)
        assert not branching.branch_and_bound(graph, inputs, row, intervals, budget=10**5, above=100.0).proved
