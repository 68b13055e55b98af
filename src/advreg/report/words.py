"""Figures in words: what a threat allows, what a result means, how it can be had again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Protocol

from advreg.report.facts import CurveFacts, EpochFacts, EvaluationFacts, Facts, Interval, RunFacts, ThreatFacts
from advreg.report.read import short_name

UPPER_BOUND = (
    "Robust accuracy measured by attacks is an upper bound: a stronger attack can only lower it, "
    "and published figures have fallen by several points when one was found."
)
_PROTOCOLS = {
    "quick": "A quick look: short gradient attacks, then a few queries of Square on the nearest survivors.",
    "standard": "The AutoAttack protocol (Croce and Hein, 2020), followed faithfully.",
    "strong": "The strong protocol: at least as strong as the standard one, at a fraction of its cost.",
}
UNEQUAL = 3  # times as many examples of one class as of another: the mean over examples then hides the small one
GAIN = 0.002  # black-box gain beyond which AutoAttack's authors distrust gradients
_NOTED = ("target", "batch", "few_classes", "broken_beyond", "unchanged_answers", "distinct_answers")
_VERDICTS = {
    "TRUSTED": "No check found a sign that attacks failed for the wrong reasons.",
    "SUSPECT": "A check raised a warning: read the figure with care and follow the remedy it names.",
    "UNRELIABLE": "A check found that attacks failed for the wrong reasons: do not use this figure.",
    None: "Not diagnosed: nobody has looked whether attacks failed for the wrong reasons.",
}


class _Class(Protocol):
    """Accuracy on the examples of one class, from the files of a run or from an evaluation that was just made."""

    @property
    def name(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def clean_accuracy(self) -> float: ...
    @property
    def robust_accuracy(self) -> float: ...


def percent(share: float, n: int = 1000) -> str:
    """A share as a percentage, with as many decimals as `n` examples can carry.

    Example:
        >>> percent(0.9523), percent(0.99996), percent(0.95234, n=10_000)
        ('95.2%', '>99.9%', '95.23%')
    """
    digits = 2 if n >= 10_000 else 1
    text = f"{100 * share:.{digits}f}%"
    if share < 1.0 and text.startswith("100"):
        return f">{100 - 10**-digits:.{digits}f}%"
    if share > 0.0 and float(text[:-1]) == 0.0:
        return f"<{10**-digits:.{digits}f}%"
    return text


def interval(ends: Interval | None, n: int = 1000) -> str:
    """A 95% interval as text, or that there is none.

    Example:
        >>> interval((0.937, 0.964))
        '93.7% to 96.4%'
    """
    return f"{percent(ends[0], n)} to {percent(ends[1], n)}" if ends else "no interval"


def count(number: float | None) -> str:
    """A whole number with its thousands apart.

    Example:
        >>> count(1234567)
        '1,234,567'
    """
    return "-" if number is None else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """A time as people say it.

    Example:
        >>> duration(0.42), duration(75), duration(7320)
        ('0.42 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def eps(threat: ThreatFacts) -> str:
    """The radius as the command line takes it: a fraction of 255 where it is one.

    Example:
        >>> eps(Threat("linf", 8 / 255)), eps(Threat("l2", 0.5))
        ('8/255', '0.5')
    """
    levels = threat.eps * 255
    whole = round(levels)
    exact = whole > 0 and abs(levels - whole) < 1e-9 and whole != 255
    decimal = repr(threat.eps).removesuffix(".0")
    return f"{whole}/255" if exact and len(decimal) > 4 else decimal


def option(threat: ThreatFacts) -> str:
    """The threat as the option ``--threat`` takes it: norm, eps, and the box where it is not [0, 1].

    Example:
        >>> option(Threat("linf", 8 / 255)), option(Threat("l2", 64.0, (0.0, 255.0)))
        ('linf:8/255', 'l2:64@0,255')
    """
    low, high = (repr(end).removesuffix(".0") for end in threat.box)
    return f"{threat.norm}:{eps(threat)}" + ("" if threat.box == (0.0, 1.0) else f"@{low},{high}")


def threat(threat: ThreatFacts) -> str:
    """What the attacker may do, in plain words.

    Example:
        >>> threat_in_words = threat(Threat("linf", 0.1))
        >>> threat_in_words
        'every pixel may change by at most 0.1 (25.5 of 255 grey levels)'
    """
    low, high = threat.box
    levels = f"{255 * threat.eps / (high - low):.3g} of 255 grey levels" if high > low else "grey levels unknown"
    size = eps(threat) if threat.norm == "linf" else f"{threat.eps:.4g}"
    allowed = {
        "linf": f"every pixel may change by at most {size} ({levels})",
        "l2": f"the whole change may be at most {size} long: the root of the summed squares of all pixel changes",
        "l1": f"all pixel changes together, added up, may reach at most {size}",
        "l0": f"at most {size} pixels may change, each as much as it likes",
    }
    return allowed.get(threat.norm, f"the change may have a {threat.norm} norm of at most {size}")


def in_hundred(share: float) -> str:
    """How many of 100 images, said so that rounding never turns some into none or into all.

    Example:
        >>> in_hundred(0.954), in_hundred(1.0), in_hundred(0.999)
        ('about 95 of 100 images', 'all images', 'more than 99 of 100 images')
        >>> in_hundred(0.002), in_hundred(0)
        ('fewer than 1 in 100 images', 'no image')
    """
    if share in (0.0, 1.0):
        return "no image" if share == 0.0 else "all images"
    if share > 0.995:
        return "more than 99 of 100 images"
    return "fewer than 1 in 100 images" if share < 0.005 else f"about {100 * share:.0f} of 100 images"


def meaning(evaluation: EvaluationFacts) -> tuple[str, str]:
    """Two plain sentences: the model left alone, and the model under attack."""
    alone = f"Left alone, the model gets {in_hundred(evaluation.clean_accuracy)} right."
    robust, allowed = in_hundred(evaluation.robust_accuracy), threat(evaluation.threat)
    if evaluation.verdict == "UNRELIABLE":
        why = "the attacks failed for reasons that have nothing to do with robustness"
        return alone, f"Under attack it seems to get {robust} right, but do not rely on that: {why}."
    if evaluation.robust_accuracy < 0.5 * evaluation.clean_accuracy:
        return alone, f"When {allowed}, it gets {robust} right: an attacker who may do that mostly wins."
    return alone, f"When {allowed}, it still gets {robust} right, whatever the attacks below tried."


def shares(evaluation: EvaluationFacts) -> tuple[int, int, int]:
    """Of 100 images: how many withstood, how many were fooled, how many were wrong before any attack."""
    robust = round(100 * evaluation.robust_accuracy)
    wrong = min(round(100 * (1.0 - evaluation.clean_accuracy)), 100 - robust)
    return robust, 100 - robust - wrong, wrong


def protocol(evaluation: EvaluationFacts) -> str:
    """What was run, in one or two sentences."""
    known = _PROTOCOLS.get(short_name(evaluation.protocol), "")
    names = [attack.name for attack in evaluation.attacks]
    if len(names) > 1:
        order = f"{len(names)} attacks in turn, each only on the images still standing: {', '.join(names)}."
    else:
        order = f"One attack: {names[0]}." if names else ""
    return f"{known} {order}".strip() or "The results do not say which attacks were run."


def verdict(name: str | None) -> str:
    """What a verdict says about the figure beside it."""
    return _VERDICTS[name]


def outcome(name: str) -> str:
    """What became of an image, as the report's pictures and filters call it."""
    return "wrong anyway" if name == "wrong" else name


def warnings(flags: Facts) -> list[str]:
    """The flags that take trust from the figures, as sentences without their full stop; see `notes` for the others.

    Example:
        >>> warnings({"zero_gradients": 0.25, "black_box_gain": 0.001, "randomised": False, "target": "float32"})
        ['25.0% of the clean images looked at have an input gradient of exactly zero: attacks that follow it are blind there']
        >>> warnings({"mine": 3})
        ['mine: 3']
    """
    raised = {key: value for key, value in flags.items() if key not in _NOTED and _is_raised(key, value)}
    return [_warning(key, value) for key, value in raised.items()]


def doubts(evaluation: EvaluationFacts) -> list[str]:
    """What takes trust from an evaluation: the checks that it made by itself, or its flags where it made none."""
    raised = [check for check in evaluation.checks if check.verdict in ("suspect", "fail")]
    reasons = [": ".join(part for part in (check.says or check.name, check.remedy) if part) for check in raised]
    return (reasons or warnings(evaluation.flags)) + loose(evaluation)


def loose(evaluation: EvaluationFacts) -> list[str]:
    """Return the sentence that a protocol beside this one broke examples which it counts as robust; empty if none did."""
    found = evaluation.looseness
    if found is None:
        return []
    broken = f"{count(found.examples)} examples ({percent(found.share, evaluation.n)})"
    return [
        f"the protocol {found.by} broke {broken} that {evaluation.protocol} counts as robust: "
        "this figure is loose here, quote the lower one"
    ]


def balance(rows: Sequence[_Class]) -> str:
    """Say that classes are of unequal size, and what accuracy is when each counts the same; empty where they are alike.

    Example:
        >>> from advreg.report.facts import ClassFacts
        >>> balance([ClassFacts("cat", 90, 0.9, 0.5), ClassFacts("owl", 10, 0.5, 0.1)])
        'classes are unequal, 90 of cat and 10 of owl; with each class counted the same, clean is 70.0% and robust 30.0%'
        >>> balance([ClassFacts("cat", 50, 0.9, 0.5), ClassFacts("owl", 40, 0.5, 0.1)])
        ''
    """
    met = sorted((row for row in rows if row.n), key=lambda row: -row.n)
    if len(met) < 2 or met[0].n < UNEQUAL * met[-1].n:
        return ""
    clean, robust = (
        sum(share(row) for row in met) / len(met)
        for share in (attrgetter("clean_accuracy"), attrgetter("robust_accuracy"))
    )
    sizes = f"{count(met[0].n)} of {met[0].name} and {count(met[-1].n)} of {met[-1].name}"
    return (
        f"classes are unequal, {sizes}; with each class counted the same, "
        f"clean is {percent(clean)} and robust {percent(robust)}"
    )


def _is_raised(key: str, value: object) -> bool:
    if isinstance(value, str) or not value:
        return False
    return not (key == "black_box_gain" and isinstance(value, float) and value <= GAIN)


def _warning(key: str, value: object) -> str:
    size = f"{value:,.0f}" if isinstance(value, int | float) else str(value)
    share = percent(value) if isinstance(value, float) and 0 <= value <= 1 else size
    known = {
        "randomised": "the model answers the same input differently: only the protocol rand, which averages, measures it",
        "zero_gradients": f"{share} of the clean images looked at have an input gradient of exactly zero: "
        "attacks that follow it are blind there",
        "black_box_gain": f"attacks without gradients broke {share} of the images that gradients before them had left: "
        "above 0.2%, gradients may mislead",
        "answers_only": "the model only answers, so nothing but black boxes attacked it: the network itself may be weaker",
        "coarse_answers": "the scores are rounded to few values, which hides from attacks what they gain: "
        "use the protocol labels",
        "non_finite": f"{size} answers under attack were NaN or infinite: no right answers, so they count as broken",
    }
    return known.get(key) or (_flag(key) if value is True else f"{_flag(key)}: {value}")


def notes(flags: Facts) -> list[str]:
    """The flags that only describe how it was measured.

    Example:
        >>> notes({"zero_gradients": 3, "target": "float32", "batch": 256, "few_classes": False})
        ['attacked a copy in float32', '256 at a time']
    """
    return [_note(key, value) for key, value in flags.items() if value and (key in _NOTED or isinstance(value, str))]


def _note(key: str, value: object) -> str:
    share = percent(value) if isinstance(value, float) else value
    known = {
        "target": f"attacked a copy in {value}",
        "batch": f"{value} at a time",
        "few_classes": "fewer than 4 classes: losses that need more were replaced by margins",
        "broken_beyond": _beyond(value),
        "unchanged_answers": f"{share} of the answers did not change at a random point within eps",
        "distinct_answers": f"{share} of the scores were distinct numbers",
    }
    return known.get(key, f"{_flag(key)}: {value}")


def _beyond(value: object) -> str:
    counts = value if isinstance(value, Mapping) else {}
    return ", ".join(f"broke {number} examples that {protocol} had left" for protocol, number in counts.items())


def _flag(key: str) -> str:
    return key.replace("_", " ")


def curve(curve: CurveFacts) -> str:
    """A robustness curve in one sentence."""
    if not curve.points:
        return "The curve has no points."
    first, last = curve.points[0], curve.points[-1]
    start = f"{percent(first.robust_accuracy, curve.n)} at eps {first.eps:.4g}"
    end = f"{percent(last.robust_accuracy, curve.n)} at eps {last.eps:.4g}"
    return f"Robust accuracy goes from {start} to {end}, measured with {curve.attack} on {count(curve.n)} images."


def training(epochs: Sequence[EpochFacts]) -> str:
    """A training in one or two sentences."""
    last = epochs[-1]
    known = [("clean", last.clean_accuracy), ("robust", last.robust_accuracy)]
    ends = " and ".join(f"{percent(value)} {name}" for name, value in known if value is not None)
    spent = sum(epoch.seconds or 0.0 for epoch in epochs)
    took = f" Training took {duration(spent)}." if spent else ""
    return f"After {last.epoch:g} epochs, held-out accuracy is {ends or 'not known'}.{took}"


def event(facts: Facts) -> str:
    """One line of a run's history.

    Example:
        >>> event({"event": "resumed", "epoch": 3})
        'resumed: epoch 3'
    """
    if facts.get("event") == "guard" and {"epoch", "trouble", "said", "action"} <= set(facts):
        when = f"epoch {facts['epoch']}" + (f", step {facts['step']}" if facts.get("step") else "")
        return f"guard, {when}: {facts['trouble']}: {facts['said']}; {facts['action']}"
    details = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "event" and value not in ({}, None))
    return f"{facts.get('event')}: {details}" if details else str(facts.get("event"))


def falls(eps: float, threat: ThreatFacts) -> str:
    """The eps at which an image is known to fall, with its grey levels where the norm is per pixel.

    Example:
        >>> falls(0.0503, Threat("linf", 0.1)), falls(1.234, Threat("l2", 2.0))
        ('falls at eps 0.0503 (12.8 of 255)', 'falls at eps 1.23')
    """
    low, high = threat.box
    grey = f" ({255 * eps / (high - low):.3g} of 255)" if threat.norm == "linf" and high > low else ""
    return f"falls at eps {eps:.3g}{grey}"


def p_value(p: float) -> str:
    """The chance of a difference at least as large where there is none.

    Example:
        >>> p_value(0.0000004), p_value(0.03214)
        ('< 0.0001', '0.032')
    """
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def sentence(text: str) -> str:
    """Text with a capital at its start and a full stop at its end."""
    return f"{text[:1].upper()}{text[1:]}."


def commands(run: RunFacts, evaluation: EvaluationFacts | None) -> list[str]:
    """The very commands that make these figures again, from the folder that holds the run folder."""
    if evaluation is None:
        return [f"advreg train {shlex.quote(run.name + '/run.toml')}"] if run.config else []
    told = evaluation.environment.get("command")
    if isinstance(told, list):
        return [shlex.join(str(word) for word in told)]
    if isinstance(told, str):
        return [told]
    from_a_program = evaluation.data.get("split") == "given"  # tensors have no name that a command could load
    return [] if from_a_program else [_evaluate(run, evaluation)]


def _evaluate(run: RunFacts, evaluation: EvaluationFacts) -> str:
    data = evaluation.data.get("name")
    named, *own = short_name(evaluation.protocol).split("+")
    options = {
        "--data": str(data) if data else None,
        "--threat": option(evaluation.threat),
        "--protocol": named,
        "--n": str(evaluation.n),
        "--seed": str(evaluation.seed),
        "--curve": _grid(evaluation.curve),
    }
    given = [word for key, value in options.items() if value for word in (key, value)]
    given += [word for name in own for word in ("--attack", ":".join(name.rsplit(".", 1)))]
    given += ["--distances"] if evaluation.norms is not None else []
    return shlex.join(["advreg", "evaluate", run.name, *given])


def _grid(curve: CurveFacts | None) -> str | None:
    """The radii of a curve that attacks measured at each; one from distances needs none."""
    if curve is None or curve.attack == "minimum norms" or len(curve.points) > 20:
        return None
    return ",".join(eps(ThreatFacts(curve.norm, point.eps)) for point in curve.points)
