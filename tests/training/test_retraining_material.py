"""New and old images, as the champion sees them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from tests.training.drifted import DIGITS, inverted, write_inverted
from training.data.images import LabelledImages
from training.data.sources import DataConfig
from training.retraining.material import Material, load_material

MANIFEST = ModelRepository(SHIPPED_MODELS).open("digits").manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_inverted(folder, training=200)
    return folder


def test_files_are_read_with_the_pre_processing_of_the_champion(folder: Path) -> None:
    material = load_material(MANIFEST, DataConfig("folder", str(folder)), DataConfig())
    new = material.new.held_out
    expected = {
        label: np.sort(inverted(DIGITS.held_out.pixels[DIGITS.held_out.labels == label]), 0) for label in (0, 7)
    }
    for label, pixels in expected.items():
        np.testing.assert_array_equal(np.sort(new.pixels[new.labels == label], 0), pixels)
    assert list(material.held_out) == ["new", "old"]
    assert material.held_out["old"] is not None
    # Names of the classes in another order are the same classes.
    names = tuple(reversed(MANIFEST.class_names))
    turned = load_material(MANIFEST.model_copy(update={"class_names": names}), DataConfig("folder", str(folder)), None)
    np.testing.assert_array_equal(turned.new.held_out.labels, 9 - new.labels)
    assert turned.digest != material.digest


@pytest.mark.parametrize(("replay", "old"), [(0.0, 0), (0.5, 100), (1.0, 200), (50.0, 1437)])
def test_old_images_are_mixed_in(folder: Path, replay: float, old: int) -> None:
    material = load_material(MANIFEST, DataConfig("folder", str(folder)), DataConfig())
    mixed = material.mixed(replay, seed=0)
    assert len(mixed.training) == 200 + old
    assert len(mixed.held_out) == (720 if old else 360)
    known = {pixels.tobytes() for pixels in DIGITS.training.pixels}
    replayed = [pixels.tobytes() for pixels in mixed.training.pixels[200:]]
    assert set(replayed) <= known
    # The same ones for the same seed: a job that goes on learns from what it began with.
    np.testing.assert_array_equal(mixed.training.pixels, material.mixed(replay, seed=0).training.pixels)
    if 0 < old < 1437:
        assert not np.array_equal(mixed.training.pixels, material.mixed(replay, seed=1).training.pixels)


def test_other_classes_are_another_model(folder: Path) -> None:
    other = MANIFEST.model_copy(update={"class_names": (*MANIFEST.class_names[:9], "ten")})
    with pytest.raises(ValueError, match=r"do not have the same classes \(9, ten only in one"):
        load_material(other, DataConfig("folder", str(folder)), None)


def test_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    """ImageNet has two cranes: by their names alone one would take the images of the other."""
    names = ("crane", "crane", *MANIFEST.class_names[2:])
    manifest = MANIFEST.model_copy(update={"class_names": names})
    arrays: dict[str, Any] = {"x_train": DIGITS.training.pixels[:, 0], "y_train": DIGITS.training.labels}
    arrays |= {"x_test": DIGITS.held_out.pixels[:, 0], "y_test": DIGITS.held_out.labels}
    np.savez(tmp_path / "a.npz", class_names=names, **arrays)
    new = load_material(manifest, DataConfig("npz", str(tmp_path / "a.npz")), None).new
    np.testing.assert_array_equal(new.training.labels, DIGITS.training.labels)
    turned = manifest.model_copy(update={"class_names": tuple(reversed(names))})
    with pytest.raises(ValueError, match="in another order than the model, and several are called crane"):
        load_material(turned, DataConfig("npz", str(tmp_path / "a.npz")), None)


def test_weights_of_classes_follow_their_classes() -> None:
    names = tuple(reversed(MANIFEST.class_names))
    weighted = DataConfig("digits", class_weights={"0": 5.0})
    straight = load_material(MANIFEST, weighted, None).new.class_weights
    turned = load_material(MANIFEST.model_copy(update={"class_names": names}), weighted, None).new.class_weights
    assert straight is not None
    assert turned == tuple(reversed(straight))


def test_without_old_images_only_new_ones_judge() -> None:
    material = Material(DIGITS, None)
    assert list(material.held_out) == ["new"]
    assert material.mixed(0, 0) is DIGITS
    assert material.digest != Material(replace(DIGITS, held_out=DIGITS.training), None).digest


def test_what_is_held_out_is_not_learned_from() -> None:
    images = DIGITS.held_out

    def some(chosen: slice) -> LabelledImages:
        return LabelledImages(images.pixels[chosen], images.labels[chosen])

    # Old training images are among those that new ones are judged by.
    old = replace(DIGITS, training=some(slice(100)), held_out=some(slice(100, None)))
    material = Material(replace(DIGITS, held_out=some(slice(50))), old)
    assert (material.leaked, len(material.mixed(1, 0).training)) == (0, len(DIGITS.training) + 50)
    leaking = Material(replace(DIGITS, training=_both(DIGITS.training, some(slice(100)))), None)
    assert leaking.leaked == 100
    np.testing.assert_array_equal(leaking.mixed(0, 0).training.pixels, DIGITS.training.pixels)
    with pytest.raises(ValueError, match="every training image is held out as well"):
        Material(replace(DIGITS, training=images), None).mixed(0, 0)


def _both(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    return LabelledImages(np.concatenate([first.pixels, second.pixels]), np.concatenate([first.labels, second.labels]))


def test_a_class_that_nothing_is_held_out_of_is_named() -> None:
    images = DIGITS.held_out
    known = images.labels != 7
    without = replace(DIGITS, held_out=LabelledImages(images.pixels[known], images.labels[known]))
    assert Material(without, None).unseen_classes == ["7"]
    assert Material(without, DIGITS).unseen_classes == []
