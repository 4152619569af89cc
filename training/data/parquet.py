"""Encoded images in Parquet files, as data hubs publish them: a column of images and one of labels."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.data.labels import class_indices
from training.data.listing import Listing, Sample
from training.data.splits import hold_out, split_files

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

IMAGES = ("image", "img")
LABELS = ("label", "fine_label")
"""Columns, the first that is there; CIFAR-100 has coarse labels beside fine ones."""
ROWS = 64
"""Read at a time, or fewer where images are large."""
BATCH_BYTES = 1 << 26
"""Of the rows that are read at a time, by the mean of their group."""


def list_parquet(path: Path, share: float | None = None, class_names: tuple[str, ...] | None = None) -> Listing:
    """What the file at `path` holds, or those of a folder: `train*.parquet` and `test*.parquet`.

    Images are bytes of a file, or a structure with them as `bytes`; labels are integers or strings. Only the labels
    are read at once: images follow a few rows at a time. Raises `ValueError` for files without such columns.
    """
    training, held_out = split_files(path, ".parquet")
    files = training + held_out
    for file in files:
        _check(file)
    found = [_labels(file) for file in files]
    kinds = {labels.dtype.kind for labels in found if len(labels)}
    if len(kinds) > 1:
        raise ValueError(f"{path} has integers as labels in one file and strings in another: give the same in all")
    given = class_names or _class_names(files[0])
    labels, names = class_indices(np.concatenate([each for each in found if len(each)] or found[:1]), given, str(path))
    if held_out:
        if share is not None:
            raise ValueError(f"--held-out-share {share} has no meaning: {path} has its own split, {held_out[0].name}")
        mask = np.arange(len(labels)) >= sum(map(len, found[: len(training)]))
    else:
        mask = hold_out(labels, names, share, str(path))
    source = f"Parquet, {files[0].name}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    root = path.parent if path.is_file() else path
    return Listing(path.stem, source, root, _samples(files), labels, mask, names, mirrored=True)


@contextmanager
def _opened(path: Path) -> Iterator["ParquetFile"]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError("Parquet files need pyarrow: pip install 'reslens[parquet]'") from error
    try:
        # A buffer, and nothing fetched ahead: not whole row groups in memory.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a Parquet file ({error}): write it again") from error


def _column(file: "ParquetFile", path: Path, names: Sequence[str]) -> str:
    columns = file.schema_arrow.names
    column = next((name for name in names if name in columns), None)
    if column is None:
        raise ValueError(f"{path} has no column {' or '.join(names)}: it has {', '.join(columns) or 'none'}")
    if columns.count(column) > 1:
        raise ValueError(f"{path} has {columns.count(column)} columns {column}: give them names of their own")
    return column


def _check(path: Path) -> None:
    with _opened(path) as file:
        _check_labels(file, path, _column(file, path, LABELS))
        _check_images(file, path, _column(file, path, IMAGES))


def _labels(path: Path) -> NDArray[Any]:
    with _opened(path) as file:
        column = _column(file, path, LABELS)
        found = file.read([column]).column(0)
        if found.null_count:
            row = found.is_null().to_pylist().index(True)
            raise ValueError(f"{path} has no label in row {row}: give one to every image, or leave the row out")
        labels = np.array(found.to_pylist())
    return labels if len(labels) else labels.astype(np.int64)


def _class_names(path: Path) -> tuple[str, ...] | None:
    """The names that the `datasets` library writes into a file's metadata, if they are there."""
    with _opened(path) as file:
        written = (file.schema_arrow.metadata or {}).get(b"huggingface")
        column = _column(file, path, LABELS)
    try:
        names = json.loads(written or b"")["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _check_labels(file: "ParquetFile", path: Path, column: str) -> None:
    import pyarrow.types as kinds

    found = file.schema_arrow.field(column).type
    kind = _plain(found)
    if not (kinds.is_integer(kind) or kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_null(kind)):
        raise ValueError(f"{path} has labels of type {found}: give integers from 0, or strings")


def _check_images(file: "ParquetFile", path: Path, column: str) -> None:
    import pyarrow.types as kinds

    found = file.schema_arrow.field(column).type
    kind = _plain(found)
    if kinds.is_struct(found):
        index = found.get_field_index("bytes")
        kind = None if index < 0 else found.field(index).type
    binary = (kinds.is_binary, kinds.is_large_binary, kinds.is_fixed_size_binary, kinds.is_null)
    if kind is None or not any(is_one(kind) for is_one in binary):
        raise ValueError(
            f"column {column} of {path} is {found}: give the bytes of image files, or a structure with them as `bytes`"
        )


def _plain(kind: Any) -> Any:
    """The type of the values, where a column stores each of them once."""
    import pyarrow.types as kinds

    return kind.value_type if kinds.is_dictionary(kind) else kind


def _rows(file: "ParquetFile", group: int, column: str) -> int:
    """Of a row group, how many to read at a time."""
    found = file.metadata.row_group(group)
    columns = (found.column(index) for index in range(found.num_columns))
    size = sum(int(each.total_uncompressed_size) for each in columns if each.path_in_schema.split(".")[0] == column)
    return max(1, min(ROWS, BATCH_BYTES * int(found.num_rows) // max(size, 1)))


def _samples(files: Sequence[Path]) -> Iterator[Sample]:
    for path in files:
        with _opened(path) as file:
            column = _column(file, path, IMAGES)
            row = 0
            for group in range(file.num_row_groups):
                rows = _rows(file, group, column)
                for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=[column]):
                    for value in batch.column(0).to_pylist():
                        content = value.get("bytes") if isinstance(value, dict) else value
                        yield Sample(f"{path.name}, row {row}", content or b"")
                        row += 1
