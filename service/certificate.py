"""The certificate of TLS, which is renewed while the service runs."""

import logging
import ssl
from pathlib import Path

from service.errors import StartupError

logger = logging.getLogger("reslens")


class Certificate:
    """A certificate chain and its key, from PEM files that are read again when they have changed.

    Raises `StartupError` if they cannot be used at first. Later that is an error in the log, and the certificate of
    before stays.
    """

    def __init__(self, chain: Path, key: Path | None) -> None:
        self._files = (chain, key or chain)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        try:
            self._stamps = self._seen()
            self._load(self.context)
        except (OSError, ValueError) as error:
            raise StartupError(
                f"TLS is not possible with {chain} and {key or chain}: {error} "
                "(RESLENS_TLS_CERTIFICATE, RESLENS_TLS_KEY)"
            ) from error

    def refresh(self) -> None:
        """Take the files as they are now, if they have changed, for the connections to come."""
        try:
            if (stamps := self._seen()) == self._stamps:
                return
            self._stamps = stamps
            # Tried on another context first: half of a change would leave a chain without its key.
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self._load(self.context)
        except (OSError, ValueError) as error:
            logger.error("the certificate of before stays: %s", error)
        else:
            logger.info("read the certificate again")

    def _seen(self) -> list[tuple[int, ...]]:
        return [(state.st_mtime_ns, state.st_size, state.st_ino) for state in map(Path.stat, self._files)]

    def _load(self, context: ssl.SSLContext) -> None:
        chain, key = self._files
        # An encrypted key would be asked for on the terminal.
        context.load_cert_chain(chain, key, password=_no_password)


def _no_password() -> str:
    raise ValueError("the key is encrypted: give one that is not, readable by the service alone")
