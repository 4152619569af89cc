"""Real databases to test the history with: a SQLite file, and a PostgreSQL server where its programs are installed."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

NOBODY = "nobody"


def programs() -> Path | None:
    """Where `initdb` and `postgres` are."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a server of our own, on a free port; skips the test where there is none to be had."""
    folder = programs()
    if folder is None or sys.platform == "win32":
        pytest.skip("PostgreSQL is not installed: no initdb on the PATH and none below /usr/lib/postgresql")
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam(NOBODY) if os.geteuid() == 0 else None
    who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    with tempfile.TemporaryDirectory() as directory, socket.socket() as free:
        home = Path(directory)
        home.chmod(0o755)
        data = home / "data"
        data.mkdir(mode=0o700)
        if user:
            os.chown(data, user.pw_uid, user.pw_gid)
        initialise = [folder / "initdb", "-D", data, "-U", "reslens", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initialise, cwd="/", check=True, capture_output=True, timeout=120, **who)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}", "-c", "fsync=off"]
        with (data / "log").open("w") as log:
            server = subprocess.Popen(
                [folder / "postgres", "-D", data, "-p", str(port), *options], cwd="/", stdout=log, stderr=log, **who
            )
        try:
            address = f"postgresql://reslens@127.0.0.1:{port}/postgres"
            ready = [folder / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "30"]
            for _ in range(300):
                if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                    break
                assert server.poll() is None, (data / "log").read_text()
            yield address
        finally:
            server.terminate()
            server.wait(30)


def emptied(address: str) -> str:
    """The same database without its tables."""
    engine = create_engine(address.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return address
