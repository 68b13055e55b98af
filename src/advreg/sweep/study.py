"""Trials from an Optuna study in a database that any number of machines share."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.errors import ConfigError, RunError
from advreg.plugins import first_line, import_extra
from advreg.sweep.space import Choices, SearchInterval, Setting, Space
from advreg.sweep.summary import ACCURACIES, COMPLETE

if TYPE_CHECKING:
    import optuna

Row = dict[str, Any]
ROWS, OWNER = "rows", "owner"
ABOUT, PLAIN = "about", "plain"
_EXTRA = "advreg[sweep]"
_TRIES = 4
_PAUSE = 0.5  # seconds between two tries


class SharedStudy:
    """A grid or a search with its trials and rows in a database.

    Args:
        study: the Optuna study, of two objectives to maximise: clean and robust accuracy.
        space: keys and their values.
        owner: name of this process's folder; trials of it that were interrupted are taken first.
        trials: number of trials of all processes together; None for the grid that `enqueue` has written.
    """

    def __init__(self, study: optuna.Study, space: Space, owner: str, trials: int | None) -> None:
        self.study, self.space = study, space
        self.owner, self.trials = owner, trials
        self._running: optuna.trial.BaseTrial | None = None
        self._added: list[Row] = []

    def enqueue(self, settings: Sequence[Setting]) -> None:
        """Add the settings of a grid that no process has added yet.

        Args:
            settings: the grid.
        """
        for setting in settings:
            self.study.enqueue_trial(dict(setting), skip_if_exists=True)

    def rows(self) -> list[Row]:
        """Return the rows of all processes, those of the plain network first."""
        rows = list(self.study.user_attrs.get(PLAIN, []))
        for trial in self.study.get_trials(deepcopy=False):
            rows += trial.user_attrs.get(ROWS, [])
        unique = {(repr(sorted(row["setting"].items())), row["seed"]): row for row in reversed(rows)}
        return list(reversed(unique.values()))  # two processes may train the plain network at the same time

    def take(self) -> Setting | None:
        """Return the setting of a trial that this process now owns; None where no trial is left."""
        import optuna

        states = optuna.trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        own = [t for t in trials if t.state == states.RUNNING and t.user_attrs.get(OWNER) == self.owner]
        if own:
            self._running = optuna.trial.Trial(self.study, own[0]._trial_id)
            self._added = list(own[0].user_attrs.get(ROWS, []))
            return _setting_of(own[0].params, self.space)
        waiting = any(t.state == states.WAITING for t in trials)
        counted = sum(t.state in (states.RUNNING, states.COMPLETE, states.PRUNED, states.WAITING) for t in trials)
        if not waiting and (self.trials is None or counted >= self.trials):
            return None
        trial = self.study.ask()
        trial.set_user_attr(OWNER, self.owner)
        setting = {name: _suggest(trial, name, values) for name, values in self.space.items()}
        if self.trials is None and self._is_repeated(trial, setting):
            self.study.tell(trial, state=states.FAIL)
            return self.take()
        self._running, self._added = trial, []
        return setting

    def add(self, row: Row) -> None:
        """Store a row: with the trial, or with the study where it is the plain network's."""
        if not row["setting"]:
            self.study.set_user_attr(PLAIN, [*self.study.user_attrs.get(PLAIN, []), row])
            return
        assert isinstance(self._running, self._trial_type())
        self._added.append(row)
        self._running.set_user_attr(ROWS, self._added)

    def finish(self, setting: Setting) -> None:
        """Report the means over the seeds as the values of the trial; one that was stopped or failed is pruned."""
        import optuna

        assert isinstance(self._running, self._trial_type())
        if self._added and all(row["state"] == COMPLETE for row in self._added):
            values = [sum(row[name] for row in self._added) / len(self._added) for name in ACCURACIES]
            self.study.tell(self._running, values)
        else:
            self.study.tell(self._running, state=optuna.trial.TrialState.PRUNED)

    def _is_repeated(self, trial: optuna.Trial, setting: Setting) -> bool:
        """Return whether an earlier trial of the grid has this setting: two processes may add or take at the same time."""
        earlier = self.study.get_trials(deepcopy=False)[: trial.number]
        return any(each.system_attrs.get("fixed_params") == setting for each in earlier)

    @staticmethod
    def _trial_type() -> type[optuna.trial.Trial]:
        import optuna

        return optuna.trial.Trial


def open_study(url: str, name: str, about: Mapping[str, str], seed: int) -> optuna.Study:
    """Return a study in a database, a new one where it holds none of this name.

    Args:
        url: SQLAlchemy URL: ``sqlite:///FILE``, ``postgresql://...``.
        name: name of the study.
        about: hashes of what must be equal for two trials to be comparable.
        seed: of the search, for a new study in one process; each process that joins draws its own.

    Returns:
        The study.

    Raises:
        MissingExtraError: Optuna is not installed.
        ConfigError: the database cannot be used.
        RunError: the study is of another sweep.
    """
    found = import_extra("optuna", _EXTRA)
    found.logging.set_verbosity(found.logging.ERROR)
    study = _create(found, url.replace("postgresql://", "postgresql+psycopg://", 1), name, seed)
    before = study.user_attrs.get(ABOUT)
    if before is None:
        study.set_user_attr(ABOUT, dict(about))
    elif before != dict(about):
        other = next((key for key in about if before.get(key) != about[key]), "options")
        raise RunError(f"the study {name!r} is a sweep with other {other}; use the same options, or another --study")
    return study  # type: ignore[no-any-return]  # the module is imported by name


def _create(found: Any, url: str, name: str, seed: int) -> Any:
    """Return the study; two processes that create the tables at the same time get in each other's way, so try again."""
    for left in reversed(range(_TRIES)):
        try:
            storage = found.storages.RDBStorage(url)
            joins = any(each.study_name == name and each.n_trials for each in found.get_all_study_summaries(storage))
            sampler = found.samplers.TPESampler(seed=None if joins else seed)
            return found.create_study(
                storage=storage, study_name=name, load_if_exists=True, directions=["maximize"] * 2, sampler=sampler
            )
        except Exception as cause:  # drivers raise errors of their own
            if not left:
                raise ConfigError(f"the storage of the sweep cannot be used: {first_line(cause)}") from cause
            time.sleep(_PAUSE)
    raise AssertionError("the last try returns or raises")


def owner_of(folder: Path) -> str:
    """Return a name of a sweep's folder on this machine.

    Args:
        folder: the folder.
    """
    return f"{socket.gethostname()}:{folder.resolve()}"


def _suggest(trial: optuna.Trial, name: str, values: Choices | SearchInterval) -> str:
    """Return the value of a key as text."""
    if isinstance(values, Choices):
        return str(trial.suggest_categorical(name, list(values.values)))
    if values.whole:
        return str(trial.suggest_int(name, int(values.low), int(values.high), log=values.is_logarithmic))
    return _text(trial.suggest_float(name, values.low, values.high, log=values.is_logarithmic))


def _setting_of(params: Mapping[str, Any], space: Space) -> Setting:
    return {name: _text(params[name]) for name in space}


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
