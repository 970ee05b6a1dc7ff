"""The tables of the store. Their rows are read and written in this folder alone."""

from __future__ import annotations

import sqlalchemy as sa

from dail.serve.store.databases import now

STORE_VERSION = 7
NOW = now()

OPEN = ("waiting", "queued", "leased")  # states of a unit that has not ended

METADATA = sa.MetaData()

BATCHES = sa.Table(
    "batches",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("idempotency_key", sa.Text, nullable=False, unique=True),
    sa.Column("body_hash", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False, index=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("model_key", sa.Text, nullable=False),  # what a worker's model must equal
    sa.Column("synthesis", sa.Text, nullable=False),
    sa.Column("kinds", sa.Text, nullable=False),  # of its items, in numbers
    sa.Column("run_label", sa.Text),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False, default=1),
    sa.Column("created_at", sa.Float, nullable=False, default=NOW),
    sa.Column("in_progress_at", sa.Float),  # first lease
    sa.Column("cancelling_at", sa.Float),
    sa.Column("settled_at", sa.Float),  # every unit terminal
    sa.Column("ended_at", sa.Float),
    sa.Column("settled_by", sa.Text),  # the release that settled it; whoever writes its manifest writes that one's
    sa.Column("ending_error", sa.Text),  # why it is settled and not ended
    sa.Column("window_s", sa.Float),  # the time that it was given; without one it does not expire
    sa.Column("expires_at", sa.Float, index=True),
    sa.Column("expired_at", sa.Float),
    sa.Column("deleted_at", sa.Float, index=True),  # from then on nobody sees it; its bytes go later
    sa.Column("num_events", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Index("open_batches", "status", "model_key"),
    sa.Column("counts", sa.JSON(none_as_null=True)),  # of its items and units by state, and their tokens
    sa.Column("tenant", sa.Text, nullable=False, default="", server_default=""),  # whose it is
    sa.Column("traceparent", sa.Text),  # of the POST
)
ITEMS = sa.Table(
    "items",
    METADATA,
    sa.Column("batch_id", sa.Text, sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("item_id", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # empty where it could not be used
    sa.Column("error_code", sa.Text),
    sa.Column("error_detail", sa.Text),
    sa.Index("items_in_order", "batch_id", "position", unique=True),
)
UNITS = sa.Table(
    "units",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("unit_id", sa.Text, nullable=False),
    sa.Column("batch_id", sa.Text, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("sample", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False, default="queued"),
    sa.Column("owner", sa.Text),
    sa.Column("epoch", sa.Integer, nullable=False, default=0),
    sa.Column("lease_until", sa.Float),
    sa.Column("leased_at", sa.Float),  # by the time of day, to be told; leases end by lease_until alone
    sa.Column("leases", sa.Integer, nullable=False, default=0),
    sa.Column("failures", sa.Integer, nullable=False, default=0),
    sa.Column("tokens", sa.Integer, nullable=False, default=0),
    sa.Column("attributed_tokens", sa.Integer, nullable=False, default=0),
    sa.Column("student_tokens", sa.Float, nullable=False, default=0),
    sa.Column("correct", sa.Boolean),  # its trace, where the batch stops by verdicts
    sa.Column("error_code", sa.Text),
    sa.Column("error_detail", sa.Text),
    sa.Column("error_retryable", sa.Boolean),
    sa.ForeignKeyConstraint(["batch_id", "item_id"], ["items.batch_id", "items.item_id"]),
    sa.UniqueConstraint("batch_id", "unit_id"),
    sa.Index("units_of_item", "batch_id", "item_id", "state"),
    sa.Index("units_of_batch", "batch_id", "state", "n"),
    sa.Index("units_by_state", "state", "n"),
    sa.Index("units_by_lease", "lease_until"),
    sa.Index("units_by_id", "unit_id"),
    sa.Index("units_by_owner", "owner"),
)
PREFIXES = sa.Table(  # checkpoints of traces that have not ended, in pieces
    "prefixes",
    METADATA,
    sa.Column("unit", sa.Integer, sa.ForeignKey("units.n"), primary_key=True),
    sa.Column("start", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("tokens", sa.Text, nullable=False),
)
SHARDS = sa.Table(
    "shards",
    METADATA,
    sa.Column("unit", sa.Integer, sa.ForeignKey("units.n"), primary_key=True),
    sa.Column("batch_id", sa.Text, nullable=False, index=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("row", sa.Integer, nullable=False, default=0, server_default="0"),  # a row group of the file
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("unit_id", sa.Text, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("tokens", sa.Integer, nullable=False),
    sa.Column("attributed_tokens", sa.Integer, nullable=False),
    sa.Column("student_tokens", sa.Float, nullable=False),
    sa.Column("damaged", sa.Boolean, nullable=False, default=False, server_default=sa.false()),  # when last read
    sa.UniqueConstraint("key", "row"),
    sa.Index("damaged_shards", "batch_id", "damaged"),
)
MANIFESTS = sa.Table(
    "manifests",
    METADATA,
    sa.Column("batch_id", sa.Text, sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
)

EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("batch_id", sa.Text, sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("at", sa.Float, nullable=False, default=NOW),
)
TOKENS = sa.Table(
    "tokens",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("hash", sa.Text, nullable=False, unique=True),  # SHA-256 of the secret
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False, default=NOW),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
    sa.Column("used_at", sa.Float),
)
WORKERS = sa.Table(
    "workers",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("model_key", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False, default="", server_default=""),
    sa.Column("versions", sa.JSON, nullable=False, default=dict),
    sa.Column("first_seen", sa.Float, nullable=False, default=NOW),
    sa.Column("heard_at", sa.Float, nullable=False, index=True),
)
