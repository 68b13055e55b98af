"""Baselines: the outcome of each example of a run, kept under a name, and exact paired tests of later runs against it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advreg.errors import ConfigError, RunError, did_you_mean
from advreg.report import read
from advreg.report.facts import Interval, RunFacts
from advreg.report.formatting import percent
from advreg.report.outcomes import Outcomes, outcomes, outcomes_of_row
from advreg.report.record import load
from advreg.runs import RunFolder
from advreg.statistics import holm, mcnemar, tango_interval

SCHEMA = "advreg/baseline@1"
FOLDER = Path(".advreg/baselines")
"""Folder of the stored baselines, below the working folder; it belongs into version control."""
ALPHA = 0.05
"""Level of all tests of one comparison together."""


@dataclass(frozen=True)
class Change:
    """One accuracy of a run against that of the baseline, on the same examples.

    Attributes:
        run, protocol: label of the run and id of the protocol.
        figure: ``clean`` or ``robust``.
        before, after: the accuracy of the baseline and of the run.
        lost, gained: examples that only the baseline, and only the run, gets right.
        n: number of examples.
        interval: 95% interval of after minus before (Tango).
        p: one-sided exact McNemar test that the run is worse, adjusted for all tests of the comparison (Holm).
        verdict: of the run's figure.
    """

    run: str
    protocol: str
    figure: str
    before: float
    after: float
    lost: int
    gained: int
    n: int
    interval: Interval
    p: float
    verdict: str | None = None

    @property
    def problem(self) -> str:
        """Reason against the run in one line; empty where there is none."""
        if self.figure == "robust" and self.verdict == "UNRELIABLE":
            return f"{self.run}, {self.protocol}: the diagnosis calls the robust accuracy UNRELIABLE"
        if self.p > ALPHA:
            return ""
        figures = f"{percent(self.before, self.n)} to {percent(self.after, self.n)}"
        return (
            f"{self.run}, {self.protocol}: {self.figure} accuracy fell from {figures} "
            f"({self.lost} lost, {self.gained} gained of {self.n}, p = {self.p:.2g})"
        )


def save(run: Path | str, name: str) -> Path:
    """Store the outcomes of a run as a baseline, in place of one of that name.

    Args:
        run: the run folder.
        name: of letters, digits, dots, dashes and underscores.

    Returns:
        The file, ``.advreg/baselines/NAME.json``; equal runs give equal bytes.

    Raises:
        ConfigError: another name.
        RunError: no run folder, or one without a ledger.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(
            f"--save-baseline is {name!r}; use letters, digits, dots, dashes and underscores, such as main"
        )
    kept = outcomes(read.run(run))
    lines = [json.dumps(each.record(), sort_keys=True) for each in kept]
    text = (
        f'{{"schema": "{SCHEMA}", "run": {json.dumps(kept[0].run)}, "evaluations": [\n' + ",\n".join(lines) + "\n]}\n"
    )
    return RunFolder.at(FOLDER).write(f"{name}.json", text)


def find(name: str) -> list[Outcomes]:
    """Return the outcomes of a baseline: a run folder, or a stored name.

    Args:
        name: a run folder, or the name that `save` stored it under.

    Returns:
        One entry for each protocol.

    Raises:
        RunError: neither a run folder nor a name, or a damaged file.
    """
    file = FOLDER / f"{name}.json"
    if file.is_file():
        record = load(file, SCHEMA)
        return [outcomes_of_row(record.text("run"), row) for row in record.rows("evaluations")]
    if Path(name).is_dir():
        return outcomes(read.run(name))
    known = sorted(each.stem for each in FOLDER.glob("*.json"))
    stored = f"stored: {', '.join(known)}.{did_you_mean(name, known)}" if known else "none is stored"
    raise RunError(f"--baseline is {name!r}: no run folder, and no baseline ({stored}); store one with --save-baseline")


def changes(runs: Sequence[RunFacts], baseline: Sequence[Outcomes]) -> list[Change]:
    """Test every run against the baseline, under each protocol that both were measured with on the same examples.

    Args:
        runs: facts of the runs.
        baseline: outcomes of the baseline.

    Returns:
        Clean and robust accuracy for each run and protocol.

    Raises:
        RunError: a run that shares no evaluation with the baseline.
    """
    known = {each.identity: each for each in baseline}
    found: list[Change] = []
    for run in runs:
        pairs = [(known[each.identity], each) for each in outcomes(run) if each.identity in known]
        if not pairs:
            raise RunError(_mismatch(run, baseline))
        found += [change for before, after in pairs for change in _changes(before, after)]
    adjusted = holm([each.p for each in found])
    return [replace(each, p=p) for each, p in zip(found, adjusted, strict=True)]


def _mismatch(run: RunFacts, baseline: Sequence[Outcomes]) -> str:
    wanted = ", ".join(f"{each.protocol} (n {each.n}, seed {each.seed}, data {each.data[:8]})" for each in baseline)
    given = ", ".join(f"{e.protocol} (n {e.n}, seed {e.seed}, data {e.data[:8]})" for e in outcomes(run))
    return f"{run.name} was measured with {given}, the baseline with {wanted}; evaluate both in the same way"


def _changes(before: Outcomes, after: Outcomes) -> list[Change]:
    figures = {"clean": (before.clean_errors, after.clean_errors), "robust": (before.broken, after.broken)}
    return [_change(after, figure, *wrong) for figure, wrong in figures.items()]


def _change(after: Outcomes, figure: str, old: frozenset[int], new: frozenset[int]) -> Change:
    lost, gained = len(new - old), len(old - new)
    n = after.n
    return Change(
        run=after.run,
        protocol=after.protocol,
        figure=figure,
        before=1 - len(old) / n,
        after=1 - len(new) / n,
        lost=lost,
        gained=gained,
        n=n,
        interval=tango_interval(lost, gained, n),
        p=mcnemar(lost, gained, "greater"),
        verdict=after.verdict,
    )
