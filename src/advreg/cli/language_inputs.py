"""Inputs of ``advreg language``: data files, attacks and models as the command line gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl

from advreg.cli import attack_options
from advreg.errors import ConfigError, did_you_mean
from advreg.language import attacks as library
from advreg.language import datasets
from advreg.language.config import LanguageConfig
from advreg.language.evaluation.tasks import Attack, default_attacks
from advreg.language.judges import HarmJudge, Judge, RemoteJudge, keyword_judge, remote_harm_judge, words_judge
from advreg.language.models import loading
from advreg.language.models.adapters import adapter_scale
from advreg.language.models.loading import LanguageModel
from advreg.language.training.folder import CONFIG, load_base, load_trained

Row = TypeVar("Row")


@dataclass(frozen=True)
class DataFiles:
    """Data files, each ``FILE`` or ``FILE?column=name&...``; an empty text means no file.

    Attributes:
        harmful: harmful requests.
        safe: safe prompts.
        questions: questions with true and false answers.
        tasks: prompts with verifiable instructions.
        benign: harmless instructions with responses.
        labels: completions labelled as refusal or compliance.
    """

    harmful: str = ""
    safe: str = ""
    questions: str = ""
    tasks: str = ""
    benign: str = ""
    labels: str = ""

    def read(self) -> datasets.EvaluationData:
        """Read the prompts of every file."""
        return datasets.EvaluationData(
            tuple(read_rows(self.harmful, datasets.read_requests)),
            tuple(read_rows(self.safe, datasets.read_safe)),
            tuple(read_rows(self.questions, datasets.read_questions)),
            tuple(read_rows(self.tasks, datasets.read_tasks)),
            tuple(example for example in read_rows(self.benign, datasets.read_examples) if example.is_first),
        )

    def judge(self, tokens: int) -> Judge:
        """Return a judge trained on the labels, or the keyword judge without labels.

        Args:
            tokens: length of the completions to classify, in tokens.

        Example:
            >>> DataFiles().judge(48).name
            'keyword'
        """
        return words_judge(read_rows(self.labels, datasets.read_labelled), tokens) if self.labels else keyword_judge()


@dataclass(frozen=True)
class Rater:
    """A service that judges harm and rates helpfulness; all texts are empty without one.

    Attributes:
        url: URL of the service, such as ``https://host/v1``.
        model: model that the service uses.
        key: environment variable that holds the key.
        rubric: rubric of harm, ``strongreject`` or ``harmbench``.
    """

    url: str = ""
    model: str = ""
    key: str = ""
    rubric: str = "strongreject"

    def connect(self) -> RemoteJudge | None:
        """Return the judge behind the URL; None without one.

        Raises:
            ConfigError: a URL without a model, or a model without a URL.

        Example:
            >>> Rater().connect() is None
            True
        """
        if not self.url and not self.model and not self.key:
            return None
        if not self.url or not self.model:
            raise ConfigError("a judge behind a URL needs both --judge-url and --judge-model")
        return RemoteJudge(self.url, self.model, self.key or None)

    def judges(self) -> tuple[HarmJudge | None, RemoteJudge | None]:
        """Return the judge of harm and the rater of helpfulness behind the URL; None each without one.

        Example:
            >>> Rater().judges()
            (None, None)
        """
        service = self.connect()
        return (remote_harm_judge(service, self.rubric) if service else None), service


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation, as the command line gives them.

    Attributes:
        attacks: ``name`` or ``name:key=value,...`` each; the default attacks if None.
        n: largest number of prompts of each kind, or ``kind=number,...``.
        tokens: length of a completion in tokens.
        task_tokens: length of a completion for verifiable instructions in tokens.
        dtype: float32 or bfloat16.
        device: cpu, cuda, ...
        seed: seed of all random draws.
        scale: scale of the adapter of a run folder.
        system: system prompt; that of the run, else the chat template's default, if empty.
        rater: service that judges harm and rates helpfulness.
    """

    attacks: Sequence[str] | None = None
    n: str = "100"
    tokens: int = 48
    task_tokens: int = 128
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    scale: float = 1.0
    system: str = ""
    rater: Rater = Rater()

    def attack_functions(self) -> dict[str, Attack]:
        """Return the attacks of the options, or the default ones."""
        return parse_attacks(self.attacks) if self.attacks else default_attacks()

    def sizes(self) -> dict[str, int]:
        """Return the largest number of prompts of each kind; 100 for a kind that ``n`` does not name.

        Raises:
            ConfigError: an unknown kind, or a number that is not a whole number above 0.

        Example:
            >>> EvaluationOptions(n="requests=3").sizes()["requests"], EvaluationOptions(n="7").sizes()["safe"]
            (3, 7)
        """
        kinds = datasets.EvaluationData().n
        given = dict.fromkeys(kinds, self.n) if self.n.isdigit() else dict(_key_value(p) for p in self.n.split(","))
        if not all(kind in kinds and text.isdigit() and int(text) for kind, text in given.items()):
            raise ConfigError(f"-n is {self.n!r}; give a number, or KIND=NUMBER,... of {', '.join(kinds)}")
        return dict.fromkeys(kinds, 100) | {kind: int(text) for kind, text in given.items()}


def _key_value(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def read_rows(text: str, reader: Callable[..., list[Row]]) -> list[Row]:
    """Read ``file`` or ``file?column=name&...``; return an empty list for an empty text.

    Args:
        text: the file, followed by the names of columns that differ from the defaults of the reader.
        reader: a reader of `advreg.language.datasets`.

    Returns:
        The rows that the reader returns.

    Raises:
        ConfigError: an unknown column.
        DataError: the file cannot be read.

    Example:
        >>> read_rows("", datasets.read_requests)
        []
    """
    if not text:
        return []
    path, _, query = (text, "", "") if Path(text).is_file() else text.partition("?")
    columns = dict(parse_qsl(query, keep_blank_values=True))
    known = list(inspect.signature(reader).parameters)[1:]
    unknown = next((name for name in columns if name not in known), None)
    if unknown is not None or (query and not columns):
        raise ConfigError(
            f"{text}: no column {unknown or query!r}; allowed: {', '.join(known)}.{did_you_mean(unknown or '', known)}"
        )
    return reader(path, **columns)


def parse_attacks(texts: Sequence[str]) -> dict[str, Attack]:
    """Parse attacks, each ``name`` or ``name:key=value,...``.

    Args:
        texts: names of attacks of `advreg.language.attacks`, with their options.

    Returns:
        Name -> attack with its options bound.

    Raises:
        ConfigError: an unknown name or option, or a value that is not a number of the right kind.

    Example:
        >>> list(parse_attacks(["direct", "best_of_n:n=4"]))
        ['direct', 'best_of_n']
    """
    every = {key: getattr(library, key) for key in library.__all__}
    known = {key: attack for key, attack in every.items() if "requests" in inspect.signature(attack).parameters}
    return attack_options.parse_attacks(texts, known)


def load_for_evaluation(
    name: str, options: EvaluationOptions
) -> tuple[LanguageModel, LanguageModel | None, AbstractContextManager[None]]:
    """Load the model of a run folder or a model by name.

    Args:
        name: the run folder or the name.
        options: dtype, device and adapter scale.

    Returns:
        The model; the base model of a run without an adapter, else None; and a context in which the adapter has its scale.

    Raises:
        ConfigError: the scale is not 1, and the model has no adapter.
    """
    if not (Path(name) / CONFIG).is_file():
        if options.scale != 1:
            raise ConfigError(f"{name} is not a run folder, so it has no adapter to scale; leave --scale at 1")
        lm = loading.load(name, dtype=options.dtype, device=options.device)
        return _with_system(lm, options), None, nullcontext()
    config = LanguageConfig.load(Path(name) / CONFIG)
    lm = _with_system(load_trained(name, dtype=options.dtype, device=options.device), options)
    if config.model.rank:
        return lm, None, adapter_scale(lm, options.scale)
    if options.scale != 1:
        raise ConfigError(f"{name} was trained without an adapter, so there is nothing to scale; leave --scale at 1")
    return lm, _with_system(load_base(config, options.device, options.dtype), options), nullcontext()


def _with_system(lm: LanguageModel, options: EvaluationOptions) -> LanguageModel:
    """Return the model with the system prompt of the options, where there is one."""
    return replace(lm, system=options.system) if options.system else lm
