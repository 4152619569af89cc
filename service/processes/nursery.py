"""What all processes of one service start from. Imports little: what it starts imports the rest meanwhile."""

import contextlib
import gc
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

# The folder, within that of the service, of the files in which processes count.
METRICS = "metrics"
# The address of a Unix socket has 108 bytes.
LONGEST_FOLDER = 90
MOST_FILES = 65_536


@contextlib.contextmanager
def nursery() -> Iterator[Path]:
    """A folder for what the processes of one service share, which only their user can enter, and what they start from.

    They are forked off one that has imported what they need, and has done nothing else: so that is done once, and they
    share the memory of the code. It imports while this process does too. Forking this one itself would copy
    locks that its threads hold. Raises `StartupError`.
    """
    from service.processes.holding import holding, sweep  # what locks files is not everywhere

    _allow_connections()
    with _folder() as name, holding(Path(name), first=True):
        directory = Path(name)
        metrics = directory / METRICS
        metrics.mkdir()
        # Before the library that reads it is imported in any process.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        # Each worker has one core.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        context().set_forkserver_preload(["service.processes.seed"])
        forkserver.ensure_running()
        sweep(directory.parent)
        try:
            yield directory
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage meanwhile, nor ever among what was imported, for it stays: a tenth of the time of imports.

    Nor is the memory of what is never looked at copied after a fork.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def context() -> ForkServerContext:
    """Makes processes as the nursery wants them."""
    return multiprocessing.get_context("forkserver")


def _folder() -> tempfile.TemporaryDirectory[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="reslens-")
    except OSError as error:
        raise _startup_error(
            f"no folder for temporary files can be written: {error}; set TMPDIR, or RESLENS_WORKERS=0"
        ) from error
    if len(folder.name) > LONGEST_FOLDER:
        folder.cleanup()
        raise _startup_error(
            f"the folder for temporary files has a path too long for sockets, {folder.name}: set TMPDIR"
        )
    return folder


def _startup_error(reason: str) -> Exception:
    from service.errors import StartupError

    return StartupError(reason)


def _allow_connections() -> None:
    """Have as many files open as may be: each connection is one."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
