"""``features.toml``: type, limits, unit and rules of each feature of a table, and the threat model that they give.

[features.amount]
type = "real"          # real, int, or cat (one column of a one-hot group)
mutable = true         # "?" in a draft: a person decides
min = 100              # lowest and highest valid value, or "clean" for the clean value
max = 50000
scale = 5000           # the unit that eps counts in, 1 if left out; "free" for no limit but the box
direction = "up"       # "up" or "down": one-sided changes
group = "home"         # of a cat: the group it belongs to

[relations]
allowed = ["installment <= income", "total = amount * rate"]
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.config import toml
from advreg.config.features_draft import UNDECIDED
from advreg.config.features_draft import draft_features as draft_features
from advreg.documents import read_text
from advreg.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from advreg.threat import ThreatModel

_KEYS = ("type", "mutable", "min", "max", "scale", "direction", "group")
_TYPES = ("real", "int", "cat")
_SLACK = 1e-3  # share of the width of a feature that rounding may take a row beyond it
_SIDES = {"": 0, "up": 1, "down": -1}


@dataclass(frozen=True)
class Feature:
    """One feature of a table.

    Attributes:
        name: its column.
        type: ``real``, ``int``, or ``cat`` for a column of a one-hot group.
        mutable: whether the adversary may change it; None while it is undecided.
        low, high: lowest and highest valid value; None for the clean value of each row.
        scale: the unit that eps counts in; inf for free.
        direction: ``up``, ``down`` or empty.
        group: the one-hot group of a ``cat``.
    """

    name: str
    type: str
    mutable: bool | None
    low: float | None
    high: float | None
    scale: float = 1.0
    direction: str = ""
    group: str = ""

    @property
    def side(self) -> int:
        """1 where the value may only rise, -1 where it may only fall, 0 otherwise."""
        return _SIDES[self.direction] or (1 if self.low is None else -1 if self.high is None else 0)


@dataclass(frozen=True)
class FeatureTable:
    """The features of a table, in the order of its columns, and the relations between them."""

    features: tuple[Feature, ...]
    relations: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(each.name for each in self.features)

    def require_columns(self, columns: Sequence[str]) -> None:
        """Check that the columns of a table are these features, in this order; columns without names fit.

        Args:
            columns: names of the columns.

        Raises:
            ConfigError: another column, in another place, or another number of them.
        """
        if columns and tuple(columns) != self.names:
            wrong = next((pair for pair in zip(self.names, columns, strict=False) if len(set(pair)) > 1), ("", ""))
            raise ConfigError(
                f"the features list {wrong[0]!r} where the data has {wrong[1]!r}; list every column, in its order"
                if any(wrong)
                else f"the features are {len(self.names)} and the columns {len(columns)}; list every column, in its order"
            )

    def threat(self, norm: str, eps: float, x: Tensor | None = None) -> ThreatModel:
        """Return the threat model for the rows of a table.

        Args:
            norm: ``"linf"``, ``"l2"`` or ``"l1"``.
            eps: radius in units of the features.
            x: clean rows ``(N, F)``, their range bounds features that end at their clean value; None without such.

        Returns:
            The threat model, with box, scale and rules.

        Raises:
            ConfigError: undecided features, another number of columns, or rows outside the limits of a feature.
        """
        import torch

        from advreg.constraints import FeatureRules
        from advreg.threat import ThreatModel

        open_ones = [each.name for each in self.features if each.mutable is None]
        if open_ones:
            raise ConfigError(
                f'{len(open_ones)} features are undecided (mutable = "?"): {", ".join(open_ones[:8])}; '
                "write true where an adversary can change the value, false where not"
            )
        low, high = self._ends(x)
        scale = [self._unit(each) for each in self.features]
        rules = FeatureRules(
            integer=tuple(k for k, each in enumerate(self.features) if each.type == "int"),
            groups=self._groups(),
            relations=self.relations,
            names=self.names,
            one_sided=tuple(each.side for each in self.features),
        )
        box: Any = torch.tensor([low, high], dtype=torch.float64).unbind(0)
        return ThreatModel(norm, eps, box, scale=torch.tensor(scale, dtype=torch.float64), rules=rules)  # type: ignore[arg-type]  # it checks its norm

    def _ends(self, x: Tensor | None) -> tuple[list[float], list[float]]:
        """Return lowest and highest value of each feature; those limited by the clean value have the range of the rows."""
        if x is None:
            unbounded = [each.name for each in self.features if each.low is None or each.high is None]
            if unbounded:
                raise ConfigError(
                    f'{unbounded[0]} ends at "clean"; without data, give numbers and direction = "up" or "down"'
                )
            return [each.low or 0.0 for each in self.features], [each.high or 0.0 for each in self.features]
        if x.ndim != 2 or x.shape[1] != len(self.features):
            raise ConfigError(f"the features are {len(self.features)} and the data {tuple(x.shape)}; give one a column")
        least, most = x.amin(0).double().tolist(), x.amax(0).double().tolist()
        low = [a if each.low is None else each.low for each, a in zip(self.features, least, strict=True)]
        high = [a if each.high is None else each.high for each, a in zip(self.features, most, strict=True)]
        for name, *ends, a, b in zip(self.names, low, high, least, most, strict=True):
            slack = _SLACK * (ends[1] - ends[0])
            if a < ends[0] - slack or b > ends[1] + slack:
                raise ConfigError(
                    f"{name} spans [{a:g}, {b:g}] in the data, outside its min {ends[0]:g} and max {ends[1]:g}; "
                    "widen them, or leave these rows out"
                )
        return low, high

    @staticmethod
    def _unit(feature: Feature) -> float:
        fixed = not feature.mutable or (feature.low is None and feature.high is None)
        return 0.0 if fixed else feature.scale

    def _groups(self) -> tuple[tuple[int, ...], ...]:
        found: dict[str, list[int]] = {}
        for at, each in enumerate(self.features):
            if each.type == "cat":
                found.setdefault(each.group, []).append(at)
        return tuple(tuple(members) for members in found.values())


def read_features(path: str | Path) -> FeatureTable:
    """Read ``features.toml``, or the metadata CSV of TabularBench (feature, type, mutable, min, max).

    Args:
        path: the file.

    Returns:
        The features.

    Raises:
        ConfigError: a file that cannot be read, or a key, type or value that is not allowed; the line names feature and key.
    """
    return parse_features(read_sections(path), str(path))


def read_sections(path: str | Path) -> dict[str, Any]:
    """Return the sections ``features`` and ``relations`` of a file of features, as a run.toml holds them.

    Args:
        path: the file.

    Returns:
        The sections.

    Raises:
        ConfigError: a file that cannot be read.
    """
    return _csv_rows(_read_csv(path)) if str(path).endswith(".csv") else toml.read(path)


def include_features(values: Mapping[str, Any], folder: Path, source: str) -> dict[str, Any]:
    """Return the values of a run.toml with the sections of the file that ``features = "features.toml"`` names.

    Args:
        values: sections by name.
        folder: folder of the run.toml, where the file lies too.
        source: origin of the values, for errors.

    Returns:
        The values; unchanged where ``features`` is a section or absent.

    Raises:
        ConfigError: a file elsewhere, a file that cannot be read, or relations in both files.
    """
    name = values.get("features")
    if not isinstance(name, str):
        return dict(values)
    if Path(name).name != name:
        raise ConfigError(f"{source}: features is {name!r}; name a file beside run.toml, such as features.toml")
    if "relations" in values:
        raise ConfigError(f"{source}: [relations] and features = {name!r}; write the relations into {name}")
    sections = read_sections(folder / name)
    parse_features(sections, str(folder / name))
    return {**values, **sections}


def _read_csv(path: str | Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8, or too large"
        raise ConfigError(f"cannot read {path}: {reason}; give features.toml or TabularBench's metadata CSV") from error


def parse_features(document: Mapping[str, Any], source: str) -> FeatureTable:
    """Return the features of a parsed document with the sections ``features`` and ``relations``.

    Args:
        document: sections by name.
        source: origin of the document, for errors.

    Returns:
        The features.

    Raises:
        ConfigError: no features, or a key, type or value that is not allowed.

    Example:
        >>> document = {"features": {"age": {"type": "int", "mutable": False, "min": 0, "max": 120}}}
        >>> parse_features(document, "features.toml").features[0].name
        'age'
    """
    entries, relations = document.get("features"), document.get("relations", {})
    if not isinstance(entries, Mapping) or not entries:
        raise ConfigError(f"{source} holds no features; write [features.NAME] for each column")
    allowed = relations.get("allowed", []) if isinstance(relations, Mapping) else None
    if not isinstance(allowed, list) or not all(isinstance(each, str) for each in allowed):
        raise ConfigError(f'{source}: [relations] holds one list, allowed = ["a <= b", ...]')
    return FeatureTable(tuple(_feature(name, entry, source) for name, entry in entries.items()), tuple(allowed))


def _feature(name: str, entry: Any, source: str) -> Feature:
    where = f"{source}: features.{name}"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is {entry!r}; write a section with {', '.join(_KEYS)}")
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise ConfigError(
            f"{where}.{unknown[0]} is unknown; allowed: {', '.join(_KEYS)}.{did_you_mean(unknown[0], _KEYS)}"
        )
    kind, mutable = entry.get("type", "real"), entry.get("mutable", UNDECIDED)
    if kind not in _TYPES:
        raise ConfigError(f"{where}.type is {kind!r}; allowed: {', '.join(_TYPES)}")
    if not isinstance(mutable, bool) and mutable != UNDECIDED:
        raise ConfigError(f'{where}.mutable is {mutable!r}; write true or false, or "?" while it is undecided')
    direction, group = entry.get("direction", ""), entry.get("group", "")
    if direction not in _SIDES:
        raise ConfigError(f"{where}.direction is {direction!r}; allowed: up, down")
    if (kind == "cat") != bool(group):
        raise ConfigError(f'{where}: a cat, and only a cat, names its one-hot group: group = "..."')
    low, high = (_end(entry, key, where) for key in ("min", "max"))
    if low is not None and high is not None and low > high:
        raise ConfigError(f"{where}: min {low:g} is above max {high:g}")
    decided = mutable if isinstance(mutable, bool) else None
    return Feature(name, kind, decided, low, high, _scale(entry, where), direction, str(group))


def _end(entry: Mapping[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value == "clean":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f'{where}.{key} is {value!r}; give a number, or "clean" for the value of the clean row')
    return float(value)


def _scale(entry: Mapping[str, Any], where: str) -> float:
    value = entry.get("scale", 1.0)
    if value == "free":
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f'{where}.scale is {value!r}; give the unit of the feature, above 0, or "free"')
    return float(value)


def _csv_rows(text: str) -> dict[str, Any]:
    """Return TabularBench's metadata as a document; ``dynamic`` is the clean value."""
    features = {}
    for row in csv.DictReader(io.StringIO(text)):
        ends = {key: "clean" if row[key] == "dynamic" else float(row[key]) for key in ("min", "max")}
        kind = "int" if row["type"] in ("int", "cat") else "real"
        features[row["feature"]] = {"type": kind, "mutable": row["mutable"].strip().lower() == "true"} | ends
    return {"features": features}
