"""Run a sweep: train every setting with every seed, compare on held-out training images, recommend one.

keys -> settings (grid or search) -> trial (train, attack the held-out images) -> rows -> sweep.json, table, plot, page
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from advreg.config import Config
from advreg.config.threat import configured_threat
from advreg.errors import ConfigError, RunError
from advreg.plugins import trusting
from advreg.runs import RunFolder
from advreg.sweep import study, summary
from advreg.sweep.early_stop import EarlyStop
from advreg.sweep.result import FILE, Sweep
from advreg.sweep.space import Setting, Space, grid, setting_name
from advreg.sweep.trial import Measurement, Row, Trial, plain_config, rows_of_setting, run_trial, with_run_folder
from advreg.sweep.trials import GridInFolder, TrialSource
from advreg.threat import ThreatModel
from advreg.trainer.events import Event
from advreg.trainer.schedules import SCHEDULES
from advreg.training.finetune import fine_tune
from advreg.training.policies import POLICIES
from advreg.training.recipes import RECIPES

_PLAIN = "plain"


@dataclass(frozen=True)
class SweepPlan:
    """How a sweep trains, compares and chooses.

    Attributes:
        threat: threat model of the comparison; that of the configuration if None.
        protocol: protocol of the comparison.
        n: held-out images of the comparison; all if None.
        budget: largest acceptable loss of clean accuracy against the best training, as a share.
        seeds: seeds of every setting.
        trials: number of trials of a search; None for the whole grid.
        storage: SQLAlchemy URL that several machines share; the folder of the sweep if empty.
        study: name of the study in that storage.
        plain: whether a plain network is trained too, as the reference of clean accuracy.
        early_stop: whether hopeless trials are stopped.
        finetune: run folder, weights or pretrained network to start from; empty for training from scratch.
    """

    threat: ThreatModel | None = None
    protocol: str = "quick"
    n: int | None = None
    budget: float = 0.01
    seeds: tuple[int, ...] = (0,)
    trials: int | None = None
    storage: str = ""
    study: str = "advreg"
    plain: bool = True
    early_stop: bool = True
    finetune: str = ""


@dataclass(frozen=True)
class TrialProgress:
    """A training of a sweep begins, goes on or ends.

    Attributes:
        name: the setting and the seed.
        place: number of the training from 1, in this process.
        event: event of the training; None where it begins.
        row: its row at the end.
    """

    name: str
    place: int
    event: Event | None = None
    row: Row | None = field(default=None)


OnProgress = Callable[[TrialProgress], None]


def run_sweep(
    config: Config,
    space: Space,
    options: SweepPlan = SweepPlan(),  # frozen
    *,
    out: str | Path,
    command: str = "",
    trust_code: bool = False,
    on_progress: OnProgress | None = None,
) -> Sweep:
    """Train every setting of a grid, or search, and compare them on held-out training images.

    The same call resumes an interrupted sweep: finished trainings are not repeated, an interrupted one continues after its last
    epoch. A larger grid extends a finished one.

    Args:
        config: configuration that the settings share; its ``seed`` and ``train.out`` are not used.
        space: key -> values, as `parse_keys` returns.
        options: see `SweepPlan`.
        out: folder of the sweep; ``runs/`` in it holds the run folders of this machine.
        command: command line, for the page.
        trust_code: let the configuration, and run folders that it names, name code (``pkg.module:factory``).
        on_progress: called with each event.

    Returns:
        A `Sweep`; ``sweep.json`` in the folder holds the same.

    Raises:
        ConfigError: keys or values that the configuration does not take, options out of range, or an unusable storage.
        RunError: the folder or the study holds another sweep, or is in use.
        MissingExtraError: a search or a storage without ``advreg[sweep]``.

    Example:
        >>> import tempfile
        >>> from advreg.sweep import parse_keys
        >>> config = Config().replace_with([
        ...     "model.name=zoo:mnist-dnn", "data.validation=59900", "train.epochs=1", "threat.eps=0.1", "recipe.name=mixed",
        ...     "attack.name=pgd", "attack.steps=1", "optimizer.lr=0.01", "train.validation_steps=1",
        ... ])
        >>> space = parse_keys(["recipe.options.ratio=0.5"])
        >>> found = run_sweep(config, space, SweepPlan(n=50, plain=False), out=tempfile.mkdtemp())
        >>> [each["setting"] for each in found.settings]
        [{'recipe.options.ratio': '0.5'}]
    """
    _check(config, options, space)
    folder = RunFolder.at(out)
    how = Measurement(options.threat or configured_threat(config), options.protocol, options.n)
    about = _about(config, options, how)
    settings = grid(space) if options.trials is None else []
    for each in settings:  # every mistake is found before the first training
        _check_options(_trial_config(config, each, options, options.seeds[0]))
    with trusting(trust_code), folder.lock():
        _require_same(folder, about)
        source = _source(folder, space, settings, options, about)
        sweep = _Run(config, options, how, folder, source, _record(space, how, options, about, command), on_progress)
        if options.plain:
            sweep.train({})
        while (setting := source.take()) is not None:
            sweep.train(setting)
            source.finish(setting)
        return sweep.write()


def _check(config: Config, options: SweepPlan, space: Space) -> None:
    if not config.data.validation and "data.validation" not in space:
        raise ConfigError("data.validation is 0, so no training images are held out; set it, such as to 1000")
    if not space:
        raise ConfigError("a sweep has no key; give --key section.key=value,value")
    taken = next((key for key in ("seed", "train.out") if key in space), None)
    if taken is not None:
        raise ConfigError(f"--key {taken} is set by the sweep itself; for several seeds give --seeds 0,1,2")
    if not (0 <= options.budget < 1 and options.seeds and (options.trials is None or options.trials > 0)):
        raise ConfigError(
            f"clean budget {options.budget}, seeds {options.seeds}, trials {options.trials}; "
            "give a budget from 0 to below 1, at least one seed, and one trial or more"
        )


def _check_options(config: Config) -> None:
    """Raise for options that recipe, policy or schedule do not take; a distillation would load its teachers."""
    for section, registry in ((config.recipe, RECIPES), (config.policy, POLICIES), (config.schedule, SCHEDULES)):
        if section.name not in ("distill", "ard", "rslad", "adaad"):
            registry.build(section.name, section.options)


def _trial_config(config: Config, setting: Setting, options: SweepPlan, seed: int) -> Config:
    """Return the configuration of a training; the setting overrides what fine-tuning chooses."""
    changes = [f"{key}={value}" for key, value in setting.items()]
    if not setting:
        return plain_config(config).replace_with([f"seed={seed}"])
    changed = config.replace_with([*changes, f"seed={seed}"])
    return fine_tune(changed, options.finetune).replace_with(changes) if options.finetune else changed


def _about(config: Config, options: SweepPlan, how: Measurement) -> dict[str, str]:
    """Return hashes of what must be equal for two trainings to be comparable."""
    values = config.to_dict()
    for key in ("out", "device"):
        del values["train"][key]
    del values["seed"]
    return {
        "configuration": _hash([values, options.finetune]),
        "threat": str(how.threat),
        "protocol": how.protocol,
        "n": str(how.n),
        "seeds": ",".join(map(str, options.seeds)),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _require_same(folder: RunFolder, about: dict[str, str]) -> None:
    """Raise if the folder holds another sweep."""
    if not (folder / FILE).is_file():
        return
    before = folder.read_json(FILE).get("about", {})
    other = next((key for key in about if before.get(key) != about[key]), None)
    if other is not None:
        raise RunError(f"{folder.path} holds a sweep with other {other}; use the same options, or another folder")


def _source(
    folder: RunFolder, space: Space, settings: Sequence[Setting], options: SweepPlan, about: dict[str, str]
) -> TrialSource:
    if options.trials is None and not options.storage:
        return GridInFolder(folder, settings, options.seeds)
    url = options.storage or f"sqlite:///{(folder / 'study.db').resolve()}"
    found = study.open_study(url, options.study, about, options.seeds[0])
    shared = study.SharedStudy(found, space, study.owner_of(folder.path), options.trials)
    shared.enqueue(settings)
    return shared


def _record(space: Space, how: Measurement, options: SweepPlan, about: dict[str, str], command: str) -> dict[str, Any]:
    return {
        "schema": "advreg/sweep@1",
        "about": about,
        "command": command,
        "keys": list(space),
        "threat": str(how.threat),
        "budget": options.budget,
    }


@dataclass
class _Run:
    """What all trainings of a sweep share."""

    config: Config
    options: SweepPlan
    how: Measurement
    folder: RunFolder
    source: TrialSource
    record: dict[str, Any]
    on_progress: OnProgress | None
    place: int = 0

    def train(self, setting: Setting) -> None:
        """Train a setting with every seed that has no row yet; after a hopeless one, no further seed."""
        for seed in self.options.seeds:
            rows = rows_of_setting(self.source.rows(), setting)
            if any(row["state"] != summary.COMPLETE for row in rows.values()):
                return
            if seed not in rows:
                self.source.add(self._train_one(setting, seed))
                self.write()

    def write(self) -> Sweep:
        """Write sweep.json with all rows so far, and return it."""
        rows = self.source.rows()
        self.record |= {"rows": rows, **summary.summarize(rows, self.options.budget)}
        self.folder.write_json(FILE, self.record)
        return Sweep(self.folder.path, self.record)

    def _train_one(self, setting: Setting, seed: int) -> Row:
        name = setting_name(setting) if setting else _PLAIN
        config = with_run_folder(_trial_config(self.config, setting, self.options, seed), self.folder.path, name)
        self.place += 1
        begin = TrialProgress(f"{name}, seed {seed}", self.place)
        self._emit(begin)
        row = run_trial(
            Trial(name, setting, config), self.how, self._stop(setting), lambda e: self._emit(replace(begin, event=e))
        )
        row["run"] = Path(row["run"]).relative_to(self.folder.path).as_posix()
        self._emit(replace(begin, row=row))
        return row

    def _stop(self, setting: Setting) -> EarlyStop | None:
        """Return the early stop; a plain network is never stopped, and epochs at different eps are not compared."""
        if not self.options.early_stop or not setting:
            return None
        rows = [row for row in self.source.rows() if row["setting"] and row["state"] == summary.COMPLETE]
        return EarlyStop(rows, compares=not any(key.startswith("threat.") for key in setting))

    def _emit(self, progress: TrialProgress) -> None:
        if self.on_progress is not None:
            self.on_progress(progress)
