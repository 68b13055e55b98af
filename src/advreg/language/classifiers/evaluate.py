"""Evaluate a text classifier: clean predictions, then each attack on the texts that are classified correctly.

Every chunk is written as soon as it is complete, so an interruption loses at most one chunk. Each attack has a threat model of
its own, so their accuracies are reported side by side and are not combined.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advreg import runtime
from advreg.errors import ConfigError
from advreg.language.attacks.result import describe_attack
from advreg.language.classifiers.attacks import classifier_embedding_pgd
from advreg.language.classifiers.examples import check_examples
from advreg.language.classifiers.model import TextClassifier, predict
from advreg.language.classifiers.word_substitution import substitute
from advreg.models import state_sha256
from advreg.pass_counting import count_passes
from advreg.runs import Ledger, RunFolder
from advreg.statistics import clopper_pearson_interval

PROTOCOL, CLEAN = "text@1", "clean"
CHUNK = 32
"""Texts that are written together."""
LEDGER, RESULTS = "ledger.jsonl", "results.json"

Row = dict[str, Any]
TextAttack = Callable[[TextClassifier, Sequence[str], Sequence[int]], list[tuple[str, bool]]]
"""From texts with their classes to each attacked text and whether it is misclassified."""
OnTextProgress = Callable[[str, int, int], None]
"""Called with the name of the stage, the texts that are done, and all texts."""


def words(
    classifier: TextClassifier,
    texts: Sequence[str],
    labels: Sequence[int],
    *,
    words: int = 4,
    neighbours: int = 6,
    typos: bool = True,
) -> list[tuple[str, bool]]:
    """Attack by word substitution; see `advreg.language.classifiers.word_substitution.substitute`.

    Args:
        classifier: the classifier.
        texts: texts to attack.
        labels: class of each text.
        words: largest number of replaced words in a text.
        neighbours: number of words from the embedding table to try for each word.
        typos: whether to try typing errors too.

    Returns:
        Each attacked text, and whether it is misclassified.
    """
    found = substitute(classifier, texts, labels, words=words, neighbours=neighbours, typos=typos)
    return [(each.text, each.broken) for each in found]


def embedding(
    classifier: TextClassifier, texts: Sequence[str], labels: Sequence[int], *, eps: float = 0.1, steps: int = 10
) -> list[tuple[str, bool]]:
    """Attack the embeddings, which corresponds to no text; see `classifier_embedding_pgd`.

    Args:
        classifier: the classifier.
        texts: texts to attack.
        labels: class of each text.
        eps: radius of the l2 ball around each token, as a fraction of the mean embedding norm.
        steps: gradient steps.

    Returns:
        Each text unchanged, and whether its perturbed embeddings are misclassified.
    """
    broken = classifier_embedding_pgd(classifier, texts, labels, eps=eps, steps=steps).tolist()
    return list(zip(texts, broken, strict=True))


ATTACKS: dict[str, TextAttack] = {"words": words, "embedding": embedding}


@dataclass(frozen=True)
class RobustFraction:
    """A share of the texts with its exact 95% interval, and what it took."""

    value: float
    interval: tuple[float, float]
    tried: int
    broken: int
    forwards: int
    backwards: int


@dataclass(frozen=True)
class TextEvaluation:
    """Clean accuracy of a text classifier, and its accuracy under each attack.

    Attributes:
        model: name of the classifier.
        classes: names of the classes.
        n: number of texts.
        clean: clean accuracy.
        attacks: description of each attack -> accuracy under it.
        seconds: wall time of this call.
        rows: the rows of the ledger.
    """

    model: str
    classes: tuple[str, ...]
    n: int
    clean: RobustFraction
    attacks: Mapping[str, RobustFraction]
    seconds: float
    rows: Sequence[Row] = field(default=(), repr=False)

    def record(self) -> dict[str, Any]:
        """Return the content of results.json."""
        shares = {"clean": self.clean, **self.attacks}
        figures = {name: {**vars(share), "interval": list(share.interval)} for name, share in shares.items()}
        return {
            "kind": "text",
            "protocol": PROTOCOL,
            "model": self.model,
            "classes": list(self.classes),
            "n": self.n,
            "clean": figures.pop(CLEAN),
            "attacks": figures,
            "seconds": round(self.seconds, 3),
            "environment": runtime.environment(),
        }


def evaluate_text(
    classifier: TextClassifier,
    texts: Sequence[str],
    labels: Sequence[int],
    *,
    attacks: Sequence[TextAttack] = (words, embedding),
    out: str | Path | None = None,
    on_progress: OnTextProgress | None = None,
) -> TextEvaluation:
    """Measure the clean accuracy of a text classifier, and its accuracy under each attack.

    Args:
        classifier: the classifier.
        texts: test texts; their ids are their positions.
        labels: class of each text, 0 to K - 1.
        attacks: `words`, `embedding` or your own, with options bound by `functools.partial`; none for clean accuracy alone.
        out: run folder; the evaluation writes and resumes ``evaluation/text@1/`` in it. Further attacks extend it.
        on_progress: called with stage, texts done and texts in all.

    Returns:
        The accuracies, and the rows that they come from.

    Raises:
        ConfigError: an attack is named ``clean``, or two have the same name and options.
        DataError: there are no texts, their number is not that of the labels, or a label is no class of the head.
        ModelError: the head has no classes that exclude each other.
        RunError: ``out`` belongs to another evaluation.
    """
    check_examples(classifier, texts, labels)
    stages: dict[str, TextAttack | None] = {CLEAN: None, **{describe_attack(attack): attack for attack in attacks}}
    if len(stages) != len(attacks) + 1:
        raise ConfigError(f"attacks are {', '.join(map(describe_attack, attacks))}; give each once, none named {CLEAN}")
    start, report = time.perf_counter(), on_progress or (lambda *_: None)
    folder = None if out is None else RunFolder.at(Path(out) / "evaluation" / PROTOCOL)
    with nullcontext() if folder is None else folder.lock():
        ledger = None if folder is None else Ledger.open(folder / LEDGER, **_identity(classifier, texts, labels))
        recorded = {(row["attack"], row["id"]): row for row in (ledger.rows() if ledger else ())}
        rows: list[Row] = []
        for name, attack in stages.items():
            rows += _run_stage(_TextStage(classifier, texts, labels, name, attack, recorded), ledger, rows, report)
        result = _summary(classifier, len(texts), rows, list(stages)[1:], time.perf_counter() - start)
        if folder is not None:
            folder.write_json(RESULTS, result.record())
    return result


@dataclass(frozen=True)
class _TextStage:
    """The clean predictions, or one attack: what it runs on, and the rows of earlier runs."""

    classifier: TextClassifier
    texts: Sequence[str]
    labels: Sequence[int]
    name: str
    attack: TextAttack | None
    recorded: Mapping[tuple[str, int], Row]


def _run_stage(stage: _TextStage, ledger: Ledger | None, earlier: Sequence[Row], report: OnTextProgress) -> list[Row]:
    """Return the rows of a stage, chunk by chunk; an attack runs on the texts that are classified correctly."""
    wrong = {row["id"] for row in earlier if row["attack"] == CLEAN and row["broken"]}
    ids = [i for i in range(len(stage.texts)) if stage.attack is None or i not in wrong]
    rows: list[Row] = []
    report(stage.name, 0, len(ids))
    for first in range(0, len(ids), CHUNK):
        part = ids[first : first + CHUNK]
        keys = [(stage.name, i) for i in part]
        if all(key in stage.recorded for key in keys):
            rows += [stage.recorded[key] for key in keys]
        else:
            rows += (fresh := _run_chunk(stage, part))
            if ledger is not None:
                ledger.append(fresh)
        report(stage.name, first + len(part), len(ids))
    return rows


def _run_chunk(stage: _TextStage, ids: Sequence[int]) -> list[Row]:
    """Return the rows of some texts, each with its share of the passes; the original model decides what is broken."""
    texts, labels = [stage.texts[i] for i in ids], [stage.labels[i] for i in ids]
    with count_passes(stage.classifier.network) as spent:
        found = (
            [(text, False) for text in texts] if stage.attack is None else stage.attack(stage.classifier, texts, labels)
        )
        predicted = predict(stage.classifier, [text for text, _ in found]).argmax(1).tolist()
    rows = []
    for k, (i, (forwards, backwards)) in enumerate(zip(ids, spent.shares(len(ids)).tolist(), strict=True)):
        text, claimed = found[k]
        is_changed = text != texts[k]
        broken = predicted[k] != labels[k] if is_changed or stage.attack is None else claimed
        row = {"attack": stage.name, "id": i, "label": labels[k], "predicted": predicted[k], "broken": bool(broken)}
        shown = {"original": text} if stage.attack is None else {"text": text if is_changed else ""}
        rows.append({**row, "text": "", **shown, "forwards": forwards, "backwards": backwards})
    return rows


def _summary(
    classifier: TextClassifier, n: int, rows: Sequence[Row], attacks: Sequence[str], seconds: float
) -> TextEvaluation:
    """Return the accuracies: under an attack, a text counts as right if it is right without it and does not break."""
    by_stage = {name: [row for row in rows if row["attack"] == name] for name in (CLEAN, *attacks)}
    wrong = sum(row["broken"] for row in by_stage[CLEAN])
    shares = {name: _share(own, n, 0 if name == CLEAN else wrong) for name, own in by_stage.items()}
    return TextEvaluation(classifier.name, classifier.classes, n, shares.pop(CLEAN), shares, seconds, tuple(rows))


def _share(rows: Sequence[Row], n: int, wrong: int) -> RobustFraction:
    broken = sum(row["broken"] for row in rows)
    right = n - wrong - broken
    forwards, backwards = (sum(row[key] for row in rows) for key in ("forwards", "backwards"))
    return RobustFraction(right / n, clopper_pearson_interval(right, n), len(rows), broken, forwards, backwards)


def _identity(classifier: TextClassifier, texts: Sequence[str], labels: Sequence[int]) -> dict[str, str | int]:
    """Return what determines the rows; a folder resumes only an evaluation with the same identity."""
    content = json.dumps([list(texts), [int(label) for label in labels]]).encode()
    return {
        "protocol": PROTOCOL,
        "model": state_sha256(classifier.network),
        "data": hashlib.sha256(content).hexdigest(),
        "tokens": classifier.tokens,
        "chunk": CHUNK,
    }
