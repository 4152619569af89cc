"""Which version answers a request that names none, where others than the default have a share of them."""

from hashlib import blake2b

from service.control.serving import Serving

ALL = 100.0


class Shares:
    """Draws by the id of a request: the same one has the same version in every process, and on every machine."""

    def __init__(self, name: str, shares: dict[int, float]) -> None:
        """`shares` are percentages by version."""
        self._name = name.encode()
        self._shares = sorted(shares.items())

    @classmethod
    def of(cls, serving: Serving) -> "Shares | None":
        """Those of the labels whose versions are loaded; None where there are none."""
        shares: dict[int, float] = {}
        for label, share in serving.shares.items():
            if (version := serving.labels.get(label)) in serving.versions:
                shares[version] = shares.get(version, 0.0) + share
        return cls(serving.name, shares) if shares else None

    def draw(self, request_id: str) -> int | None:
        """A version, or None for the default."""
        digest = blake2b(request_id.encode(), digest_size=8, key=self._name[:64]).digest()
        left = int.from_bytes(digest, "big") / 2**64 * ALL
        for version, share in self._shares:
            left -= share
            if left < 0:
                return version
        return None
