"""Rows in, rows out."""

from collections.abc import Iterator, Sequence

from sqlalchemy import ColumnElement, Engine, func, select
from sqlalchemy.dialects import postgresql, sqlite

from service.history.database import POSTGRESQL, READS_ONLY, migrate
from service.history.tables import BUCKETS, Key, Row

# Windows of a large network have megabytes.
ROWS_AT_ONCE = 16


class HistoryStore:
    """The buckets of every model, version and process. Raises what the database raises, after a bounded wait."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def prepare(self) -> None:
        """Make the table, or bring it up to date."""
        migrate(self.engine)

    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows or none; one that is there already is replaced, so that a retry does no harm."""
        insert = postgresql.insert if self.engine.dialect.name == POSTGRESQL else sqlite.insert
        statement = insert(BUCKETS)
        statement = statement.on_conflict_do_update(
            index_elements=list(BUCKETS.primary_key.columns),
            set_={name: statement.excluded[name] for name in ("images", "size", "content")},
        )
        with self.engine.begin() as connection:
            for row in rows:
                connection.execute(statement, row.values())

    def read(self, key: Key, since: int) -> Iterator[Row]:
        """The rows of one graph that reach beyond `since`, in order."""
        columns = (column for column in BUCKETS.columns if column.name not in (*Key._fields, "size"))
        statement = (
            select(*columns)
            .where(*same_graph(key), BUCKETS.c.start + BUCKETS.c.seconds > since)
            .order_by(BUCKETS.c.start, BUCKETS.c.replica)
        )
        with self.engine.connect().execution_options(**{READS_ONLY: True}, yield_per=ROWS_AT_ONCE) as connection:
            for row in connection.execute(statement):
                yield Row(key, row.replica, row.start, row.seconds, row.images, row.content)

    def size(self) -> int:
        """Bytes of all windows."""
        with self.engine.connect().execution_options(**{READS_ONLY: True}) as connection:
            return int(connection.scalar(select(func.coalesce(func.sum(BUCKETS.c.size), 0))) or 0)

    def close(self) -> None:
        self.engine.dispose()


def same_graph(key: Key) -> list[ColumnElement[bool]]:
    """Whether a row is of this graph."""
    return [BUCKETS.c[name] == value for name, value in key._asdict().items()]
