"""Pictures hold the exact pixels of the images, stay within a budget, and show their measures."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advreg.report import read
from advreg.report.facts import EvaluationFacts, ExamplesFacts, ThreatFacts
from advreg.report.gallery import CARDS, SIDE, cards

from .fake_run import examples


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


@pytest.fixture(scope="module")
def evaluation(run: Path) -> EvaluationFacts:
    return read.run(run).evaluations[0]


def pictured(clean: np.ndarray, adversarial: np.ndarray, box: tuple[float, float] = (0.0, 1.0)) -> EvaluationFacts:
    count = len(clean)
    label, share = np.zeros(count, np.int64), np.ones(count, np.float32)
    rows = ExamplesFacts(
        clean.astype(np.float32),
        adversarial.astype(np.float32),
        ids=np.arange(count),
        labels=label,
        clean_predicted=label,
        adversarial_predicted=label + 1,
        clean_confidence=share,
        adversarial_confidence=share,
        broken=np.ones(count, np.bool_),
        attack=label - 1,
    )
    return EvaluationFacts("p@1", ThreatFacts("linf", 0.1, box), count, 0, 1.0, 0.0, examples=rows)


def test_pictures_hold_the_pixels_of_the_images(evaluation: EvaluationFacts) -> None:
    stored = examples(60, 0.1)
    for card in cards(evaluation, 10**9):
        assert np.array_equal(pixels(card.clean), np.rint(255 * stored["clean"][card.id, 0].astype(np.float64)))
        shown = np.rint(255 * stored["adversarial"][card.id, 0].astype(np.float64))
        assert np.array_equal(pixels(card.adversarial), shown)


def test_change_is_opaque_in_proportion_and_coloured_by_sign(evaluation: EvaluationFacts) -> None:
    stored, card = examples(60, 0.1), cards(evaluation, 10**9)[0]
    change = (stored["adversarial"][card.id, 0] - stored["clean"][card.id, 0]).astype(np.float64)
    picture = pixels(card.change)
    assert np.allclose(picture[..., 3], 255 * np.abs(change) / np.abs(change).max(), atol=1)
    assert (picture[change > 0][:, 0] > picture[change > 0][:, 2]).all()
    assert (picture[change < 0][:, 0] < picture[change < 0][:, 2]).all()
    assert card.magnified == pytest.approx(1 / np.abs(change).max())


def test_measures_are_those_of_the_pixels(evaluation: EvaluationFacts) -> None:
    stored = examples(60, 0.1)
    for card in cards(evaluation, 10**9):
        change = stored["adversarial"][card.id].astype(np.float64) - stored["clean"][card.id]
        assert card.linf == pytest.approx(np.abs(change).max())
        assert card.l2 == pytest.approx(np.linalg.norm(change))
        assert card.ssim < 1


def test_outcomes_follow_from_the_predictions(evaluation: EvaluationFacts) -> None:
    shown = cards(evaluation, 10**9)
    assert {card.outcome for card in shown} == {"fooled", "withstood", "wrong"}
    for card in shown:
        right = card.label == card.clean_predicted
        assert (card.outcome == "wrong") == (not right)
        assert (card.outcome == "fooled") == (right and card.label != card.adversarial_predicted)


def test_few_cards_show_every_class_and_outcome(evaluation: EvaluationFacts) -> None:
    shown = cards(evaluation, 10**9)
    stored = examples(60, 0.1)
    right = stored["clean_predicted"] == stored["labels"]
    kinds = {(str(y), b) for y, b in zip(stored["labels"][right], stored["broken"][right] == 1, strict=True)}
    assert len(shown) == CARDS
    assert {(card.label, card.outcome == "fooled") for card in shown if card.outcome != "wrong"} == kinds


def test_pictures_stay_within_the_budget(evaluation: EvaluationFacts) -> None:
    shown = cards(evaluation, 20_000)
    assert 0 < len(shown) < CARDS
    assert sum(card.size for card in shown) <= 20_000


def test_large_images_are_reduced_to_own_pixels() -> None:
    clean = np.random.default_rng(0).random((2, 3, 300, 200))
    first, _ = cards(pictured(clean, clean.clip(0.05, 0.95)), 10**9)
    step = -(-300 // SIDE)
    expected = np.rint(255 * clean.astype(np.float32).astype(np.float64)[0, :, ::step, ::step]).transpose(1, 2, 0)
    assert np.array_equal(pixels(first.clean), expected)
    assert max(pixels(first.clean).shape) <= SIDE


def test_other_box_is_shown_from_black_to_white() -> None:
    clean = np.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
    (card,) = cards(pictured(clean, clean, box=(-1.0, 1.0)), 10**9)
    assert np.array_equal(pixels(card.clean).ravel(), np.arange(256))
    assert (card.linf, card.l2, card.ssim, card.magnified) == (0.0, 0.0, 1.0, 1.0)
    assert not pixels(card.change)[..., 3].any()


@pytest.mark.parametrize("shape", [(4, 20), (4, 2, 8, 8), (0, 1, 8, 8)])
def test_examples_that_are_no_images_have_no_gallery(shape: tuple[int, ...]) -> None:
    assert cards(pictured(np.zeros(shape), np.zeros(shape)), 10**9) == []


def test_label_without_a_name_is_shown_as_number(evaluation: EvaluationFacts) -> None:
    nameless = replace(evaluation, data={"classes": ["zero"]})
    assert {card.label for card in cards(nameless, 10**9)} == {"zero", *"12345679"}
