"""Sentences of the report: what a threat allows, what a figure means, and which warnings belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Protocol

from advreg.report.data_words import DataWords, words_for
from advreg.report.facts import CurveFacts, EpochFacts, EvaluationFacts, Facts, ThreatFacts
from advreg.report.formatting import count, duration, eps, features_threat, of_100, percent
from advreg.report.read import short_name
from advreg.report.score_prose import meaning_of_scores

UPPER_BOUND = (
    "Robust accuracy measured by attacks is an upper bound: a stronger attack can only lower it, "
    "and published figures have fallen by several points when one was found."
)
"""The sentence that accompanies every robust accuracy."""
CLASS_IMBALANCE = 3
"""Ratio of the largest class to the smallest from which accuracy is also averaged over classes."""
_BLACK_BOX_GAIN = 0.002  # share of examples; above it AutoAttack's authors warn that gradients may be masked
_PROTOCOLS = {
    "quick": "A quick check: short gradient attacks, then a few queries of Square on the survivors with the smallest margins.",
    "standard": "The AutoAttack protocol (Croce and Hein, 2020), followed faithfully.",
    "strong": "The strong protocol: at least as strong as the standard one, at a fraction of its cost.",
}
_LIMITED = "Attacks for limits of single features: by gradients, then a search by scores alone."
_NOTE_KEYS = ("target", "batch", "few_classes", "broken_beyond", "unchanged_answers", "distinct_answers")
_VERDICTS = {
    "TRUSTED": "No check found a sign that attacks failed for the wrong reasons.",
    "SUSPECT": "A check raised a warning: read the figure with care and follow the remedy it names.",
    "UNRELIABLE": "A check found that attacks failed for the wrong reasons: do not use this figure.",
    None: "Not diagnosed: no check has tested whether attacks failed for the wrong reasons.",
}


class _ClassAccuracy(Protocol):
    """Accuracy on the examples of one class, read from a run or measured just now."""

    @property
    def name(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def clean_accuracy(self) -> float: ...
    @property
    def robust_accuracy(self) -> float: ...


def threat(threat: ThreatFacts) -> str:
    """Describe which changes a threat model allows.

    Args:
        threat: norm, eps and box.

    Returns:
        A clause.

    Example:
        >>> threat(ThreatFacts("linf", 0.1))
        'every pixel may change by at most 0.1 (25.5 of 255 grey levels)'
        >>> threat(ThreatFacts("linf", 0.5, (-3.0, 3.0), kind="table"))
        'every feature may change by at most 0.5'
    """
    if threat.features:
        return features_threat(threat)
    words, size = threat.words, eps(threat)
    allowed = {
        "linf": f"every {words.value} may change by at most {size}{_levels(threat, threat.eps, ' grey levels')}",
        "l2": f"the whole change may be at most {size} long: the root of the summed squares of all {words.value} changes",
        "l1": f"the sum of all {words.value} changes may reach at most {size}",
        "l0": f"at most {size} {words.values} may change, each by any amount",
    }
    return allowed.get(threat.norm, f"the change may have a {threat.norm} norm of at most {size}")


def _levels(threat: ThreatFacts, radius: float, unit: str) -> str:
    """Return a radius of 8-bit images as a number of grey levels, in brackets; empty for other data."""
    low, high = threat.box
    return f" ({255 * radius / (high - low):.3g} of 255{unit})" if threat.words.has_levels and high > low else ""


def meaning(evaluation: EvaluationFacts) -> tuple[str, str]:
    """Describe an evaluation in two sentences: accuracy without an attack, and under attack.

    Args:
        evaluation: the evaluation.

    Returns:
        The two sentences.

    Example:
        >>> found = EvaluationFacts("linf-0.1-quick@1", ThreatFacts("linf", 0.1), 500, 0, 0.9, 0.8)
        >>> meaning(found)[0]
        'Without an attack, the model classifies about 90 of 100 images correctly.'
    """
    if evaluation.task != "classes":
        return meaning_of_scores(evaluation)
    clean = f"Without an attack, the model classifies {of_100(evaluation.clean_accuracy, evaluation.words)} correctly."
    robust, allowed = of_100(evaluation.robust_accuracy, evaluation.words), threat(evaluation.threat)
    if evaluation.verdict == "UNRELIABLE":
        why = "the attacks failed for reasons that have nothing to do with robustness"
        return clean, f"Under attack it appears to classify {robust} correctly, but do not rely on that: {why}."
    if evaluation.robust_accuracy < 0.5 * evaluation.clean_accuracy:
        return (
            clean,
            f"When {allowed}, it classifies {robust} correctly: most attacks within this threat model succeed.",
        )
    return clean, f"When {allowed}, it still classifies {robust} correctly under every attack listed below."


def shares(evaluation: EvaluationFacts) -> tuple[int, int, int]:
    """Return how many of 100 images are robust, fooled by an attack, and misclassified without one.

    Args:
        evaluation: the evaluation.

    Returns:
        Three whole numbers that sum to 100.

    Example:
        >>> shares(EvaluationFacts("linf-0.1-quick@1", ThreatFacts("linf", 0.1), 500, 0, 0.9, 0.8))
        (80, 10, 10)
    """
    robust = round(100 * evaluation.robust_accuracy)
    wrong = min(round(100 * (1.0 - evaluation.clean_accuracy)), 100 - robust)
    return robust, 100 - robust - wrong, wrong


def protocol(evaluation: EvaluationFacts) -> str:
    """Describe the protocol of an evaluation and its attacks, in one or two sentences.

    Args:
        evaluation: the evaluation.

    Returns:
        The sentences.
    """
    known = _LIMITED if evaluation.threat.features else _PROTOCOLS.get(short_name(evaluation.protocol), "")
    names = [attack.name for attack in evaluation.attacks]
    order = f"One attack: {names[0]}." if names else ""
    if len(names) > 1:
        each = f"each on the {evaluation.words.examples} that no earlier attack broke"
        order = f"{len(names)} attacks in turn, {each}: {', '.join(names)}."
    return f"{known} {order}".strip() or "The results do not list the attacks."


def verdict(name: str | None) -> str:
    """Explain a verdict: TRUSTED, SUSPECT, UNRELIABLE, or None where nothing was diagnosed.

    Args:
        name: the verdict, or None.

    Returns:
        One sentence.
    """
    return _VERDICTS[name]


def outcome(name: str) -> str:
    """Return the label of an image's outcome in pictures and filters.

    Args:
        name: ``"fooled"``, ``"withstood"`` or ``"wrong"``.

    Returns:
        The label.

    Example:
        >>> [outcome(name) for name in ("fooled", "withstood", "wrong")]
        ['broken', 'robust', 'clean error']
    """
    return {"fooled": "broken", "withstood": "robust", "wrong": "clean error"}[name]


def warnings(flags: Facts) -> list[str]:
    """Return one clause, without a full stop, for each flag that makes the figures less trustworthy.

    Args:
        flags: those of an evaluation; flags that only describe it are left to `notes`.

    Returns:
        Clauses without a full stop.

    Example:
        >>> warnings({"zero_gradients": 0.25, "black_box_gain": 0.001, "randomised": False, "target": "float32"})
        ['25.0% of the sampled clean examples have an input gradient of exactly zero: gradient attacks cannot move from there']
        >>> warnings({"mine": 3})
        ['mine: 3']
    """
    raised = {key: value for key, value in flags.items() if key not in _NOTE_KEYS and _is_raised(key, value)}
    return [_warning(key, value) for key, value in raised.items()]


def doubts(evaluation: EvaluationFacts) -> list[str]:
    """Return every warning about an evaluation: its own checks, or its flags where it has none, and looseness.

    Args:
        evaluation: the evaluation.

    Returns:
        Clauses without a full stop.
    """
    raised = [check for check in evaluation.checks if check.verdict in ("suspect", "fail")]
    reasons = [": ".join(part for part in (check.says or check.name, check.remedy) if part) for check in raised]
    # under rules, a search reaches what gradients cannot
    under_rules = "black_box_gain" if "rules" in evaluation.threat.features else ""
    flags = {key: value for key, value in evaluation.flags.items() if key != under_rules}
    return (reasons or warnings(flags)) + loose(evaluation)


def loose(evaluation: EvaluationFacts) -> list[str]:
    """Return the warning that another protocol broke examples which this one counts as robust; empty if none did.

    Args:
        evaluation: the evaluation.

    Returns:
        At most one clause.
    """
    other = evaluation.looseness
    if other is None:
        return []
    broken = f"{count(other.examples)} examples ({percent(other.share, evaluation.n)})"
    return [
        f"the protocol {other.by} broke {broken} that {evaluation.protocol} counts as robust: "
        "this figure is loose here, quote the lower one"
    ]


def balance(rows: Sequence[_ClassAccuracy]) -> str:
    """Report class imbalance, with the accuracy averaged over classes; empty where classes are of similar size.

    Args:
        rows: accuracy of each class; classes without examples are ignored.

    Returns:
        One sentence, or an empty text.

    Example:
        >>> from advreg.report.facts import ClassFacts
        >>> balance([ClassFacts("cat", 90, 0.9, 0.5), ClassFacts("owl", 10, 0.5, 0.1)])
        'classes are unequal, 90 of cat and 10 of owl; with each class counted the same, clean is 70.0% and robust 30.0%'
        >>> balance([ClassFacts("cat", 50, 0.9, 0.5), ClassFacts("owl", 40, 0.5, 0.1)])
        ''
    """
    present = sorted((row for row in rows if row.n), key=lambda row: -row.n)
    if len(present) < 2 or present[0].n < CLASS_IMBALANCE * present[-1].n:
        return ""
    clean, robust = (
        sum(share(row) for row in present) / len(present)
        for share in (attrgetter("clean_accuracy"), attrgetter("robust_accuracy"))
    )
    sizes = f"{count(present[0].n)} of {present[0].name} and {count(present[-1].n)} of {present[-1].name}"
    return (
        f"classes are unequal, {sizes}; with each class counted the same, "
        f"clean is {percent(clean)} and robust {percent(robust)}"
    )


def _is_raised(key: str, value: object) -> bool:
    """Return whether a flag is a warning."""
    if isinstance(value, str) or not value:
        return False
    return not (key == "black_box_gain" and isinstance(value, float) and value <= _BLACK_BOX_GAIN)


def _warning(key: str, value: object) -> str:
    size = f"{value:,.0f}" if isinstance(value, int | float) else str(value)
    share = percent(value) if isinstance(value, float) and 0 <= value <= 1 else size
    known = {
        "randomised": "the model gives different outputs for the same input: "
        "only the protocol rand, which averages over them, measures it",
        "zero_gradients": f"{share} of the sampled clean examples have an input gradient of exactly zero: "
        "gradient attacks cannot move from there",
        "black_box_gain": f"attacks without gradients broke {share} of the examples that survived gradient attacks: "
        "above 0.2%, gradients may be masked",
        "answers_only": "the model gives no gradients, so only black-box attacks were run: "
        "the network itself may be less robust",
        "coarse_answers": "scores rounded to few values hide from attacks what they gain: use the protocol labels",
        "non_finite": f"{size} outputs under attack were NaN or infinite: they count as broken",
    }
    return known.get(key) or (_flag(key) if value is True else f"{_flag(key)}: {value}")


def notes(flags: Facts) -> list[str]:
    """Return one clause for each flag that only describes how the figures were measured.

    Args:
        flags: flags of an evaluation.

    Returns:
        Clauses without a full stop.

    Example:
        >>> notes({"zero_gradients": 3, "target": "float32", "batch": 256, "few_classes": False})
        ['attacked a copy in float32', '256 at a time']
    """
    return [
        _note(key, value) for key, value in flags.items() if value and (key in _NOTE_KEYS or isinstance(value, str))
    ]


def _note(key: str, value: object) -> str:
    share = percent(value) if isinstance(value, float) else value
    known = {
        "target": f"attacked a copy in {value}",
        "batch": f"{value} at a time",
        "few_classes": "fewer than 4 classes: losses that need more were replaced by margins",
        "broken_beyond": _broken_beyond(value),
        "unchanged_answers": f"{share} of the outputs did not change at a random point within eps",
        "distinct_answers": f"{share} of the scores were distinct numbers",
    }
    return known.get(key, f"{_flag(key)}: {value}")


def _broken_beyond(value: object) -> str:
    counts = value if isinstance(value, Mapping) else {}
    return ", ".join(f"broke {number} examples that {protocol} had left" for protocol, number in counts.items())


def _flag(key: str) -> str:
    return key.replace("_", " ")


def curve(curve: CurveFacts, words: DataWords = words_for("")) -> str:  # noqa: B008  # frozen
    """Describe a robustness curve in one sentence: its ends, its attack and the number of examples.

    Args:
        curve: the curve.
        words: nouns for the data.

    Returns:
        One sentence.
    """
    if not curve.points:
        return "The curve has no points."
    start, end = (
        f"{percent(point.robust_accuracy, curve.n)} at eps {eps(ThreatFacts(curve.norm, point.eps, features=curve.features))}"
        for point in (curve.points[0], curve.points[-1])
    )
    measured = f"measured with {curve.attack} on {count(curve.n)} {words.examples}"
    return f"{curve.figures.robust} goes from {start} to {end}, {measured}."


def training(epochs: Sequence[EpochFacts], figure: str = "accuracy") -> str:
    """Describe a training in one or two sentences: held-out accuracy after the last epoch, and the time it took.

    Args:
        epochs: at least one, in order.
        figure: ``accuracy`` or ``score``.

    Returns:
        The sentences.
    """
    last = epochs[-1]
    measured = [("clean", last.clean_accuracy), ("robust", last.robust_accuracy)]
    ends = " and ".join(f"{percent(value)} {name}" for name, value in measured if value is not None)
    seconds = sum(epoch.seconds or 0.0 for epoch in epochs)
    took = f" Training took {duration(seconds)}." if seconds else ""
    return f"After {last.epoch:g} epochs, held-out {figure} is {ends or 'not known'}.{took}"


def event(facts: Facts) -> str:
    """Describe one event of a training log in one line.

    Args:
        facts: fields of the event.

    Returns:
        One line.

    Example:
        >>> event({"event": "resumed", "epoch": 3})
        'resumed: epoch 3'
    """
    if facts.get("event") == "guard" and {"epoch", "trouble", "said", "action"} <= set(facts):
        when = f"epoch {facts['epoch']}" + (f", step {facts['step']}" if facts.get("step") else "")
        return f"guard, {when}: {facts['trouble']}: {facts['said']}; {facts['action']}"
    details = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "event" and value not in ({}, None))
    return f"{facts.get('event')}: {details}" if details else str(facts.get("event"))


def breaking_eps(eps: float, threat: ThreatFacts) -> str:
    """Return the smallest eps known to break an image, with its grey levels where the norm is per pixel.

    Args:
        eps: radius in the units of the box.
        threat: norm and box.

    Returns:
        A clause.

    Example:
        >>> breaking_eps(0.0503, ThreatFacts("linf", 0.1)), breaking_eps(1.234, ThreatFacts("l2", 2.0))
        ('broken at eps 0.0503 (12.8 of 255)', 'broken at eps 1.23')
    """
    grey = _levels(threat, eps, "") if threat.norm == "linf" else ""
    return f"broken at eps {eps:.3g}{grey}"
