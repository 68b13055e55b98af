"""Outcomes: which examples an evaluation found wrong or broken, the unit of every paired comparison."""

from __future__ import annotations

from dataclasses import dataclass

from advreg.errors import RunError
from advreg.report.facts import EvaluationFacts, RunFacts
from advreg.report.record import Record


@dataclass(frozen=True)
class Outcomes:
    """The examples that one protocol found wrong or broken in one run.

    Attributes:
        run, protocol: label of the run and id of the protocol.
        data, n, seed: fingerprint and number of the examples, and the seed of the attacks.
        model: SHA-256 of the weights; empty where the results do not hold it.
        verdict: of the evaluation or its diagnosis.
        clean_errors, broken: ids of the misclassified examples, and of those that are misclassified or broken.
    """

    run: str
    protocol: str
    data: str
    n: int
    seed: int
    model: str
    verdict: str | None
    clean_errors: frozenset[int]
    broken: frozenset[int]

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """Two outcomes are paired only where this is equal."""
        return self.protocol, self.data, self.n, self.seed

    def record(self) -> dict[str, object]:
        """Return the outcomes as a JSON object."""
        return {
            **{key: value for key, value in vars(self).items() if key != "run"},
            "clean_errors": sorted(self.clean_errors),
            "broken": sorted(self.broken),
        }


def outcomes_of_row(run: str, row: Record) -> Outcomes:
    """Return outcomes from their JSON object.

    Args:
        run: label of the run.
        row: the object, as `Outcomes.record` gives it.

    Returns:
        The outcomes.
    """
    return Outcomes(
        run=run,
        protocol=row.text("protocol"),
        data=row.text("data"),
        n=row.count("n"),
        seed=row.count("seed"),
        model=row.text("model"),
        verdict=row.text("verdict") if row.has("verdict") else None,
        clean_errors=row.ids("clean_errors"),
        broken=row.ids("broken"),
    )


def outcomes(run: RunFacts) -> list[Outcomes]:
    """Return the outcomes of every evaluation of a run that has a ledger of all its examples.

    Args:
        run: facts of the run.

    Returns:
        One entry for each protocol.

    Raises:
        RunError: there is none.
    """
    found = [each for facts in run.evaluations if (each := of_evaluation(run.name, facts)) is not None]
    if not found:
        raise RunError(f"{run.path} has no evaluation with a whole ledger of classes; run advreg evaluate {run.path}")
    return found


def of_evaluation(run: str, facts: EvaluationFacts) -> Outcomes | None:
    """Return the outcomes of an evaluation; None where its ledger is missing, has no fingerprint or is not whole.

    Args:
        run: label of the run.
        facts: the evaluation.

    Returns:
        The outcomes, or None.
    """
    ledger = facts.ledger
    if ledger is None or not ledger.data or ledger.total != facts.n:
        return None
    model, seed = str(facts.model.get("sha256", "")), facts.seed
    return Outcomes(
        run, facts.protocol, ledger.data, facts.n, seed, model, facts.verdict, ledger.clean_errors, ledger.ids
    )
