"""Thresholds for the figures of a run, as JUnit XML for continuous integration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from advreg.errors import ConfigError, RunError, did_you_mean
from advreg.report.facts import EvaluationFacts, RunFacts
from advreg.report.formatting import interval, percent

_FIGURES: dict[str, Callable[[EvaluationFacts], float | None]] = {
    "clean": lambda facts: facts.clean_accuracy,
    "robust": lambda facts: facts.robust_accuracy,
    "robust-low": lambda facts: facts.interval[0] if facts.interval else None,
}


@dataclass(frozen=True)
class Threshold:
    """The smallest acceptable value of a figure.

    Attributes:
        figure: ``clean``, ``robust``, or ``robust-low``, the lower end of the interval of robust accuracy.
        least: from 0 to 1.
    """

    figure: str
    least: float

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Parse a threshold such as ``robust=0.45``.

        Args:
            text: ``FIGURE=SHARE``.

        Returns:
            The threshold.

        Raises:
            ConfigError: an unknown figure, or no number from 0 to 1.

        Example:
            >>> Threshold.parse("robust=0.45")
            Threshold(figure='robust', least=0.45)
        """
        figure, _, least = text.partition("=")
        if figure not in _FIGURES:
            names = ", ".join(_FIGURES)
            raise ConfigError(f"--fail-under is {text!r}; figures: {names}.{did_you_mean(figure, _FIGURES)}")
        try:
            value = float(least)
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"--fail-under is {text!r}; write a number from 0 to 1, such as {figure}=0.45")
        return cls(figure, value)


@dataclass(frozen=True)
class Case:
    """One threshold checked on one evaluation.

    Attributes:
        protocol: protocol id of the evaluation.
        name: the threshold in words.
        figures: the figures in words.
        seconds: wall time of the evaluation.
        problem: reason of the failure; empty if the threshold is reached.
    """

    protocol: str
    name: str
    figures: str
    seconds: float
    problem: str


def cases(run: RunFacts, thresholds: Iterable[Threshold]) -> list[Case]:
    """Check every threshold on every evaluation of a run; without thresholds, each evaluation is one case that passes.

    A robust accuracy that a diagnosis calls UNRELIABLE never reaches a threshold.

    Args:
        run: with at least one evaluation.
        thresholds: may be empty.

    Returns:
        One case for each threshold and evaluation.

    Raises:
        RunError: the run has no evaluation.
    """
    if not run.evaluations:
        raise RunError(f"{run.path} holds no evaluation to check; run advreg evaluate first")
    required = list(thresholds)
    return [case for facts in run.evaluations for case in _cases(facts, required)]


def _cases(facts: EvaluationFacts, thresholds: Sequence[Threshold]) -> list[Case]:
    figures = f"clean {percent(facts.clean_accuracy, facts.n)}, robust {percent(facts.robust_accuracy, facts.n)}"
    figures += f" ({interval(facts.interval, facts.n)}), n {facts.n}, seed {facts.seed}"
    seconds = facts.seconds or 0.0
    if not thresholds:
        return [Case(facts.protocol, "evaluated", figures, seconds, "")]
    return [
        Case(facts.protocol, f"{one.figure} at least {one.least:g}", figures, seconds, _problem(facts, one))
        for one in thresholds
    ]


def _problem(facts: EvaluationFacts, threshold: Threshold) -> str:
    value = _FIGURES[threshold.figure](facts)
    if facts.verdict == "UNRELIABLE" and threshold.figure != "clean":
        return "the diagnosis calls this figure UNRELIABLE"
    if value is None:
        return f"the results hold no {threshold.figure}"
    return "" if value >= threshold.least else f"{threshold.figure} is {value:.4f}, below {threshold.least:g}"


def junit(run: RunFacts, cases: Sequence[Case]) -> str:
    """Return cases as JUnit XML, one suite for each protocol.

    Args:
        run: facts of the run; its name is the name of the suites.
        cases: checked thresholds, from `cases`.

    Returns:
        The XML document.
    """
    root = ElementTree.Element("testsuites", {"name": f"advreg {run.name}", **_tally(cases)})
    for protocol in dict.fromkeys(case.protocol for case in cases):
        members = [case for case in cases if case.protocol == protocol]
        suite = ElementTree.SubElement(root, "testsuite", {"name": protocol, **_tally(members)})
        for case in members:
            _add(suite, run, case)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(suite: ElementTree.Element, run: RunFacts, case: Case) -> None:
    name = f"{run.name}.{case.protocol}"
    element = ElementTree.SubElement(suite, "testcase", classname=name, name=case.name, time=f"{case.seconds:.3f}")
    if case.problem:
        ElementTree.SubElement(element, "failure", message=case.problem, type="threshold").text = case.figures
    ElementTree.SubElement(element, "system-out").text = case.figures


def _tally(cases: Sequence[Case]) -> dict[str, str]:
    failures = sum(bool(case.problem) for case in cases)
    return {"tests": str(len(cases)), "failures": str(failures), "errors": "0"}
