"""The group is what is labelled: look-alikes that disagree with it are shown, and a flood of those that agree is not."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.hardening.ingestion import ingest, queue
from advreg.hardening.store import Store
from advreg.hardening.store.examples import Verdict, receive, review
from tests.hardening.conftest import submission

LOOKS = "0" * 48


def send(store: Store, seeds: Sequence[int], prediction: int | None, principal: str, looks: str = LOOKS) -> list[str]:
    given = [submission(k, looks=looks, prediction=prediction, principal=principal) for k in seeds]
    return [receipt.id for receipt in receive(store, given)]


def shown(store: Store, second: bool = False) -> list[str]:
    return [row["sha256"] for row in queue(store, "rae", 1000, second)]


def test_a_labelled_decoy_hides_no_attack(store: Store) -> None:
    decoy = send(store, [1], 3, "eve")[0]
    ingest(store)
    review(store, Verdict(decoy, "rae", 3), 10)
    attacks = send(store, range(10, 15), 5, "ann")
    assert shown(store) == attacks[:1]


def test_a_decoy_with_a_false_prediction_hides_no_attack(store: Store) -> None:
    decoy = send(store, [1], 5, "eve")[0]
    ingest(store)
    review(store, Verdict(decoy, "rae", 3), 10)
    attack = send(store, [2], 5, "ann")
    assert shown(store) == attack


def test_twins_with_two_predictions_are_both_shown_before_a_label(store: Store) -> None:
    clean, attack = send(store, [1], 3, "eve")[0], send(store, [2], 5, "ann")[0]
    assert set(shown(store)) == {clean, attack}


def test_look_alikes_that_agree_are_shown_once(store: Store) -> None:
    first = send(store, range(20), 3, "ann")[0]
    assert shown(store) == [first]
    review(store, Verdict(first, "rae", 3), 10)
    send(store, range(20, 30), 3, "bob")
    assert shown(store) == []


def test_one_principal_shows_one_error_of_a_kind(store: Store) -> None:
    first = send(store, range(20), 5, "ann")[0]
    ingest(store)
    review(store, Verdict(first, "rae", 3), 10)
    assert shown(store) == []
    others = send(store, range(30, 40), 7, "ann")
    assert shown(store) == others[:1]


def test_texts_without_predictions_are_shown_once(store: Store) -> None:
    first = send(store, range(5), None, "ann")[0]
    assert shown(store) == [first]
    review(store, Verdict(first, "rae", 1), 2)
    assert shown(store) == []
