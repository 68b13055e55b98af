"""Run a sweep: train each setting, select its adapter scale and evaluate it; an interrupted sweep resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advreg._deprecation import renamed_options
from advreg._lazy import deprecated
from advreg.errors import RunError, TrainingError
from advreg.language.config import LanguageConfig
from advreg.language.evaluation.context import LanguageEvaluationContext
from advreg.language.evaluation.evaluate import LanguageEvaluation, LanguageEvaluationProgress, evaluate
from advreg.language.evaluation.tasks import Attack, default_attacks
from advreg.language.judges import HarmJudge, Judge, RemoteJudge, keyword_judge
from advreg.language.models.adapters import adapter_scale
from advreg.language.models.loading import LanguageModel
from advreg.language.sweep.adapter_scale import evaluate_scales, select_scale, with_fluency_limit
from advreg.language.sweep.pareto import has_unscored, summarize_sweep, tradeoff_point
from advreg.language.sweep.plan import Setting, SweepData, SweepGrid
from advreg.language.training.fit import fit_language
from advreg.language.training.folder import CONFIG, load_base, load_trained
from advreg.runs import RunFolder
from advreg.trainer.checkpoint import METRICS
from advreg.trainer.events import Event, Step

__getattr__ = deprecated(__name__, {"Measuring": "SweepEvaluation", "At": "SweepProgress"})

FILE = "sweep.json"
Row = dict[str, Any]


def _scale_attacks() -> dict[str, Attack]:
    return {name: attack for name, attack in default_attacks().items() if name in ("direct", "roleplay")}


@dataclass(frozen=True)
class SweepEvaluation:
    """How every setting of a sweep is evaluated.

    Attributes:
        attacks: attacks of the test, by name; the soft prompt, an upper bound, is always added.
        scale_attacks: cheap attacks that select the adapter scale, by name.
        judge: classifies refusals.
        harm: decides which attacks succeed; without it, all but refusals are successes.
        rater: service that rates helpfulness; None for the proxies alone.
        max_new_tokens: length of a completion in tokens.
        task_tokens: length of a completion for verifiable instructions in tokens.
        dtype: type in which models are evaluated.
        seed: seed of the attacks.
    """

    attacks: Mapping[str, Attack] = field(default_factory=default_attacks)
    scale_attacks: Mapping[str, Attack] = field(default_factory=_scale_attacks)
    judge: Judge = field(default_factory=keyword_judge)
    rater: RemoteJudge | None = None
    max_new_tokens: int = 48
    task_tokens: int = 128
    dtype: str = "float32"
    seed: int = 0
    harm: HarmJudge | None = None


@dataclass(frozen=True)
class SweepProgress:
    """Progress of a sweep.

    Attributes:
        name: name of the setting, ``base`` for the base model.
        place: number of the setting from 1; 0 is the base model.
        places: number of settings.
        part: part of the work on this setting, such as ``training``.
        done: finished steps of this part.
        total: steps of this part.
    """

    name: str
    place: int
    places: int
    part: str
    done: int
    total: int


OnProgress = Callable[[SweepProgress], None]
_Report = Callable[[str, int, int], None]


@renamed_options(plan="grid", parts="data", measuring="evaluation")
def sweep(
    config: LanguageConfig,
    grid: SweepGrid,
    data: SweepData,
    evaluation: SweepEvaluation | None = None,
    *,
    out: str | Path,
    command: str = "",
    on_progress: OnProgress | None = None,
) -> Row:
    """Train and evaluate every setting of a grid, and recommend one.

    For each setting: train into ``out/runs/<setting>``; select the adapter scale with the lowest attack success whose
    over-refusal is within the budget, on the validation prompts; evaluate it on the test prompts at that scale.
    ``out/sweep.json`` is written after each setting. The same call resumes an interrupted sweep and asks for verdicts that a
    judge's service did not give; a larger grid extends a finished one. A setting whose training diverges is recorded as failed.

    Args:
        config: configuration that all settings share; its mix, lr, seed, data files and out are not used.
        grid: the settings, the adapter scales and the budget.
        data: the prompts.
        evaluation: attacks, judge and lengths; the defaults of `SweepEvaluation` if None.
        out: folder of the sweep.
        command: command line, for the report.
        on_progress: called after each step.

    Returns:
        The content of ``sweep.json``.

    Raises:
        ConfigError: an option or the grid is invalid.
        DataError: a file cannot be used.
        ModelError: the model cannot be used, or an attack fails.
        RunError: ``out`` holds another sweep, is in use, or cannot be written.
    """
    how, folder = evaluation or SweepEvaluation(), RunFolder.at(out)
    with folder.lock():
        record = _initial_record(folder, _identity(config, data, how), data, command)
        run = _SweepRun(data.write_training_files(config, folder.path), grid, data, how, folder)
        on_progress = on_progress or (lambda _: None)
        if record["base"] is None or has_unscored(record["base"]):
            record["base"] = run.evaluate_base(_reporter(on_progress, "base", 0, grid))
            _write(folder, record, grid)
        for place, setting in enumerate(grid.settings, start=1):
            recorded = _recorded_row(record, setting)
            if recorded is None or has_unscored(recorded["results"]):
                row = run.run_setting(setting, _reporter(on_progress, setting.name, place, grid))
                record["settings"] = [row if each is recorded else each for each in record["settings"]]
                record["settings"] += [row] if recorded is None else []
                _write(folder, record, grid)
        _write(folder, record, grid)
    return record


def _initial_record(folder: RunFolder, identity: Mapping[str, str], data: SweepData, command: str) -> Row:
    """Return the record of the sweep in the folder, or a new one.

    Raises:
        RunError: the folder holds another sweep, or its record is damaged.
    """
    if not (folder / FILE).is_file():
        start: Row = {"kind": "language-sweep", "about": dict(identity), "command": command}
        return start | {"base": None, "settings": [], "n": data.n}
    record = folder.read_json(FILE)
    before = record.get("about")
    if not isinstance(before, dict):
        raise RunError(f"{folder / FILE} is damaged or was edited; restore it, or use another folder")
    other = next((key for key in identity if before.get(key) != identity[key]), None)
    if other is not None:
        raise RunError(f"{folder.path} holds a sweep with other {other}; use the same options, or another folder")
    record.pop("claims", None)  # written by version 0.1
    return record | {"command": command or record.get("command", "")}


def _identity(config: LanguageConfig, data: SweepData, how: SweepEvaluation) -> dict[str, str]:
    """Return hashes of what must be equal for two settings to be comparable."""
    values = config.to_dict()
    for section, key in (("train", "mix"), ("train", "lr"), ("train", "out"), ("train", "device")):
        del values[section][key]
    del values["seed"], values["data"]["adversarial"], values["data"]["benign"]
    calibration = how.judge.calibration
    attacks = [
        {name: str(getattr(attack, "keywords", "")) for name, attack in each.items()}
        for each in (how.attacks, how.scale_attacks)
    ]
    lengths = [how.max_new_tokens, how.task_tokens, how.dtype, how.seed]
    prompts = [data.test.fingerprint, data.validation.fingerprint, repr(data.adversarial), repr(data.benign)]
    weights = [example.weight for example in data.adversarial]
    if any(weight != 1 for weight in weights):  # without weights, the same hash as in older sweeps
        prompts.append(repr(weights))
    services = [how.rater and how.rater.model, how.harm and [how.harm.name, how.harm.threshold]]
    return {
        "training": _hash(values),
        "prompts": _hash(prompts),
        "attacks or lengths": _hash([attacks, lengths]),
        "judge": _hash([how.judge.name, calibration and calibration.counts, services]),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _reporter(on_progress: OnProgress, name: str, place: int, grid: SweepGrid) -> _Report:
    return lambda part, done, total: on_progress(SweepProgress(name, place, len(grid.settings), part, done, total))


@dataclass(frozen=True)
class _SweepRun:
    """What all settings of a sweep share."""

    config: LanguageConfig
    grid: SweepGrid
    data: SweepData
    how: SweepEvaluation
    folder: RunFolder

    def evaluate_base(self, report: _Report) -> Row:
        """Evaluate the model before training."""
        results = self._evaluate(self._load_base(), self.folder / "base", report).record()
        tradeoff_point(results)  # raises if nothing was scored
        return results

    def run_setting(self, setting: Setting, report: _Report) -> Row:
        """Train, select the adapter scale and evaluate; each of the three resumes from its own files."""
        config = setting.config(self.config, self.folder.path)
        path = Path(config.train.out)
        row: Row = {**vars(setting), "scale": 1.0, "run": path.relative_to(self.folder.path).as_posix(), "dial": []}
        try:
            run = _train(config, report)
        except TrainingError as cause:
            return row | {"results": None, "failed": str(cause)}
        lm = load_trained(run.path, dtype=self.how.dtype, device=config.train.device)
        if config.model.rank:
            row["dial"] = self._evaluate_scales(lm, run, report)
            row["scale"] = select_scale(row["dial"], self.grid.budget)
        reference = None if config.model.rank else self._load_base()
        with adapter_scale(lm, row["scale"]) if config.model.rank else nullcontext():
            result = self._evaluate(lm, path, report, reference=reference, base=self.folder / "base")
        return row | {"training": _training_summary(run), "results": result.record()}

    def _load_base(self) -> LanguageModel:
        return load_base(self.config, self.config.train.device, self.how.dtype)

    def _evaluate_scales(self, lm: LanguageModel, run: RunFolder, report: _Report) -> list[Row]:
        how = self.how
        context = LanguageEvaluationContext(
            lm, None, how.judge, None, how.seed, how.max_new_tokens, how.task_tokens, harm=how.harm
        )
        return evaluate_scales(
            with_fluency_limit(context, self.data.test.benign[:64]),
            self.data.validation,
            self.grid.scales,
            how.scale_attacks,
            run=run,
            on_progress=lambda done, total: report("adapter scale", done, total),
        )

    def _evaluate(
        self,
        lm: LanguageModel,
        out: Path,
        report: _Report,
        *,
        reference: LanguageModel | None = None,
        base: Path | None = None,
    ) -> LanguageEvaluation:
        return evaluate(
            lm,
            self.data.test,
            attacks=self.how.attacks,
            judge=self.how.judge,
            harm=self.how.harm,
            rater=self.how.rater,
            reference=reference,
            base=base,
            seed=self.how.seed,
            max_new_tokens=self.how.max_new_tokens,
            task_tokens=self.how.task_tokens,
            out=out,
            on_progress=_report_tasks(report),
        )


def _train(config: LanguageConfig, report: _Report) -> RunFolder:
    """Train, or resume a training."""
    resume = (Path(config.train.out) / CONFIG).is_file()

    def watch(event: Event) -> None:
        if isinstance(event, Step):
            report("training", event.step, event.steps)

    return fit_language(config, resume=resume, on_event=watch)


def _training_summary(run: RunFolder) -> Row:
    """Return totals of a training from its log."""
    lines = run.read_log(METRICS)
    steps = [line for line in lines if "forwards" in line]
    sums = {name: sum(line[name] for line in steps) for name in ("adversarial", "examples", "forwards", "backwards")}
    seconds = round(sum(line.get("seconds", 0.0) for line in steps), 1)
    guard = [line["said"] for line in lines if line.get("event") == "guard"]
    return {"steps": max((line["step"] for line in steps), default=0), **sums, "seconds": seconds, "guard": guard}


def _report_tasks(report: _Report) -> Callable[[LanguageEvaluationProgress], None]:
    return lambda progress: report(progress.stage, progress.done, progress.total)


def _recorded_row(record: Row, setting: Setting) -> Row | None:
    keys = vars(setting)
    return next((row for row in record["settings"] if all(row[key] == keys[key] for key in keys)), None)


def _write(folder: RunFolder, record: Row, grid: SweepGrid) -> None:
    """Write sweep.json with the summary of all results so far."""
    record |= summarize_sweep(record["base"], record["settings"], grid.budget)
    folder.write_json(FILE, record)
