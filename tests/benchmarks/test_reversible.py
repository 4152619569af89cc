"""The memory of a training step, measured in real processes."""

import sys

import pytest

from benchmarks.reversible import step_memory


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are forgotten by a file of Linux alone")
def test_a_step_of_a_deep_revnet_takes_no_more_than_that_of_a_shallow_one() -> None:
    """An ordinary network adds more than 1 MiB for each layer at this batch."""
    shallow, deep = (step_memory("revnet", layers, batch=16) for layers in (20, 62))
    added = [found["peak"] - found["before"] - found["gradients"] for found in (shallow, deep)]
    # What leaves the stem and its gradient, on two streams of 16 channels, are the least that there must be.
    assert added[0] >= 2 * 16 * 32 * 32 * 32 * 4 / 2**20
    assert added[1] <= added[0] + 5
