"""`sweep`: train every setting, turn its dial, measure it, write it down; a killed sweep goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advreg.errors import RunError, TrainingError
from advreg.language.config import LanguageConfig
from advreg.language.evaluation.evaluate import LanguageEvaluationProgress, evaluate
from advreg.language.evaluation.tasks import Attack, LanguageEvaluationContext, default_attacks
from advreg.language.judges import Judge, RemoteJudge, keyword_judge
from advreg.language.models import loading
from advreg.language.models.adapters import adapter_scale
from advreg.language.sweep.adapter_scale import evaluate_scales, select_scale, with_fluency_limit
from advreg.language.sweep.pareto import summarize_sweep
from advreg.language.sweep.plan import Parts, Setting, SweepGrid
from advreg.language.training.events import Event, LanguageStep
from advreg.language.training.fit import fit_language
from advreg.language.training.folder import CONFIG, METRICS, load_trained
from advreg.runs import RunFolder

FILE = "sweep.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class Measuring:
    """How every setting is measured.

    Attributes:
        attacks: those of the test, by name; the soft prompt, an upper bound, is always among them.
        dial: cheap ones by which the scale is chosen.
        judge: of refusals.
        rater: of helpfulness, behind a URL; None for the proxies alone.
        max_new_tokens: length of a completion.
        task_tokens: length of a completion that follows instructions.
        dtype: in which the trained model is measured.
        seed: of the attacks.
    """

    attacks: Mapping[str, Attack] = field(default_factory=default_attacks)
    dial: Mapping[str, Attack] = field(
        default_factory=lambda: {k: v for k, v in default_attacks().items() if k in ("direct", "roleplay")}
    )
    judge: Judge = field(default_factory=keyword_judge)
    rater: RemoteJudge | None = None
    max_new_tokens: int = 48
    task_tokens: int = 128
    dtype: str = "float32"
    seed: int = 0


@dataclass(frozen=True)
class At:
    """Where a sweep is: the setting's name, its place among all (0 is the base model), and how far its part is."""

    name: str
    place: int
    places: int
    part: str
    done: int
    total: int


Watch = Callable[[At], None]
_Tell = Callable[[str, int, int], None]


def sweep(
    config: LanguageConfig,
    plan: SweepGrid,
    parts: Parts,
    measuring: Measuring | None = None,
    *,
    out: str | Path,
    command: str = "",
    on_progress: Watch | None = None,
) -> Row:
    """Train and measure every setting of a plan, and say which are worth a look and which one to take.

    For each setting: training into ``out/runs/<setting>``; then the scale of its adapter that lets the fewest attacks through
    with over-refusal within the budget, on prompts for choosing; then all axes at that scale, on prompts for testing.
    ``out/sweep.json`` is written after each. A killed sweep, begun again, goes on; a sweep that is done may be given a wider
    plan. A setting whose training diverges is noted, and the others go on.

    Args:
        config: what all settings have in common; its mix, lr, seed, data files and out are not used.
        plan: the settings, the scales and the budget.
        parts: the prompts.
        measuring: attacks, judge and lengths.
        out: folder of the sweep.
        command: what was typed, for the report.
        on_progress: called with each step forward.

    Returns:
        What ``sweep.json`` holds.

    Raises:
        ConfigError, DataError, ModelError: something cannot be used as given.
        RunError: ``out`` holds another sweep, is in use, or cannot be written.
    """
    how, folder = measuring or Measuring(), RunFolder.at(out)
    with folder.lock():
        record = _begun(folder, config, parts, how, command)
        common = parts.written(config, folder.path)
        watch = on_progress or (lambda at: None)
        if record["base"] is None:
            record["base"] = _base(common, parts, how, folder, _telling(watch, "base", 0, plan))
            _write(folder, record, plan)
        for place, setting in enumerate(plan.settings, start=1):
            if _find(record, setting) is None:
                tell = _telling(watch, setting.name, place, plan)
                record["settings"].append(_setting(setting, common, plan, parts, how, folder, tell))
                _write(folder, record, plan)
        _write(folder, record, plan)
    return record


def _begun(folder: RunFolder, config: LanguageConfig, parts: Parts, how: Measuring, command: str) -> Row:
    """Return the record so far, or a new one; another sweep's is refused.

    Raises:
        RunError: the folder holds a sweep of something else.
    """
    about = _about(config, parts, how)
    fresh: Row = {"kind": "language-sweep", "about": about, "command": command, "base": None, "settings": []}
    if not (folder / FILE).is_file():
        return fresh | {"n": parts.n}
    found = folder.read_json(FILE)
    before = found.get("about")
    if not isinstance(before, dict):
        raise RunError(
            f"{folder / FILE} is no sweep: it was edited or damaged; restore it, or sweep into another folder"
        )
    other = next((key for key in about if before.get(key) != about[key]), None)
    if other is not None:
        raise RunError(
            f"{folder.path} holds a sweep of other {other}; go on with it as it was begun, or sweep into another folder"
        )
    found.pop("claims", None)  # written by version 0.1
    return found | {"command": command or found.get("command", "")}


def _about(config: LanguageConfig, parts: Parts, how: Measuring) -> dict[str, str]:
    """Return what must be the same for two settings to be compared."""
    values = config.to_dict()
    for section, key in (("train", "mix"), ("train", "lr"), ("train", "out"), ("train", "device")):
        del values[section][key]
    del values["seed"], values["data"]["adversarial"], values["data"]["benign"]
    known = how.judge.calibration
    attacks = [
        {name: str(getattr(attack, "keywords", "")) for name, attack in each.items()}
        for each in (how.attacks, how.dial)
    ]
    lengths = [how.max_new_tokens, how.task_tokens, how.dtype, how.seed]
    prompts = [parts.test.fingerprint, parts.validation.fingerprint, repr(parts.lessons), repr(parts.benign)]
    return {
        "training": _hash(values),
        "prompts": _hash(prompts),
        "attacks or lengths": _hash([attacks, lengths]),
        "judge": _hash([how.judge.name, known and known.counts, how.rater and [how.rater.url, how.rater.model]]),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _telling(watch: Watch, name: str, place: int, plan: SweepGrid) -> _Tell:
    return lambda part, done, total: watch(At(name, place, len(plan.settings), part, done, total))


def _base(config: LanguageConfig, parts: Parts, how: Measuring, folder: RunFolder, tell: _Tell) -> Row:
    lm = loading.load(config.model.name, dtype=how.dtype, device=config.train.device)
    found = evaluate(
        lm, parts.test, attacks=how.attacks, judge=how.judge, rater=how.rater, seed=how.seed, out=folder / "base",
        max_new_tokens=how.max_new_tokens, task_tokens=how.task_tokens, on_progress=_stages(tell),
    )  # fmt: skip
    return found.record()


def _setting(
    setting: Setting,
    common: LanguageConfig,
    plan: SweepGrid,
    parts: Parts,
    how: Measuring,
    folder: RunFolder,
    tell: _Tell,
) -> Row:
    """Train, turn the dial and measure; each of the three goes on from what it wrote before it was killed."""
    config = setting.config(common, folder.path)
    path = Path(config.train.out)
    row: Row = {**vars(setting), "scale": 1.0, "run": path.relative_to(folder.path).as_posix(), "dial": []}
    try:
        run = _trained(config, tell)
    except TrainingError as cause:
        return row | {"results": None, "failed": str(cause)}
    lm = load_trained(run.path, dtype=how.dtype, device=config.train.device)
    reference = None
    if config.model.rank:
        bench = LanguageEvaluationContext(lm, None, how.judge, None, how.seed, how.max_new_tokens, how.task_tokens)
        bench = with_fluency_limit(bench, parts.test.benign[:64])
        row["dial"] = evaluate_scales(
            bench, parts.validation, plan.scales, how.dial, run, lambda done, total: tell("dial", done, total)
        )
        row["scale"] = select_scale(row["dial"], plan.budget)
    else:
        reference = loading.load(config.model.name, dtype=how.dtype, device=config.train.device)
    scaled = adapter_scale(lm, row["scale"]) if config.model.rank else nullcontext()
    with scaled:
        found = evaluate(
            lm, parts.test, attacks=how.attacks, judge=how.judge, rater=how.rater, reference=reference,
            base=folder / "base", seed=how.seed, out=path, max_new_tokens=how.max_new_tokens,
            task_tokens=how.task_tokens, on_progress=_stages(tell),
        )  # fmt: skip
    return row | {"training": _told(run), "results": found.record()}


def _trained(config: LanguageConfig, tell: _Tell) -> RunFolder:
    """Train, or go on with what was begun; a folder in which nothing was begun is cleared of what it holds."""
    path = Path(config.train.out)
    is_begun = (path / CONFIG).is_file()
    if not is_begun:
        (path / "environment.json").unlink(missing_ok=True)

    def watch(event: Event) -> None:
        if isinstance(event, LanguageStep):
            tell("training", event.step, event.steps)

    return fit_language(config, resume=is_begun, on_event=watch)


def _told(run: RunFolder) -> Row:
    """Return what the run's log says of the training as a whole."""
    lines = run.read_log(METRICS)
    steps = [line for line in lines if "forwards" in line]
    sums = {name: sum(line[name] for line in steps) for name in ("adversarial", "examples", "forwards", "backwards")}
    seconds = round(sum(line.get("seconds", 0.0) for line in steps), 1)
    guard = [line["said"] for line in lines if line.get("event") == "guard"]
    return {"steps": max((line["step"] for line in steps), default=0), **sums, "seconds": seconds, "guard": guard}


def _stages(tell: _Tell) -> Callable[[LanguageEvaluationProgress], None]:
    return lambda at: tell(at.stage, at.done, at.total)


def _find(record: Row, setting: Setting) -> Row | None:
    keys = vars(setting)
    return next((row for row in record["settings"] if all(row[key] == keys[key] for key in keys)), None)


def _write(folder: RunFolder, record: Row, plan: SweepGrid) -> None:
    """Write everything that is known, with what follows from it."""
    record |= summarize_sweep(record["base"], record["settings"], plan.budget)
    folder.write_json(FILE, record)
