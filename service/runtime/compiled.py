"""Statistics on the CPU: the tapped session's activations, reduced by one compiled pass.

Measured at batch 8 on one core, against the plain run: 1.15 on a ResNet-20 where reductions in the graph cost 1.54,
1.06 on a ResNet-50 where they cost 1.33. `make bench` measures it again.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from models.manifest import ActivationSite, BlockEnd, ModelManifest
from models.statistics import layout
from service.runtime.reduction import TENSOR, reduce_tensors
from service.runtime.sessions import Sessions
from service.runtime.taps import Buffer, Tap, TappedSession

# Bytes of activations at once. A larger batch is run part by part: it would not stay in a cache anyway.
LARGEST_RUN = 64 << 20
# Numbers that are worth a thread: a few tenths of a millisecond.
NUMBERS_A_THREAD = 1 << 20

Array = NDArray[np.float32]


class CompiledStatistics:
    """Answers like a `DirectSession` of the instrumented graph; may be called from many threads at once."""

    def __init__(self, sessions: Sessions, graph: onnx.ModelProto, manifest: ModelManifest) -> None:
        self._tapped = TappedSession(sessions, graph, manifest)
        self._answers = [spec.name for spec in manifest.outputs]
        self._columns = _result_columns(manifest)
        self._table = _tensor_table(self._tapped.taps, self._columns, manifest)
        self._width = sum(layout.output_widths(manifest).values())
        self._numbers = int(self._table["size"].sum())
        self._largest_batch = max(1, LARGEST_RUN // (4 * self._numbers))
        self._threads = sessions.threads
        self._pool = ThreadPoolExecutor(self._threads, "statistics")

    def run(self, outputs: Sequence[str], images: Array) -> list[Array]:
        """The outputs named, for N images; raises what ONNX Runtime raises."""
        images = np.ascontiguousarray(images)
        if len(images) <= self._largest_batch:
            result = self._run(images)
            return [result[output] for output in outputs]
        parts = np.array_split(images, -(-len(images) // self._largest_batch))
        results = [self._run(part) for part in parts]
        return [np.concatenate([result[output] for result in results]) for output in outputs]

    def _run(self, images: Array) -> dict[str, Array]:
        buffer = self._tapped.run(images)
        reduced = self._reduced(buffer)
        answers = {output: buffer.output(output).copy() for output in self._answers}
        self._tapped.hand_back(buffer)
        return answers | {output: reduced[:, columns] for output, columns in self._columns.items()}

    def _reduced(self, buffer: Buffer) -> Array:
        """Images × columns of all statistics outputs, side by side."""
        reduced = np.zeros((buffer.batch, self._width), np.float32)
        shares = self._shares(buffer.batch)

        def reduce_share(share: tuple[int, int]) -> None:
            reduce_tensors(buffer.values, self._table, share[0], share[1], reduced)

        if len(shares) == 1:
            reduce_share(shares[0])
        else:
            # Exhausted, because only so an error is raised.
            list(self._pool.map(reduce_share, shares))
        return reduced

    def _shares(self, batch: int) -> list[tuple[int, int]]:
        """First and last step of each thread, about as many numbers for each."""
        shares = min(self._threads, batch * self._numbers // NUMBERS_A_THREAD)
        if shares < 2:
            return [(0, batch * len(self._table))]
        done = np.tile(self._table["size"], batch).cumsum()
        bounds = np.searchsorted(done, done[-1] * np.arange(1, shares) / shares).tolist()
        return list(pairwise([0, *bounds, len(done)]))


def _result_columns(manifest: ModelManifest) -> dict[str, slice]:
    """Where each statistics output lies among the columns of all."""
    columns, start = {}, 0
    for output, width in layout.output_widths(manifest).items():
        columns[output] = slice(start, start + width)
        start += width
    return columns


def _tensor_table(taps: Mapping[str, Tap], columns: Mapping[str, slice], manifest: ModelManifest) -> NDArray[np.void]:
    """One row of `TENSOR` a site, and one a block that ends in no site's tensor; as for a batch of one."""
    ends: dict[str, list[tuple[int, BlockEnd]]] = {}
    for index, block in enumerate(manifest.blocks):
        ends.setdefault(block.output, []).append((index, block))
    starts = {
        output: {name: columns[output].start + own.start for name, own in layout.site_columns(output, manifest).items()}
        for output in layout.SITE_OUTPUTS
    }
    rows = []
    for site in manifest.sites:
        row = _row(taps[site.tensor]) | _site_fields(site, starts)
        # A block that ends here is read along with it.
        if ending := ends.get(site.tensor):
            row |= _block_fields(*ending.pop(0), taps, columns)
        rows.append(row)
    left = sorted((entry for entries in ends.values() for entry in entries), key=lambda entry: entry[0])
    rows += [_row(taps[block.output]) | _block_fields(index, block, taps, columns) for index, block in left]
    return np.array([tuple(row[name] for name in TENSOR.fields or ()) for row in rows], TENSOR)


def _row(tap: Tap) -> dict[str, float]:
    """A row that computes nothing yet."""
    return dict.fromkeys(TENSOR.fields or (), -1) | {
        "start": tap.offset,
        "size": tap.size,
        "channels": tap.channels,
        "positions": prod(tap.shape[1:]),
        "block": tap.block,
        "below": -np.inf,
        "above": np.inf,
    }


def _site_fields(site: ActivationSite, starts: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """`starts`: the first column of each output, for each site that has it."""
    fields: dict[str, float] = {
        output.removeprefix("statistics."): own[site.name] for output, own in starts.items() if site.name in own
    }
    region = site.saturation
    if region is None:
        return fields
    if region.below == 0 and region.above is None and not site.signed:
        # A rectifier: what is not active is saturated, no further pass needed.
        return fields | {"inactive": fields.pop("saturated")}
    if region.below is None and region.above is None:
        # It never saturates, and results start as zeros.
        return fields | {"saturated": -1}
    return fields | {
        "below": -np.inf if region.below is None else region.below,
        "above": np.inf if region.above is None else region.above,
    }


def _block_fields(
    index: int, block: BlockEnd, taps: Mapping[str, Tap], columns: Mapping[str, slice]
) -> dict[str, float]:
    return {
        "shortcut": taps[block.shortcut].offset,
        "branch_energy": columns[layout.BRANCH_ENERGY].start + index,
        "shortcut_energy": columns[layout.SHORTCUT_ENERGY].start + index,
    }
