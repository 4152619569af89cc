"""The networks that are exported in tests, what PyTorch says of them, and ways to look into a graph."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from google.protobuf.message import Message
from numpy.typing import NDArray
from torch import Tensor, nn

from models.manifest import ModelManifest, Saturation
from tests.models import graphs
from tests.training.cases import ENTRIES
from training.activations.catalogue import find_activation
from training.activations.entry import Activation
from training.classifier import PixelClassifier
from training.export.graph import ExportedGraph
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.variants import Variant


@dataclass(frozen=True)
class Case:
    network: str
    activation: str
    arrangement: str
    size: int
    parameters: tuple[tuple[str, float], ...] = ()
    shortcut: str = "identity"
    normaliser: str = "batch"

    def __str__(self) -> str:
        parameters = map(str, dict(self.parameters).values())
        parts = (self.network, self.activation, *parameters, self.arrangement, self.shortcut, self.normaliser)
        return "-".join(part for part in parts if part not in ("identity", "batch"))


# A ResNet-20 with every activation, two arrangements in turn; one that changes the channels in each; every shortcut and
# every normaliser; both families and both kinds of branch. After the arrangement comes the size of the images.
NAMES = list(ARRANGEMENTS)
BASIC = ("original", "full_preactivation")
# Where activations stand on the shortcut's way, nine squares in a row are x^512: no ResNet-20 survives that.
ONLY = {"squared_relu": "full_preactivation"}
# Of the blocks' normalisations: where squares follow squares, one image in a thousand would still overflow.
GAIN = {"squared_relu": 0.1}
CASES = [
    *[Case("resnet20", key, ONLY.get(key, BASIC[n % len(BASIC)]), 16) for n, key in enumerate(ENTRIES, 1)],
    *[Case("resnet8", "crelu", name, 16) for name in NAMES],
    Case("resnet8", "maxout", "relu_before_addition", 16, (("k", 3),)),
    Case("resnet8", "glu", "original", 16, (), "constant_scaling", "none"),
    Case("resnet8", "relu", "relu_only_preactivation", 16, (), "exclusive_gating", "skipinit"),
    Case("resnet8", "prelu", "original", 16, (), "dropout", "fixup"),
    Case("resnet8", "elu", "bn_after_addition", 16, (), "conv_1x1"),
    Case("resnet8", "swish", "full_preactivation", 16, (), "shortcut_only_gating"),
    Case("resnet8", "relu", "original", 16, (), "none"),
    Case("resnet8", "elu", "original", 16, (("alpha", 0.5),)),
    Case("resnet14", "relu", "full_preactivation", 8),
    Case("resnet18", "swish", "original", 64),
    Case("bottleneck", "prelu", "original", 16),
    Case("bottleneck", "relu", "full_preactivation", 16),
    Case("bottleneck", "maxout", "full_preactivation", 16),
    Case("bottleneck", "crelu", "original", 16),
]
# ResNet-50 in small.
BOTTLENECK = Variant("imagenet", "bottleneck", (1, 2), (8, 16), "projection", "fc")


@dataclass(frozen=True)
class Exported:
    case: Case
    classifier: PixelClassifier
    before: PixelClassifier
    """A copy of the classifier from before the export, in training mode as it was."""
    graph: ExportedGraph

    @property
    def size(self) -> int:
        return self.case.size

    @property
    def entry(self) -> Activation:
        return find_activation(self.case.activation, dict(self.case.parameters))

    def pixels(self, batch: int, seed: int = 0) -> NDArray[np.float32]:
        """Random images; for a step those on which no rounding error falls on the other side of 0, which are most."""
        random = np.random.default_rng(seed)
        if self.case.activation != "step":
            return random.integers(0, 256, (batch, 3, self.size, self.size)).astype(np.float32)
        images = random.integers(0, 256, (4 * batch, 3, self.size, self.size)).astype(np.float32)
        differences = np.abs(run(self.graph.model, images)["logits"] - self.logits(images)).max(1)
        assert (differences <= 1e-4).mean() >= 0.5
        return images[np.argsort(differences)[:batch]]

    def logits(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return copy.deepcopy(self.before).eval()(torch.from_numpy(pixels)).numpy()  # type: ignore[no-any-return]

    def modules(self, kind: type[nn.Module]) -> dict[str, nn.Module]:
        return {name: module for name, module in self.classifier.network.named_modules() if isinstance(module, kind)}


def assert_close(actual: NDArray[np.float64], expected: NDArray[np.float32], name: str) -> None:
    """Within what float32 can hold at this tensor's scale."""
    assert actual.shape == expected.shape, name
    assert np.abs(actual - expected).max() <= 1e-5 * (1 + np.abs(expected).max()), name


def run(model: onnx.ModelProto, pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Every output of the graph, from a stock ONNX Runtime."""
    return graphs.run(model, pixels)


def observed(classifier: PixelClassifier, pixels: NDArray[np.float32]) -> dict[str, tuple[Tensor, Tensor]]:
    """(First input, output) of every module of the network, by forward hooks."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
        for name, module in classifier.network.named_modules()
    ]
    with torch.no_grad():
        classifier.eval()(torch.from_numpy(pixels))
    for hook in hooks:
        hook.remove()
    return seen


def saturated(region: Saturation, x: NDArray[np.float64]) -> NDArray[np.float64]:
    below = -np.inf if region.below is None else np.float32(region.below)
    above = np.inf if region.above is None else np.float32(region.above)
    return ((x <= below) | (x >= above)).mean((2, 3))  # type: ignore[no-any-return]


def strings(message: Message) -> Iterator[str]:
    """Every text in a protobuf message, but not the weights."""
    for field, value in message.ListFields():
        for item in value if field.is_repeated else [value]:
            if isinstance(item, Message):
                yield from strings(item)
            elif isinstance(item, str):
                yield item
            elif isinstance(item, bytes) and field.name not in ("raw_data",):
                yield item.decode(errors="replace")


def manifest(exported: Exported) -> ModelManifest:
    graph = exported.graph
    described = graphs.manifest("rectifier", sites=graph.sites, blocks=graph.blocks)
    shape = (-1, 3, exported.size, exported.size)
    return described.model_copy(update={"inputs": (described.inputs[0].model_copy(update={"shape": shape}),)})
