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
from advreg.cli.language_options import DataFiles as DataFiles
from advreg.cli.language_options import EvaluationOptions as EvaluationOptions
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


def read_data(files: DataFiles) -> datasets.EvaluationData:
    """Read the prompts of every file."""
    return datasets.EvaluationData(
        tuple(read_rows(files.harmful, datasets.read_requests)),
        tuple(read_rows(files.safe, datasets.read_safe)),
        tuple(read_rows(files.questions, datasets.read_questions)),
        tuple(read_rows(files.tasks, datasets.read_tasks)),
        tuple(example for example in read_rows(files.benign, datasets.read_examples) if example.is_first),
    )


@dataclass(frozen=True)
class Judges:
    """The judges of an evaluation.

    Attributes:
        refusals: trained on the labels of refusals; the keyword judge without any.
        harm: behind the URL, with its error rates where there are labels of harm; None without a URL.
        rater: rates helpfulness behind the URL; None without one.
    """

    refusals: Judge
    harm: HarmJudge | None = None
    rater: RemoteJudge | None = None


def read_judges(labels: str, options: EvaluationOptions) -> Judges:
    """Return the judges that a file of labels and the options determine.

    Args:
        labels: a file with labels of refusals, of harm or of both; none if empty.
        options: service of the judge of harm, and length of the completions.

    Raises:
        ConfigError: a URL without a model or a model without a URL, or labels of harm without a service to calibrate.
        DataError: the file cannot be used.

    Example:
        >>> read_judges("", EvaluationOptions()).refusals.name
        'keyword'
    """
    rows = read_rows(labels, datasets.read_labelled)
    of_refusals = [row for row in rows if row.refused is not None]
    refusals = words_judge(of_refusals, options.tokens) if of_refusals else keyword_judge()
    of_harm = [row for row in rows if row.harmful is not None]
    url, model = options.judge_url, options.judge_model
    if not url and not model and not options.judge_key:
        if of_harm:
            raise ConfigError(
                f"{labels} has labels of harm, and there is no judge of harm; give --judge-url, or remove them"
            )
        return Judges(refusals)
    if not url or not model:
        raise ConfigError("a judge behind a URL needs both --judge-url and --judge-model")
    service = RemoteJudge(url, model, options.judge_key or None)
    harm = remote_harm_judge(service, options.judge_rubric)
    return Judges(refusals, harm.calibrated(of_harm) if of_harm else harm, service)


def prompt_sizes(n: str) -> dict[str, int]:
    """Return the largest number of prompts of each kind; 100 for a kind that ``n`` does not name.

    Args:
        n: a number, or ``kind=number,...``.

    Raises:
        ConfigError: an unknown kind, or a number that is not a whole number above 0.

    Example:
        >>> prompt_sizes("requests=3")["requests"], prompt_sizes("7")["safe"]
        (3, 7)
    """
    kinds = datasets.EvaluationData().n
    given = dict.fromkeys(kinds, n) if n.isdigit() else dict(_key_value(part) for part in n.split(","))
    if not all(kind in kinds and text.isdigit() and int(text) for kind, text in given.items()):
        raise ConfigError(f"-n is {n!r}; give a number, or KIND=NUMBER,... of {', '.join(kinds)}")
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


def parse_attacks(texts: Sequence[str] | None) -> dict[str, Attack]:
    """Parse attacks, each ``name`` or ``name:key=value,...``; return the default attacks without any.

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
    if not texts:
        return default_attacks()
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
