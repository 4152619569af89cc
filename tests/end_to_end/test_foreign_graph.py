"""Networks that have nothing of ours, exported by PyTorch alone, added and served: all that is said is PyTorch's."""

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tests.service.conftest import encoded, serving

ROOT = Path(__file__).parents[2]
SIZE = 24
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = ["dots", "lines", "noise", "waves"]


class Squeeze(nn.Module):
    """Squeeze and excitation: its activations are gates, not feature maps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
        self.inner = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(self.inner(self.reduce(pooled))))


class Inverted(nn.Module):
    """MobileNet's block: widen, depthwise, gate, narrow; a skip where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        wide = 3 * inputs
        self.widen, self.bn1, self.act1 = nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), activation()
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.bn2, self.act2, self.squeeze = nn.BatchNorm2d(wide), activation(), Squeeze(wide)
        self.narrow, self.bn3 = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.widen(x)))
        y = self.bn3(self.narrow(self.squeeze(self.act2(self.bn2(self.depthwise(y))))))
        return x + y if self.skips else y


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.blocks = nn.Sequential(
            Inverted(8, 8, 1, nn.SiLU), Inverted(8, 12, 2, nn.ReLU6), Inverted(12, 12, 1, nn.Hardswish)
        )
        self.head = nn.Linear(12, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """ResNet's bottleneck with SiLU, the sum closed by an activation, and a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.SiLU()
        self.conv2, self.bn2, self.act2 = nn.Conv2d(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.SiLU()
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(y + self.shortcut(x))  # type: ignore[no-any-return]


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 8, 3, 1, 1), nn.SiLU()
        self.layer1, self.layer2 = Residual(8, 8, 1), Residual(8, 16, 2)
        self.head = nn.Linear(16, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.act(self.stem(images))))
        return torch.softmax(self.head(x.flatten(2).mean(2)), 1)


class DenseNet(nn.Module):
    """Maps are concatenated, nothing is added; activations stand before the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.bn1, self.act1, self.conv1 = nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)
        self.bn2, self.act2, self.conv2 = nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, 1, 1)
        self.bn3, self.act3, self.pool = nn.BatchNorm2d(24), nn.GELU(), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(24, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = torch.cat([x, self.conv1(self.act1(self.bn1(x)))], 1)
        x = torch.cat([x, self.conv2(self.act2(self.bn2(x)))], 1)
        return self.head(self.pool(self.act3(self.bn3(x))).flatten(1))  # type: ignore[no-any-return]


class Inception(nn.Module):
    """VGG's plain stack, then parallel branches; its hidden layers after the pool are no feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 1, 1), nn.Mish(), nn.MaxPool2d(2)
        )
        self.small, self.act1 = nn.Conv2d(8, 8, 1), nn.LeakyReLU(0.1)
        self.large, self.act2 = nn.Conv2d(8, 8, 5, 1, 2), nn.PReLU(8)
        self.pool, self.after, self.act3 = nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 4, 1), nn.ELU()
        self.head = nn.Sequential(nn.Linear(20 * 36, 16), nn.ReLU(), nn.Linear(16, len(LABELS)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        branches = [self.act1(self.small(x)), self.act2(self.large(x)), self.act3(self.after(self.pool(x)))]
        return self.head(torch.cat(branches, 1).flatten(1))  # type: ignore[no-any-return]


# The network, its activations by module, its blocks as (name, what leaves, what the shortcut brought), the exporter.
CASES = {
    "residual": (ResidualNet, ["act", *(f"layer{n}.act{m}" for n in (1, 2) for m in (1, 2))], ["layer1", "layer2"]),
    "mobile": (
        Mobile,
        ["stem.2", *(f"blocks.{n}.act{m}" for n in (0, 1, 2) for m in (1, 2))],
        ["blocks.0", "blocks.2"],
    ),
    "dense": (DenseNet, ["act1", "act2", "act3"], []),
    "inception": (Inception, ["features.1", "features.4", "act1", "act2", "act3"], []),
}
NEWER = {"residual", "inception"}


def network(kind: str) -> nn.Module:
    torch.manual_seed(3)
    made = CASES[kind][0]()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 0.5)
    return made.eval()


def export(made: nn.Module, file: Path, newer: bool) -> None:
    images = torch.zeros(2 if newer else 1, 3, SIZE, SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        if newer:
            batch = ({0: torch.export.Dim("n")},)
            # Its weights lie in a file beside it.
            torch.onnx.export(
                made, (images,), file, dynamo=True, dynamic_shapes=batch, external_data=True, verbose=False
            )
        else:
            # An old opset, and the batch size fixed.
            torch.onnx.export(made, (images,), file, dynamo=False, opset_version=14, input_names=["pixels"])


@pytest.mark.parametrize("kind", CASES)
def test_answers_and_statistics_are_those_of_pytorch(kind: str, tmp_path: Path) -> None:
    made = network(kind)
    export(made, tmp_path / "plain.onnx", kind in NEWER)
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    random = np.random.default_rng(7)
    pixels = random.integers(0, 256, (20, 3, SIZE, SIZE), np.uint8)
    expected, seen = run(made, pixels)
    for index, image in enumerate(pixels):
        # By what PyTorch says: the accuracy must be 1.
        folder = tmp_path / "images" / LABELS[int(expected[index].argmax())]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index:02}.png")
    add(tmp_path, "--mean", *map(str, MEAN), "--std", *map(str, STD), "--baseline-images", "images")
    with serving(tmp_path / "shelf") as client:
        files = [
            ("file", (f"{n}.png", encoded(Image.fromarray(image.transpose(1, 2, 0)), "PNG")))
            for n, image in enumerate(pixels)
        ]
        answer = client.post("/v1/models/plain/classify?statistics=channels&top_k=4", files=files[:5])
        assert answer.status_code == 200, answer.text
        detail = client.get("/v1/models/plain").json()
        tensor = normalised(pixels[:3]).numpy()
        request = {
            "inputs": [
                {
                    "name": detail["manifest"]["inputs"][0]["name"],
                    "datatype": "FP32",
                    "shape": list(tensor.shape),
                    "data": tensor.ravel().tolist(),
                }
            ]
        }
        raw = client.post("/v2/models/plain/infer", json=request)
        assert raw.status_code == 200, raw.text
    assert detail["accuracy"] == 1
    (logits,) = raw.json()["outputs"]
    values = np.array(logits["data"]).reshape(3, -1)
    given = torch.softmax(torch.from_numpy(values), 1).numpy() if kind == "residual" else values
    assert np.abs(given - expected[:3]).max() <= 1e-4

    _, modules, blocks = CASES[kind]
    probabilities = expected if kind == "residual" else torch.softmax(torch.from_numpy(expected), 1).numpy()
    for index, image in enumerate(answer.json()["images"]):
        by_label = {ranked["label"]: ranked["probability"] for ranked in image["classes"]}
        assert [by_label[label] for label in LABELS] == pytest.approx(probabilities[index].tolist(), abs=1e-4)
        layers = image["statistics"]["layers"]
        assert [layer["layer"] for layer in layers] == modules
        for layer in layers:
            x = seen[layer["layer"]][1][index].astype(np.float64)
            channels = layer["channels"]
            np.testing.assert_allclose(channels["mean"], x.mean((1, 2)), atol=1e-4)
            np.testing.assert_allclose(channels["rms"], np.sqrt((x**2).mean((1, 2))), atol=1e-4)
            np.testing.assert_allclose(channels["maximum"], x.max((1, 2)), atol=1e-4)
            np.testing.assert_allclose(channels["active_fraction"], (x > 0).mean((1, 2)), atol=1e-2)
            if channels["minimum"] is not None:
                np.testing.assert_allclose(channels["minimum"], x.min((1, 2)), atol=1e-4)
        shares = image["statistics"]["blocks"]
        assert [share["block"] for share in shares] == blocks
        for share in shares:
            entered, left = (values[index].astype(np.float64) for values in seen[share["block"]])
            shortcut = seen.get(f"{share['block']}.shortcut")
            start = entered if shortcut is None else shortcut[1][index].astype(np.float64)
            ratio = np.sqrt(((left - start) ** 2).mean() / (start**2).mean())
            assert share["residual_share"] == pytest.approx(ratio, rel=1e-3)


def add(folder: Path, *options: str) -> None:
    command = [sys.executable, "-m", "service", "add", "plain.onnx", "--name", "plain", "--labels", "labels.json"]
    done = subprocess.run(
        [*command, *options, "--repository", "shelf"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "published plain version 1" in done.stdout


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(pixels).float() / 255 - mean) / std


def run(made: nn.Module, pixels: NDArray[np.uint8]) -> tuple[NDArray, dict[str, tuple[NDArray, NDArray]]]:
    """What PyTorch answers, and (input, output) of every module."""
    seen: dict[str, tuple[NDArray, NDArray]] = {}
    for name, module in made.named_modules():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (inputs[0].numpy(), output.numpy().copy())})
        )
    with torch.inference_mode():
        answer = made(normalised(pixels)).numpy()
    return answer, seen
