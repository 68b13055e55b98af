"""Curves of proved and unbroken shares, from the certificates of one run at several eps."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.report.facts import CertificateFacts, CurveFacts, CurvePointFacts
from advreg.report.formatting import eps_text, percent

Group = tuple[str, tuple[float, float], int, str]


def two_sided_curves(certificates: Sequence[CertificateFacts]) -> list[CurveFacts]:
    """Return one curve for each norm, box, model and data with certificates at two eps or more.

    A proof holds at every smaller eps and a counterexample at every larger one, so neither end of a curve rises.

    Args:
        certificates: of one run; those of smoothed models are left out.

    Returns:
        The curves, their points in increasing eps.
    """
    groups: dict[Group, dict[float, CertificateFacts]] = {}
    for each in certificates:
        if each.threat is not None and each.noise is None and not each.threat.features:
            key = (each.threat.norm, each.threat.box, each.n, each.source)
            groups.setdefault(key, {})[each.threat.eps] = each
    return [_curve(key, members) for key, members in groups.items() if len(members) > 1]


def _curve(key: Group, members: dict[float, CertificateFacts]) -> CurveFacts:
    ordered = sorted(members)
    points = []
    for k, eps in enumerate(ordered):
        proved = max(members[other].certified_accuracy for other in ordered[k:])
        unbroken = min(members[other].robust_accuracy for other in ordered[: k + 1])
        points.append(CurvePointFacts(eps, unbroken, certified_accuracy=proved))
    return CurveFacts(norm=key[0], attack="certified", n=key[2], points=tuple(points))


def describe(curve: CurveFacts) -> str:
    """Describe a curve with both ends in one sentence.

    Args:
        curve: points with both ends.

    Returns:
        One sentence.
    """
    parts = (
        f"{percent(point.certified_accuracy or 0.0, curve.n)} to {percent(point.robust_accuracy, curve.n)} at eps "
        f"{eps_text(point.eps)}"
        for point in (curve.points[0], curve.points[-1])
    )
    return f"Robust accuracy is between what is proved and what attacks leave: {', and '.join(parts)}."
