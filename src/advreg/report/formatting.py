"""Numbers as text: percentages, intervals, counts, durations, radii and threat models."""

from __future__ import annotations

from fractions import Fraction

from advreg.report.data_words import DataWords, words_for
from advreg.report.facts import Interval, ThreatFacts

_SMALL = 10  # denominators up to which a fraction is not one of 255: 85/255 was typed as 1/3
_LONG = 8  # characters of a decimal from which a short fraction is what was typed


def percent(share: float, n: int = 1000) -> str:
    """Format a share as a percentage with as many decimals as `n` examples support.

    Args:
        share: from 0 to 1.
        n: examples that the share was measured on; two decimals from 10,000 examples on, else one.

    Returns:
        The percentage; a share below 1 is never rounded to 100%, one above 0 never to 0%.

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
    """Format a 95% interval.

    Args:
        ends: low and high end, from 0 to 1; None where no interval was measured.
        n: examples that the interval was measured on.

    Returns:
        The text.

    Example:
        >>> interval((0.937, 0.964))
        '93.7% to 96.4%'
    """
    return f"{percent(ends[0], n)} to {percent(ends[1], n)}" if ends else "no interval"


def count(number: float | None) -> str:
    """Format a whole number with thousands separators; None becomes a dash.

    Args:
        number: a whole number, or None.

    Returns:
        The text.

    Example:
        >>> count(1234567)
        '1,234,567'
    """
    return "-" if number is None else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """Format a duration in its two largest units; None becomes a dash.

    Args:
        seconds: duration, or None.

    Returns:
        The text.

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
    """Format a radius as the command line takes it: a fraction of 255 where it is one.

    Args:
        threat: norm, eps and box.

    Returns:
        The text.

    Example:
        >>> eps(ThreatFacts("linf", 8 / 255)), eps(ThreatFacts("l2", 0.1, features="snr"))
        ('8/255', '20 dB')
    """
    return f"{threat.ratio} dB" if threat.ratio else eps_text(threat.eps)


def eps_text(number: float) -> str:
    """Format a radius as it was typed: a fraction of 255 or another short one where it is that, else a decimal.

    Args:
        number: the radius.

    Returns:
        The text, which reads as the same number.

    Example:
        >>> eps_text(4 / 255), eps_text(1 / 3), eps_text(0.1)
        ('4/255', '1/3', '0.1')
    """
    whole, decimal = round(number * 255), repr(float(number)).removesuffix(".0")
    if len(decimal) <= 4:
        return decimal
    fraction = Fraction(number).limit_denominator(1000)
    if whole > 0 and abs(number * 255 - whole) < 1e-9 and fraction.denominator > _SMALL:
        return f"{whole}/255"
    return str(fraction) if len(decimal) > _LONG and float(fraction) == number else decimal


def threat_option(threat: ThreatFacts) -> str:
    """Format a threat model as ``--threat`` takes it: norm, eps, and the box where it is not [0, 1] or one of each feature.

    Args:
        threat: norm, eps and box.

    Returns:
        The text.

    Example:
        >>> threat_option(ThreatFacts("l2", 64.0, (0.0, 255.0))), threat_option(ThreatFacts("l2", 0.1, features="snr"))
        ('l2:64@0,255', 'snr:20')
    """
    low, high = (repr(end).removesuffix(".0") for end in threat.box)
    size = f"snr:{threat.ratio}" if threat.ratio else f"{threat.norm}:{eps(threat)}"
    return size if threat.limits else size + ("" if threat.box == (0.0, 1.0) else f"@{low},{high}")


def of_100(share: float, words: DataWords = words_for("")) -> str:  # noqa: B008  # frozen
    """Format a share as a number of 100 examples; rounding never turns some into none or into all.

    Args:
        share: from 0 to 1.
        words: nouns for the data; images by default.

    Returns:
        The text.

    Example:
        >>> of_100(0.954), of_100(1.0), of_100(0.999)
        ('about 95 of 100 images', 'all images', 'more than 99 of 100 images')
        >>> of_100(0.002), of_100(0)
        ('fewer than 1 in 100 images', 'no image')
    """
    if share in (0.0, 1.0):
        return f"no {words.example}" if share == 0.0 else f"all {words.examples}"
    if share > 0.995:
        return f"more than 99 of 100 {words.examples}"
    return f"{'fewer than 1 in' if share < 0.005 else f'about {100 * share:.0f} of'} 100 {words.examples}"


def p_value(p: float) -> str:
    """Format a p-value with two significant digits.

    Args:
        p: from 0 to 1.

    Returns:
        The text.

    Example:
        >>> p_value(0.0000004), p_value(0.03214)
        ('< 0.0001', '0.032')
    """
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def sentence(text: str) -> str:
    """Return text with a capital letter at its start and a full stop at its end.

    Args:
        text: any text.

    Returns:
        The sentence.

    Example:
        >>> sentence("no gradient")
        'No gradient.'
    """
    return f"{text[:1].upper()}{text[1:]}."


def features_threat(threat: ThreatFacts) -> str:
    """Describe a threat model with units or rules of single features.

    Args:
        threat: the threat model.

    Returns:
        A clause.

    Example:
        >>> features_threat(ThreatFacts("linf", 0.5, features="scale-1a2b3c4d"))
        'every feature may change by at most 0.5 of its unit'
    """
    if threat.ratio:
        return f"the change may be at most {threat.ratio} dB below its {threat.words.example} without the mean, in l2"
    allowed = {
        "linf": f"every feature may change by at most {threat.eps:.4g} of its unit",
        "l2": f"the changes, each in units of its feature, may be at most {threat.eps:.4g} long together",
        "l1": f"the sum of all changes, each in units of its feature, may reach at most {threat.eps:.4g}",
    }
    rules = ", and the row keeps the rules of the table" if "rules" in threat.features else ""
    return allowed.get(threat.norm, f"the change may have a {threat.norm} norm of at most {threat.eps:.4g}") + rules
