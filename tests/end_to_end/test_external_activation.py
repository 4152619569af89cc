"""Activations of other packages: one is installed, trained, published, served and instrumented; others are broken."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from PIL import Image
from torch import Tensor, nn

from models.opset import DOMAIN, DOMAIN_VERSION, IR_VERSION, STANDARD_OPSET
from models.repository import ModelRepository
from tests.models import graphs
from training.activations.catalogue import ACTIVATIONS, ENTRY_POINTS, catalogue, find_activation
from training.activations.entry import ActivationModule
from training.classifier import PixelClassifier
from training.data import digits
from training.data.images import channel_moments
from training.loop.checkpoint import load_checkpoint
from training.resnet.network import NetworkConfig, build_network

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "external_activation"
NAME, BEND = "bent_identity", 0.4
IMAGES = 3


def bent_identity(x: NDArray[np.float64], bend: float) -> NDArray[np.float64]:
    return bend * (np.sqrt(x**2 + 1) - 1) + x


def python(*arguments: str, folder: Path, path: list[Path]) -> "subprocess.CompletedProcess[str]":
    """Run Python in `folder` as a user does who has just `path` installed beside ResLens."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(path),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def environment(path: list[Path], **variables: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(str(folder) for folder in [*path, ROOT]), **variables}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip installed the package, without a network."""
    folder = tmp_path_factory.mktemp("installed")
    # A copy, because setuptools builds beside the sources.
    source = shutil.copytree(PACKAGE, tmp_path_factory.mktemp("source") / "package")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    done = python(*pip, "--no-build-isolation", "--target", str(folder), str(source), folder=source, path=[])
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def importable(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(shelf: Path, folder: Path, path: list[Path]) -> Iterator[httpx.Client]:
    """`python -m service` as a process that finds only `path` beside ResLens."""
    port = str(free_port())
    variables = {"RESLENS_MODEL_REPOSITORY": str(shelf), "RESLENS_PORT": port, "RESLENS_PROVIDER": "cpu"}
    with (
        (folder / "service.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=folder,
            env=environment(path, **variables),
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        try:
            wait_until_ready(client, process, folder / "service.log")
            yield client
        finally:
            process.kill()


def wait_until_ready(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.ConnectError):
            if client.get("/v2/health/ready").is_success:
                return
        time.sleep(0.1)
    raise AssertionError(f"the service is not ready: {log.read_text()}")


def png(pixels_CHW: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels_CHW[0]).save(file, "PNG")
    return file.getvalue()


def by_pytorch(run: Path, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Logits, and what left every activation, of the checkpoint's averaged weights."""
    mean, std = channel_moments(digits.load().training.pixels)
    network = NetworkConfig("resnet8", NAME, "original", 10, 1, {"bend": BEND})
    model = PixelClassifier(build_network(network), mean, std).eval()
    averaged = load_checkpoint(run / "checkpoint.pt")["averaged"]
    model.load_state_dict({name[7:]: value for name, value in averaged.items() if name.startswith("module.")})
    raw: dict[str, NDArray[np.float64]] = {}

    def keep(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            raw[name] = output.double().numpy()

        module.register_forward_hook(hook)

    for name, module in model.network.named_modules():
        if isinstance(module, ActivationModule):
            keep(name, module)
    with torch.no_grad():
        return model(torch.from_numpy(pixels).float()).double().numpy(), raw


def statistics(x: NDArray[np.float64]) -> dict[str, float]:
    """What is to be answered about one layer and image, from the raw output C×H×W."""
    means, count = x.mean((1, 2)), len(x)
    return {
        "mean": x.mean(),
        "rms": np.sqrt((x**2).mean()),
        "active_fraction": (x > 0).mean(),
        "saturated_fraction": 0.0,
        "maximum": x.max(),
        "minimum": x.min(),
        "sparsity": (np.sqrt(count) - np.abs(means).sum() / np.linalg.norm(means)) / (np.sqrt(count) - 1),
        "mean_shift": (means**2).sum() / (x**2).mean((1, 2)).sum(),
    }


@pytest.mark.usefixtures("importable")
def test_trained_published_served_and_instrumented(installed: Path, tmp_path: Path) -> None:
    run, shelf = tmp_path / "run", tmp_path / "shelf"
    options = ["--activation", NAME, "--activation-parameters", "bend", str(BEND), "--epochs", "6", "--run", str(run)]
    for command in (
        ["train", *options],
        ["publish", str(run), "--name", "bent", "--repository", str(shelf)],
    ):
        done = python("-m", "training", *command, folder=tmp_path, path=[installed])
        assert done.returncode == 0, done.stderr

    manifest = ModelRepository(shelf).open("bent").manifest
    assert manifest.metrics is not None
    assert manifest.metrics.accuracy > 0.95
    assert manifest.training is not None
    assert manifest.training.activation_parameters == {"bend": BEND}

    # A published graph is complete: the service neither has the package nor misses it.
    absent = python("-c", f"import {NAME}", folder=tmp_path, path=[])
    assert f"No module named '{NAME}'" in absent.stderr
    pixels = digits.load().held_out.pixels[:IMAGES]
    files = [("file", png(image)) for image in pixels]
    with serving(shelf, tmp_path, path=[]) as client:
        answer = client.post("/v1/models/bent/classify", files=files, params={"statistics": "layers", "top_k": 10})
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
        inferred = client.post("/v2/models/bent/infer", json={"inputs": [tensor]})
        described = client.get("/v1/models/bent")
    for response in (answer, inferred, described):
        assert response.status_code == 200, response.text

    logits, raw = by_pytorch(run, pixels)
    (output,) = inferred.json()["outputs"]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), logits, atol=1e-4)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for row, image in enumerate(answer.json()["images"]):
        ranked = {ranked["index"]: ranked["probability"] for ranked in image["classes"]}
        assert ranked == pytest.approx(dict(enumerate(probabilities[row])), abs=1e-5)
        layers = {layer.pop("layer"): layer for layer in image["statistics"]["layers"]}
        assert set(layers) == set(raw)
        for name, layer in layers.items():
            assert (layer.pop("activation"), layer.pop("finite")) == (NAME, True)
            # A unit that puts out zero has a gradient: it is not counted as silent.
            assert layer.pop("silent_channels") is layer.pop("channels") is None
            assert layer == pytest.approx(statistics(raw[name][row]), rel=1e-4, abs=1e-5)

    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    values = bent_identity(nodes, BEND)
    shift = (weights @ values) ** 2 / (weights @ values**2) / weights.sum()
    for layer in described.json()["layers"]:
        assert layer["expected_mean_shift"] == pytest.approx(shift, rel=1e-6)
        assert layer["saturation"] == {"below": None, "above": None}
        assert layer["output_range"] == [None, None]
        assert layer["zero_is_dead"] is False


@pytest.mark.usefixtures("importable")
def test_stands_in_the_catalogue_beside_ours() -> None:
    assert list(catalogue()) == [*ACTIVATIONS, NAME]
    assert find_activation(NAME).parameters == {"bend": 0.5}
    assert find_activation(NAME, {"bend": 0.25}).build(1).formula(torch.ones(())).item() == pytest.approx(
        bent_identity(np.ones(()), 0.25)
    )
    with pytest.raises(ValueError, match=r"unknown activation 'bent'; choose from .*, bent_identity$"):
        find_activation("bent")
    with pytest.raises(ValueError, match="unknown parameter slope of activation bent_identity; it has bend"):
        find_activation(NAME, {"slope": 1.0})
    with pytest.raises(ValueError, match=r"bend=1\.0 of bent_identity is not allowed"):
        find_activation(NAME, {"bend": 1.0}).build(1)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("bend", [0.0, 0.5, 0.8])
def test_its_body_is_accurate(bend: float) -> None:
    node = find_activation(NAME, {"bend": bend}).build(1).node()
    x = np.concatenate([np.linspace(-limit, limit, 20_001) for limit in (1e-3, 1.0, 10.0, 1e4)]).astype(np.float32)
    images, logits = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [len(x)]) for name in ("images", "logits")
    )
    call = helper.make_node(node.body.name, ["images"], ["logits"], domain=DOMAIN, **node.attributes)
    model = helper.make_model(
        helper.make_graph([call], "one_node", [images], [logits]),
        functions=[node.body.to_function_proto()],
        opset_imports=[helper.make_opsetid("", STANDARD_OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )
    expected = bent_identity(x.astype(np.float64), bend)
    error = np.abs(graphs.run(model, x)["logits"] - expected) / (1 + np.abs(expected))
    assert error.max() <= 1e-6


@pytest.mark.parametrize(
    ("point", "content", "complaint"),
    [
        ("absent = absent_module:THIS", None, r"'absent' \(absent_module:THIS\) cannot be loaded: No module named"),
        ("torn = torn_module:THIS", "", r"'torn' \(torn_module:THIS\) cannot be loaded: .* no attribute 'THIS'"),
        ("bare = bare_module:THIS", "import torch\nTHIS = torch.relu", r"'bare' .* is of type .*, not Activation"),
        ("relu = taken_module:THIS", "", r"key 'relu' is taken more than once \(taken_module:THIS\): rename"),
    ],
    ids=["absent", "torn", "bare", "taken"],
)
def test_a_broken_entry_point_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, content: str | None, complaint: str
) -> None:
    name, _, module = point.partition(" = ")
    install(tmp_path, "theirs", point)
    if content is not None:
        (tmp_path / f"{module.removesuffix(':THIS')}.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=complaint):
        find_activation(name)
    with pytest.raises(ValueError, match=complaint):
        catalogue()
    # The others are found as before.
    assert find_activation("mish") is not None


def test_two_packages_that_bring_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "ours", "wave = one_module:WAVE")
    install(tmp_path, "theirs", "wave = other_module:WAVE")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"key 'wave' is taken more than once \(.*_module:WAVE, .*_module:WAVE\)"):
        find_activation("wave")


def install(folder: Path, package: str, point: str) -> None:
    """What an installer leaves of a package with one entry point."""
    information = folder / f"{package}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{point}\n")
