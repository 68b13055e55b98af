"""Metrics for Prometheus: counters of this process, and gauges read from the store at each scrape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import aliases, examples, gates, snapshots


class Metrics:
    """Counters of one process and gauges read from the store."""

    def __init__(self, store: Store) -> None:
        self.registry = CollectorRegistry()
        self.store = store
        known = {"registry": self.registry, "namespace": "advreg"}
        self.ingested = Counter("examples_ingested", "Examples stored by this process.", ["tier"], **known)  # type: ignore[arg-type]
        self.copies = Counter("examples_seen_again", "Uploads whose bytes were there already.", ["tier"], **known)  # type: ignore[arg-type]
        self.refused = Counter("uploads_refused", "Uploads rejected, by status.", ["status"], **known)  # type: ignore[arg-type]
        self.seconds = Histogram("ingest_seconds", "Time from the whole body to the acknowledgement.", **known)  # type: ignore[arg-type]
        self.registry.register(self)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format.

        Raises:
            StoreDown: the database does not respond.
        """
        return generate_latest(self.registry)

    def describe(self) -> list[Any]:
        """Return nothing, so that creating the registry does not query the database."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the gauges, read from the store now."""
        now = self.store.clock()
        with self.store.reading() as db:
            yield from _states(db, now)
            yield from _models(db, now)


def _states(db: sa.Connection, now: float) -> Iterator[Any]:
    states = GaugeMetricFamily("advreg_examples", "Examples by state.", labels=["state"])
    count = sa.select(examples.c.state, sa.func.count(), sa.func.min(examples.c.received_at)).group_by(examples.c.state)
    found = {state: (number, oldest) for state, number, oldest in db.execute(count)}
    for state in ExampleStatus:
        states.add_metric([state], found.get(state, (0, now))[0])
    yield states
    number, oldest = found.get(ExampleStatus.QUARANTINED, (0, now))
    yield GaugeMetricFamily("advreg_quarantine_size", "Examples that wait for a review.", value=number)
    yield GaugeMetricFamily("advreg_review_age_seconds", "Age of the oldest one that waits.", value=now - oldest)
    newest = db.execute(sa.select(snapshots.c.manifest).order_by(snapshots.c.at.desc()).limit(1)).scalar()
    shares = GaugeMetricFamily("advreg_snapshot_share", "Share of the newest snapshot.", labels=["principal"])
    if newest is not None:
        manifest = json.loads(newest)
        size = manifest["clean"]["n"] + len(manifest["members"])
        for principal in sorted({member["principal"] for member in manifest["members"]}):
            mine = sum(member["principal"] == principal for member in manifest["members"])
            shares.add_metric([principal], mine / size)
    yield shares


def _models(db: sa.Connection, now: float) -> Iterator[Any]:
    decisions = CounterMetricFamily("advreg_gate_decisions", "Decisions of the gate.", labels=["verdict"])
    for verdict, number in db.execute(sa.select(gates.c.verdict, sa.func.count()).group_by(gates.c.verdict)):
        decisions.add_metric([verdict], number)
    yield decisions
    robust = GaugeMetricFamily("advreg_robust_accuracy", "As the last gate measured.", labels=["model", "protocol"])
    last = db.execute(sa.select(gates).order_by(gates.c.id.desc()).limit(1)).mappings().first()
    if last is not None:
        record = json.loads(last["record"])
        for role in ("champion", "challenger"):
            robust.add_metric([last[role], record[role]["protocol"]], record[role]["robust_accuracy"])
    yield robust
    since = db.execute(sa.select(aliases.c.at).where(aliases.c.name == "champion")).scalar()
    if since is not None:
        yield GaugeMetricFamily("advreg_champion_age_seconds", "Since the champion was promoted.", value=now - since)
