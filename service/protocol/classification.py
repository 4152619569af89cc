"""The classification extension: an output as its largest values, each a string."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranked(values_NC: NDArray[Any], labels: Sequence[str], count: int) -> tuple[tuple[int, int], list[str]]:
    """Shape, and strings `value:index:label`, of the `count` largest values of each row, or of all if there are fewer.

    The largest comes first, of equals the lower index, NaN last. Columns that no label is known for go without.
    What has more sizes counts as one row an image.
    """
    wide_NC = values_NC.reshape(len(values_NC), -1).astype(np.float64)
    order_NK = np.argsort(-wide_NC, axis=1, kind="stable")[:, :count]
    strings = [
        f"{row[index]:f}:{index}" + (f":{labels[index]}" if labels else "")
        for row, order in zip(wide_NC.tolist(), order_NK.tolist(), strict=True)
        for index in order
    ]
    rows, columns = order_NK.shape
    return (rows, columns), strings
