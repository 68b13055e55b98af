"""Shards: the work of one of several machines that share nothing, and the names of the files that it writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from advreg.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One of ``count`` equal parts of a list of units, numbered from 0 as Kubernetes and Slurm number their tasks.

    Attributes:
        number: of this shard, from 0.
        count: of all shards.

    Raises:
        ConfigError: no such shard.

    Example:
        >>> shard = Shard.parse("1/3")
        >>> shard.share("abcdefg"), shard.file("ledger", "jsonl")
        ('be', 'ledger.1-of-3.jsonl')
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ConfigError(
                f"shard is {self.number}/{self.count}; shards are numbered from 0: "
                f"0/{max(self.count, 1)} to {max(self.count, 1) - 1}/{max(self.count, 1)}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that text such as ``3/8`` names.

        Args:
            text: number and count.

        Raises:
            ConfigError: text of another form, or no such shard.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
        if match is None:
            raise ConfigError(f"shard is {text!r}; write number/count, numbered from 0, such as 3/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return every ``count``-th item, starting at ``number``.

        Args:
            items: the items of all shards.
        """
        return items[self.number :: self.count]

    @property
    def part(self) -> str:
        """Name of this shard in the names of files."""
        return f"{self.number}-of-{self.count}"

    def file(self, name: str, suffix: str) -> str:
        """Return the name of a file of this shard.

        Args:
            name: of the file, such as ``ledger``.
            suffix: such as ``jsonl``.
        """
        return f"{name}.{self.part}.{suffix}"


def shard_template(arguments: list[str]) -> list[str]:
    """Return a command line with ``{shard}`` in place of the shard.

    Args:
        arguments: the command line.

    Returns:
        The command line for other shards.

    Example:
        >>> shard_template(["evaluate", "run", "--shard", "3/8"]), shard_template(["evaluate", "--shard=3/8"])
        (['evaluate', 'run', '--shard={shard}'], ['evaluate', '--shard={shard}'])
    """
    found, rest = [], iter(arguments)
    for argument in rest:
        if argument == "--shard":
            next(rest, None)
        found.append("--shard={shard}" if argument.partition("=")[0] == "--shard" else argument)
    return found
