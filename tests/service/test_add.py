"""`python -m service add`: what it publishes is served as the file meant it, and what it refuses is not published."""

import argparse
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from models.repository import ModelRepository
from service.__main__ import main
from service.commands import add
from tests import bundles
from tests.service.conftest import encoded, serving

LABELS = list(bundles.LABELS)
SIZE = bundles.SIZE
DOCUMENTATION = Path(__file__).parents[2] / "docs/serving.md"


def plain(seed: int = 0) -> onnx.ModelProto:
    """`bundles.Tiny` in standard operators alone."""
    model = bundles.Tiny.random(seed).graph()
    for node in model.graph.node:
        if node.domain:
            node.domain, node.op_type = "", "Relu"
    del model.functions[:], model.opset_import[1]
    return model


class Shop:
    """A folder with a model, labels and images, and the command to add them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.shelf = folder / "shelf"
        self.labels = folder / "labels.txt"
        self.labels.write_text("\n".join(LABELS) + "\n")
        self.save(plain())

    def save(self, model: onnx.ModelProto) -> None:
        onnx.save(model, self.folder / "model.onnx")

    def images(self, pixels: NDArray[np.uint8], names: list[str]) -> Path:
        for image, name in zip(pixels, names, strict=True):
            file = self.folder / "images" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(file)
        return self.folder / "images"

    def run(self, *options: str, name: str = "mine") -> tuple[int, str, str]:
        raw = [] if "--mean" in options or "--preprocessing" in options else ["--raw-pixels"]
        given = ["--name", name, *raw, *options]
        if "--labels" not in options:
            given += ["--labels", str(self.labels)]
        code = main(["add", str(self.folder / "model.onnx"), "--repository", str(self.shelf), *given])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def refuses(self, *options: str, name: str = "mine") -> str:
        """The message of a refusal; nothing may be on the shelf."""
        code, out, error = self.run(*options, name=name)
        assert (code, out) == (2, "")
        assert error.startswith("error: ")
        assert not self.shelf.exists() or ModelRepository(self.shelf).names() == []
        return error


@pytest.fixture
def shop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shop:
    return Shop(tmp_path, capsys)


def probabilities(shop: Shop, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the service answers about each image, in the order of the labels; its statistics are there."""
    with serving(shop.shelf) as client:
        files = [
            ("file", (f"{n}.png", encoded(Image.fromarray(image.transpose(1, 2, 0)), "PNG")))
            for n, image in enumerate(pixels)
        ]
        answer = client.post("/v1/models/mine/classify?statistics=layers&top_k=3", files=files)
    assert answer.status_code == 200, answer.text
    for image in answer.json()["images"]:
        assert [layer["activation"] for layer in image["statistics"]["layers"]] == ["relu", "relu"]
        assert len(image["statistics"]["blocks"]) == 1
    rows = [{c["label"]: c["probability"] for c in image["classes"]} for image in answer.json()["images"]]
    return np.array([[row[label] for label in LABELS] for row in rows])


def test_a_graph_is_added_and_served(shop: Shop, pixels: NDArray[np.uint8]) -> None:
    code, out, _ = shop.run("--description", "three things")
    assert code == 0
    assert "published mine version 1" in out
    assert "2 activations (relu) and 1 residual blocks" in out
    assert "no baseline" in out
    bundle = ModelRepository(shop.shelf).open("mine")
    assert bundle.baseline is None
    assert bundle.manifest.metrics is None
    assert bundle.manifest.description == "three things"
    np.testing.assert_allclose(probabilities(shop, pixels), bundles.Tiny.random(0).probabilities(pixels), atol=1e-5)


def test_adding_again_makes_another_version(shop: Shop) -> None:
    assert shop.run()[0] == shop.run()[0] == 0
    assert ModelRepository(shop.shelf).versions("mine") == [1, 2]


def softmax_at_the_end(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    rename_output(model, "probabilities")


def rename_output(model: onnx.ModelProto, name: str) -> None:
    model.graph.output[0].name = name


def batch_of_one(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1


def reshape_for_a_batch_of_one(model: onnx.ModelProto) -> None:
    batch_of_one(model)
    (flatten,) = (node for node in model.graph.node if node.op_type == "Flatten")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, bundles.CHANNELS]), "shape"))
    flatten.CopyFrom(helper.make_node("Reshape", [flatten.input[0], "shape"], list(flatten.output)))


def old_opset(model: onnx.ModelProto) -> None:
    """As old exporters wrote: opset 9, and the weights among the inputs."""
    model.opset_import[0].version = 9
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def opset_of_18(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


def open_size(model: onnx.ModelProto) -> None:
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"


def half_precision(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


def logits_of_one_pixel(model: onnx.ModelProto) -> None:
    """N×K×1×1, as fully convolutional classifiers put them out."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 3, 1, 1]), "shape"))
    model.graph.node.append(helper.make_node("Reshape", ["logits", "shape"], ["map"]))
    rename_output(model, "map")
    for _ in range(2):
        model.graph.output[0].type.tensor_type.shape.dim.add(dim_value=1)


def second_output_below_a_dead_branch(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Sigmoid", ["c2"], ["map"]))


def traces_of_a_machine(model: onnx.ModelProto) -> None:
    model.graph.node[0].doc_string = "/home/somebody/train.py"
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/somebody/train.py")
    model.metadata_props.add(key="path", value="/home/somebody")


CHANGES: dict[str, Callable[[onnx.ModelProto], None]] = {
    "softmax": softmax_at_the_end,
    "batch of 1": batch_of_one,
    "batch of 1 in a Reshape": reshape_for_a_batch_of_one,
    "opset 9": old_opset,
    "opset 18": opset_of_18,
    "open size": open_size,
    "half precision": half_precision,
    "logits of one pixel": logits_of_one_pixel,
    "dead branch": second_output_below_a_dead_branch,
    "traces": traces_of_a_machine,
}


@pytest.mark.parametrize("change", CHANGES)
def test_quirks_of_exporters_do_not_change_the_answers(change: str, shop: Shop, pixels: NDArray[np.uint8]) -> None:
    model = plain()
    CHANGES[change](model)
    shop.save(model)
    code, _, error = shop.run("--size", str(SIZE))
    assert code == 0, error
    tolerance = 2e-2 if change == "half precision" else 1e-5
    np.testing.assert_allclose(
        probabilities(shop, pixels), bundles.Tiny.random(0).probabilities(pixels), atol=tolerance
    )
    assert b"somebody" not in ModelRepository(shop.shelf).open("mine").graph


def test_weights_in_another_file_are_read_in(shop: Shop, pixels: NDArray[np.uint8]) -> None:
    onnx.save(plain(), shop.folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert shop.run()[0] == 0
    (shop.folder / "weights.bin").unlink()
    np.testing.assert_allclose(probabilities(shop, pixels), bundles.Tiny.random(0).probabilities(pixels), atol=1e-5)


def test_normalised_inputs(shop: Shop, pixels: NDArray[np.uint8]) -> None:
    model = plain()
    mean, std = (0.4, 0.5, 0.6), (0.25, 0.2, 0.3)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "scale")
    # The graph undoes the normalisation: the answers must be those for raw pixels.
    scale.CopyFrom(numpy_helper.from_array(np.array(std, np.float32).reshape(3, 1, 1), "scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(mean, np.float32).reshape(3, 1, 1), "shift"))
    model.graph.node[0].output[0] = "spread"
    model.graph.node.insert(1, helper.make_node("Add", ["spread", "shift"], ["scaled"]))
    shop.save(model)
    options = ["--mean", *map(str, mean), "--std", *map(str, std)]
    assert shop.run(*options)[0] == 0
    expected = bundles.Tiny.random(0).probabilities(pixels)
    np.testing.assert_allclose(probabilities(shop, pixels), expected, atol=1e-4)


def test_preprocessing_from_a_file(shop: Shop) -> None:
    fields = {"channels": 3, "height": SIZE, "width": SIZE, "resize": 10, "interpolation": "bicubic"}
    file = shop.folder / "preprocessing.json"
    file.write_text(json.dumps(fields))
    assert shop.run("--preprocessing", str(file))[0] == 0
    manifest = ModelRepository(shop.shelf).open("mine").manifest
    assert manifest.preprocessing.model_dump(exclude={"normalisation"}) == fields | {"shrink_on_load": True}
    assert "leave one" in shop_error(shop, "--preprocessing", str(file), "--size", "8")
    file.write_text('{"channels": 2}')
    assert "channels" in shop_error(shop, "--preprocessing", str(file))


def shop_error(shop: Shop, *options: str) -> str:
    code, _, error = shop.run(*options)
    assert code == 2
    return error


class TestBaselineImages:
    def test_flat_images_give_a_baseline(self, shop: Shop, pixels: NDArray[np.uint8]) -> None:
        folder = shop.images(pixels, ["a.png", "b.png", "c.png", "d.png"])
        (folder / "broken.jpg").write_bytes(b"no image")
        code, out, _ = shop.run("--baseline-images", str(folder))
        assert code == 0
        assert "the baseline is of 4 images" in out
        assert "not used" in out
        assert "broken.jpg" in out
        bundle = ModelRepository(shop.shelf).open("mine")
        assert bundle.baseline is not None
        assert bundle.manifest.metrics is None

    def test_images_by_class_give_accuracy_and_loss(self, shop: Shop) -> None:
        pixels = np.random.default_rng(3).integers(0, 256, (9, 3, SIZE, SIZE), np.uint8)
        names = [f"{LABELS[index % 3]}/{index}.png" for index in range(9)]
        assert shop.run("--baseline-images", str(shop.images(pixels, names)))[0] == 0
        metrics = ModelRepository(shop.shelf).open("mine").manifest.metrics
        expected = bundles.Tiny.random(0).probabilities(pixels)
        truth = np.arange(9) % 3
        assert metrics is not None
        assert (metrics.images, metrics.accuracy) == (9, (expected.argmax(1) == truth).mean())
        assert metrics.loss == pytest.approx(-np.log(expected[np.arange(9), truth]).mean(), rel=1e-4)

    def test_what_cannot_be_used_is_refused(self, shop: Shop, pixels: NDArray[np.uint8]) -> None:
        missing = str(shop.folder / "nowhere")
        assert "nowhere does not exist" in shop.refuses("--baseline-images", missing)
        (shop.folder / "images").mkdir()
        folder = shop.folder / "images"
        assert "holds no image" in shop.refuses("--baseline-images", str(folder))
        shop.images(pixels[:1], ["dog/a.png"])
        assert "not exactly one of the labels: dog" in shop.refuses("--baseline-images", str(folder))
        (folder / "dog").rename(folder / "cat")
        shop.images(pixels[:1], ["a.png"])
        assert "both images and folders" in shop.refuses("--baseline-images", str(folder))
        for number in range(3):
            (folder / "cat" / f"{number}.png").write_bytes(b"no image")
        (folder / "a.png").unlink()
        message = shop.refuses("--baseline-images", str(folder))
        assert "more than one in ten of the 4 images" in message
        assert "0.png" in message


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 3, 8, 8]))


def two_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", bundles.CHANNELS]))


def channels_last(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Transpose", ["pictures"], ["images"], perm=[0, 3, 1, 2]))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["N", 8, 8, 3]))


def sigmoid_at_the_end(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Sigmoid", ["logits"], ["scores"]))
    rename_output(model, "scores")


def home_made_softmax(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    model.graph.node.extend(
        [
            helper.make_node("Exp", ["logits"], ["e"]),
            helper.make_node("ReduceSum", ["e", "axes"], ["sum_of_e"], keepdims=1),
            helper.make_node("Div", ["e", "sum_of_e"], ["probabilities"]),
        ]
    )
    rename_output(model, "probabilities")


def no_activation(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Identity"


def another_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)


def doubles(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    model.graph.node.insert(0, helper.make_node("Cast", ["images"], ["small"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "small"


def batch_mixed_inside(model: onnx.ModelProto) -> None:
    """Everything is divided by a mean over the batch."""
    batch_of_one(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
    model.graph.node.append(helper.make_node("ReduceMean", ["logits", "axes"], ["average"], keepdims=1))
    model.graph.node.append(helper.make_node("Sub", ["logits", "average"], ["centred"]))
    rename_output(model, "centred")


REFUSED: dict[str, tuple[Callable[[onnx.ModelProto], None], list[str]]] = {
    "two inputs": (two_inputs, ["2 inputs", "'images', 'mask'"]),
    "two outputs": (two_outputs, ["2 outputs (logits, flat)", "--output"]),
    "channels last": (channels_last, ["N×8×8×3", "channels first"]),
    "sigmoid": (sigmoid_at_the_end, ["'scores' comes from a Sigmoid"]),
    "home-made softmax": (home_made_softmax, ["'probabilities' holds probabilities", "--output"]),
    "no activation": (no_activation, ["no activation was found"]),
    "another domain": (another_domain, ["com.microsoft.Conv", "standard"]),
    "doubles": (doubles, ["DOUBLE", "FLOAT"]),
    "mixed batch": (batch_mixed_inside, ["batch"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_graphs_that_cannot_be_served_are_refused_and_say_why(case: str, shop: Shop) -> None:
    change, words = REFUSED[case]
    model = plain()
    change(model)
    shop.save(model)
    message = shop.refuses()
    for word in words:
        assert word in message


def test_an_output_can_be_named(shop: Shop, pixels: NDArray[np.uint8]) -> None:
    model = plain()
    two_outputs(model)
    shop.save(model)
    assert "choose from logits, flat" in shop.refuses("--output", "nothing")
    assert shop.run("--output", "logits")[0] == 0
    np.testing.assert_allclose(probabilities(shop, pixels), bundles.Tiny.random(0).probabilities(pixels), atol=1e-5)


def test_bad_arguments_are_refused(shop: Shop) -> None:
    assert "'../up' is not allowed" in shop.refuses(name="../up")
    assert "has height 8, the pre-processing makes 9" in shop.refuses("--size", "9")
    assert "resize=4" in shop.refuses("--resize", "4")
    assert "--raw-pixels" in shop.refuses("--mean", "0.5")
    assert "2 means" in shop.refuses("--mean", "0.5", "0.5", "--std", "1")
    assert "greater than 0" in shop.refuses("--mean", "0.5", "--std", "0")
    missing = shop.folder / "nothing.txt"
    assert "nothing.txt does not exist" in shop.refuses("--labels", str(missing))
    shop.labels.write_text("cat\ndog\n")
    assert "2 labels, and the graph puts out 3 classes" in shop.refuses()
    shop.labels.write_text("cat\n\nrocket\n")
    assert "empty" in shop.refuses()
    shop.labels.write_text('{"0": "cat"}')
    assert "not a JSON list of strings" in shop.refuses()
    shop.labels.write_bytes(b"\xff\xfe\xff")
    assert "not UTF-8" in shop.refuses()


def test_a_file_that_is_no_model_is_refused(shop: Shop) -> None:
    (shop.folder / "model.onnx").write_bytes(b"not a model")
    assert "is not a valid ONNX model" in shop.refuses()
    (shop.folder / "model.onnx").unlink()
    assert "does not exist" in shop.refuses()


def test_weights_outside_the_folder_are_not_read(shop: Shop) -> None:
    model = plain()
    (shop.folder.parent / "secret.bin").write_bytes(b"\x00" * 4096)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (shop.folder / "model.onnx").write_bytes(model.SerializeToString())
    assert "is not a valid ONNX model" in shop.refuses()


def test_the_documented_command_works(shop: Shop, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = re.findall(r"```sh\n(python -m service add .*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    model = plain()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 224, 224]))
    onnx.save(model, shop.folder / "resnet50.onnx")
    shop.images(pixels, [f"{n}.jpg" for n in range(4)]).rename(shop.folder / "photos")
    monkeypatch.chdir(shop.folder)
    monkeypatch.setenv("RESLENS_MODEL_REPOSITORY", str(shop.shelf))
    assert main(shlex.split(command.replace("\\\n", " "))[3:]) == 0
    assert ModelRepository(shop.shelf).open("resnet50").baseline is not None


def test_every_option_is_documented() -> None:
    parser = argparse.ArgumentParser()
    add.configure(parser)
    for action in parser._actions:
        for option in set(action.option_strings) - {"-h", "--help"}:
            assert f"`{option}" in DOCUMENTATION.read_text(), option
