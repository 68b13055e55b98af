"""Known examples among the submitted ones: they measure the reviewers' errors and agreement, and are never trained on."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening.image_decoding import Limits, to_npy
from advreg.hardening.media_types import Medium
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store.audit import Entry, append
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import move
from advreg.hardening.store.tables import examples, reviews, seeded
from advreg.plugins import first_line
from advreg.statistics import clopper_pearson_interval

SEEDER = "(seeded)"
"""Token of the known examples; no API token can have this name."""
_NOISE = 4 / 255
_COPIED = ("principal", "tier", "model", "prediction", "scores", "suspicion")


def seed_known(
    store: Store, known: Sequence[tuple[bytes, int]], medium: Medium, limits: Limits, actor: str = "admin"
) -> int:
    """Put known examples into the review queue, each with the facts of a submitted one, so that nothing gives it away.

    Args:
        store: the store.
        known: contents and their true labels.
        medium: images or texts.
        limits: limits of one upload.
        actor: name for the audit log.

    Returns:
        The number of examples that are new.

    Raises:
        HardeningError: there are no submitted examples to hide among.
        UploadError: a content is not allowed.
    """
    contents = [(content, *medium.examine(content, limits), label) for content, label in known]
    names = [store.blobs.put(content) for content, *_ in contents]
    with store.writing() as db:
        models = _facts_to_copy(db)
        new = 0
        for name, (content, kind, looks, label) in zip(names, contents, strict=True):
            if db.execute(sa.select(examples.c.id).where(examples.c.sha256 == name)).first() is None:
                facts = {key: secrets.choice(models)[key] for key in ("principal", "tier")}
                copied = {**secrets.choice(models), **facts, "kind": kind, "looks": looks, "size": len(content)}
                _insert(db, store.clock(), actor, {"sha256": name, **copied}, label)
                new += 1
        return new


def _facts_to_copy(db: sa.Connection) -> list[dict[str, Any]]:
    columns = [examples.c[name] for name in _COPIED]
    newest = sa.select(*columns).where(examples.c.token != SEEDER).order_by(examples.c.id.desc()).limit(500)
    found = [dict(row) for row in db.execute(newest).mappings()]
    if not found:
        raise HardeningError(
            "the queue has no submitted examples to hide known ones among; seed once some have arrived"
        )
    return found


def _insert(db: sa.Connection, at: float, actor: str, row: Mapping[str, Any], label: int) -> None:
    facts = {"token": SEEDER, "copies": 1, "confirmed": False, "received_at": at, "state": ExampleStatus.RECEIVED}
    number = db.execute(examples.insert().values(**{**row, **facts})).inserted_primary_key
    assert number is not None
    # a cluster of its own that no submitted example can join: a label of one hides its near-duplicates
    db.execute(examples.update().where(examples.c.sha256 == row["sha256"]).values(cluster=-number[0]))
    db.execute(seeded.insert().values(example=row["sha256"], label=label))
    append(db, at, [Entry(actor, "state", row["sha256"], {"to": ExampleStatus.RECEIVED, "known": True})])
    move(db, at, actor, [row["sha256"]], ExampleStatus.QUARANTINED)


def known_images(file: Path, count: int) -> list[tuple[bytes, int]]:
    """Return trusted images with a little noise, so that none equals its original, and their labels.

    Args:
        file: a ``.npz`` file with ``images`` as uint8 ``(N, C, H, W)`` and ``labels``.
        count: number of images, drawn without replacement.

    Raises:
        HardeningError: the file cannot be read.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, KeyError, ValueError) as error:
        raise HardeningError(f"{file} holds no known images: {first_line(error)}; give images and labels") from error
    rng = np.random.default_rng(secrets.randbits(64))
    found = []
    for k in rng.choice(len(images), min(count, len(images)), replace=False):
        pixels = images[k] / np.float32(255) + rng.uniform(-_NOISE, _NOISE, images[k].shape)
        found.append((to_npy(pixels.clip(0, 1).astype(np.float32)), int(labels[k])))
    return found


def known_texts(file: Path, count: int) -> list[tuple[bytes, int]]:
    """Return known texts and their labels.

    Args:
        file: JSON lines with ``text`` and ``label``, 0 harmless or 1 harmful.
        count: largest number of lines to read.

    Raises:
        HardeningError: the file cannot be read.
    """
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:count]]
        return [(str(line["text"]).encode(), int(line["label"])) for line in lines]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise HardeningError(
            f"{file} holds no known texts: {first_line(error)}; write text and label a line"
        ) from error


@dataclass(frozen=True)
class ReviewerQuality:
    """What a reviewer's labels were worth.

    Attributes:
        reviewer: the reviewer's name.
        reviews: reviews that were not undone.
        known: reviews of known examples.
        errors: those with another label than the true one; a rejection is an error.
        pairs: pairs of this review and another reviewer's of the same example.
        agreed: those with the same label.
    """

    reviewer: str
    reviews: int
    known: int
    errors: int
    pairs: int
    agreed: int

    @property
    def error_interval(self) -> tuple[float, float]:
        """The exact 95% interval of the error rate; from 0 to 1 without known examples."""
        return clopper_pearson_interval(self.errors, self.known) if self.known else (0.0, 1.0)


def reviewer_quality(db: sa.Connection) -> list[ReviewerQuality]:
    """Return the quality of every reviewer, by name.

    Args:
        db: an open transaction.
    """
    truth = {row.example: row.label for row in db.execute(sa.select(seeded))}
    given: dict[str, dict[str, int | None]] = {}
    active = sa.select(reviews.c.example, reviews.c.reviewer, reviews.c.label).where(~reviews.c.undone)
    for name, reviewer, label in db.execute(active):
        given.setdefault(name, {})[reviewer] = label
    return [
        _quality(reviewer, given, truth) for reviewer in sorted({name for labels in given.values() for name in labels})
    ]


def _quality(reviewer: str, given: Mapping[str, Mapping[str, int | None]], truth: Mapping[str, int]) -> ReviewerQuality:
    mine = {name: labels[reviewer] for name, labels in given.items() if reviewer in labels}
    known = [label == truth[name] for name, label in mine.items() if name in truth]
    pairs = [
        first[1] == second[1]
        for name in mine
        for first, second in combinations(given[name].items(), 2)
        if reviewer in (first[0], second[0])
    ]
    return ReviewerQuality(reviewer, len(mine), len(known), known.count(False), len(pairs), sum(pairs))
