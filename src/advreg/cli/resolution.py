"""Resolve which model, data set, threat model and folder a verb works on: the options given, else the run folder's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from advreg.config import Config
from advreg.config.threat import configured_threat
from advreg.documents import check_links
from advreg.errors import ConfigError, ThreatError
from advreg.threat import ThreatModel


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

    def threat(self, option: str | None) -> ThreatModel:
        """Return the threat model.

        Args:
            option: of ``--threat``, ``norm:eps`` or ``norm:eps@low,high``; None where it is absent.

        Returns:
            The threat model.

        Raises:
            ThreatError: no option and no run folder with a threat, or the text is not a threat model.

        Example:
            >>> str(ModelSource("zoo:mnist-cnn").threat("linf:8/255"))
            'linf:8/255'
        """
        if option is not None:
            return ThreatModel.parse(option)
        if self.config is None or not self.config.threat.eps:
            raise ThreatError("no threat given: add --threat norm:eps, such as --threat linf:8/255")
        return configured_threat(self.config)

    def output(self, option: Path | None) -> Path | None:
        """Return the folder that results go to: the option ``--out``, else the run folder, else None.

        Args:
            option: folder of ``--out``; None where it is absent.

        Returns:
            The folder, or None.
        """
        return option or self.folder


def load_config(path: Path) -> Config:
    """Load the configuration of a run folder, or a configuration file.

    Args:
        path: a run folder or a TOML file.

    Returns:
        The configuration.

    Raises:
        ConfigError: the file cannot be read, or a value is not allowed.
    """
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
