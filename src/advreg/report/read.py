"""Read a run folder: missing parts stay empty, damaged files raise an error, and no value is guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from advreg.documents import check_links
from advreg.errors import RunError, did_you_mean_path
from advreg.report import ledger
from advreg.report.facts import (
    AttackFacts,
    CertificateFacts,
    CheckFacts,
    ClassFacts,
    CorruptionFacts,
    CorruptionRowFacts,
    CurveFacts,
    CurvePointFacts,
    EpochFacts,
    EvaluationFacts,
    ExamplesFacts,
    Facts,
    LoosenessFacts,
    NormFacts,
    RunFacts,
    ThreatFacts,
)
from advreg.report.record import Record, load, load_or_empty
from advreg.runs.files import read_lines

VERDICTS = ("TRUSTED", "SUSPECT", "UNRELIABLE")
"""Verdicts of a diagnosis."""
PROTOCOLS_BY_STRENGTH = ("strong", "standard", "plus", "rand")
"""The protocols that a report shows first."""


def run(folder: Path | str) -> RunFacts:
    """Read everything a report needs from a run folder.

    Args:
        folder: a run folder with a training, evaluations or both.

    Returns:
        The facts, with the evaluations ordered from the strongest protocol to the weakest.

    Raises:
        RunError: no run folder, an empty one, or a damaged file.

    Example:
        >>> run("no/such/folder")
        Traceback (most recent call last):
        advreg.errors.RunError: no run folder at no/such/folder; give one that `advreg train` or `advreg evaluate` wrote
    """
    path = Path(folder)
    if not path.is_dir():
        raise RunError(
            f"no run folder at {path};{did_you_mean_path(path)} give one that `advreg train` or `advreg evaluate` wrote"
        )
    check_links(path)
    epochs, events = _metrics(path / "metrics.jsonl")
    diagnosed = diagnosis(path)
    evaluations = [
        _with_verdict(_evaluation(file.parent), diagnosed) for file in sorted(path.glob("evaluation/*/results.json"))
    ]
    certificates = tuple(_certificate(file) for file in sorted(path.glob("evaluation/*/certificate.json")))
    if not epochs and not evaluations and not certificates:
        raise RunError(f"{path} holds neither metrics.jsonl nor evaluation/*/results.json; train or evaluate first")
    return RunFacts(
        path=path.resolve(),
        epochs=epochs,
        events=events,
        evaluations=tuple(sorted((_with_looseness(each, evaluations) for each in evaluations), key=_strength)),
        certificates=certificates,
        config=_text(path / "run.toml"),
        model=load_or_empty(path / "model.json"),
        environment=load_or_empty(path / "environment.json"),
    )


def diagnosis(folder: Path | str) -> Record | None:
    """Read the diagnosis of a run folder; return None where there is none.

    Args:
        folder: a run folder.

    Returns:
        The diagnosis, or None.

    Raises:
        RunError: the file is damaged.
    """
    file = Path(folder) / "diagnosis.json"
    return load(file, schema="advreg/diagnosis@1") if file.is_file() else None


def short_name(protocol: str) -> str:
    """Return the name of a protocol on the command line.

    Args:
        protocol: its id.

    Returns:
        The name.

    Example:
        >>> short_name("linf-0.3-standard@1")
        'standard'
    """
    return protocol.rpartition("@")[0].rpartition("-")[2] or protocol


def _strength(evaluation: EvaluationFacts) -> tuple[int, float, str]:
    """Return the sort key of an evaluation: stronger protocols first, then lower (tighter) upper bounds."""
    name = short_name(evaluation.protocol)
    known = name in PROTOCOLS_BY_STRENGTH
    rank = PROTOCOLS_BY_STRENGTH.index(name) if known else len(PROTOCOLS_BY_STRENGTH)
    return rank, evaluation.robust_accuracy, evaluation.protocol


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


def _metrics(file: Path) -> tuple[tuple[EpochFacts, ...], tuple[Facts, ...]]:
    """Return epochs and events of an append-only log; a resumed run may repeat an epoch, and its last line counts."""
    lines = read_lines(file)
    events = tuple(line for line in lines if "event" in line)
    epochs = [_epoch(line) for line in lines if "event" not in line and _finite(line, "epoch") is not None]
    return tuple(sorted({epoch.epoch: epoch for epoch in epochs}.values(), key=lambda e: e.epoch)), events


def _epoch(line: Facts) -> EpochFacts:
    names = [field.name for field in fields(EpochFacts) if field.name != "epoch"]
    return EpochFacts(epoch=_finite(line, "epoch") or 0.0, **{name: _finite(line, name) for name in names})


def _finite(line: Facts, key: str) -> float | None:
    """Return a finite number or None: a training that diverges logs NaN, which is no damage."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _evaluation(folder: Path) -> EvaluationFacts:
    results = load(folder / "results.json", schema="advreg/results@1")
    task, stored = results.text("task") if results.has("task") else "classes", folder / "examples.safetensors"
    return EvaluationFacts(
        protocol=results.text("protocol"),
        threat=replace(_threat(results.record("threat")), kind=str(results.facts("data").get("kind") or "")),
        n=results.count("n"),
        seed=results.count("seed"),
        clean_accuracy=results.share("clean_accuracy"),
        clean_interval=results.interval_or_none("clean_interval"),
        robust_accuracy=results.share("robust_accuracy"),
        interval=results.interval_or_none("interval"),
        attack_success_rate=results.share_or_none("attack_success_rate"),
        attack_success_interval=results.interval_or_none("attack_success_interval"),
        attacks=tuple(_attack(row) for row in results.rows("by_attack")),
        per_class=tuple(_class(row) for row in results.rows("per_class")),
        forwards=results.count_or_none("forwards"),
        backwards=results.count_or_none("backwards"),
        seconds=results.number_or_none("seconds"),
        verdict=_verdict(results) if results.has("verdict") else None,
        flags=results.facts("flags"),
        checks=tuple(_check(row) for row in results.rows("checks")),
        model=results.facts("model"),
        data=results.facts("data"),
        environment=results.facts("environment"),
        curve=_curve(folder / "curve.json"),
        examples=_examples(stored) if task == "classes" else None,
        norms=_norms(folder / "norms.json"),
        corruptions=_corruptions(folder / "corruptions.json"),
        ledger=ledger.read(folder / "ledger.jsonl", _names(results)),
        task=task,
        corpus=results.facts("corpus"),
        scenes=None if task == "classes" else _scenes(stored),
        scores={} if task == "classes" else ledger.lowest_scores(folder / "ledger.jsonl"),
    )


def _verdict(record: Record) -> str:
    verdict = record.text("verdict")
    if verdict not in VERDICTS:
        raise record.damaged("verdict", f"one of {', '.join(VERDICTS)}")
    return verdict


def _with_verdict(facts: EvaluationFacts, diagnosed: Record | None) -> EvaluationFacts:
    """Return an evaluation with the verdict of the diagnosis, if that is about this protocol and these weights."""
    if diagnosed is None or diagnosed.text("claim") != facts.protocol:
        return facts
    weights = diagnosed.facts("model").get("sha256"), facts.model.get("sha256")
    retrained = None not in weights and weights[0] != weights[1]
    return facts if retrained else replace(facts, verdict=_verdict(diagnosed))


def _with_looseness(facts: EvaluationFacts, others: Sequence[EvaluationFacts]) -> EvaluationFacts:
    """Add the protocol that broke most of the examples which this evaluation counts as robust, if one did."""
    found = [loose for other in others if (loose := _looseness(facts, other)) and loose.examples]
    return replace(facts, looseness=max(found, key=lambda loose: loose.examples, default=None))


def _looseness(facts: EvaluationFacts, other: EvaluationFacts) -> LoosenessFacts | None:
    mine, theirs = facts.ledger, other.ledger
    if mine is None or theirs is None or facts.threat != other.threat:
        return None
    weights = facts.model.get("sha256"), other.model.get("sha256")
    if weights[0] != weights[1] or (mine.data, mine.total) != (theirs.data, theirs.total):
        return None
    count = len(theirs.ids - mine.ids)
    return LoosenessFacts(other.protocol, count, count / mine.total)


def _names(results: Record) -> list[str]:
    names = results.facts("data").get("classes")
    return [str(name) for name in names] if isinstance(names, list) else []


def _norms(file: Path) -> NormFacts | None:
    if not file.is_file():
        return None
    record = load(file, schema="advreg/norms@1")
    values = record.values.get("distances")
    if not isinstance(values, list):
        raise record.damaged("distances", "a list of numbers or nulls")
    known = [Record({"distance": value}, file).number_or_none("distance") for value in values]
    return NormFacts(record.text("norm"), tuple(known))


def _certificate(file: Path) -> CertificateFacts:
    record = load(file, schema="advreg/certificate@1")
    methods = (row for row in record.rows("by_method") if row.count("proved") or row.count("broken"))
    return CertificateFacts(
        protocol=record.text("protocol"),
        n=record.count("n"),
        certified_accuracy=record.share("certified_accuracy"),
        robust_accuracy=record.share("robust_accuracy"),
        interval=record.pair("interval"),
        open=record.count("open"),
        noise=record.number("sigma") if "sigma" in record.values else None,
        threat=_threat(record.record("threat")) if record.has("threat") else None,
        source=f"{record.values.get('model', '')} {record.values.get('data', '')}",
        by_method=tuple((row.text("name"), row.count("proved"), row.count("broken")) for row in methods),
    )


def _corruptions(file: Path) -> CorruptionFacts | None:
    if not file.is_file():
        return None
    record = load(file, schema="advreg/corruptions@1")
    severities = record.values.get("severities")
    if not isinstance(severities, list) or not all(isinstance(level, int) for level in severities):
        raise record.damaged("severities", "a list of whole numbers")
    return CorruptionFacts(
        n=record.count("n"),
        severities=tuple(severities),
        clean_accuracy=record.share("clean_accuracy"),
        mean_accuracy=record.share("mean_accuracy"),
        rows=tuple(_corruption_row(row, len(severities)) for row in record.rows("corruptions")),
    )


def _corruption_row(row: Record, severities: int) -> CorruptionRowFacts:
    values = row.values.get("accuracy")
    if not isinstance(values, list) or len(values) != severities:
        raise row.damaged("accuracy", f"a list of {severities} numbers from 0 to 1")
    shares = tuple(Record({"accuracy": value}, row.file).share("accuracy") for value in values)
    return CorruptionRowFacts(row.text("name"), shares, row.share("mean_accuracy"))


def _threat(record: Record) -> ThreatFacts:
    box = record.pair("box") if record.has("box") else (0.0, 1.0)
    features = record.text("features") if record.has("features") else ""
    return ThreatFacts(record.text("norm"), record.number("eps"), box, features, limits=_limits(record))


def _limits(record: Record) -> Facts:
    """Return units, limits and rules of the columns of a table; empty where the file has none."""
    given = record.values.get("limits")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise record.damaged("limits", "an object")
    groups, derived = given.get("groups", []), given.get("derived", {})
    columns = [given[key] for key in ("scale", "low", "high", "integer") if key in given]
    lists = [*columns, *(groups if isinstance(groups, list) else [groups])]
    if not all(map(_are_numbers, lists)) or not isinstance(derived, dict):
        raise record.damaged("limits", "lists of numbers, groups and texts of derived columns")
    return given


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(v is None or (type(v) in (int, float)) for v in values)


def _attack(row: Record) -> AttackFacts:
    return AttackFacts(
        name=row.text("name"),
        tried=row.count("tried"),
        broken=row.count("broken"),
        robust_accuracy=row.share("robust_accuracy"),
        forwards=row.count_or_none("forwards"),
        backwards=row.count_or_none("backwards"),
        seconds=row.number_or_none("seconds"),
    )


def _check(row: Record) -> CheckFacts:
    says, remedy = (str(row.values.get(key) or "") for key in ("says", "remedy"))
    return CheckFacts(row.text("name"), row.text("verdict"), says, remedy)


def _class(row: Record) -> ClassFacts:
    clean, robust = (row.share_or_none(key) or 0.0 for key in ("clean_accuracy", "robust_accuracy"))
    return ClassFacts(name=row.text("class"), n=row.count("n"), clean_accuracy=clean, robust_accuracy=robust)


def _curve(file: Path) -> CurveFacts | None:
    if not file.is_file():
        return None
    record = load(file, schema="advreg/curve@1")
    points = [
        CurvePointFacts(row.number("eps"), row.share("robust_accuracy"), row.interval_or_none("interval"))
        for row in record.rows("points")
    ]
    ordered = tuple(sorted(points, key=lambda point: point.eps))
    features = record.text("features") if record.has("features") else ""
    task = record.text("task") if record.has("task") else "classes"
    return CurveFacts(record.text("norm"), record.text("attack"), record.count("n"), ordered, features, task)


_SCENE = ("clean", "adversarial", "labels", "clean_output", "adversarial_output", "score", "ids", "attack")


def _scenes(file: Path) -> Mapping[str, NDArray[np.generic]] | None:
    """Return the stored scenes of a segmentation; None where the examples are no images with masks."""
    arrays = _arrays(file) if file.is_file() else {}
    if any(name not in arrays for name in _SCENE):
        return None
    images, masks = arrays["clean"], [arrays[name] for name in ("labels", "clean_output", "adversarial_output")]
    fits = images.ndim == 4 and images.shape[1] in (1, 3) and images.shape == arrays["adversarial"].shape
    flat = [arrays[name] for name in ("score", "ids", "attack")]
    if not fits or any(mask.shape != (len(images), *images.shape[2:]) for mask in masks):
        return None
    return {name: arrays[name] for name in _SCENE} if all(part.shape == (len(images),) for part in flat) else None


def _examples(file: Path) -> ExamplesFacts | None:
    return _rows(_arrays(file), file) if file.is_file() else None


def _arrays(file: Path) -> Mapping[str, NDArray[np.generic]]:
    try:
        return load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{file}: damaged ({reason}); evaluate again to rewrite the file") from None


def _rows(arrays: Mapping[str, NDArray[np.generic]], file: Path) -> ExamplesFacts:
    """Check that the arrays have the same K rows, equal image shapes and finite pixels."""
    names = ExamplesFacts.__dataclass_fields__
    missing = [name for name in names if name not in arrays]
    if missing:
        raise RunError(f"{file}: lacks {', '.join(missing)}; evaluate again to rewrite the file")
    clean, adversarial = arrays["clean"], arrays["adversarial"]
    same_rows = all(len(arrays[name]) == len(clean) for name in names if arrays[name].ndim)
    flat = all(arrays[name].ndim == 1 for name in names if name not in ("clean", "adversarial"))
    if clean.shape != adversarial.shape or not same_rows or not flat:
        raise RunError(f"{file}: its arrays do not have the same rows; evaluate again to rewrite the file")
    if not (np.isfinite(clean.astype(np.float32)).all() and np.isfinite(adversarial.astype(np.float32)).all()):
        raise RunError(f"{file}: its pixels hold NaN or infinity; evaluate again to rewrite the file")
    dtypes = {"broken": np.bool_, "ids": np.int64, "labels": np.int64, "attack": np.int64}
    dtypes |= {"clean_predicted": np.int64, "adversarial_predicted": np.int64}
    return ExamplesFacts(**{name: arrays[name].astype(dtypes.get(name, np.float32)) for name in names})
