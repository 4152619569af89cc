"""Parquet files as data hubs publish them, written by pyarrow itself."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.data import parquet
from training.data.images import DataSet
from training.data.parquet import list_parquet
from training.data.sources import DataConfig, load_data

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (24, 8, 8, 3), np.uint8)
LABELS = [index % 3 for index in range(24)]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}


def encoded(pixels: "np.ndarray[Any, np.dtype[np.uint8]]") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FILES = [encoded(image) for image in PIXELS]
STRUCTURES = [{"bytes": content, "path": f"{index}.png"} for index, content in enumerate(FILES)]


def write(path: Path, columns: dict[str, Any], features: Any = None, **options: Any) -> Path:
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, **options)
    return path


def load(path: Path, **options: Any) -> DataSet:
    return load_data(DataConfig(data="parquet", data_dir=str(path), image_size=8, **options))


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(path, **options)


def whole(data: DataSet) -> None:
    both = np.concatenate([data.training.pixels, data.held_out.pixels])
    labels = np.concatenate([data.training.labels, data.held_out.labels])
    assert sorted((int(label), image.tobytes()) for label, image in zip(labels, both, strict=True)) == sorted(
        (label, image.transpose(2, 0, 1).tobytes()) for label, image in zip(LABELS, PIXELS, strict=True)
    )


@pytest.mark.parametrize("images", [FILES, STRUCTURES], ids=["bytes", "structure"])
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
@pytest.mark.parametrize("column", ["image", "img"])
def test_one_file(images: list[Any], kind: pa.DataType, column: str, tmp_path: Path) -> None:
    names = ["ant", "bee", "cat"]
    labels = pa.array(LABELS if pa.types.is_integer(kind) else [names[label] for label in LABELS]).cast(kind)
    data = load(write(tmp_path / "things.parquet", {column: images, "label": labels}, row_group_size=5))
    whole(data)
    assert data.class_names == (("0", "1", "2") if pa.types.is_integer(kind) else ("ant", "bee", "cat"))
    assert np.bincount(data.held_out.labels).tolist() == [1, 1, 1]
    assert (data.name, data.source) == ("things", "Parquet, things.parquet")


def test_the_layout_of_a_hub(tmp_path: Path) -> None:
    halves = [
        {"image": STRUCTURES[:10], "label": LABELS[:10]},
        {"image": STRUCTURES[10:18], "label": LABELS[10:18]},
        {"image": STRUCTURES[18:], "label": LABELS[18:]},
    ]
    names = ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]
    for name, columns in zip(names, halves, strict=True):
        write(tmp_path / f"{name}.parquet", columns, FEATURES)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.training.pixels, PIXELS[:18].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.held_out.pixels, PIXELS[18:].transpose(0, 3, 1, 2))
    assert data.class_names == ("ant", "bee", "cat")
    assert data.held_out.labels.tolist() == LABELS[18:]


def test_fine_labels_are_taken_before_none(tmp_path: Path) -> None:
    columns = {"img": STRUCTURES, "fine_label": LABELS, "coarse_label": [0] * 24}
    whole(load(write(tmp_path / "a.parquet", columns)))


def test_images_of_many_sizes(tmp_path: Path) -> None:
    sizes = [(8 + index, 40 - index) for index in range(24)]
    files = [encoded(RANDOM.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]
    data = load(write(tmp_path / "a.parquet", {"image": files, "label": LABELS}))
    assert data.sizes is not None
    assert sorted(map(tuple, data.sizes.tolist())) == sorted(sizes)
    assert data.training.pixels.shape[1:] == (3, 8, 8)


def test_rows_that_cannot_be_read_are_skipped_by_number(tmp_path: Path) -> None:
    images: list[Any] = [*STRUCTURES]
    images[7], images[11] = {"bytes": b"no image", "path": "7.png"}, {"bytes": None, "path": "elsewhere.png"}
    path = write(tmp_path / "a.parquet", {"image": images, "label": LABELS})
    data = load(path, skip_corrupt=2, held_out_share=0.4)
    assert [each.image for each in data.skipped] == ["a.parquet, row 7", "a.parquet, row 11"]
    assert data.skipped[1].reason == "it has no bytes"
    refused(path, "2 images of", skip_corrupt=1)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no image column": ({"picture": FILES, "label": LABELS}, "has no column image or img: it has picture, label"),
    "no label column": ({"image": FILES, "class": LABELS}, "has no column label or fine_label: it has image, class"),
    "a missing label": ({"image": FILES, "label": [*LABELS[:-1], None]}, "has no label in row 23"),
    "fractions": ({"image": FILES, "label": [0.5] * 24}, "has labels of type double: give integers from 0"),
    "negative": ({"image": FILES, "label": [-1, *LABELS[1:]]}, "has the label -1"),
    "text as images": ({"image": ["a"] * 24, "label": LABELS}, "is string: give the bytes of image files"),
    "numbers as images": ({"image": [[1, 2]] * 24, "label": LABELS}, "is list<element: int64>: give the bytes"),
    "another structure": ({"image": [{"data": FILES[0]}] * 24, "label": LABELS}, "is struct<data: binary>: give"),
    "structures in each other": (
        {"image": [{"bytes": {"data": FILES[0]}}] * 24, "label": LABELS},
        "is struct<bytes: struct<data: binary>>: give the bytes of image files, or a structure with them as `bytes`",
    ),
    "labels in lists": (
        {"image": FILES, "label": [[0] * (1 + index % 2) for index in range(24)]},
        "has labels of type list<element: int64>: give integers from 0, or strings",
    ),
    "truth values": ({"image": FILES, "label": [True, False] * 12}, "has labels of type bool"),
    "only missing labels": ({"image": FILES, "label": pa.nulls(24)}, "has no label in row 0"),
    "a blank class": ({"image": FILES, "label": ["", "b", "c"] * 8}, "has a class without a printable name ('')"),
    "one class": ({"image": FILES, "label": [0] * 24}, "has 1 classes"),
    "no row": ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "has 0 classes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_learned_from(name: str, tmp_path: Path) -> None:
    columns, message = BAD[name]
    refused(write(tmp_path / "a.parquet", columns), message)


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(FILES), pa.array(FILES), pa.array(LABELS)], ["image", "image", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "has 2 columns image")


def test_metadata_that_nests_without_end(tmp_path: Path) -> None:
    table = pa.table({"image": FILES, "label": LABELS}).replace_schema_metadata({"huggingface": "[" * 100_000})
    pq.write_table(table, tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").class_names == ("0", "1", "2")


def test_a_suffix_in_capital_letters(tmp_path: Path) -> None:
    write(tmp_path / "TRAIN-0.PARQUET", {"image": FILES, "label": LABELS})
    whole(load(tmp_path))


def test_of_large_images_few_are_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"image": [RANDOM.bytes(50_000) for _ in range(200)], "label": [index % 2 for index in range(200)]}
    # A page for each row: what is held are the rows that are asked for.
    paged = {"write_batch_size": 1, "data_page_size": 1}
    path = write(tmp_path / "a.parquet", rows, compression="none", use_dictionary=False, **paged)
    del rows
    most = []
    for size in (1 << 26, 200_000):
        monkeypatch.setattr(parquet, "BATCH_BYTES", size)
        before, held = pa.total_allocated_bytes(), 0
        for _ in list_parquet(path).samples:
            held = max(held, pa.total_allocated_bytes() - before)
        most.append(held)
    assert most[1] < most[0] / 2


def test_label_types_that_differ(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"image": FILES, "label": LABELS})
    write(tmp_path / "test.parquet", {"image": FILES, "label": list(map(str, LABELS))})
    refused(tmp_path, "has integers as labels in one file and strings in another")


def test_a_share_where_there_is_a_split(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", {"image": FILES, "label": LABELS})
    refused(tmp_path, "--held-out-share 0.2 has no meaning", held_out_share=0.2)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": FILES, "label": LABELS})
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    refused(path, f"{path} cannot be read as a Parquet file")
    path.write_bytes(content[:200] + bytes(500) + content[700:])
    refused(path, "cannot be read")


def test_images_are_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    count, size = 400, 50_000
    rows = {"image": [RANDOM.bytes(size) for _ in range(count)], "label": [index % 2 for index in range(count)]}
    path = write(tmp_path / "a.parquet", rows, compression="none", row_group_size=40, use_dictionary=False)
    del rows
    before, most = pa.total_allocated_bytes(), 0
    for sample in list_parquet(path).samples:
        assert isinstance(sample.content, bytes)
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 4 * 40 * size, "of ten row groups of 40 rows"
