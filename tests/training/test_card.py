"""The data card against numbers counted here; class weights; and where both go: record, manifest, service, terminal."""

import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from models.card import DataCard, SkippedImage
from models.manifest import ModelManifest
from models.repository import ModelRepository
from tests import bundles
from tests.service.processes import process
from training.__main__ import main
from training.data import digits, folder
from training.data.card import data_card
from training.data.images import LabelledImages, check_classes
from training.data.labels import class_weights
from training.data.reading import read
from training.data.sources import DataConfig, load_data
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.run import Run, RunConfig

SIZES = [(20, 30), (40, 10), (16, 16), (100, 50), (9, 64)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five images of ants and ten of bees to train on, five of each held out, and two that cannot be read."""
    random = np.random.default_rng(0)
    for split, name, count in (("train", "ant", 5), ("train", "bee", 10), ("test", "ant", 5), ("test", "bee", 5)):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(count):
            width, height = SIZES[number % len(SIZES)]
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    for split in ("train", "test"):
        (tmp_path / split / "bee" / "bad.png").write_bytes(b"no image")
    return tmp_path


def config(pictures: Path) -> DataConfig:
    return DataConfig(
        data="folder", data_dir=str(pictures), image_size=8, skip_corrupt=2, class_weights="balanced", data_name="Bugs"
    )


def test_the_card_counts_measures_and_identifies(pictures: Path) -> None:
    data = load_data(config(pictures))
    card = data_card(data)
    assert (card.name, card.source) == ("Bugs", "image folder, train and test")
    assert [(each.name, each.training, each.held_out) for each in card.classes] == [("ant", 5, 5), ("bee", 10, 5)]
    assert (card.training_images, card.held_out_images) == (15, 10)
    assert card.widths is not None
    assert card.heights is not None
    widths, heights = ([size[axis] for size in SIZES * 5] for axis in (0, 1))
    assert card.widths.model_dump() == {"minimum": 9, "median": np.median(widths), "maximum": 100}
    assert card.heights.model_dump() == {"minimum": 10, "median": np.median(heights), "maximum": 64}
    pixels = data.training.pixels.astype(np.float64)
    assert card.channel_means == pytest.approx(pixels.mean((0, 2, 3)))
    assert card.channel_deviations == pytest.approx(pixels.std((0, 2, 3)))
    seen = b"ant\0bee"
    seen += b"".join(split.labels.tobytes() + split.pixels.tobytes() for split in (data.training, data.held_out))
    assert card.digest == hashlib.sha256(seen).hexdigest()
    assert [each.image for each in card.skipped] == ["train/bee/bad.png", "test/bee/bad.png"]
    assert card.skipped_images == 2
    # n / (K·n_k): 15 / (2·5) and 15 / (2·10).
    assert [each.weight for each in card.classes] == pytest.approx([1.5, 0.75])
    assert str(pictures) not in card.model_dump_json()


def test_the_digest_changes_with_what_is_read(pictures: Path) -> None:
    first = data_card(load_data(config(pictures))).digest
    assert data_card(load_data(config(pictures))).digest == first
    (pictures / "train" / "bee" / "bad.png").unlink()
    assert data_card(load_data(config(pictures))).digest == first, "it is of what was read"
    (pictures / "train" / "bee" / "3.png").unlink()
    assert data_card(load_data(config(pictures))).digest != first


def test_many_skipped_images_are_counted_and_the_first_ones_listed(pictures: Path) -> None:
    data = load_data(config(pictures))
    skipped = tuple(SkippedImage(image=f"{number}.png", reason="torn") for number in range(250))
    card = data_card(replace(data, skipped=skipped))
    assert card.skipped_images == 250
    assert card.skipped == skipped[:100]


def test_a_set_without_training_images(pictures: Path) -> None:
    data = load_data(config(pictures))
    empty = LabelledImages(data.training.pixels[:0], data.training.labels[:0])
    card = data_card(replace(data, training=empty, class_weights=None))
    assert card.channel_means == pytest.approx(data.held_out.pixels.mean((0, 2, 3), dtype=np.float64))
    assert [each.training for each in card.classes] == [0, 0]


def test_a_folder_by_ids_and_names(pictures: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (pictures / split / "ant").rename(pictures / split / "n02219486")
        (pictures / split / "bee").rename(pictures / split / "n02206856")
    index = tmp_path / "index.json"
    index.write_text('{"0": ["n02219486", "ant"], "1": ["n02206856", "bee"]}')
    data = load_data(replace(config(pictures), classes=str(index)))
    assert data.class_names == ("ant", "bee")
    assert np.bincount(data.training.labels).tolist() == [5, 10]
    index.write_text('{"0": ["n02219486", "ant"], "1": ["n02206856", "bee"], "2": ["n1", "fly"]}')
    with pytest.raises(ValueError, match="train has no folder of class fly"):
        load_data(replace(config(pictures), classes=str(index)))
    index.write_text('["ant", "bee"]')
    with pytest.raises(ValueError, match="has folders that are not named after one of the 2 classes: n02206856"):
        load_data(replace(config(pictures), classes=str(index)))


def test_a_share_where_a_folder_has_its_split(pictures: Path) -> None:
    with pytest.raises(ValueError, match=r"--held-out-share 0.3 has no meaning: .* has its own split, test"):
        load_data(replace(config(pictures), held_out_share=0.3))


class TestClassWeights:
    LABELS = np.array([0] * 2 + [1] * 6 + [2] * 4)
    NAMES = ("ant", "bee", "cat")

    @pytest.mark.parametrize("asked", ["balanced", {"ant": 3.0}, {"ant": 0.1, "bee": 7.0, "cat": 2.0}])
    def test_their_mean_over_the_images_is_one(self, asked: "str | dict[str, float]") -> None:
        weights = np.array(class_weights(asked, self.LABELS, self.NAMES))
        assert weights[self.LABELS].mean() == pytest.approx(1)

    def test_balanced_lets_all_classes_count_alike(self) -> None:
        weights = np.array(class_weights("balanced", self.LABELS, self.NAMES))
        # As scikit-learn defines it: n / (K·n_k).
        np.testing.assert_allclose(weights, 12 / (3 * np.array([2, 6, 4])))

    def test_by_name_the_others_weigh_one(self) -> None:
        ant, bee, cat = class_weights({"ant": 3.0}, self.LABELS, self.NAMES)
        assert ant / bee == pytest.approx(3)
        assert bee == cat

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"dog": 1.0}, "names class 'dog', which is not one class of this data: the classes are ant, bee, cat"),
            ({"ant": 0.0}, "--class-weights ant 0.0 is not allowed: use a number above 0"),
            ({"ant": float("nan")}, "--class-weights ant nan is not allowed"),
            ({"ant": float("inf")}, "--class-weights ant inf is not allowed"),
        ],
    )
    def test_refused(self, asked: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            class_weights(asked, self.LABELS, self.NAMES)


def test_many_missing_classes_are_named_in_part() -> None:
    with pytest.raises(ValueError, match="no image of class 1, 2, 3, 4, 5 and 93 more"):
        check_classes(tuple(map(str, range(100))), np.array([0, 99]), "the data")


def test_a_manifest_without_a_card_is_read() -> None:
    manifest = bundles.manifest("tiny", 1, {"model.onnx": "0" * 64})
    written = json.loads(manifest.model_dump_json())
    del written["data_card"]
    assert ModelManifest.model_validate_json(json.dumps(written)) == manifest
    assert manifest.data_card is None


def test_from_the_command_line_to_the_record(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = f"--data folder --data-dir {pictures} --data-name Bugs --image-size 8 --skip-corrupt 2"
    weights = "--class-weights ant 2 bee 1"
    monkeypatch.setattr(sys, "argv", ["training", "data", *options.split(), *weights.split(), "--json"])
    main()
    card = DataCard.model_validate_json(capsys.readouterr().out)
    arguments = [*options.split(), *weights.split(), "--epochs", "1", "--batch-size", "8", "--run", "run"]
    monkeypatch.setattr(sys, "argv", ["training", "train", *arguments])
    main()
    assert "skipped train/bee/bad.png: it is no whole file of format" in capsys.readouterr().err
    stored = json.loads(Path("run/record.json").read_text())
    assert DataCard.model_validate(stored["data_card"]) == card
    assert json.loads(Path("run/run.json").read_text())["data"]["class_weights"] == {"ant": 2, "bee": 1}
    assert RunConfig.read(Path("run")).data.class_weights == {"ant": 2, "bee": 1}


def test_from_the_record_to_the_service(default_run: Path, shelf: Path) -> None:
    card = data_card(digits.load())
    assert (card.training_images, card.held_out_images, card.skipped_images) == (1437, 360, 0)
    assert DataCard.model_validate(json.loads((default_run / "record.json").read_text())["data_card"]) == card
    assert ModelRepository(shelf).open("digits").manifest.data_card == card
    with process(shelf) as address:
        shown = httpx.get(f"http://{address}/v1/models/digits", timeout=30).json()
    assert DataCard.model_validate(shown["manifest"]["data_card"]) == card


def test_class_weights_change_what_is_learned(pictures: Path, tmp_path: Path) -> None:
    """Of the classes, the one that weighs a thousand times the other is nearly always predicted."""
    listing = folder.list_images(pictures)
    network = NetworkConfig("resnet8", "relu", "original", classes=2, channels=3)
    recipe = Recipe(epochs=3, batch_size=8)
    data = load_data(config(pictures))
    assert read(listing, data.preprocessing, 2).training.labels.tolist() == data.training.labels.tolist()
    share = []
    for index, weights in enumerate([(2.997, 0.003), (0.003, 1.4985)]):
        run = Run(tmp_path / f"run{index}", RunConfig(network, config(pictures), recipe))
        trainer = run.train(replace(data, class_weights=weights), torch.device("cpu"), resume=False)
        with torch.inference_mode():
            logits = trainer.averaged.eval()(torch.from_numpy(data.training.pixels).float())
        share.append(float((logits.argmax(1) == 0).double().mean()))
    assert share[0] > share[1]
