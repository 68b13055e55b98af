"""The report of a language sweep: its folder in, one self-contained HTML file out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from advreg.documents import check_links
from advreg.errors import RunError
from advreg.report import language_charts as charts
from advreg.report.html import flat, render
from advreg.report.language_charts import figure_at
from advreg.runs import RunFolder
from advreg.runs.files import write_atomic

FILE, LEDGER = "sweep.json", "evaluation/language@1/ledger.jsonl"
SHOWN = 260  # characters of a completion
INSIDE = ("embedding", "latent", "soft_prompt")
"""Attacks on the network's inside, which no words can do: an upper bound, not part of "at least one"."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class LanguageFigures:
    """A table's row of figures, as text."""

    name: str
    cells: Sequence[str]
    marks: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class CompletionExample:
    """One prompt with what the model said to it before and after training."""

    kind: str
    prompt: str
    before: str
    after: str
    verdicts: str
    is_harmful: bool


def write(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a sweep: one HTML file that needs nothing else, not even a network.

    Args:
        run: folder of a sweep, finished or not.
        out: the file to write; ``report.html`` in the folder if not given.

    Returns:
        The path of the report.

    Raises:
        RunError: there is no sweep, nothing of it was measured yet, a file is damaged, or the report cannot be written.

    Example:
        >>> write("nowhere")
        Traceback (most recent call last):
        advreg.errors.RunError: there is no run folder at nowhere; give the folder of a run.
    """
    path = Path(out) if out is not None else Path(run) / "report.html"
    write_atomic(path, page(RunFolder.open(run)))
    return path


def page(folder: RunFolder) -> str:
    """Return the report as HTML text, the same bytes for the same files.

    Args:
        folder: folder of a sweep.

    Raises:
        RunError: the folder holds no measured sweep, or a damaged one.
    """
    check_links(folder.path)
    sweep = folder.read_json(FILE)
    if sweep.get("kind") != "language-sweep" or not sweep.get("base"):
        raise RunError(f"{folder / FILE} holds no measured sweep; run advreg language sweep with --out {folder.path}")
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
        compared=compared(sweep["base"], chosen),
        trade_off=Markup(charts.trade_off(sweep, "trade-off")),
        by_share=Markup(charts.by_share(sweep, "by-share")),
        settings=_settings(sweep),
        attacks=broken(before, after),
        chosen=describe_setting(chosen) if chosen else "",
        types=_types(sweep["base"], chosen),
        judge=sweep["base"]["judge"],
        examples=examples(before, after),
        cost=_cost(sweep, rows),
        environment=list(flat(sweep["base"].get("environment") or {})),
    )


def describe_setting(row: Row) -> str:
    """Return a setting in words.

    Example:
        >>> describe_setting({"mix": 0.15, "lr": 0.001, "seed": 0, "scale": 0.75})
        '15% adversarial, rate 0.001, scale 0.75'
    """
    seed = f", seed {row['seed']}" if row["seed"] else ""
    return f"{row['mix']:.0%} adversarial, rate {row['lr']:g}{seed}, scale {row['scale']:g}"


def share(figure: Row | None) -> str:
    """Return a share with its interval.

    Example:
        >>> share({"value": 0.125, "interval": [0.02, 0.31], "n": 24}), share(None)
        ('12% [2%, 31%]', 'not measured')
    """
    if figure is None:
        return "not measured"
    low, high = figure["interval"]
    return f"{figure['value']:.0%} [{low:.0%}, {high:.0%}]"


def number(figure: Row | None) -> str:
    """Return a number that is no share, with its interval."""
    if figure is None:
        return "not measured"
    low, high = figure["interval"]
    return f"{figure['value']:.2f} [{low:.2f}, {high:.2f}]"


def sentences(sweep: Row, chosen: Row | None) -> list[str]:
    """Return what was found in two plain sentences, and a third about who is not stopped."""
    if chosen is None:
        return ["No setting has been measured yet.", "The figures of the model before training are below."]
    base, after, budget = sweep["base"], chosen["results"], sweep["budget"]["over_refusal"]
    success = [figure_at(results, ("attack_success", "at_least_one")) for results in (base, after)]
    refusal = [figure_at(results, ("over_refusal",)) for results in (base, after)]
    verb = "recommended" if sweep["recommended"] else "nearest"
    first = (
        f"The {verb} setting ({describe_setting(chosen)}) "
        f"answers {share(success[1])} of harmful requests, {share(success[0])} before "
        f"training, and refuses {share(refusal[1])} of safe prompts, {share(refusal[0])} before."
    )
    choice = sweep["recommended"] or sweep["nearest"]
    head = "It is" if sweep["recommended"] else f"No setting can be recommended within an over-refusal of {budget:.0%}:"
    return [first, f"{head} {choice['why']}.", *_bound(after)]


def _bound(results: Row) -> list[str]:
    bound, text = (figure_at(results, ("attack_success", name)) for name in ("soft_prompt", "at_least_one"))
    if bound is None:
        return []
    if text is not None and bound["value"] < text["value"]:
        return [
            f"The soft prompt, {share(bound)}, reached less than words did: its search was too short to be an upper bound."
        ]
    return [
        f"Whoever has the weights gets {share(bound)} of the requests answered by moving embeddings after the prompt."
    ]


def compared(base: Row, chosen: Row | None) -> list[LanguageFigures]:
    """Return every axis before training, after it, and the paired change, where it was measured."""
    wanted = (
        ("Attack success, at least one attack in words", ("attack_success", "at_least_one"), True),
        ("Attack success, soft prompt", ("attack_success", "soft_prompt"), True),
        ("Over-refusal", ("over_refusal",), True),
        ("Facts: the true answer likeliest of all", ("factual", "mc1"), True),
        ("Facts: the true answer likelier of two", ("factual", "two_choice"), True),
        ("Instructions followed, strictly", ("instructions", "strict"), True),
        ("Instructions followed, loosely", ("instructions", "loose"), True),
        ("Helpfulness, rated from 1 to 5 by a judge", ("helpfulness", "judged"), False),
        ("Proxy of help: nats a token of a good answer", ("helpfulness", "proxies", "answer_nll"), False),
        ("Proxy of help: repetition", ("helpfulness", "proxies", "repetition"), True),
        ("Proxy of help: words in an answer", ("helpfulness", "proxies", "length"), False),
        ("Answers that are coherent text", ("coherence",), True),
    )
    after = chosen["results"] if chosen else None
    return [
        LanguageFigures(title, [_text(base, path, kind), _text(after, path, kind), _change(chosen, path, kind)])
        for title, path, kind in wanted
        if figure_at(base, path) is not None
    ]


def _text(results: Row | None, path: Sequence[str], is_share: bool) -> str:
    if results is None:
        return "-"
    return (share if is_share else number)(figure_at(results, path))


def _change(chosen: Row | None, path: Sequence[str], is_share: bool) -> str:
    differences = chosen["results"].get("differences") if chosen else None
    change = figure_at({"axes": differences}, path) if differences else None
    if change is None:
        return "-"
    times, digits = (100, 0) if is_share else (1, 2)
    value, low, high = (f"{times * end:+.{digits}f}" for end in (change["value"], *change["interval"]))
    return f"{value} [{low}, {high}]" + (" points" if is_share else "")


def _settings(sweep: Row) -> list[LanguageFigures]:
    """Return the table of all settings; a failed one says why."""
    found = [LanguageFigures("before training", ["-", *_cells(sweep["base"]), "-"])]
    for k, row in enumerate(sweep["settings"]):
        recommended, nearest = (sweep[name] and sweep[name]["index"] == k for name in ("recommended", "nearest"))
        told = {"frontier": k in sweep["frontier"], "recommended": recommended, "nearest": nearest}
        marks = [mark for mark, there in told.items() if there]
        name = f"{row['mix']:.0%}, {row['lr']:g}" + (f", seed {row['seed']}" if row["seed"] else "")
        if row["results"] is None:
            found.append(LanguageFigures(name, ["-"] * 7, ["failed"], row.get("failed", "")))
        else:
            guard = "; ".join((row.get("training") or {}).get("guard", []))
            change = _change(row, ("attack_success", "at_least_one"), True)
            found.append(LanguageFigures(name, [f"{row['scale']:g}", *_cells(row["results"]), change], marks, guard))
    return found


def _cells(results: Row) -> list[str]:
    paths = (
        ("attack_success", "at_least_one"),
        ("over_refusal",),
        ("attack_success", "soft_prompt"),
        ("instructions", "strict"),
    )
    shares = [share(figure_at(results, path)) for path in paths]
    return [*shares, number(figure_at(results, ("helpfulness", "proxies", "answer_nll")))]


def broken(before: Sequence[Row], after: Sequence[Row]) -> list[LanguageFigures]:
    """Return for each attack how many requests it got answered, and how many no other attack in words did.

    Args:
        before: the ledger's rows of the model before training.
        after: those of the chosen setting.

    Example:
        >>> row = {"axis": "attack_success", "id": 0, "outcome": "complied"}
        >>> found = broken([{**row, "attack": "direct"}], [{**row, "attack": "direct", "outcome": "refused"}])
        >>> found[0].name, found[0].cells
        ('direct', ['1 of 1', '1', '0 of 1', '0'])
    """
    sides = [_hits(rows) for rows in (before, after)]
    asked = [{row["id"] for row in rows if row["axis"] == "attack_success"} for rows in (before, after)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    return [
        LanguageFigures(
            name.replace("_", " "),
            [
                cell
                for hits, ids in zip(sides, asked, strict=True)
                for cell in (f"{len(hits.get(name, set()))} of {len(ids)}", str(len(_only(hits, name))))
            ],
            ["upper bound"] if name in INSIDE else [],
        )
        for name in names
    ]


def _hits(rows: Sequence[Row]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for row in rows:
        if row["axis"] == "attack_success":
            hits = found.setdefault(row["attack"], set())
            hits |= {row["id"]} if row["outcome"] == "complied" else set()
    return found


def _only(hits: Mapping[str, set[int]], name: str) -> set[int]:
    others = [found for other, found in hits.items() if other != name and other not in INSIDE]
    return hits.get(name, set()).difference(*others)


def _types(base: Row, chosen: Row | None) -> list[LanguageFigures]:
    """Return over-refusal by type of prompt, where there are several types."""
    sides = [
        (results["axes"]["over_refusal"] or {}).get("by_type", {})
        for results in (base, *([chosen["results"]] if chosen else []))
    ]
    if len(sides[0]) < 2:
        return []
    return [
        LanguageFigures(name.replace("_", " "), [*(share(side.get(name)) for side in sides), str(figure["n"])])
        for name, figure in sides[0].items()
    ]


def examples(before: Sequence[Row], after: Sequence[Row], each: int = 3) -> list[CompletionExample]:
    """Return prompts that show what changed: refused now, still answered, and safe ones refused now."""
    old = {(row["axis"], row["attack"], row["id"]): row for row in before}
    pairs = [
        (old[key], row) for row in after if (key := (row["axis"], row["attack"], row["id"])) in old and row.get("text")
    ]
    kinds = {
        "a harmful request that is refused now": ("attack_success", "complied", "refused"),
        "a harmful request that is still answered": ("attack_success", "complied", "complied"),
        "a safe prompt that is refused now": ("over_refusal", "complied", "refused"),
        "a safe prompt that is still answered": ("over_refusal", "complied", "complied"),
    }
    found = []
    for kind, wanted in kinds.items():
        fitting = [
            (b, a) for b, a in pairs if (a["axis"], b["outcome"], a["outcome"]) == wanted and a["attack"] not in INSIDE
        ]
        found += [_example(kind, b, a) for b, a in _first_of_each_prompt(fitting)[:each]]
    return found


def _first_of_each_prompt(pairs: Sequence[tuple[Row, Row]]) -> list[tuple[Row, Row]]:
    return list({after["id"]: (before, after) for before, after in reversed(pairs)}.values())[::-1]


def _example(kind: str, before: Row, after: Row) -> CompletionExample:
    attack = f"{after['attack'].replace('_', ' ')}: " if after["axis"] == "attack_success" else ""
    return CompletionExample(
        kind,
        _short(after.get("asked") or after["prompt"]),
        _short(before["text"]),
        _short(after["text"]),
        f"{attack}{before['outcome']} before, {after['outcome']} after",
        after["axis"] == "attack_success",
    )


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= SHOWN else plain[: SHOWN - 1] + "\u2026"


def _cost(sweep: Row, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return what the sweep took."""
    trained = [row["training"] for row in rows if row.get("training")]
    results = [sweep["base"], *(row["results"] for row in rows)]
    passes = [sum(each["passes"][kind] for each in results) for kind in ("forwards", "backwards")]
    return [
        ("settings measured", str(len(rows))),
        ("training", _minutes(sum(each["seconds"] for each in trained))),
        ("measuring", _minutes(sum(each["seconds"] for each in results))),
        ("forwards in training", f"{sum(each['forwards'] for each in trained):,}"),
        ("backwards in training", f"{sum(each['backwards'] for each in trained):,}"),
        ("forwards in measuring", f"{passes[0]:,}"),
        ("backwards in measuring", f"{passes[1]:,}"),
    ]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"
