"""What a certificate proves, for an evaluation that attacks the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advreg.errors import DataError, RunError
from advreg.evaluation.examples import Examples
from advreg.results.ledger_rows import Row
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.results.certificate import Certification


def proved_ids(certificate: Certification, model: str, examples: Examples, threat: ThreatModel) -> frozenset[int]:
    """Return the ids that a certificate proves.

    Args:
        certificate: from `advreg.certify`.
        model: SHA-256 of the weights under evaluation.
        examples: what is evaluated.
        threat: the threat model.

    Returns:
        Example ids.

    Raises:
        DataError: it is a certificate of another model, data set or threat model, of fewer examples, or of a smoothed model.
    """
    wanted = {"model": model, "data": examples.sha256, "n": len(examples), "threat": _plain(threat)}
    found = {
        "model": certificate.model,
        "data": certificate.data,
        "n": certificate.n,
        "threat": _plain(certificate.threat),
    }
    for name, value in found.items():
        if value != wanted[name]:
            raise DataError(
                f"the certificate is of {name} {value}, and this evaluation of {wanted[name]}; certify the same model, "
                "examples and threat model"
            )
    if "sigma" in certificate.facts:
        raise DataError("the certificate is of the smoothed model, which is another one; give one of advreg.certify")
    return frozenset(certificate.proved.nonzero()[:, 0].tolist())


def _plain(threat: ThreatModel) -> str:
    return f"{threat.norm}:{float(threat.eps)!r}@{threat.box[0]!r},{threat.box[1]!r}{threat.suffix}"


def mark_proved(rows: list[Row], proved: frozenset[int]) -> list[Row]:
    """Return clean rows that say whether the example is proved.

    Args:
        rows: of the clean stage.
        proved: ids that a certificate proves.

    Returns:
        The rows.

    Raises:
        RunError: a misclassified example is proved.
    """
    wrong = next((row["id"] for row in rows if row["broken"] and row["id"] in proved), None)
    if wrong is not None:
        raise RunError(f"example {wrong} is proved by the certificate and misclassified here; one of them is wrong")
    return [{**row, "proved": row["id"] in proved} for row in rows]
