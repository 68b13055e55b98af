"""Evaluation, gate and promotion of a challenger."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening import registry
from advreg.hardening.cycle.context import ACTOR, CycleContext
from advreg.hardening.gate import Decision, gate
from advreg.hardening.known_examples import SEEDER
from advreg.hardening.mlflow_sync import sync_to_mlflow
from advreg.hardening.states import ExampleStatus, ModelStatus
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.examples import Row, examples_in_state
from advreg.hardening.store.tables import examples, gates, models, reviews, spent
from advreg.runs import RunFolder

_CONFIRMED = (ExampleStatus.REVIEWED, ExampleStatus.ACCEPTED, ExampleStatus.IN_SNAPSHOT)


def compare_and_promote(context: CycleContext, version: str, champion: str) -> Decision | None:
    """Evaluate a challenger and the champion, run the gate, and promote the challenger if it passes.

    Args:
        context: the resources of the cycle.
        version: the challenger.
        champion: the current champion.

    Returns:
        The gate's decision; None if an earlier cycle has made it.
    """
    with context.store.reading() as db:
        row, champion_row = registry.model(db, version), registry.model(db, champion)
    decision = None
    if row["stage"] != ModelStatus.PASSED:
        challenger_run, champion_run = context.run(row["run"]), context.run(champion_row["run"])
        _require_unspent(context, challenger_run)
        _evaluate(context, challenger_run, champion_run)
        if row["stage"] == ModelStatus.TRAINED:
            context.set_stage(version, ModelStatus.EVALUATED)
        decision = _run_gate(context, challenger_run, champion_run)
        _record(context, decision, version, champion, challenger_run)
        if not decision.promote:
            return decision
    if _promote(context, version):
        context.report(f"promotion: {version} is the champion, {champion} the previous one")
        sync_to_mlflow(context.workspace, context.store)
    return decision


def _require_unspent(context: CycleContext, challenger: RunFolder) -> None:
    """Raise if sealed examples were used as often as planned: each use costs a share of alpha."""
    planned, sealed = context.workspace.config.gate.gates, set(context.backend.holdout_ids(challenger))
    uses = sa.select(spent.c.example, sa.func.count()).group_by(spent.c.example)
    with context.store.reading() as db:
        used = {name: count for name, count in db.execute(uses) if name in sealed}
    if exhausted := sum(count >= planned for count in used.values()):
        raise HardeningError(
            f"{exhausted} of {len(sealed)} sealed examples were used {planned} times, as planned; rotate them: "
            f"{context.backend.rotation_hint}"
        )


def find_incidents(db: sa.Connection, reviewers: int) -> list[Row]:
    """Return the examples that every challenger must get right: enough reviewers agree on the label.

    Known examples, which measure the reviewers, are none of them.

    Args:
        db: an open transaction.
        reviewers: how many must agree; see `advreg.hardening.config.HardeningConfig.incident_reviewers`.
    """
    agree = sa.and_(~reviews.c.undone, reviews.c.label == examples.c.label)
    votes = sa.select(reviews.c.example).join(examples).where(agree).group_by(reviews.c.example)
    enough = set(db.execute(votes.having(sa.func.count() >= reviewers)).scalars())
    rows = examples_in_state(db, *_CONFIRMED)
    return [row for row in rows if row["sha256"] in enough and row["token"] != SEEDER]


def _evaluate(context: CycleContext, challenger: RunFolder, champion: RunFolder) -> None:
    with context.store.reading() as db:
        incidents = find_incidents(db, context.workspace.config.incident_reviewers)
    context.report(f"trial: {context.backend.evaluate(context.store, incidents, challenger, champion)}")


def _run_gate(context: CycleContext, challenger: RunFolder, champion: RunFolder) -> Decision:
    rules = context.workspace.config.gate
    return gate(
        champion.path,
        challenger.path,
        protocol=context.backend.protocol_id(challenger),
        clean_margin=rules.clean_margin,
        slice_margin=rules.slice_margin,
        alpha=rules.alpha / rules.gates,
        classes=rules.classes,
        waivers=rules.waivers,
        require=context.backend.required_evidence,
        out=challenger.path,
    )


def _record(context: CycleContext, decision: Decision, version: str, champion: str, challenger: RunFolder) -> None:
    """Write the decision, its hash and the spent examples in one transaction."""
    sealed = sorted(set(context.backend.holdout_ids(challenger)))
    names = {"champion": champion, "challenger": version, "verdict": decision.verdict}
    facts = {
        "sealed": hashlib.sha256("".join(sealed).encode()).hexdigest(),
        "decision": decision.sha256,
        "record": json.dumps(decision.record(), sort_keys=True),
    }
    with context.writing() as db:
        at = context.store.clock()
        number = db.execute(gates.insert().values(**facts, at=at, **names).returning(gates.c.id)).scalar()
        db.execute(spent.insert(), [{"example": name, "gate": number} for name in sealed])
        db.execute(models.update().where(models.c.version == version).values(decision=decision.sha256))
        append(db, at, [Entry(ACTOR, "gate", version, {"decision": decision.sha256, **names})])
        stage = ModelStatus.PASSED if decision.promote else ModelStatus.REFUSED
        registry.set_stage(db, at, ACTOR, version, stage)
    reasons = "".join(f"; {reason}" for reason in decision.reasons)
    context.report(f"gate: {version} against {champion}: {decision.verdict}{reasons}")


def _promote(context: CycleContext, version: str) -> bool:
    """Promote a version that passed the gate; if the champion has changed since, the next cycle compares again."""
    compared = sa.select(gates.c.champion).where(gates.c.challenger == version).order_by(gates.c.id.desc()).limit(1)
    with context.store.reading() as db:
        expected = str(db.execute(compared).scalar())
        run = registry.model(db, version)["run"]
    context.run(run)  # the signature is verified again: the gate took hours
    try:
        registry.promote(context.store, version, ACTOR, expected_champion=expected)
    except registry.ChampionChanged as error:
        context.set_stage(version, ModelStatus.EVALUATED)
        context.report(f"promotion: {error}")
        return False
    return True
