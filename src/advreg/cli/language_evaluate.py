"""The verbs ``language attack`` and ``language evaluate``: read the user's files, evaluate a model and print every metric."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import typer
from rich.console import Console
from rich.table import Table

from advreg.cli import progress, tables
from advreg.config import toml
from advreg.errors import ConfigError, did_you_mean
from advreg.language import attacks as library
from advreg.language import datasets
from advreg.language.config import LanguageConfig
from advreg.language.evaluation.evaluate import LanguageEvaluation, LanguageEvaluationProgress, evaluate
from advreg.language.evaluation.tasks import Attack, default_attacks
from advreg.language.judges import Judge, RemoteJudge, keyword_judge, words_judge
from advreg.language.models import loading
from advreg.language.models.adapters import adapter_scale
from advreg.language.models.loading import LanguageModel
from advreg.language.sweep.plan import thin_data
from advreg.language.training.folder import CONFIG, load_trained

Row = TypeVar("Row")
_LONG = {"attack_success/soft_prompt": "; the longest part, shorter with --attack soft_prompt:steps=20"}


@dataclass(frozen=True)
class DataFiles:
    """The user's files, each ``FILE`` or ``FILE?column=name&...``; empty where there is none.

    Attributes:
        harmful: harmful requests.
        safe: safe prompts.
        questions: questions with true and false answers.
        tasks: prompts with verifiable instructions.
        benign: harmless instructions with responses.
        labels: completions labelled by people.
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
            tuple(rows(self.harmful, datasets.read_requests)),
            tuple(rows(self.safe, datasets.read_safe)),
            tuple(rows(self.questions, datasets.read_questions)),
            tuple(rows(self.tasks, datasets.read_tasks)),
            tuple(rows(self.benign, datasets.read_examples)),
        )

    def judge(self, tokens: int) -> Judge:
        """Return a judge trained on the labels, or one that matches phrases where there are no labels.

        Args:
            tokens: length of the completions to judge.
        """
        return words_judge(rows(self.labels, datasets.read_labelled), tokens) if self.labels else keyword_judge()


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation, as the command line gives them.

    Attributes:
        attacks: ``name`` or ``name:key=value,...`` each; the default attacks if None.
        n: largest number of prompts of each kind, or ``kind=number,...``.
        tokens: length of a completion.
        task_tokens: length of a completion for verifiable instructions.
        dtype: float32 or bfloat16.
        device: cpu, cuda, ...
        seed: of all random draws.
        scale: of the adapter of a run folder.
        rater: URL, model and key variable of a service that rates helpfulness; empty for none.
    """

    attacks: Sequence[str] | None = None
    n: str = "100"
    tokens: int = 48
    task_tokens: int = 128
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    scale: float = 1.0
    rater: tuple[str, str, str] = ("", "", "")

    def attack_functions(self) -> dict[str, Attack]:
        """Return the attacks of the options, or the default ones."""
        return named_attacks(self.attacks) if self.attacks else default_attacks()

    def sizes(self) -> dict[str, int]:
        """Return the largest number of prompts of each kind; 100 for a kind that ``n`` does not name.

        Raises:
            ConfigError: an unknown kind, or a number that is not a whole number above 0.
        """
        usual = {name: int(self.n) if self.n.isdigit() else 100 for name in datasets.EvaluationData().n}
        given = dict(part.partition("=")[::2] for part in self.n.split(",")) if not self.n.isdigit() else {}
        if (
            not all(name in usual and text.isdigit() and int(text) for name, text in given.items())
            or 0 in usual.values()
        ):
            raise ConfigError(f"-n is {self.n!r}; give a number, or KIND=NUMBER,... of {', '.join(usual)}")
        return usual | {name: int(text) for name, text in given.items()}

    def remote(self) -> RemoteJudge | None:
        """Return the judge behind a URL; None where there is none.

        Raises:
            ConfigError: a URL without a model, or a model without a URL.
        """
        url, name, key = self.rater
        if not url and not name and not key:
            return None
        if not url or not name:
            raise ConfigError("a judge behind a URL needs both --judge-url and --judge-model")
        return RemoteJudge(url, name, key or None)


def rows(text: str, reader: Callable[..., list[Row]]) -> list[Row]:
    """Read ``file`` or ``file?column=name&...``; return an empty list for an empty text.

    Args:
        text: the file, with the names of its columns where they differ from the reader's defaults.
        reader: a reader of `advreg.language.datasets`.

    Raises:
        ConfigError: an unknown column.
        DataError: the file cannot be read.
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


def named_attacks(texts: Sequence[str]) -> dict[str, Attack]:
    """Parse attacks, each ``name`` or ``name:key=value,...``.

    Args:
        texts: names of attacks of `advreg.language.attacks`, with their options.

    Raises:
        ConfigError: an unknown name or option, or a value that is not a number of the right kind.

    Example:
        >>> list(named_attacks(["direct", "best_of_n:n=4"]))
        ['direct', 'best_of_n']
    """
    return dict(_attack(text) for text in texts)


def _attack(text: str) -> tuple[str, Attack]:
    name, _, given = text.partition(":")
    known = {
        key: made
        for key in library.__all__
        if "requests" in inspect.signature(made := getattr(library, key)).parameters
    }
    if name not in known:
        raise ConfigError(f"there is no attack {name!r}; allowed: {', '.join(known)}.{did_you_mean(name, list(known))}")
    options = dict(_option(known[name], name, part) for part in given.split(",") if part)
    return name, functools.partial(known[name], **options) if options else known[name]


def _option(attack: Attack, name: str, part: str) -> tuple[str, Any]:
    key, separator, text = part.partition("=")
    defaults = {p.name: p.default for p in inspect.signature(attack).parameters.values() if p.default is not p.empty}
    allowed = [
        key
        for key, value in defaults.items()
        if isinstance(value, int | float) and key not in ("seed", "max_new_tokens")
    ]
    if not separator or key not in allowed:
        raise ConfigError(f"{name} has no option {part!r}; write key=value with one of {', '.join(allowed)}")
    value, usual = toml.value(text), defaults[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(usual, int) and not isinstance(value, int)):
        raise ConfigError(f"{name}:{key} is {text!r}; give a number such as {usual}")
    return key, value


def load_for_evaluation(
    name: str, options: EvaluationOptions
) -> tuple[LanguageModel, LanguageModel | None, AbstractContextManager[None]]:
    """Load the model of a run folder or a model by name.

    Args:
        name: the run folder or the name.
        options: dtype, device and adapter scale.

    Returns:
        The model, the base model of a run without an adapter (else None), and a context in which the adapter has its scale.

    Raises:
        ConfigError: a scale for a model without an adapter.
    """
    if not (Path(name) / CONFIG).is_file():
        if options.scale != 1:
            raise ConfigError(f"{name} is not a run folder, so it has no adapter to scale; leave --scale at 1")
        return loading.load(name, dtype=options.dtype, device=options.device), None, nullcontext()
    config = LanguageConfig.load(Path(name) / CONFIG)
    lm = load_trained(name, dtype=options.dtype, device=options.device)
    if config.model.rank:
        return lm, None, adapter_scale(lm, options.scale)
    if options.scale != 1:
        raise ConfigError(f"{name} was trained without an adapter, so there is nothing to scale; leave --scale at 1")
    return lm, loading.load(config.model.name, dtype=options.dtype, device=options.device), nullcontext()


def run_evaluate(
    name: str, files: DataFiles, options: EvaluationOptions, *, out: Path | None, base: Path | None, as_json: bool
) -> None:
    """Evaluate a model and print a table of all metrics.

    Args:
        name: a run folder or the name of a model.
        files: the user's files.
        options: how to evaluate.
        out: folder to write into; the run folder if None.
        base: folder with the evaluation of the base model, for paired differences.
        as_json: print one JSON object instead of text.
    """
    prompts = thin_data(files.read(), options.sizes(), options.seed)
    attacks, rater = options.attack_functions(), options.remote()
    judge = files.judge(options.tokens)
    lm, reference, scaled = load_for_evaluation(name, options)
    folder = out or (Path(name) if (Path(name) / CONFIG).is_file() and options.scale == 1 else None)
    with scaled, _watching(quiet=as_json) as watch:
        found = evaluate(
            lm,
            prompts,
            attacks=attacks,
            judge=judge,
            rater=rater,
            reference=reference,
            base=base,
            seed=options.seed,
            max_new_tokens=options.tokens,
            task_tokens=options.task_tokens,
            out=folder,
            on_progress=watch,
        )
    if as_json:
        typer.echo(json.dumps(found.record()))
        return
    tables.show(figures_table(found.record()))
    typer.echo(_judge_line(found))


def figures_table(results: Mapping[str, Any]) -> Table:
    """Return the table of every metric with its interval and, where there is a base model, the difference."""
    cells = []
    for path, figure in walk_metrics(results["axes"]):
        change = _at(results.get("differences") or {}, path)
        cells.append((" ".join(path).replace("_", " "), *_cells(path, figure), str(figure["n"]), _points(path, change)))
    return tables.table(results["model"], ("figure", "value", "95% interval", "n", "difference to base"), cells)


def walk_metrics(
    axes: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield each metric of nested results with its path of names; over-refusal by type is left out.

    Args:
        axes: the section ``axes`` of the results.
        path: names that lead to it.
    """
    for name, value in axes.items():
        if isinstance(value, Mapping) and name != "by_type":
            if "value" in value:
                yield (*path, name), value
            else:
                yield from walk_metrics(value, (*path, name))


def _is_share(path: tuple[str, ...]) -> bool:
    return path[0] != "helpfulness" or path[-1] == "repetition"


def _cells(path: tuple[str, ...], figure: Mapping[str, Any]) -> tuple[str, str]:
    low, high = figure["interval"]
    if _is_share(path):
        return tables.percent(figure["value"]), tables.span((low, high))
    return f"{figure['value']:.3f}", f"[{low:.3f}, {high:.3f}]"


def _points(path: tuple[str, ...], change: Mapping[str, Any] | None) -> str:
    if not change or "value" not in change:
        return "-"
    times, digits = (100, 1) if _is_share(path) else (1, 3)
    value, low, high = (f"{times * number:+.{digits}f}" for number in (change["value"], *change["interval"]))
    return f"{value} [{low}, {high}]"


def _at(nested: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = nested
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _judge_line(found: LanguageEvaluation) -> str:
    judge = found.judge
    if not judge["n"]:
        return f"judge: {judge['name']}, error rates unknown; give --labels to measure them and to correct for them"
    rates = ", ".join(f"{name} {judge[name]:.1%}" for name in ("sensitivity", "specificity", "agreement"))
    return f"judge: {judge['name']}; on {judge['n']} completions of held-out models: {rates}; the figures are corrected for it"


@contextmanager
def _watching(*, quiet: bool) -> Iterator[Callable[[LanguageEvaluationProgress], None]]:
    console = Console(file=sys.stderr, quiet=quiet)
    with progress.bars(console) as bar:
        task = bar.add_task("evaluating", total=None)

        def watch(at: LanguageEvaluationProgress) -> None:
            if at.done == 0:
                console.print(f"evaluating: {at.stage}, {at.total} prompts{_LONG.get(at.stage, '')}", highlight=False)
                bar.reset(task)
            bar.update(task, description=f"evaluating: {at.stage}", completed=at.done, total=at.total)

        yield watch
