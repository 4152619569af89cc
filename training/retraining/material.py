"""What a challenger learns from and is judged by: new images, and old ones where they are given."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from models.manifest import ModelManifest
from training.data.images import DataSet, LabelledImages, digest
from training.data.sources import DataConfig, load_data

NEW, OLD = "new", "old"


@dataclass(frozen=True)
class Material:
    """Both kinds of images, as the champion sees them."""

    new: DataSet
    old: DataSet | None

    @property
    def digest(self) -> str:
        """Changes when an image or a label does."""
        return " ".join(digest(data) for data in (self.new, self.old) if data is not None)

    @property
    def held_out(self) -> dict[str, LabelledImages]:
        """By kind, what champion and challenger are compared on."""
        return {NEW: self.new.held_out} | ({OLD: self.old.held_out} if self.old else {})

    @property
    def unseen_classes(self) -> list[str]:
        """Classes of which nothing is held out: nobody could tell whether they are still known."""
        seen = {int(label) for images in self.held_out.values() for label in np.unique(images.labels)}
        return [name for index, name in enumerate(self.new.class_names) if index not in seen]

    def mixed(self, replay: float, seed: int) -> DataSet:
        """To train on: the new images, and `replay` times as many old ones, drawn by `seed`, if there are that many.

        What is held out are the new ones; the old ones too where old ones are replayed: then both are expected.
        Training images that are held out as well, byte by byte, are left out.
        """
        new = replace(self.new, training=self._apart(self.new.training)) if self.leaked else self.new
        if self.old is None or not replay:
            return new
        old = self._apart(self.old.training)
        many = min(len(old), round(replay * len(new.training)))
        chosen = np.sort(np.random.default_rng(seed).permutation(len(old))[:many])
        replayed = LabelledImages(old.pixels[chosen], old.labels[chosen])
        return replace(
            new,
            name=f"{new.name}, with {many} images of {self.old.name}",
            training=_joined(new.training, replayed),
            held_out=_joined(new.held_out, self.old.held_out),
            source=f"{new.source}; {self.old.source}",
            # Those of the images that are left out are not known apart.
            sizes=None,
            skipped=new.skipped + self.old.skipped,
        )

    @cached_property
    def leaked(self) -> int:
        """New training images that are held out as well."""
        return len(self.new.training) - len(self._apart(self.new.training))

    def _apart(self, training: LabelledImages) -> LabelledImages:
        apart = np.array([_name(pixels) not in self._held_out_names for pixels in training.pixels], bool)
        if not apart.any():
            raise ValueError(
                "every training image is held out as well: give images to learn from and others to judge by"
            )
        return training if apart.all() else LabelledImages(training.pixels[apart], training.labels[apart])

    @cached_property
    def _held_out_names(self) -> frozenset[bytes]:
        return frozenset(_name(pixels) for images in self.held_out.values() for pixels in images.pixels)


def load_material(manifest: ModelManifest, new: DataConfig, old: DataConfig | None) -> Material:
    """Read both, as the model's pre-processing says.

    Raises `ValueError` where images or classes are not those of the model.
    """
    return Material(_load(manifest, new), _load(manifest, old) if old else None)


def parse_data(given: Mapping[str, str]) -> DataConfig:
    """The data that options name, `{"data": "folder", "data_dir": …}`; raises `ValueError` for what is none."""
    fields = {name.removeprefix("--").replace("-", "_"): value for name, value in given.items()}
    if unknown := sorted(set(fields) - set(DataConfig.__dataclass_fields__)):
        raise ValueError(f"unknown {', '.join(unknown)}; data has {', '.join(DataConfig.__dataclass_fields__)}")
    try:
        return TypeAdapter(DataConfig).validate_python(fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
        raise ValueError(f"the data is not described by {dict(given)}: {problems}") from error


def _load(manifest: ModelManifest, config: DataConfig) -> DataSet:
    data = load_data(config, manifest.preprocessing)
    if data.preprocessing != manifest.preprocessing:
        raise ValueError(
            f"{data.name} is pre-processed by {data.preprocessing}, model {manifest.name!r} by "
            f"{manifest.preprocessing}: give images as files, --data folder"
        )
    return _in_order(data, manifest.class_names)


def _in_order(data: DataSet, class_names: tuple[str, ...]) -> DataSet:
    """The same images with classes numbered as in the model."""
    if set(data.class_names) != set(class_names):
        differing = sorted(set(data.class_names) ^ set(class_names))
        raise ValueError(
            f"{data.name} and the model do not have the same classes ({', '.join(differing[:5])} only in one of them): "
            "a model of other classes is another model; train and publish it under another name"
        )
    if data.class_names == class_names:
        return data
    if repeated := [name for name in class_names if class_names.count(name) > 1]:
        raise ValueError(
            f"{data.name} has its classes in another order than the model, and several are called {repeated[0]}: "
            "give them in the model's order, with --classes"
        )
    numbers = np.array([class_names.index(name) for name in data.class_names], np.int64)
    training, held_out = (
        LabelledImages(images.pixels, numbers[images.labels]) for images in (data.training, data.held_out)
    )
    weights = data.class_weights
    if weights is not None:
        by_name = dict(zip(data.class_names, weights, strict=True))
        weights = tuple(by_name[name] for name in class_names)
    return replace(data, class_names=class_names, class_weights=weights, training=training, held_out=held_out)


def _name(pixels: NDArray[np.uint8]) -> bytes:
    """Different for different images."""
    return blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def _joined(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    return LabelledImages(np.concatenate([first.pixels, second.pixels]), np.concatenate([first.labels, second.labels]))
