"""The nouns of a report: an image has pixels and grey levels, a row of a table has features, a signal has samples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataWords:
    """What the values and the examples of a data set are called.

    Attributes:
        value, values: one number of an input, and several.
        example, examples: one input, and several.
        task: name of the classification on Hugging Face's hub.
        has_levels: whether values are 8-bit, so that eps is a number of grey levels too.
    """

    value: str
    values: str
    example: str
    examples: str
    task: str
    has_levels: bool = False


@dataclass(frozen=True)
class FigureWords:
    """What the figures of an evaluation are called: accuracies of a classifier, mean scores of another task.

    Attributes:
        clean, robust: without an attack, and under attack.
        short: one word for both.
    """

    clean: str
    robust: str
    short: str


_ACCURACIES = FigureWords("Clean accuracy", "Robust accuracy", "accuracy")
_SCORES = FigureWords("Clean score", "Score under attack", "score")


def figures_of(task: str) -> FigureWords:
    """Return the names of the figures of a task.

    Args:
        task: name of the task, ``classes`` for classification.

    Example:
        >>> figures_of("classes").robust, figures_of("pixels").robust
        ('Robust accuracy', 'Score under attack')
    """
    return _ACCURACIES if task == "classes" else _SCORES


_WORDS = {
    "": DataWords("pixel", "pixels", "image", "images", "image-classification", has_levels=True),
    "image": DataWords("pixel", "pixels", "image", "images", "image-classification"),
    "table": DataWords("feature", "features", "row", "rows", "tabular-classification"),
    "signal": DataWords("sample", "samples", "signal", "signals", "other"),
    "text": DataWords("token", "tokens", "text", "texts", "text-classification"),
}
_OTHER = DataWords("value", "values", "example", "examples", "other")


def words_for(kind: object) -> DataWords:
    """Return the nouns of a kind of data.

    Args:
        kind: ``data.kind`` of ``results.json``; empty for 8-bit images, for which the file has no such key.

    Returns:
        The nouns; those of plain examples for a kind that is not known.

    Example:
        >>> words_for("table").value, words_for("").value
        ('feature', 'pixel')
    """
    return _WORDS.get(str(kind or ""), _OTHER)
