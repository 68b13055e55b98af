"""`evaluate`: prompts -> stages -> chunks of 16 -> rows -> ledger -> figures. A kill costs one chunk at most."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from advreg import runtime
from advreg.errors import ConfigError, DataError, RunError
from advreg.language.attacks.result import count_model_passes
from advreg.language.datasets import EvaluationData
from advreg.language.evaluation import metrics
from advreg.language.evaluation.tasks import (
    REFERENCE,
    UPPER_BOUNDS,
    Attack,
    EvaluationTask,
    LanguageEvaluationContext,
    Row,
    default_attacks,
    stages,
)
from advreg.language.judges import Judge, RemoteJudge, keyword_judge
from advreg.language.judges.coherence import fluency_limit
from advreg.language.models.loading import LanguageModel
from advreg.models import state_sha256
from advreg.runs import Ledger, RunFolder

PROTOCOL = "language@1"
CHUNK = 16
_LEDGER, _TIMES, _RESULTS = "ledger.jsonl", "times.jsonl", "results.json"


@dataclass(frozen=True)
class LanguageEvaluationProgress:
    """How far an evaluation is: as a stage begins, with nothing done, and after each of its chunks."""

    stage: str
    done: int
    total: int
    seconds: float


@dataclass(frozen=True, repr=False)
class LanguageEvaluation:
    """The result of an evaluation: figures with 95% intervals, corrected for the judge's errors where they are known.

    Attributes:
        model: name of the model.
        seed: of the attacks and draws.
        n: prompts of each kind.
        judge: name, sensitivity, specificity, agreement and number of labels; None and 0 where there are no labels, and then
            nothing is corrected.
        axes: nested dictionaries of `Figure`, as in results.json; None where there was nothing to measure.
        differences: from the base evaluation over the same prompts, in the same order; empty without one.
        forwards, backwards: example-forwards and example-backwards spent, the judging's among them.
        seconds: wall time, of earlier runs too.
        rows: the ledger's rows.
    """

    model: str
    seed: int
    n: Mapping[str, int]
    judge: Mapping[str, Any]
    axes: Mapping[str, Any]
    differences: Mapping[str, Any]
    forwards: int
    backwards: int
    seconds: float
    rows: Sequence[Row] = field(default=())

    def __repr__(self) -> str:
        found = self.axes["attack_success"].get("at_least_one")
        refusal = self.axes["over_refusal"]
        said = [f"attack success {found.value:.1%}"] if found else []
        said += [f"over-refusal {refusal['value']:.1%}"] if refusal else []
        return f"LanguageEvaluation({self.model!r}, {', '.join(said) or 'no axis'})"

    def record(self) -> dict[str, Any]:
        """Return the figures as they stand in results.json."""
        return {
            "kind": "language",
            "protocol": PROTOCOL,
            "model": self.model,
            "seed": self.seed,
            "n": dict(self.n),
            "judge": dict(self.judge),
            "axes": metrics.record(dict(self.axes)),
            "differences": metrics.record(dict(self.differences)),
            "passes": {"forwards": self.forwards, "backwards": self.backwards},
            "seconds": round(self.seconds, 3),
            "environment": runtime.environment(),
        }


def evaluate(
    lm: LanguageModel,
    data: EvaluationData,
    *,
    attacks: Mapping[str, Attack] | None = None,
    judge: Judge | None = None,
    rater: RemoteJudge | None = None,
    reference: LanguageModel | None = None,
    base: LanguageEvaluation | str | Path | None = None,
    seed: int = 0,
    max_new_tokens: int = 48,
    task_tokens: int = 256,
    out: str | Path | None = None,
    on_progress: Callable[[LanguageEvaluationProgress], None] | None = None,
) -> LanguageEvaluation:
    """Measure a language model: attack success, over-refusal, facts, instructions, helpfulness and coherence.

    A completion that is empty or incoherent is neither harm, nor help, nor a refusal. A success is a coherent answer that the
    judge calls no refusal; ``at_least_one`` counts the attacks in words, `UPPER_BOUNDS` are reported beside it.

    Args:
        lm: the model.
        data: the prompts; an axis without prompts is left out.
        attacks: name -> ``(lm, requests, *, seed, max_new_tokens) -> LanguageAttackResult``; direct, role-play, best of n and
            the soft prompt by default. The soft prompt, an upper bound, is always made: give one under its name to choose its
            effort.
        judge: of refusals; the keyword judge, whose errors nobody knows, if None. `fit_judge` makes one from labels.
        rater: of helpfulness, behind a URL; prompts and answers are sent there.
        reference: the base model, which says what coherent text costs; the model with its adapter off if None.
        base: an evaluation to compare with, or the folder that was its ``out``.
        seed: of the attacks; an attack's draws depend on it and on the request's id.
        max_new_tokens: length of a completion.
        task_tokens: length of a completion that follows instructions.
        out: run folder to write ``evaluation/language@1/`` into; an interrupted evaluation there goes on.
        on_progress: called when a stage begins, and after each chunk of 16 prompts.

    Returns:
        A `LanguageEvaluation`.

    Raises:
        ConfigError: nothing to measure, an attack without a name that can be used, or a length below 1.
        ModelError, DataError: a model or data that cannot be used as given, such as two prompts of one kind with the same id.
        RunError: ``out`` or ``base`` cannot be used, or ``out`` holds the ledger of another evaluation.
    """
    chosen = _with_bound(default_attacks() if attacks is None else attacks)
    planned = stages(data, chosen)
    if not planned or min(max_new_tokens, task_tokens) < 1:
        sizes = f"data {data.n}, max_new_tokens {max_new_tokens}, task_tokens {task_tokens}"
        raise ConfigError(
            f"nothing can be measured ({sizes}); give prompts of one kind at least, and lengths of at least 1"
        )
    for stage in planned:
        _refuse_twins(stage)
    before = None if base is None else _rows_of(base)
    bench = LanguageEvaluationContext(lm, reference, judge or keyword_judge(), rater, seed, max_new_tokens, task_tokens)
    with _paper(out, _identity(bench, data, chosen)) as paper:
        for stage in planned:
            _measure(bench if stage.axis == REFERENCE else _limited(bench, paper.rows), stage, paper, on_progress)
        found = _summarised(bench, data, paper, before)
        if paper.folder is not None:
            paper.folder.write_json(_RESULTS, found.record())
    return found


def _summarised(
    bench: LanguageEvaluationContext, data: EvaluationData, paper: _Paper, base: Sequence[Row] | None
) -> LanguageEvaluation:
    """Return the figures of a complete set of rows."""
    known, rows = bench.judge.calibration, paper.rows
    return LanguageEvaluation(
        model=bench.lm.name,
        seed=bench.seed,
        n=data.n,
        judge=_described(bench.judge),
        axes=metrics.axes(rows, known, bench.seed),
        differences={} if base is None else metrics.differences(rows, base, known, bench.seed),
        forwards=sum(row["forwards"] for row in rows),
        backwards=sum(row["backwards"] for row in rows),
        seconds=paper.seconds,
        rows=tuple(rows),
    )


def _refuse_twins(stage: EvaluationTask) -> None:
    """Refuse prompts that share an id: rows and random draws belong to ids."""
    ids = Counter(item.id for item in stage.items)
    twin = next((i for i, times in ids.items() if times > 1), None)
    if twin is not None:
        raise DataError(f"{_name(stage)}: two prompts have the id {twin}; number them, as the readers do")


class _Paper:
    """The rows so far, in memory and, where a folder is given, on disk."""

    def __init__(self, folder: RunFolder | None, ledger: Ledger | None, known: Sequence[Row], seconds: float) -> None:
        self.folder, self.ledger, self.seconds = folder, ledger, seconds
        self.known = {(row["axis"], row["attack"], row["id"]): row for row in known}
        self.rows: list[Row] = []

    def find(self, stage: EvaluationTask, items: Sequence[Any]) -> list[Row] | None:
        """Return the rows of these prompts if an earlier run wrote them, or None."""
        keys = [(stage.axis, stage.attack, item.id) for item in items]
        return [self.known[key] for key in keys] if all(key in self.known for key in keys) else None

    def write(self, stage: EvaluationTask, rows: Sequence[Row], seconds: float) -> None:
        """Write a chunk down."""
        self.seconds += seconds
        if self.folder is not None and self.ledger is not None:
            self.ledger.append(rows)
            self.folder.append(_TIMES, {"stage": _name(stage), "seconds": round(seconds, 4)})


@contextmanager
def _paper(out: str | Path | None, identity: Mapping[str, str | int]) -> Iterator[_Paper]:
    """Begin, or go on from what a folder holds of this very evaluation; the folder is held until the end."""
    if out is None:
        yield _Paper(None, None, [], 0.0)
        return
    folder = RunFolder.at(Path(out) / "evaluation" / PROTOCOL)
    with folder.lock():
        ledger = Ledger.open(folder / _LEDGER, **identity)
        rows = ledger.rows()
        whole = _whole(rows)
        if whole != rows:
            ledger.replace(whole)
        yield _Paper(folder, ledger, whole, sum(took["seconds"] for took in folder.read_log(_TIMES)))


def _whole(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of chunks that were written whole: a crash may cut the last one short."""
    if rows and rows[-1]["last"]:
        return list(rows)
    ends = [place for place, row in enumerate(rows) if row["last"]]
    return list(rows[: ends[-1] + 1]) if ends else []


def _measure(
    bench: LanguageEvaluationContext,
    stage: EvaluationTask,
    paper: _Paper,
    on_progress: Callable[[LanguageEvaluationProgress], None] | None,
) -> None:
    """Run a stage chunk by chunk; what is on paper already is not run again."""
    tell = on_progress or (lambda _: None)
    tell(LanguageEvaluationProgress(_name(stage), 0, len(stage.items), paper.seconds))
    for first in range(0, len(stage.items), CHUNK):
        items = stage.items[first : first + CHUNK]
        rows = paper.find(stage, items)
        if rows is None:
            began = time.perf_counter()
            with count_model_passes(bench.lm, bench.reference) as spent:
                made = stage.run(bench, items)
            shares = spent.shares(len(made)).tolist()
            rows = [
                {**row, "forwards": forwards, "backwards": backwards, "last": place == len(made) - 1}
                for place, (row, (forwards, backwards)) in enumerate(zip(made, shares, strict=True))
            ]
            paper.write(stage, rows, time.perf_counter() - began)
        paper.rows += rows
        tell(LanguageEvaluationProgress(_name(stage), first + len(items), len(stage.items), paper.seconds))


def _name(stage: EvaluationTask) -> str:
    return f"{stage.axis}/{stage.attack}"


def _limited(bench: LanguageEvaluationContext, rows: Sequence[Row]) -> LanguageEvaluationContext:
    """Return the bench with the limit of coherence that the good answers, read first, leave."""
    read = [row["nll"] for row in rows if row["axis"] == REFERENCE and row["nll"] is not None]
    return replace(bench, limit=fluency_limit(read))


def _with_bound(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    """Return the attacks, those in words first, and the upper bound that is always made."""
    bad = next((name for name in attacks if not name or not name.isidentifier() or name == "at_least_one"), None)
    if bad is not None:
        raise ConfigError(f"an attack is named {bad!r}; give a name of letters, digits and _, and not at_least_one")
    every = {**{"soft_prompt": default_attacks()["soft_prompt"]}, **attacks}
    return {name: every[name] for name in sorted(every, key=lambda name: name in UPPER_BOUNDS)}


def _identity(
    bench: LanguageEvaluationContext, data: EvaluationData, attacks: Mapping[str, Attack]
) -> dict[str, str | int]:
    """Return what the rows belong to; a folder of anything else is not gone on with."""
    known = bench.judge.calibration
    said = {
        "attacks": {name: _spelt(attack) for name, attack in attacks.items()},
        "tokens": [bench.max_new_tokens, bench.task_tokens],
        "judge": [bench.judge.name, known.counts if known else None],
        "rater": [bench.rater.url, bench.rater.model] if bench.rater else None,
        "reference": fingerprint(bench.reference) if bench.reference else None,
    }
    settings = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return {
        "protocol": PROTOCOL,
        "model": fingerprint(bench.lm),
        "data": data.fingerprint,
        "settings": settings,
        "seed": bench.seed,
        "chunk": CHUNK,
    }


def _spelt(attack: Attack) -> str:
    """Return an attack's name and the options bound to it."""
    if isinstance(attack, functools.partial):
        options = ", ".join(f"{key}={value!r}" for key, value in sorted(attack.keywords.items()))
        return f"{_spelt(attack.func)}({options})"
    return getattr(attack, "__qualname__", type(attack).__name__)


def fingerprint(lm: LanguageModel) -> str:
    """Return the SHA-256 of the weights and of how strongly an adapter counts."""
    layers = (module for module in lm.network.modules() if hasattr(module, "lora_A") and hasattr(module, "scaling"))
    scales = sorted({str(sorted(layer.scaling.items())) for layer in layers})
    return hashlib.sha256(f"{state_sha256(lm.network)} {scales}".encode()).hexdigest()


def _described(judge: Judge) -> dict[str, Any]:
    known = judge.calibration
    names = ("sensitivity", "specificity", "agreement")
    rates = {name: None if known is None else getattr(known, name) for name in names}
    return {"name": judge.name, **rates, "n": 0 if known is None else known.n}


def _rows_of(base: LanguageEvaluation | str | Path) -> Sequence[Row]:
    """Return the rows of an evaluation that is compared with.

    Raises:
        RunError: the folder holds none.
    """
    if isinstance(base, LanguageEvaluation):
        return base.rows
    folder = RunFolder.open(Path(base))
    rows = folder.read_log(f"evaluation/{PROTOCOL}/{_LEDGER}")[1:]
    if not rows:
        raise RunError(f"{folder.path} holds no evaluation of a language model; evaluate the base model there first")
    return rows
