"""Exact distances to the boundary by other means: linear programs, a root, and enumeration of ReLU patterns."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.optimize import brentq, linprog
from torch import Tensor, nn

from advreg.attacks.minimum_norm.hyperplane_projection import onto_plane
from advreg.threat import Norm

Rows = tuple[np.ndarray, np.ndarray]
"""``A d <= b``."""


def box_rows(x: np.ndarray) -> Rows:
    """Offsets that keep ``x`` in [0, 1]."""
    eye = np.eye(len(x))
    return np.vstack([eye, -eye]), np.concatenate([1 - x, x])


def least_linf(rows: Rows) -> float:
    """Least ``max |d_i|`` over a polyhedron, inf if it is empty: variables d and t."""
    a, b = rows
    n = a.shape[1]
    bound = np.hstack([np.vstack([np.eye(n), -np.eye(n)]), -np.ones((2 * n, 1))])
    lhs = np.vstack([np.hstack([a, np.zeros((len(a), 1))]), bound])
    found = linprog(np.eye(n + 1)[-1], lhs, np.concatenate([b, np.zeros(2 * n)]), bounds=(None, None))
    return float(found.fun) if found.status == 0 else np.inf


def least_l1(rows: Rows) -> float:
    """Least ``sum |d_i|`` over a polyhedron: d is the difference of two vectors that are not negative."""
    a, b = rows
    found = linprog(np.ones(2 * a.shape[1]), np.hstack([a, -a]), b, bounds=(0, None))
    return float(found.fun) if found.status == 0 else np.inf


def least_l2(rows: Rows) -> float:
    """Least ``||d||`` over a polyhedron in few dimensions: the nearest point lies on some set of active rows; try all."""
    a, b = rows
    best = 0.0 if (b >= -1e-9).all() else np.inf
    for size in range(1, a.shape[1] + 1):
        active = np.array(list(itertools.combinations(range(len(a)), size)))
        d = (np.linalg.pinv(a[active]) @ b[active][..., None])[..., 0]
        feasible = (d @ a.T <= b + 1e-9).all(1)
        best = min(best, np.linalg.norm(d[feasible], axis=1).min(initial=np.inf))
    return float(best)


LEAST = {"linf": least_linf, "l2": least_l2, "l1": least_l1}


def to_plane(norm: str, w: np.ndarray, value: float, x: np.ndarray) -> float:
    """Distance from ``x`` to ``{value + <w, d> = 0}`` inside [0, 1], ``inf`` if it misses the box."""
    room = np.where(-w * np.sign(value) > 0, 1 - x, x)
    if (np.abs(w) * room).sum() < abs(value):
        return np.inf
    if norm != "l2":
        a, b = box_rows(x)
        sign = np.sign(value)
        return LEAST[norm]((np.vstack([a, sign * w]), np.append(b, -abs(value))))
    moved = lambda t: np.minimum(t * np.abs(w), room)  # noqa: E731
    t = brentq(lambda t: (np.abs(w) * moved(t)).sum() - abs(value), 0, 1e6, xtol=1e-15)
    return float(np.linalg.norm(moved(t)))


def linear_distances(norm: str, model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Distance of each x from the nearest boundary of a linear network, inside the box."""
    weight, bias = (p.detach().numpy() for p in model[1].parameters())
    distances = []
    for point, label in zip(x.flatten(1).numpy(), y.tolist(), strict=True):
        z = weight @ point + bias
        others = [k for k in range(len(z)) if k != label]
        distances.append(min(to_plane(norm, weight[k] - weight[label], z[k] - z[label], point) for k in others))
    return torch.tensor(distances, dtype=torch.float64)


def relu_distances(norm: str, model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Distance of each x from the nearest boundary of ``Linear, ReLU, Linear``: every linear region, every other class."""
    (w1, b1), (w2, b2) = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in (model[0], model[2])
    )
    patterns = [np.array(p, dtype=float) for p in itertools.product((0, 1), repeat=len(b1))]
    live = [p for p in patterns if least_linf(_region(w1, b1, p, np.full(w1.shape[1], 0.5))) < np.inf]
    distances = []
    for point, label in zip(x.numpy(), y.tolist(), strict=True):
        least = np.inf
        for p, k in itertools.product(live, range(len(b2))):
            if k != label:
                lead = (w2[k] - w2[label]) * p
                a, b = _region(w1, b1, p, point)
                gap = b2[k] - b2[label] + lead @ (w1 @ point + b1)
                least = min(least, LEAST[norm]((np.vstack([a, -lead @ w1]), np.append(b, gap))))
        distances.append(least)
    return torch.tensor(distances, dtype=torch.float64)


def _region(w: np.ndarray, b: np.ndarray, pattern: np.ndarray, x: np.ndarray) -> Rows:
    """Offsets from ``x`` inside the box for which the hidden units are on and off as in the pattern."""
    sign = 1 - 2 * pattern[:, None]
    box_a, box_b = box_rows(x)
    return np.vstack([box_a, sign * w]), np.concatenate([box_b, -sign[:, 0] * (w @ x + b)])


def relu_network(seed: int, inputs: int = 2, hidden: int = 5, classes: int = 3) -> nn.Sequential:
    """A random network of one hidden layer, its kinks and boundaries inside the box."""
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)).double()
    net[0].weight.data = torch.randn(hidden, inputs, generator=g, dtype=torch.float64)
    through = torch.rand(hidden, inputs, generator=g, dtype=torch.float64)
    net[0].bias.data = -(net[0].weight.data * through).sum(1)
    net[2].weight.data = torch.randn(classes, hidden, generator=g, dtype=torch.float64)
    net[2].bias.data = 0.1 * torch.randn(classes, generator=g, dtype=torch.float64)
    return net.eval()


def fab_t_distances(
    norm: Norm, model: nn.Module, x: Tensor, y: Tensor, steps: int, targets: int, overshoot: float = 1.05
) -> Tensor:
    """Distances that targeted FAB finds as published: one example and class at a time, two queries of the model a step."""
    clean, best = model(x).detach(), torch.full((len(x),), torch.inf, dtype=torch.float64)
    for k, rank in itertools.product(range(len(x)), range(targets)):
        others = [c for c in clean[k].argsort(descending=True).tolist() if c != y[k]]
        start, at = x[k : k + 1], x[k : k + 1]
        for _ in range(steps):
            point = at.detach().requires_grad_()
            lead = (model(point)[0, others[rank]] - model(point)[0, y[k]])[None]
            grad = torch.autograd.grad(lead.sum(), point)[0].flatten(1)
            near, far = (_onto(norm, grad, lead.detach(), at, place) for place in (at, start))
            share = min(0.1, float(_length(norm, near) / (_length(norm, near) + _length(norm, far)).clamp_min(1e-30)))
            at = ((1 - share) * (at + overshoot * near) + share * (start + overshoot * far)).clamp(0, 1)
            if model(at).argmax(1) != y[k]:
                best[k] = min(best[k], _length(norm, at - start))
                at = start + 0.9 * (at - start)
    return best


def deepfool_distances(norm: Norm, model: nn.Module, x: Tensor, y: Tensor, steps: int = 50) -> Tensor:
    """Distances that DeepFool finds as published, for linf and l2: steps as long as without a box, then clipped."""
    dual, best = {"linf": 1, "l2": 2}[norm], torch.full((len(x),), torch.inf, dtype=torch.float64)
    for k in range(len(x)):
        at, total, label = x[k : k + 1], torch.zeros_like(x[k : k + 1]), int(y[k])
        for _ in range(steps):
            point = at.detach().requires_grad_()
            z = model(point)[0]
            if int(z.argmax()) != label:
                best[k] = _length(norm, at - x[k])
                break
            ways = []
            for other in range(len(z)):
                if other != label:
                    lead = z[other] - z[label]
                    grad = torch.autograd.grad(lead, point, retain_graph=True)[0]
                    ways.append((float(lead.detach().abs() / grad.norm(p=dual)), grad))
            way, grad = min(ways, key=lambda found: found[0])
            total = total + way * (grad.sign() if norm == "linf" else grad / grad.norm())
            at = (x[k : k + 1] + 1.02 * total).clamp(0, 1)
    return best


def _length(norm: Norm, d: Tensor) -> Tensor:
    return torch.linalg.vector_norm(d, {"linf": torch.inf, "l2": 2, "l1": 1}[norm])


def _onto(norm: Norm, grad: Tensor, lead: Tensor, at: Tensor, place: Tensor) -> Tensor:
    flat = place.flatten(1)
    value = lead + (grad * (flat - at.flatten(1))).sum(1)
    return onto_plane(norm, grad, value, -flat, 1 - flat).view_as(place)
