"""Labelled images, the digits, and the configuration that names a source."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from training.data import digits, images
from training.data.images import channel_moments, check_classes
from training.data.sources import DataConfig, load_data


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_moments_equal_numpy(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "PART", 10)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (31, channels, 9, 7), dtype=np.uint8)
    pixels[:, 0] //= 3
    mean, deviation = channel_moments(pixels)
    values = pixels.astype(np.float64)
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviation, values.std((0, 2, 3)), rtol=1e-12)


def test_a_channel_that_never_varies_is_only_centred() -> None:
    pixels = np.full((4, 2, 3, 3), 17, np.uint8)
    pixels[:, 1] = np.arange(9).reshape(3, 3)
    mean, deviation = channel_moments(pixels)
    assert mean[0] == 17
    assert deviation[0] == 1
    assert deviation[1] == pytest.approx(np.arange(9).std())


def test_digits_are_scikit_learns() -> None:
    data = digits.load()
    bunch = load_digits()
    both = np.concatenate([data.training.pixels, data.held_out.pixels])[:, 0]
    assert both.dtype == np.uint8
    assert both.min() == 0
    assert both.max() == 255
    # Every image once, with its own label: compare as sorted rows of (label, pixels).
    labels = np.concatenate([data.training.labels, data.held_out.labels])
    ours = sorted((int(label), *image.ravel().tolist()) for label, image in zip(labels, both, strict=True))
    theirs = sorted(
        (int(label), *(round(value * 255 / 16) for value in image.ravel().tolist()))
        for label, image in zip(bunch.target, bunch.images, strict=True)
    )
    assert ours == theirs
    assert data.class_names == tuple("0123456789")
    assert not data.mirrored


def test_digits_hold_out_a_fifth_of_every_class() -> None:
    data = digits.load()
    share = np.bincount(data.held_out.labels) / (np.bincount(data.held_out.labels) + np.bincount(data.training.labels))
    np.testing.assert_allclose(share, 0.2, atol=0.01)


@pytest.mark.parametrize(("share", "count"), [(0.001, 2), (0.999, 1795)])
def test_shares_of_the_digits_that_leave_a_class_without_an_image(share: float, count: int) -> None:
    message = (
        f"--held-out-share {share} of 1,797 digits leaves {count:,} held out: leave at least one of each of the 10"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        digits.load(share)


def test_digits_are_split_alike_every_time() -> None:
    first, again = digits.load(), digits.load()
    assert np.array_equal(first.held_out.pixels, again.held_out.pixels)
    assert np.array_equal(first.training.labels, again.training.labels)


def test_classes_without_an_image_are_named() -> None:
    check_classes(("cat", "dog"), np.array([0, 1, 1]), "the split")
    with pytest.raises(ValueError, match="the split has no image of class dog, emu"):
        check_classes(("cat", "dog", "emu"), np.array([0, 0]), "the split")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "folder"}, "data 'folder' needs --data-dir"),
        ({"data": "npz"}, "data 'npz' needs --data-dir: the .npz file"),
        ({"data": "digits", "data_dir": "/somewhere"}, "--data-dir /somewhere needs --data folder or npz or"),
        ({"data": "digits", "image_size": 16}, "--image-size 16 needs --data folder or npz or"),
        ({"data": "cifar10", "held_out_share": 0.2}, "--held-out-share 0.2 needs --data digits or folder or npz or"),
        ({"data": "mnist", "skip_corrupt": 2}, "--skip-corrupt 2 needs --data folder or npz or parquet, not mnist"),
        ({"data": "digits", "held_out_share": 1.0}, "--held-out-share 1.0 is not allowed"),
        ({"data": "folder", "data_dir": "x", "image_size": 4}, "--image-size 4 is not allowed"),
        ({"data": "folder", "data_dir": "x", "skip_corrupt": -1}, "--skip-corrupt -1 is not allowed"),
    ],
)
def test_impossible_configuration(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DataConfig(**fields)


def test_unknown_source_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown data source 'imagenet'; choose from digits, folder"):
        load_data(DataConfig(data="imagenet"))


def test_sources_load_by_name(tmp_path: Path) -> None:
    assert len(load_data(DataConfig()).training) == 1437
    with pytest.raises(ValueError, match="does not exist"):
        load_data(DataConfig(data="folder", data_dir=str(tmp_path / "nowhere")))
