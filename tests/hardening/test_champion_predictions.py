"""A sender that lies about the prediction hides no attack, and its near-duplicates are not reviewed for ever."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import advreg
from advreg.hardening import champion_predictions, registry
from advreg.hardening.backends import backend_of
from advreg.hardening.cycle.snapshots import _candidate
from advreg.hardening.image_decoding import to_npy
from advreg.hardening.ingestion import ingest, queue
from advreg.hardening.states import ModelStatus
from advreg.hardening.store import Store, verify
from advreg.hardening.store.examples import Submission, Verdict, example, receive, review
from advreg.hardening.workspace import Workspace
from tests.hardening.small import CLASSES, attacked, images, make_home

LOOKS = "0" * 48  # one cluster


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def home(made: Workspace, tmp_path: Path) -> Iterator[tuple[Workspace, Store]]:
    """A workspace with a store of its own."""
    home = Workspace(made.folder, made.config.replace_with({"store.url": f"sqlite:///{tmp_path}/h.db"}))
    store = home.store()
    registry.register_initial_champion(store, "models/base", "aa", "admin")
    yield home, store
    store.engine.dispose()


def send(store: Store, x: np.ndarray, claims: list[int], principal: str = "eve") -> list[str]:
    """Send look-alikes with claimed predictions."""
    given = [
        Submission(to_npy(one.astype(np.float32)), "npy", LOOKS, "server", principal, "customer", "m1", claim)
        for one, claim in zip(x, claims, strict=True)
    ]
    return [receipt.id for receipt in receive(store, given)]


def shown(store: Store) -> list[str]:
    return [row["sha256"] for row in queue(store, "rae", 1000)]


def base_predictions(home: Workspace, x: np.ndarray) -> list[int]:
    model = advreg.load_model(str(home.folder / "models/base"))
    return model(torch.from_numpy(x.astype(np.float32))).argmax(1).tolist()


def clean_images(home: Workspace, label: int, n: int) -> np.ndarray:
    """Return clean images of a class that the base gets right."""
    x, y = images(200, 7)
    x = x[:, None] / np.float32(255)
    right = np.array(base_predictions(home, x)) == y
    return x[right & (y == label)][:n]


def test_sender_that_claims_the_true_class_hides_no_attack(home: tuple[Workspace, Store]) -> None:
    place, store = home
    x, y = attacked(place, 40)
    truth = int(y[0])
    decoy = send(store, clean_images(place, truth, 1), [truth])[0]
    ingest(store)
    review(store, Verdict(decoy, "rae", truth), CLASSES)
    attack = send(store, x[:1], [truth])[0]
    assert shown(store) == [], "the claim agrees with the label of the group"
    backend_of(place).ingest(store)
    assert shown(store) == [attack]
    with store.reading() as db:
        row = example(db, attack)
        assert row["prediction"] == truth, "the claim stays as it came"
        assert queue(store, "rae", 1)[0]["prediction"] == base_predictions(place, x[:1])[0] != truth
        assert verify(db) is None


def test_decoy_with_a_false_claim_hides_no_attack(home: tuple[Workspace, Store]) -> None:
    place, store = home
    x, y = attacked(place, 40)
    truth, fooled = int(y[0]), base_predictions(place, x[:1])[0]
    decoy = send(store, clean_images(place, truth, 1), [fooled])[0]
    ingest(store)
    review(store, Verdict(decoy, "rae", truth), CLASSES)
    attack = send(store, x[:1], [fooled])[0]  # the same sender
    backend_of(place).ingest(store)
    assert shown(store) == [attack]


def test_look_alikes_with_false_claims_are_shown_until_the_next_cycle(home: tuple[Workspace, Store]) -> None:
    place, store = home
    x = clean_images(place, 1, 20)
    first = send(store, x[:1], [1])[0]
    ingest(store)
    review(store, Verdict(first, "rae", 1), CLASSES)
    names = [name for k in range(1, len(x)) for name in send(store, x[k : k + 1], [k % CLASSES], f"sybil-{k}")]
    assert shown(store)
    assert champion_predictions.predict_examples(place, store) == len(names) + 1
    assert shown(store) == []
    assert champion_predictions.predict_examples(place, store) == 0, "each is queried once"


def test_claims_choose_no_examples_for_training(home: tuple[Workspace, Store]) -> None:
    place, store = home
    (name,) = send(store, clean_images(place, 1, 1), [2])
    ingest(store)
    review(store, Verdict(name, "rae", 1), CLASSES)
    champion_predictions.predict_examples(place, store)
    with store.reading() as db:
        assert not _candidate(db, example(db, name)).wrong


def test_disagreement_compares_two_models_and_no_claim(home: tuple[Workspace, Store]) -> None:
    place, store = home
    (name,) = send(store, clean_images(place, 1, 1), [2])
    shutil.copytree(place.folder / "models/base", place.folder / "models/copy", dirs_exist_ok=True)
    registry.promote(store, registry.register(store, "models/copy", "bb", ModelStatus.TRUSTED), "admin")
    backend_of(place).ingest(store)
    with store.reading() as db:
        assert example(db, name)["disagrees"] is False
