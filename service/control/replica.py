"""One process that has sessions, as the control sees it."""

from typing import Protocol

from service.control.serving import Serving


class ReplicaLostError(ConnectionError):
    """The process is gone: it is left out, and nothing is said against any version."""


class ReplicaEndedError(ReplicaLostError):
    """The process ended while it did what it was told."""

    def __init__(self, message: str = "the process that loaded it ended") -> None:
        super().__init__(message)


class Replica(Protocol):
    """Loads versions when it is told to, and serves them when it is told that all others can.

    Both may be called again with the same arguments. Raises `ReplicaLostError` when the process is gone, and
    `ReplicaEndedError` when that happened meanwhile.
    """

    async def prepare(self, name: str, version: int) -> None:
        """Read, verify, load and warm up a version as it is in the repository now; nobody is served by it yet.

        Raises `ModelUnavailableError` with the reason; it has a `retry_after` if the same files may load another time.
        """

    async def serve(self, serving: Serving) -> None:
        """From now on serve exactly this, of which all versions were prepared.

        What is not among them is let go; requests that hold it end with it.
        """

    def dismiss(self, reason: str) -> None:
        """It could not serve what all others do, and was left out: its process has to end."""
