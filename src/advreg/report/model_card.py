"""A model card for the Hugging Face hub: metadata with every evaluation, then tables and sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from advreg.errors import RunError
from advreg.report import formatting, prose, threat_taxonomy
from advreg.report.commands import commands
from advreg.report.facts import CertificateFacts, EvaluationFacts, Interval, RunFacts

_HUB_TASKS = {"pixels": "image-segmentation", "boxes": "object-detection"}


def model_card(run: RunFacts) -> str:
    """Return the model card of a run as markdown; its ``model-index`` holds one result for each evaluation.

    Args:
        run: with at least one evaluation.

    Returns:
        The markdown text, with its front matter.

    Raises:
        RunError: the run has no evaluation.
    """
    if not run.evaluations:
        raise RunError(f"{run.path} holds no evaluation for a model card; run advreg evaluate first")
    measured = [*(_evaluation(run, facts) for facts in run.evaluations), *map(_certificate, run.certificates)]
    parts = [_front(metadata(run)), _opening(run), *measured, _closing()]
    return "\n\n".join(parts) + "\n"


def metadata(run: RunFacts) -> dict[str, Any]:
    """Return the metadata of the card.

    Args:
        run: the run.

    Returns:
        The front matter as nested values.
    """
    index = [{"name": run.name, "results": [_result(facts) for facts in run.evaluations]}]
    task = _hub_task(run.evaluations[0])
    tags = ["advreg", "adversarial-robustness", task]
    return {"library_name": "advreg", "pipeline_tag": task, "tags": tags, "model-index": index}


def _result(facts: EvaluationFacts) -> dict[str, Any]:
    name, split = str(facts.data.get("name") or "unnamed"), str(facts.data.get("split") or "test")
    threat = formatting.threat_option(facts.threat)
    args = {"protocol": facts.protocol, "threat": threat, "n": facts.n, "seed": facts.seed}
    metrics = [
        {"type": facts.figures.short, "name": facts.figures.clean, "value": facts.clean_accuracy},
        {
            "type": f"robust_{facts.figures.short}",
            "name": f"{facts.figures.robust}, {threat}",
            "value": facts.robust_accuracy,
            "args": args,
        },
        *_corpus_metrics(facts, args),
    ]
    task = _hub_task(facts)
    return {
        "task": {"type": task, "name": task.replace("-", " ").capitalize()},
        "dataset": {"type": name, "name": name, "split": split},
        "metrics": metrics,
    }


def _hub_task(facts: EvaluationFacts) -> str:
    """Return the name of the task on Hugging Face's hub; ``other`` where it has none."""
    if facts.task in ("classes", "labels", "labels-share"):
        return facts.words.task
    if facts.task.startswith("number") and facts.words.example == "row":
        return "tabular-regression"
    return next((hub for name, hub in _HUB_TASKS.items() if facts.task.startswith(name)), "other")


def _corpus_metrics(facts: EvaluationFacts, args: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return the figures of the whole data set, such as mIoU, at the worst points."""
    found = [(name, each) for name, each in facts.corpus.items() if isinstance(each, Mapping) and "robust" in each]
    return [
        {"type": name, "name": f"{name} at the worst points", "value": each["robust"], "args": dict(args)}
        for name, each in found
    ]


def _front(values: Mapping[str, Any]) -> str:
    """Return metadata between two lines of dashes; every value is JSON, which is valid YAML."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=True, allow_nan=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _opening(run: RunFacts) -> str:
    first = run.evaluations[0]
    data = first.data.get("name")
    subject = f"{_plain(first.model.get('name', 'model'))}{f' on {_plain(data)}' if data else ''}"
    return f"# {_plain(run.name)}\n\n{subject}.\n\n{' '.join(prose.meaning(first))}"


def _evaluation(run: RunFacts, facts: EvaluationFacts) -> str:
    names = [attack.name for attack in facts.attacks]
    atlas = ", ".join(f"{id} {name}" for id, name in threat_taxonomy.atlas(names))
    rows = [
        (facts.figures.clean, _accuracy(facts.clean_accuracy, facts.clean_interval, facts.n)),
        (facts.figures.robust, _accuracy(facts.robust_accuracy, facts.interval, facts.n)),
        ("Threat", prose.threat(facts.threat)),
        (facts.words.examples.capitalize(), f"{formatting.count(facts.n)}, seed {facts.seed}"),
        ("Attacks", ", ".join(names) or "not recorded"),
        ("Verdict", facts.verdict or "not diagnosed"),
        (threat_taxonomy.NIST, threat_taxonomy.nist(names)),
        (threat_taxonomy.ATLAS, atlas),
    ]
    table = "\n".join(f"| {_plain(key)} | {_plain(value)} |" for key, value in rows)
    warnings = "".join(f"\n\n**Read with care:** {_plain(formatting.sentence(text))}" for text in prose.doubts(facts))
    lines = "".join(f"\n    {line}" for line in commands(run, facts))
    again = f"\n\nReproduce it with\n{lines}" if lines else ""
    return f"## {_plain(facts.protocol)}\n\n| | |\n|---|---|\n{table}{warnings}{again}"


def _certificate(facts: CertificateFacts) -> str:
    low, high = (formatting.percent(share, facts.n) for share in (facts.certified_accuracy, facts.robust_accuracy))
    if facts.noise is not None:
        says = f"The smoothed model (noise {facts.noise:g}), another model: {low} proved, clean accuracy {high}."
    else:
        says = f"Robust accuracy is between {low} (proved) and {high} (not broken by an attack)."
    left = f"{formatting.count(facts.open)} of {formatting.count(facts.n)} are open; 95% interval"
    ends = f"{formatting.percent(facts.interval[0])} to {formatting.percent(facts.interval[1])}"
    return f"## {_plain(facts.protocol)}\n\n{says} {left} {ends}."


def _accuracy(share: float, ends: Interval | None, n: int) -> str:
    return f"{formatting.percent(share, n)} ({formatting.interval(ends, n)})"


def _closing() -> str:
    return prose.UPPER_BOUND


def _plain(text: object) -> str:
    """Return text without characters that break a markdown table."""
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())
