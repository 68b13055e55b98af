"""The database tables. Times are seconds since 1970, hashes are hexadecimal."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Integer, MetaData, String, Table, Text

metadata = MetaData()

examples = Table(
    "examples",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False, index=True),
    Column("kind", String(8), nullable=False),
    Column("size", Integer, nullable=False),
    Column("token", String(100), nullable=False),
    Column("principal", String(200), nullable=False, index=True),
    Column("tier", String(16), nullable=False),
    Column("model", String(200), nullable=False),
    Column("prediction", Integer),  # as the sender claims; null for a text, see `answers`
    Column("claimed", Integer),  # the submitter's label: never shown, never trained on
    Column("scores", JSON),
    Column("looks", String(48), nullable=False),  # perceptual fingerprint
    Column("copies", Integer, nullable=False),
    Column("cluster", Integer),  # id of the first example of the near-duplicates
    Column("suspicion", Float),
    Column("disagrees", Boolean),  # with the previous champion
    Column("label", Integer),  # a reviewer's
    Column("confirmed", Boolean, nullable=False),  # by a second reviewer
    Column("rule", String(200)),
    Column("received_at", Float, nullable=False),
)

witnesses = Table(
    "witnesses",  # further senders of bytes that the store had already
    metadata,
    Column("id", Integer, primary_key=True),
    Column("example", String(64), ForeignKey("examples.sha256"), nullable=False, index=True),
    Column("token", String(100), nullable=False),
    Column("principal", String(200), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("at", Float, nullable=False),
)

seeded = Table(
    "seeded",  # known examples that measure the reviewers; none of them is trained on
    metadata,
    Column("example", String(64), ForeignKey("examples.sha256"), primary_key=True),
    Column("label", Integer, nullable=False),
)

pruned = Table(
    "pruned",  # examples without bytes, which were deleted after their retention
    metadata,
    Column("example", String(64), ForeignKey("examples.sha256"), primary_key=True),
    Column("at", Float, nullable=False),
)

predictions = Table(
    "predictions",  # the champion's, of images
    metadata,
    Column("example", String(64), ForeignKey("examples.sha256"), primary_key=True),
    Column("version", String(20), ForeignKey("models.version"), nullable=False),
    Column("prediction", Integer, nullable=False),
)

answers = Table(
    "answers",
    metadata,
    Column("example", String(64), ForeignKey("examples.sha256"), primary_key=True),
    Column("answer", Text, nullable=False),  # output of the deployed language model
)

reviews = Table(
    "reviews",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("example", String(64), ForeignKey("examples.sha256"), nullable=False, index=True),
    Column("reviewer", String(100), nullable=False),
    Column("label", Integer),  # none: rejected
    Column("at", Float, nullable=False),
    Column("undone", Boolean, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(40), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("detail", Text, nullable=False),
    Column("digest", String(64), nullable=False),
)

head = Table(
    "head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("role", String(10), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("relay", Boolean, nullable=False),  # may submit for other principals
    Column("revoked", Boolean, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", String(20), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("at", Float, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("snapshot", String(20), ForeignKey("snapshots.id"), primary_key=True),
    Column("example", String(64), ForeignKey("examples.sha256"), primary_key=True, index=True),
)

models = Table(
    "models",
    metadata,
    Column("version", String(20), primary_key=True),
    Column("stage", String(12), nullable=False),
    Column("run", Text, nullable=False),
    Column("weights", String(64)),
    Column("snapshot", String(20), ForeignKey("snapshots.id")),
    Column("decision", String(64)),
    Column("at", Float, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("version", String(20), ForeignKey("models.version"), nullable=False),
    Column("at", Float, nullable=False),
)

gates = Table(
    "gates",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sealed", String(64), nullable=False, index=True),
    Column("champion", String(20), nullable=False),
    Column("challenger", String(20), nullable=False),
    Column("verdict", String(12), nullable=False),
    Column("decision", String(64), nullable=False),
    Column("record", Text, nullable=False),  # decision.json
    Column("at", Float, nullable=False),
)

spent = Table(
    "spent",
    metadata,
    Column("example", String(64), primary_key=True),  # hash of a sealed example's content
    Column("gate", Integer, ForeignKey("gates.id"), primary_key=True),
)

locks = Table(
    "locks",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("until", Float, nullable=False),
)
