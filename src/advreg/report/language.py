"""The report of a language sweep: one self-contained HTML file from the folder of the sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from advreg.documents import check_links
from advreg.errors import RunError
from advreg.report import language_charts as charts
from advreg.report import language_tables as tables
from advreg.report.html import flat, render, write_page
from advreg.report.language_examples import examples
from advreg.report.language_tables import format_share, metric_at
from advreg.runs import RunFolder

FILE = "sweep.json"
LEDGER = "evaluation/language@1/ledger.jsonl"

Row = Mapping[str, Any]


def write(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a sweep: one HTML file that loads nothing else.

    Args:
        run: folder of a sweep, finished or not.
        out: the file to write; ``report.html`` in the folder if None.

    Returns:
        The path of the report.

    Raises:
        RunError: the folder holds no sweep, nothing was evaluated yet, a file is damaged, or the report cannot be written.

    Example:
        >>> write("nowhere")
        Traceback (most recent call last):
        advreg.errors.RunError: there is no run folder at nowhere; give the folder of a run.
    """
    return write_page(page(RunFolder.open(run)), run, out)


def page(folder: RunFolder) -> str:
    """Return the report as HTML text; the same files give the same bytes.

    Args:
        folder: folder of a sweep, finished or not.

    Raises:
        RunError: nothing was evaluated yet, or a file is damaged.
    """
    check_links(folder.path)
    sweep = folder.read_json(FILE)
    if sweep.get("kind") != "language-sweep" or not sweep.get("base"):
        raise RunError(f"{folder / FILE} holds no evaluated sweep; run advreg language sweep with --out {folder.path}")
    try:
        return _page(folder, sweep)
    except (KeyError, TypeError, IndexError, AttributeError) as cause:
        raise RunError(f"{folder / FILE} is damaged ({type(cause).__name__}: {cause}); sweep again") from cause


def _page(folder: RunFolder, sweep: Row) -> str:
    rows = charts.completed_settings(sweep)
    choice = sweep["recommended"] or sweep["nearest"]
    chosen = sweep["settings"][choice["index"]] if choice else None
    before = folder.read_log(f"base/{LEDGER}")[1:]
    after = folder.read_log(f"{chosen['run']}/{LEDGER}")[1:] if chosen else []
    return render(
        "language.html.j2",
        sweep=sweep,
        model=sweep["base"]["model"],
        rows=rows,
        sentences=sentences(sweep, chosen),
        metrics=tables.metric_rows(sweep["base"], chosen),
        trade_off=Markup(charts.trade_off(sweep, "trade-off")),
        by_share=Markup(charts.by_share(sweep, "by-share")),
        settings=tables.setting_table(sweep),
        attacks=tables.attack_counts(before, after),
        chosen=_describe_setting(chosen) if chosen else "",
        types=tables.type_rows(sweep["base"], chosen),
        judge=_judge(sweep["base"]["judge"]),
        examples=examples(before, after),
        cost=tables.cost_rows(sweep, rows),
        environment=list(flat(sweep["base"].get("environment") or {})),
    )


def _judge(judge: Row) -> Row:
    """Return the record of a judge; version 0.1 always corrected for labels, and had no judge of harm."""
    return {"corrects": bool(judge["n"]), "harm": None, **judge}


def _describe_setting(row: Row) -> str:
    """Return a setting as text."""
    seed = f", seed {row['seed']}" if row["seed"] else ""
    return f"{row['mix']:.0%} adversarial, rate {row['lr']:g}{seed}, scale {row['scale']:g}"


def sentences(sweep: Row, chosen: Row | None) -> list[str]:
    """Return the findings as two sentences, and a third about an attack with access to the weights.

    Args:
        sweep: the content of sweep.json.
        chosen: the recommended or nearest setting; None without results.
    """
    if chosen is None:
        return ["No setting has been evaluated yet.", "The metrics of the model before training are below."]
    base, after, budget = sweep["base"], chosen["results"], sweep["budget"]["over_refusal"]
    success = [metric_at(results, ("attack_success", "at_least_one")) for results in (base, after)]
    refusal = [metric_at(results, ("over_refusal",)) for results in (base, after)]
    adjective = "recommended" if sweep["recommended"] else "nearest"
    verb = "does harm on" if base["judge"].get("harm") else "complies with"
    first = (
        f"The {adjective} setting ({_describe_setting(chosen)}) {verb} {format_share(success[1])} of harmful "
        f"requests, {format_share(success[0])} before training, and refuses {format_share(refusal[1])} of safe prompts, "
        f"{format_share(refusal[0])} before."
    )
    effect = [metric_at(results, ("attack_effect", "at_least_one")) for results in (base, after)]
    if effect[1] is not None:
        first = (
            f"Attacks succeed {format_share(effect[1])} more often on harmful requests than on benign prompts, "
            f"{format_share(effect[0])} before training. {first}"
        )
    choice = sweep["recommended"] or sweep["nearest"]
    start = (
        "It has" if sweep["recommended"] else f"No setting can be recommended within an over-refusal of {budget:.0%}:"
    )
    return [first, f"{start} {choice['why']}.", *_upper_bound_sentence(after)]


def _upper_bound_sentence(results: Row) -> list[str]:
    bound, text = (metric_at(results, ("attack_success", name)) for name in ("soft_prompt", "at_least_one"))
    if bound is None:
        return []
    if text is not None and bound["value"] < text["value"]:
        reason = "its search was too short to be an upper bound"
        return [f"The soft prompt, {format_share(bound)}, succeeded less often than attacks in words: {reason}."]
    share = format_share(bound)
    found = (
        f"With access to the weights, a soft prompt after the request obtains completions for {share} of the requests"
    )
    done, every = (results.get("converged") or {}).get("soft_prompt", (0, 0))
    if not every:
        return [f"{found}."]
    verdict = "an upper bound for text in its place" if done == every else "no upper bound for text in its place"
    return [f"{found}; {done} of {every} searches converged, so it is {verdict}."]
