"""Resolve which model, data set, threat model and folder a verb works on: the options given, else the run folder's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.config import Config
from advreg.config.features import FeatureTable, read_features
from advreg.config.task import configured_task, named_task
from advreg.config.threat import configured_features, configured_threat, threat_on_features
from advreg.documents import check_links, read_text
from advreg.eps_and_box import read_short_form
from advreg.errors import ConfigError, RunError, ThreatError, did_you_mean_path
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

if TYPE_CHECKING:
    from advreg.data import Dataset, StreamingDataset, Table

    AnyPair = tuple[Dataset, Dataset] | tuple[Table, Table] | tuple[StreamingDataset, StreamingDataset]


@dataclass(frozen=True)
class ModelSource:
    """A model as the command line names it, with the run folder and configuration where it is one.

    Attributes:
        name: the argument: a run folder, or a name such as ``zoo:mnist-cnn``.
        folder: the run folder; None for a model by name.
        config: the configuration of the run; None for a model by name.
    """

    name: str
    folder: Path | None = None
    config: Config | None = None

    @classmethod
    def of(cls, name: str) -> ModelSource:
        """Read the configuration of a run folder; any other name has none.

        Args:
            name: a run folder, or the name of a model.

        Returns:
            The source.

        Example:
            >>> ModelSource.of("zoo:mnist-cnn").folder is None
            True
        """
        folder = Path(name)
        require_folder(name)
        point_to_text_verbs(name)
        if not (folder / "run.toml").is_file():
            return cls(name)
        check_links(folder)
        return cls(name, folder, load_config(folder))

    def data(self, option: str | None) -> str:
        """Return the name of the data set.

        Args:
            option: of ``--data``; None where it is absent.

        Returns:
            The name.

        Raises:
            ConfigError: no option and no run folder.
        """
        data = option or (self.config.data.name if self.config else None)
        if data is None:
            raise ConfigError(f"no data for {self.name}: add --data, such as --data mnist")
        return data

    def task(self, option: str | None = None) -> Task:
        """Return the task: that of the option, else the run's, else classification.

        Args:
            option: of ``--task``: a name with options, or ``pkg.module:factory``; None where it is absent.

        Returns:
            The task.

        Raises:
            ConfigError: no such task, or a factory that returns no task.

        Example:
            >>> ModelSource("zoo:mnist-cnn").task("pixels")
            Task(pixels: masked-ce, balanced-ce, js, cosine)
        """
        if option is not None:
            return named_task(option)
        return CLASSES if self.config is None else configured_task(self.config)

    def require_classes(self, what: str) -> None:
        """Raise for a run of another task than classification.

        Args:
            what: the work that is for classes.

        Raises:
            ConfigError: the run has another task.
        """
        name = self.config.task.name if self.config else "classes"
        if name != "classes":
            raise ConfigError(
                f"{what} for classes, and the task of {self.name} is {name!r}; evaluate, diagnose, report, compare follow it"
            )

    def data_sets(self, option: str | None, task: Task = CLASSES) -> AnyPair:
        """Return the training set and the test set; those of a run that streams its images are streamed here too.

        Args:
            option: of ``--data``; None where it is absent.
            task: what an output is worth; other tasks than classification have targets of any shape.

        Returns:
            Training set and test set.

        Raises:
            ConfigError: no option and no run folder.
            DataError: the data cannot be used.
        """
        from advreg import data

        name = self.data(option)
        if task is not CLASSES:
            return data.load_targets(name)
        return data.stream(name) if option is None and self.config and self.config.data.stream else data.load(name)

    def threat(
        self,
        option: str | None,
        box: str = "",
        features: Path | None = None,
        sets: Callable[[], Sequence[Any]] = tuple,
    ) -> ThreatModel | str:
        """Return the threat model, or its text where only the data know the box.

        Args:
            option: of ``--threat``, ``norm:eps`` or ``norm:eps@low,high``; None where it is absent.
            box: of ``--box``, ``low,high``; empty where it is absent.
            features: file of ``--features``; None where it is absent, then the features are those of the run, if any.
            sets: loads training set and test set, which features are checked against; called for features alone.

        Returns:
            The threat model, or the text ``norm:eps`` for `advreg.evaluation.examples.threat_on`.

        Raises:
            ThreatError: no option and no run folder with a threat, or the text is not a threat model.
            ConfigError: features that are malformed or undecided, or do not fit the data.

        Example:
            >>> str(ModelSource("zoo:mnist-cnn").threat("linf:0.1", box="-3,3"))
            'linf:0.1@-3,3'
        """
        table = self._features(features)
        if table is not None:
            norm, eps = self._norm_and_eps(option, box)
            return threat_on_features(table, norm, eps, sets())
        if option is not None:
            text = _with_box(option, box or ("" if "@" in option else self.own_box()))
            if self.config is not None and self.config.threat.scale:
                return replace(configured_threat(self.config), **_norm_eps_box(text))
            return ThreatModel.parse(text) if "@" in text else text
        configured = configured_threat(self._with_threat())
        return replace(configured, box=parse_box(box)) if box else configured

    def _features(self, file: Path | None) -> FeatureTable | None:
        """Return the features of the option ``--features``, else those of the run; None where neither has any."""
        if file is not None:
            return read_features(file)
        return configured_features(self.config) if self.config and self.config.features else None

    def _with_threat(self) -> Config:
        """Return the configuration of the run; raise where it has no threat."""
        if self.config is None or not self.config.threat.eps:
            raise ThreatError("no threat given: add --threat norm:eps, such as --threat linf:8/255")
        return self.config

    def _norm_and_eps(self, option: str | None, box: str) -> tuple[str, float]:
        """Return norm and eps of a threat on features, which has the boxes of the features."""
        if box or "@" in (option or ""):
            given = f"--box is {box!r}" if box else f"--threat is {option!r}"
            raise ConfigError(f"{given} and features have min and max each; leave the box out")
        if option is None:
            section = self._with_threat().threat
            return section.norm, section.eps
        norm, eps, _ = read_short_form(option)
        return norm, eps

    def own_box(self) -> str:
        """Return the box of the run as text; empty where it is that of pixels, or there is no run."""
        low, high = self.config.threat.box if self.config else (0.0, 1.0)
        return "" if (low, high) == (0.0, 1.0) else f"{low!r},{high!r}"

    def output(self, option: Path | None) -> Path | None:
        """Return the folder that results go to: the option ``--out``, else the run folder, else None.

        Args:
            option: folder of ``--out``; None where it is absent.

        Returns:
            The folder, or None.
        """
        return option or self.folder


def require_folder(name: str) -> None:
    """Check that a model given as a path exists; names such as ``zoo:mnist-cnn`` are no paths.

    Args:
        name: a run folder, or the name of a model.

    Raises:
        RunError: nothing is there; the message names the nearest folder beside it.

    Example:
        >>> require_folder("runs/nope")
        Traceback (most recent call last):
        ...
        advreg.errors.RunError: no run folder at runs/nope; give one that `advreg train` wrote, or a name such as zoo:mnist-cnn
    """
    path = Path(name)
    if ":" not in name and len(path.parts) > 1 and not path.exists():
        wrote = "give one that `advreg train` wrote, or a name such as zoo:mnist-cnn"
        raise RunError(f"no run folder at {name};{did_you_mean_path(path)} {wrote}")


def _norm_eps_box(text: str) -> dict[str, Any]:
    given = ThreatModel.parse(text)
    return {"norm": given.norm, "eps": given.eps, "box": given.box, "relative": given.relative}


def _with_box(threat: str, box: str) -> str:
    if box and "@" in threat:
        raise ThreatError(f"--threat is {threat!r} and --box is {box!r}; give the box once")
    return f"{threat}@{box}" if box else threat


def parse_box(text: str) -> tuple[float, float]:
    """Parse the option ``--box``.

    Args:
        text: ``low,high``, each a number or a fraction.

    Returns:
        Lowest and highest valid value of an input.

    Raises:
        ThreatError: something else.

    Example:
        >>> parse_box("-3,3")
        (-3.0, 3.0)
    """
    try:
        low, high = (float(Fraction(end)) for end in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise ThreatError(f"--box is {text!r}; give the lowest and highest valid value, such as --box -3,3") from None
    return low, high


def point_to_text_verbs(name: str | Path, verb: str = "evaluate") -> None:
    """Raise for a model or configuration of texts, which has verbs of its own.

    Args:
        name: a folder, a configuration file or the name of a model.
        verb: the verb to name.

    Raises:
        ConfigError: it is a text classifier or a language model; the message names the command.

    Example:
        >>> point_to_text_verbs("gguf:model.gguf")
        Traceback (most recent call last):
        ...
        advreg.errors.ConfigError: gguf:model.gguf is a language model; use advreg language evaluate gguf:model.gguf
    """
    group = _text_group(str(name))
    if group is not None:
        kind = "text classifier" if group == "text" else "language model"
        raise ConfigError(f"{name} is a {kind}; use advreg {group} {verb} {name}")


def _text_group(name: str) -> str | None:
    """Return the command group of a text model or configuration, ``text`` or ``language``; None for anything else."""
    path = Path(name)
    if (path / "run.toml").is_file():  # a run of images, whatever else the folder holds
        return None
    for group in ("text", "language"):
        if path.name == f"{group}.toml" or (path / f"{group}.toml").is_file():
            return group
    if name.partition(":")[0] in ("gguf", "hf-gguf"):
        return "language"
    if not (path / "config.json").is_file() or (path / "model.json").is_file():
        return None
    content = read_text(path / "config.json")
    if re.search(r'"\w+For(CausalLM|ConditionalGeneration)"', content):
        return "language"
    return "text" if '"vocab_size"' in content else None


def load_config(path: Path) -> Config:
    """Load the configuration of a run folder, or a configuration file.

    Args:
        path: a run folder or a TOML file.

    Returns:
        The configuration.

    Raises:
        ConfigError: the file cannot be read, a value is not allowed, or it belongs to a text model.
    """
    point_to_text_verbs(path, "train")
    return Config.load(path / "run.toml" if path.is_dir() else path)


def pixel_threat(text: str) -> ThreatModel:
    """Parse the threat model for images that are written as bytes, whose box is [0, 1].

    Args:
        text: ``norm:eps``.

    Returns:
        The threat model.

    Raises:
        ThreatError: another box; the message names the equal threat model in [0, 1].

    Example:
        >>> pixel_threat("linf:8@0,255")
        Traceback (most recent call last):
        ...
        advreg.errors.ThreatError: threat is 'linf:8@0,255'; photographs are pixels in [0, 1]: write linf:8/255
    """
    threat = ThreatModel.parse(text)
    if threat.box != (0.0, 1.0):
        low, high = threat.box
        inside = ThreatModel(threat.norm, float(threat.eps) / (high - low))
        raise ThreatError(f"threat is {text!r}; photographs are pixels in [0, 1]: write {inside}")
    return threat


def parse_radii(text: str, norm: str = "l2", box: str = "0,1") -> list[float]:
    """Parse radii separated by commas, each a number or a fraction.

    Args:
        text: such as ``0,4/255,8/255``; may be empty.
        norm: the norm they belong to.
        box: ``low,high``, which limits radii in linf.

    Returns:
        The radii, in the given order.

    Raises:
        ThreatError: a radius is negative, no number, or wider than the box.

    Example:
        >>> parse_radii("0,0.1,1/2")
        [0.0, 0.1, 0.5]
    """
    return [float(ThreatModel.parse(f"{norm}:{part}@{box}").eps) for part in text.split(",") if part.strip()]
