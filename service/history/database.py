"""Connections to SQLite or PostgreSQL, none of which waits long, and the migrations of the table."""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool

MIGRATIONS = Path(__file__).with_name("migrations")
SQLITE, POSTGRESQL = "sqlite", "postgresql"
# Execution option of connections that write nothing.
READS_ONLY = "reslens_reads_only"
# Longer than any write takes, short enough to try again soon.
LOCK_SECONDS = 5
STATEMENT_SECONDS = 60
# Numbers that only this program uses to mean these locks.
MIGRATION_LOCK = 7_305_881_401
RETENTION_LOCK = 7_305_881_402


def open_engine(address: str) -> Engine:
    """An engine for `sqlite:///file` or `postgresql://user:password@host/database`; nothing is connected yet.

    Raises `ValueError` for other addresses and where the driver is not installed.
    """
    url = _read(address)
    backend = url.get_backend_name()
    if backend == SQLITE:
        # A connection that is kept would go on writing to a file that was deleted or replaced meanwhile, unnoticed.
        kept = {} if url.database in (None, "", ":memory:") else {"poolclass": NullPool}
        engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS}, **kept)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
        return engine
    options = f"-c statement_timeout={STATEMENT_SECONDS * 1000} -c lock_timeout={LOCK_SECONDS * 1000}"
    arguments: dict[str, Any] = {
        "connect_timeout": LOCK_SECONDS,
        "options": options,
        # A server that vanished without a word is noticed.
        "tcp_user_timeout": STATEMENT_SECONDS * 1000,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"), connect_args=arguments, pool_pre_ping=True, pool_size=2
        )
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the history is to be in PostgreSQL, and {error.name} is missing: install reslens[postgres]"
        ) from error


def migrate(engine: Engine) -> None:
    """Bring the table to its newest form; processes that do so at the same time wait for each other.

    Raises what the database raises, and `OSError` when the directory of the file cannot be made.
    """
    # For the thread that writes: nobody else waits for its import.
    from alembic import command
    from alembic.config import Config

    if engine.dialect.name == SQLITE and (file := engine.url.database) and file != ":memory:":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == POSTGRESQL:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def lock_for_retention(connection: Connection) -> bool:
    """Whether nobody else is merging and dropping rows; the lock goes with the transaction."""
    if connection.dialect.name == SQLITE:
        return True  # the transaction itself excludes every other
    return bool(connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": RETENTION_LOCK}))


def without_password(engine: Engine) -> str:
    """Where the history is, for a log."""
    return engine.url.render_as_string(hide_password=True)


def _read(address: str) -> URL:
    try:
        url = make_url(address)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        # The address may hold a password: it is not repeated.
        raise ValueError("the history's address is no URL: use sqlite:///file or postgresql://host/database") from error
    if backend not in (SQLITE, POSTGRESQL):
        raise ValueError(f"the history cannot be kept in {backend!r}: use sqlite:///file or postgresql://host/database")
    return url


def _prepare_sqlite(connection: Any, _: object) -> None:
    # Transactions begin where SQLAlchemy says so, with the lock: Python's own would begin them at the first change.
    connection.isolation_level = None
    # Readers and the one writer do not wait for each other.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin(connection: Connection) -> None:
    # Taking the lock at once, not when the first row is written, cannot end in a deadlock.
    reads = connection.get_execution_options().get(READS_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
