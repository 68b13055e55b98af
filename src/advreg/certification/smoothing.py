"""Randomised smoothing: radii around the most likely class of any model under Gaussian noise, each wrong with chance 0.001.

model, data -> 100 noisy copies choose a class -> fresh copies count it -> lower bound of its chance -> radius -> rows -> ledger
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advreg import example_rng, models
from advreg.attacks.model import query_model
from advreg.certification.book import Book, CertificationProgress
from advreg.errors import ConfigError
from advreg.evaluation.examples import examples_of, threat_on
from advreg.evaluation.protocols import Protocol
from advreg.module_modes import eval_mode
from advreg.results.certificate import Certification
from advreg.results.ledger_rows import Row
from advreg.statistics import clopper_pearson_interval
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data

PROTOCOL = Protocol("smoothed", 1, ())
ERROR = 0.001
"""Chance that one certificate is wrong."""

_PORTION = 500
_SAVED = 16
"""Examples after which rows are written: each costs thousands of passes, and no row depends on another."""
_CHOOSING = range(100)  # streams of the draws that choose the class
_FIRST = 1_000_000  # of those that count it, which are others


def certify_smoothed(
    model: nn.Module,
    data: Data,
    threat: ThreatModel | str,
    *,
    sigma: float,
    samples: int = 10_000,
    n: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[CertificationProgress], None] | None = None,
) -> Certification:
    """Certify the smoothed model ``g(x) = argmax_k P(f(x + N(0, sigma^2 I)) = k)``, which is another model than ``f``.

    With ``p`` the exact lower bound (error 0.001) of the chance of the label, ``g`` keeps it within ``sigma Phi^-1(p)`` in l2:
    a norm that l1 is never below, and linf times the root of the dimension. An example is proved if that radius is at least
    eps, broken if ``g`` has another class or abstains at ``x`` itself, and open otherwise: no attack is run. One prediction of
    ``g`` costs as many passes as one certificate.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; any model, best trained on such noise (recipe ``gaussian``).
        data: a data set, a pair ``(x, y)``, a Dataset or a DataLoader.
        threat: norm and eps, one number for all examples.
        sigma: standard deviation of the noise in the units of the box.
        samples: noisy copies that count each example; they bound the largest radius that can be shown.
        n: how many examples, from the first; all by default.
        seed: seed of the noise, which depends on the example's id alone otherwise.
        out: run folder to write ``evaluation/<protocol id>/`` into; an interrupted certification there is resumed.
        on_progress: called after each 16 examples.

    Returns:
        A `Certification` of the smoothed model; ``radius`` of each example is in the ledger.

    Raises:
        ConfigError: ``sigma`` or ``samples`` with which no example could reach eps.
        DataError: inputs that do not fit the box or the labels.
        RunError: ``out`` holds the ledger of another model, data set or setting.

    Example:
        >>> net, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(2, 1, 2, 2)
        >>> found = certify_smoothed(net, (x, torch.tensor([0, 1])), "l2:0.1", sigma=0.5, samples=200)
        >>> found.protocol, found.n
        ('l2-0.1-smoothed@1', 2)

    Reference: Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019,
    arXiv:1902.02918.
    """
    threat = threat_on(data, threat)
    examples = examples_of(data, n, threat)
    model = models.among(model, examples.outputs)
    needed = _radius_needed(threat, examples.x[0].numel())
    _check(sigma, samples, needed)
    noise = _Noise(sigma, samples, seed)
    names = ["clean", "smoothing"]
    settings = {"sigma": sigma, "samples": samples, "error": ERROR, "seed": seed}
    book = Book.open(
        PROTOCOL.id(threat), out, model=model, examples=examples, threat=threat, settings=settings, names=names
    )
    with eval_mode(model), torch.no_grad():
        for ids in torch.split(torch.arange(len(examples)), _SAVED):
            if not book.holds(ids):
                began = time.process_time()
                rows = []
                for i in ids.tolist():
                    chosen = int(noise.classes(model, examples.x[i], i, _CHOOSING).argmax())
                    count = int(noise.classes(model, examples.x[i], i, range(_FIRST, _FIRST + samples))[chosen])
                    rows.append(_row(i, int(examples.y[i]), chosen, smoothed_radius(count, samples, sigma), needed))
                    rows[-1]["forwards"] = samples + len(_CHOOSING)
                book.seconds["smoothing"] = book.seconds.get("smoothing", 0.0) + time.process_time() - began
                book.write(rows)
            if on_progress:
                on_progress(book.progress(len(examples)))
    return book.finish(threat, examples, seed)


def smoothed_radius(count: int, samples: int, sigma: float) -> float:
    """Return the l2 radius within which the smoothed model keeps a class that it had in ``count`` of the samples.

    Args:
        count: noisy copies of the class.
        samples: noisy copies in all.
        sigma: standard deviation of the noise.

    Returns:
        ``sigma Phi^-1(p)`` with the exact lower bound ``p`` of the chance; 0 where that is at most one half.

    Example:
        >>> round(smoothed_radius(1000, 1000, sigma=0.5), 2), smoothed_radius(510, 1000, sigma=0.5)
        (1.23, 0.0)
    """
    chance = clopper_pearson_interval(count, samples, 1 - 2 * ERROR)[0]
    return sigma * NormalDist().inv_cdf(chance) if chance > 0.5 else 0.0


def _radius_needed(threat: ThreatModel, dimension: int) -> float:
    """Return the l2 radius of the smallest ball around the threat model's."""
    eps = float(threat.eps)
    return eps * math.sqrt(dimension) if threat.norm == "linf" else eps


@dataclass(frozen=True)
class _Noise:
    """The noisy copies of each example: deviation, number that count, seed."""

    sigma: float
    samples: int
    seed: int

    def classes(self, model: nn.Module, x: Tensor, i: int, streams: range) -> Tensor:
        """Return how many noisy copies of an input, one for each stream of draws, have each class ``(K,)``."""
        total: Tensor | int = 0
        for part in torch.split(torch.arange(streams.start, streams.stop, device=x.device), _PORTION):
            noise = example_rng.normal(torch.full_like(part, i), tuple(x.shape), self.seed, part, x.dtype)
            z = query_model(model, x + self.sigma * noise)
            total = total + torch.bincount(z.argmax(1), minlength=z.shape[1])
        assert isinstance(total, Tensor)
        return total


def _check(sigma: float, samples: int, needed: float) -> None:
    if not 0 < sigma < math.inf:
        raise ConfigError(f"sigma is {sigma}; give the standard deviation of the noise, above 0, such as 0.5")
    if samples < 1:
        raise ConfigError(f"samples is {samples}; give 1 or more, such as 10000")
    most = smoothed_radius(samples, samples, sigma)
    if most < needed:
        raise ConfigError(
            f"with sigma {sigma:g} and {samples} samples no l2 radius above {most:.3g} can be shown, and this threat model "
            f"needs {needed:.3g}; give more samples, a larger sigma, or a smaller eps"
        )


def _row(i: int, label: int, chosen: int, radius: float, needed: float) -> Row:
    correct = chosen == label and radius > 0
    proved = correct and radius >= needed
    return {
        "attack": "certificate",
        "id": i,
        "label": label,
        "verdict": "proved" if proved else "open" if correct else "broken",
        "method": "smoothing" if proved else "open" if correct else "clean",
        "broken": not correct,
        "radius": radius,
        "lower": None,
        "unstable": 0,
        "forwards": 0,
        "backwards": 0,
    }
