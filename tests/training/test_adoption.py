"""Published weights become bundles whose graphs give the logits of the layout that the weights came from."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from PIL import Image

from models.manifest import Origin, Preprocessing
from models.repository import ModelRepository
from tests.models import graphs
from tests.training.conftest import command as run
from tests.training.layouts import CifarLayout, ImageNetLayout, trained
from tests.training.small import unsettle
from training.commands.adopt import adopt as command
from training.commands.parts import Parts
from training.data.classes import CLASS_NAMES, Classes, find_classes, number_classes, read_classes
from training.data.inputs import PRESETS, InputConfig
from training.publication.adoption import adopt, load_images
from training.resnet.network import NetworkConfig, build_network
from training.weights.file import read_weights

CLASSES = Classes(CLASS_NAMES["cifar10"])
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def folder_of_images(root: Path, each: int = 2) -> Path:
    random = np.random.default_rng(0)
    for name in CLASSES.names:
        (root / "test" / name).mkdir(parents=True)
        for index in range(each):
            pixels = random.integers(0, 256, (40, 36, 3), np.uint8)
            Image.fromarray(pixels).save(root / "test" / name / f"{index}.png")
    return root


@pytest.mark.parametrize(
    ("architecture", "layout", "size"),
    [
        ("resnet20", partial(CifarLayout, 3), 32),
        ("resnet50", partial(ImageNetLayout, [3, 4, 6, 3], deep=True, classes=10), 64),
    ],
)
def test_the_graph_gives_the_logits_of_the_layout(
    architecture: str, layout: partial, size: int, tmp_path: Path
) -> None:
    published = trained(layout(), size)
    path = tmp_path / "weights.th"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in published.state_dict().items()}}, path)
    repository = ModelRepository(tmp_path / "shelf")
    inputs = InputConfig(mean=MEAN, std=STD, image_size=size)
    done = adopt(repository, "mine", read_weights(path), NetworkConfig(architecture), inputs, CLASSES)
    assert (done.version, done.metrics, done.half) == (1, None, None)
    bundle = repository.open("mine")
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, size, size)).astype(np.float32)
    # As the field writes it: pixels in 0…1, normalised outside the network.
    normalised = (pixels / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    with torch.no_grad():
        expected = published(torch.from_numpy(normalised).float()).numpy()
    actual = graphs.run(onnx.load_from_string(bundle.graph), pixels)["logits"]
    assert np.abs(actual - expected).max() <= 1e-4
    manifest = bundle.manifest
    assert (manifest.baseline, manifest.metrics, manifest.training) == (None, None, None)
    assert manifest.origin == Origin(
        file="weights.th",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        entry="state_dict",
        architecture=architecture,
        activation="relu",
        arrangement="original",
        parameters=sum(parameter.numel() for parameter in published.parameters()),
    )
    assert manifest.class_names == CLASS_NAMES["cifar10"]
    assert bundle.sample is not None


@pytest.fixture(scope="module")
def cifar_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet8.pth"
    torch.save(trained(CifarLayout(1), 32).state_dict(), path)
    return path


def test_images_give_accuracy_baseline_and_half_precision(
    cifar_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = CifarLayout(1)
    published.load_state_dict(torch.load(cifar_weights, weights_only=True))
    inputs = InputConfig(preset="cifar10")
    folder = folder_of_images(tmp_path / "pictures")
    command(inputs, "resnet8", cifar_weights, "mine", data_dir=folder, repository=tmp_path / "shelf", precision="both")
    bundle = ModelRepository(tmp_path / "shelf").open("mine")
    assert bundle.baseline is not None
    assert bundle.half is not None
    held_out = load_images(folder, inputs, CLASSES).held_out
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (PRESETS["cifar10"].mean, PRESETS["cifar10"].std))
    normalised = torch.from_numpy((held_out.pixels / 255 - mean) / std).float()
    with torch.no_grad():
        found = published.eval()(normalised).argmax(1).numpy()
    assert held_out.labels.tolist() == sorted(2 * [*range(10)])
    assert bundle.manifest.metrics is not None
    assert bundle.manifest.metrics.images == 20
    assert bundle.manifest.metrics.accuracy == (found == held_out.labels).mean()
    assert bundle.manifest.metrics.data == "pictures, held out"
    printed = capsys.readouterr().out
    assert "published mine version 1" in printed
    assert "on 20 images (pictures, held out)" in printed


class TestRefusals:
    def refusal(self, weights: Path, tmp_path: Path, **changed: object) -> str:
        options = {"architecture": "resnet8", "name": "mine", "classes": "cifar10"} | changed
        inputs = InputConfig(preset="cifar10")
        with pytest.raises(ValueError, match=r".") as refused:
            command(inputs, weights=weights, repository=tmp_path / "shelf", **options)  # type: ignore[arg-type]
        assert not (tmp_path / "shelf").exists()
        return str(refused.value)

    def test_another_architecture(self, cifar_weights: Path, tmp_path: Path) -> None:
        said = self.refusal(cifar_weights, tmp_path, architecture="resnet14")
        assert "missing: layer1.1.conv1.weight" in said
        assert "unknown network 'lenet'" in self.refusal(cifar_weights, tmp_path, architecture="lenet")

    def test_another_number_of_classes(self, cifar_weights: Path, tmp_path: Path) -> None:
        (tmp_path / "names").write_text("cat\ndog\n")
        said = self.refusal(cifar_weights, tmp_path, classes=str(tmp_path / "names"))
        assert "tells 10 classes apart, and the network 2: give 10 class names" in said

    def test_half_precision_without_images(self, cifar_weights: Path, tmp_path: Path) -> None:
        assert "give --data-dir" in self.refusal(cifar_weights, tmp_path, precision="both")

    def test_a_name_that_is_no_name(self, cifar_weights: Path, tmp_path: Path) -> None:
        assert "name '../x' is not allowed" in self.refusal(cifar_weights, tmp_path, name="../x")

    def test_images_of_other_classes(self, cifar_weights: Path, tmp_path: Path) -> None:
        for name in ("cat", "dragon"):
            (tmp_path / "images" / name).mkdir(parents=True)
        said = self.refusal(cifar_weights, tmp_path, data_dir=tmp_path / "images")
        assert "not named after one of the 10 classes: dragon; the classes are airplane" in said

    def test_a_folder_without_images(self, cifar_weights: Path, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            (tmp_path / "images" / name).mkdir(parents=True)
        assert "holds no image" in self.refusal(cifar_weights, tmp_path, data_dir=tmp_path / "images")
        assert "does not exist" in self.refusal(cifar_weights, tmp_path, data_dir=tmp_path / "nothing")

    def test_classes_beyond_number(self, cifar_weights: Path, tmp_path: Path) -> None:
        """What only looks large takes no memory before it is refused."""
        state = torch.load(cifar_weights, weights_only=True)
        torch.save(state | {"linear.weight": torch.zeros(1).expand(1 << 40, 64)}, tmp_path / "weights.pth")
        with pytest.raises(ValueError, match="1,099,511,627,776 classes are not allowed"):
            command(InputConfig(preset="imagenet"), "resnet8", tmp_path / "weights.pth", "mine")
        state.pop("linear.weight")
        torch.save(state, tmp_path / "weights.pth")
        with pytest.raises(ValueError, match=r"has no matrix linear\.weight, whose rows are the classes"):
            command(InputConfig(preset="imagenet"), "resnet8", tmp_path / "weights.pth", "mine")


def test_classes_that_nobody_named_are_numbered(
    cifar_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(InputConfig(preset="imagenet", image_size=32), "resnet8", cifar_weights, "mine", repository=tmp_path)
    assert ModelRepository(tmp_path).open("mine").manifest.class_names == tuple("0123456789")
    assert "its 10 classes are numbered: give --classes to name them" in capsys.readouterr().out


def test_weights_of_other_parts_and_named_classes_on_the_command_line(tmp_path: Path) -> None:
    """As `train` names parts, so does `import`; the pre-processing is that which was given."""
    parts = Parts(
        "elu", {"alpha": 0.5}, "full_preactivation", "constant_scaling", {"branch": 0.7}, "fixup", "attention"
    )
    network = build_network(parts.network("resnet8", 3, 3))
    unsettle(network)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    given = (
        "import --architecture resnet8 --weights weights.safetensors --name mine --classes cat,dog,fish --mean 0.4 "
        "--std 0.2 --image-size 24 --resize 28 --interpolation bicubic --activation elu "
        "--activation-parameters alpha 0.5 --arrangement full_preactivation --shortcut constant_scaling "
        "--shortcut-parameters branch 0.7 "
        "--normaliser fixup --head attention --repository shelf"
    )
    done = run(*given.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = ModelRepository(tmp_path / "shelf").open("mine")
    manifest = bundle.manifest
    assert manifest.class_names == ("cat", "dog", "fish")
    assert manifest.preprocessing == Preprocessing(channels=3, height=24, width=24, resize=28, interpolation="bicubic")
    assert [spec.name for spec in manifest.outputs] == ["logits", "attention"]
    assert manifest.origin is not None
    assert manifest.origin.model_dump(exclude={"file", "sha256", "entry", "parameters"}) == {
        "architecture": "resnet8", "activation": "elu", "activation_parameters": {"alpha": 0.5},
        "arrangement": "full_preactivation", "shortcut": "constant_scaling", "shortcut_parameters": {"branch": 0.7},
        "normaliser": "fixup", "head": "attention",
    }  # fmt: skip
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 24, 24)).astype(np.float32)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy((pixels / 255 - 0.4) / 0.2).float()).numpy()
    actual = graphs.run(onnx.load_from_string(bundle.graph), pixels)["logits"]
    assert np.abs(actual - expected).max() <= 1e-4
    other = replace(parts, head="birnn")
    with pytest.raises(ValueError, match=r"missing: reader\.cells\.weight_ih_l0"):
        command(InputConfig("cifar10"), "resnet8", tmp_path / "weights.safetensors", "mine", other, "a,b,c")


class TestClasses:
    def test_files(self, tmp_path: Path) -> None:
        path = tmp_path / "names"
        path.write_text("tabby cat\ndog\n\n")
        assert find_classes(str(path)) == Classes(("tabby cat", "dog"))
        path.write_text(json.dumps(["tabby cat", "dog"]))
        assert read_classes(path) == Classes(("tabby cat", "dog"))
        # In any order of its keys.
        path.write_text(json.dumps({"1": ["n02", "crane"], "0": ["n01", "crane"]}))
        assert read_classes(path) == Classes(("crane", "crane"), ("n01", "n02"))

    def test_names_with_commas_between_them(self) -> None:
        assert find_classes("tabby cat, dog") == Classes(("tabby cat", "dog"))
        with pytest.raises(ValueError, match="--classes has a class without a printable name"):
            find_classes("cat,,dog")
        with pytest.raises(ValueError, match="0 classes are not allowed: a classifier has 2 to"):
            number_classes(0)

    def test_folders_are_named_after_ids_or_names(self) -> None:
        classes = Classes(("crane", "crane", "cat"), ("n01", "n02", "n03"))
        assert [classes.index(folder) for folder in ("n02", "cat", "crane", "dog")] == [1, 2, None, None]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("cat\n", "has 1 class names"),
            ("cat\n\ndog", "without a printable name"),
            ("[1, 2]", "other things than strings"),
            ('{"0": ["n01", "cat"], "2": ["n02", "dog"]}', "no .id, name. for each of 0 to 1"),
            ('{"0": "cat", "1": "dog"}', "no .id, name."),
            ("[", "holds no class names"),
            (b"\xff\xfe", "holds no class names"),
            ("[" * 100_000, "holds no class names"),
        ],
    )
    def test_files_that_hold_none(self, content: str | bytes, reason: str, tmp_path: Path) -> None:
        path = tmp_path / "names"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=reason):
            read_classes(path)

    def test_no_file_and_one_too_large(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no file of class names at nothing: give one, or one of cifar10"):
            find_classes("nothing")
        (tmp_path / "names").write_text("x" * (5 << 20))
        with pytest.raises(ValueError, match="class names have at most"):
            read_classes(tmp_path / "names")


class TestInputs:
    def test_presets_are_in_pixel_values(self) -> None:
        mean, std = InputConfig(preset="imagenet").moments()
        # As written down where pixels are not divided by 255.
        assert mean == pytest.approx((123.675, 116.28, 103.53))
        assert std == pytest.approx((58.395, 57.12, 57.375))
        prepared = InputConfig(preset="imagenet").preprocessing
        assert (prepared.height, prepared.width, prepared.resize, prepared.channels) == (224, 224, 256, 3)
        assert prepared.normalisation is None

    def test_options_take_the_place_of_a_part_of_the_preset(self) -> None:
        given = InputConfig(preset="imagenet", mean=(0.5,), resize=232, interpolation="bicubic")
        assert given.moments()[0] == (127.5,) * 3
        assert given.moments()[1] == InputConfig(preset="imagenet").moments()[1]
        assert (given.preprocessing.resize, given.preprocessing.interpolation) == (232, "bicubic")
        assert InputConfig(preset="imagenet", image_size=288).preprocessing.resize == 288
        grey = InputConfig(mean=(0.1,), std=(0.3,), image_size=28, channels=1)
        assert grey.moments() == ((25.5,), (0.3 * 255,))
        assert grey.preprocessing.channels == 1

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({}, "--mean is missing"),
            ({"mean": (0.5,)}, "--std is missing"),
            ({"mean": (0.5,), "std": (0.5,)}, "--image-size is missing"),
            ({"preset": "imagenet", "mean": (123.675, 116.28, 103.53)}, "--mean 123.675 116.28 103.53 is not allowed"),
            ({"preset": "imagenet", "std": (0.0,)}, "--std 0 0 0 is not allowed"),
            ({"preset": "imagenet", "mean": (float("nan"),)}, "--mean nan nan nan is not allowed"),
            ({"preset": "imagenet", "mean": (0.5, 0.5)}, "--mean 0.5 0.5 has 2 values for --channels 3"),
            ({"preset": "imagenet", "channels": 1}, "has 3 values for --channels 1"),
            ({"preset": "imagenet", "image_size": 4}, "--image-size 4 is not allowed"),
            ({"preset": "imagenet", "image_size": 0}, "--image-size 0 is not allowed"),
            ({"preset": "imagenet", "resize": 200}, "--resize 200 is not allowed: use 224"),
        ],
    )
    def test_what_is_wrong_is_said(self, options: dict[str, object], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            InputConfig(**options)  # type: ignore[arg-type]
