"""How rates change over training: progress t from 0 to 1 → share of the full rate."""


def constant(progress: float) -> float:  # noqa: ARG001
    """1"""
    return 1.0


def rising(progress: float) -> float:
    """t: from nothing to the full rate, since hindering a network at its beginning makes it worse (Ghiasi 2018)."""
    return progress


def falling(progress: float) -> float:
    """max(0, 1 − t): from the full rate to nothing (Rennie 2014, equation 6, with as many steps as training has)."""
    return max(0.0, 1.0 - progress)
