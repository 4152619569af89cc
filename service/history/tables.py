"""The one table of the history."""

from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table

METADATA = MetaData()

BUCKETS = Table(
    "buckets",
    METADATA,
    Column("model", String(128), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("graph", String(64), primary_key=True),
    Column("replica", String(128), primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("seconds", Integer, primary_key=True),
    Column("images", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Index("buckets_by_start", "start", "seconds"),
)


class Key(NamedTuple):
    """Which graph the numbers are of: only windows of the same graph can be merged."""

    model: str
    version: int
    graph: str
    """SHA-256."""


class Row(NamedTuple):
    """One bucket: what one process saw from `start` on, for `seconds`."""

    key: Key
    replica: str
    """The process that saw it, or `MERGED`."""
    start: int
    """Seconds since 1970, UTC."""
    seconds: int
    images: int
    content: bytes
    """A `models.statistics.window.Window`."""

    def values(self) -> dict[str, object]:
        """By column."""
        fields = self._asdict()
        return {**fields.pop("key")._asdict(), **fields, "size": len(self.content)}


MERGED = "merged"
"""The replica of rows that were merged from those of all."""
