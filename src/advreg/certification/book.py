"""The rows of a certification, in memory and in its ledger, and the figures that they add up to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advreg import models
from advreg.certification.known_verdicts import read_known
from advreg.certification.undecided import Known
from advreg.evaluation.examples import Examples
from advreg.results.certificate import Certification, MethodSummary
from advreg.results.ledger_rows import Row
from advreg.runs import Ledger, RunFolder
from advreg.statistics import clopper_pearson_interval
from advreg.threat import ThreatModel


@dataclass(frozen=True)
class CertificationProgress:
    """How far a certification is: examples decided or left open, of how many, and how many are proved and broken."""

    done: int
    total: int
    proved: int
    broken: int


class Book:
    """The rows so far, in memory and, where a folder is given, in a ledger."""

    def __init__(
        self, protocol: str, folder: RunFolder | None, ledger: Ledger | None, settings: dict[str, Any], names: list[str]
    ) -> None:
        self.protocol = protocol
        self.folder, self.ledger = folder, ledger
        self.settings, self.names = settings, names
        self.known = Known()
        self.model = self.data = ""
        self.rows: dict[int, Row] = {} if ledger is None else {row["id"]: row for row in ledger.rows()}
        self.seconds: dict[str, float] = {}

    @classmethod
    def open(
        cls,
        protocol: str,
        out: str | Path | None,
        *,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        settings: dict[str, Any],
        names: list[str],
    ) -> Book:
        """Return a book with the rows of an earlier run of the same protocol, model, data and settings, if there was one.

        Args:
            protocol: frozen id; also the folder's name.
            out: run folder; None to keep the rows in memory.
            model: the original model.
            examples: what is certified.
            threat: the threat model.
            settings: options that the rows depend on.
            names: methods, in order.

        Returns:
            The book.

        Raises:
            RunError: the ledger is that of another model, data set or setting.
        """
        weights = models.describe(model)["sha256"]
        if out is None:
            book = cls(protocol, None, None, settings, names)
        else:
            folder = RunFolder.at(Path(out) / "evaluation" / protocol)
            identity = {"protocol": protocol, "data": examples.sha256, "n": len(examples), "model": weights, **settings}
            book = cls(protocol, folder, Ledger.open(folder / "ledger.jsonl", **identity), settings, names)
            book.known = read_known(folder.path.parent, protocol, threat, model=weights, data=examples.sha256)
        book.model, book.data = weights, examples.sha256
        return book

    def holds(self, ids: Tensor) -> bool:
        """Return whether an earlier run wrote the rows of these examples."""
        return all(i in self.rows for i in ids.tolist())

    def write(self, rows: list[Row]) -> None:
        """Append the rows of a chunk in one write."""
        self.rows.update({row["id"]: row for row in rows})
        if self.ledger is not None:
            self.ledger.append(rows)

    def progress(self, total: int) -> CertificationProgress:
        """Return how far the certification is.

        Args:
            total: examples in all.
        """
        verdicts = [row["verdict"] for row in self.rows.values()]
        return CertificationProgress(len(verdicts), total, verdicts.count("proved"), verdicts.count("broken"))

    def finish(self, threat: ThreatModel, examples: Examples, seed: int) -> Certification:
        """Return the figures, and write them.

        Args:
            threat: the threat model.
            examples: what was certified.
            seed: of random draws.

        Returns:
            The certification.
        """
        rows = [self.rows[i] for i in range(len(examples))]
        found = _summary(rows, threat, seed, self)
        if self.folder is not None:
            self.folder.write_json("certificate.json", found.record())
        return found


def _summary(rows: list[Row], threat: ThreatModel, seed: int, book: Book) -> Certification:
    n = len(rows)
    verdicts = {name: torch.tensor([row["verdict"] == name for row in rows]) for name in ("proved", "broken", "open")}
    proved, broken = int(verdicts["proved"].sum()), int(verdicts["broken"].sum())
    low = clopper_pearson_interval(proved, n, 0.95)[0]
    high = clopper_pearson_interval(n - broken, n, 0.95)[1]
    wrong = sum(row["method"] == "clean" for row in rows)
    counted = [row["unstable"] for row in rows if row["unstable"]]
    facts = {**book.settings, "unstable_mean": sum(counted) / len(counted) if counted else None}
    return Certification(
        protocol=book.protocol,
        threat=threat,
        n=n,
        seed=seed,
        clean_accuracy=(n - wrong) / n,
        certified_accuracy=proved / n,
        robust_accuracy=(n - broken) / n,
        interval=(low, high),
        **verdicts,
        lower=torch.tensor(
            [float("nan") if row["lower"] is None else row["lower"] for row in rows], dtype=torch.float64
        ),
        by_method=tuple(_method(name, rows, book) for name in book.names),
        forwards=sum(row["forwards"] for row in rows),
        backwards=sum(row["backwards"] for row in rows),
        bound_passes=sum(row.get("bound_passes", 0) for row in rows),
        seconds=sum(book.seconds.values()),
        model=book.model,
        data=book.data,
        facts=facts,
    )


def _method(name: str, rows: list[Row], book: Book) -> MethodSummary:
    steps = [row["method"] if row["method"] in {*book.names, "open"} else "known" for row in rows]
    mine = [row["verdict"] for row, step in zip(rows, steps, strict=True) if step == name]
    before = book.names[: book.names.index(name)]
    tried = sum(step not in before for step in steps)
    return MethodSummary(name, tried, mine.count("proved"), mine.count("broken"), book.seconds.get(name, 0.0))
