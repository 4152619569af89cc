"""What can go wrong with a served network or its traffic, to be done to both on purpose."""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image, ImageFilter

from models.manifest import ModelManifest

Pixels = NDArray[np.uint8]
Tensor = NDArray[np.float32]
Network = onnx.ModelProto


class Fault(NamedTuple):
    """One fault: of the weights, of the pixels, of the input tensor, or of the classes that come."""

    description: str
    expected: tuple[str, ...]
    """Rules of which at least one should find it."""
    weights: Callable[[Network, ModelManifest], Network] | None = None
    pixels: Callable[[Image.Image, np.random.Generator], Image.Image] | None = None
    tensor: Callable[[Tensor], Tensor] | None = None
    classes: tuple[int, ...] = ()
    """Classes that become five times as frequent."""


def _convolution_before(graph: onnx.GraphProto, tensor: str, avoid: str = "") -> onnx.NodeProto:
    """The last convolution on the way to `tensor`, on a path that does not come from `avoid`."""
    makers = {output: node for node in graph.node for output in node.output}
    node: onnx.NodeProto = makers[tensor]
    while node.op_type != "Conv":
        node = next(makers[name] for name in node.input if name in makers and name != avoid)
    return node


def _rescaled(network: Network, node: onnx.NodeProto, factor: NDArray[np.float32] | float) -> Network:
    """A copy with weights and bias of one convolution multiplied, by output channel."""
    changed = onnx.ModelProto()
    changed.CopyFrom(network)
    for constant in changed.graph.initializer:
        if constant.name in node.input[1:]:
            values = numpy_helper.to_array(constant)
            scale = np.reshape(factor, (-1,) + (1,) * (values.ndim - 1))
            constant.CopyFrom(numpy_helper.from_array((values * scale).astype(np.float32), constant.name))
    return changed


def _inner_site(manifest: ModelManifest) -> str:
    """The tensor of an activation inside a block, halfway through the network."""
    ends = {block.output for block in manifest.blocks} | {block.shortcut for block in manifest.blocks}
    inner = [site.tensor for site in manifest.sites if site.tensor not in ends] or [manifest.sites[-1].tensor]
    return inner[len(inner) // 2]


def kill_channels(network: Network, manifest: ModelManifest) -> Network:
    """Every other channel of one convolution puts out nothing."""
    node = _convolution_before(network.graph, _inner_site(manifest))
    width = next(int(w.dims[0]) for w in network.graph.initializer if w.name == node.input[1])
    return _rescaled(network, node, (np.arange(width) % 2).astype(np.float32))


def scale_weights(network: Network, manifest: ModelManifest) -> Network:
    """One convolution four times as strong, its bias too: exactly where `exploding` begins."""
    return _rescaled(network, _convolution_before(network.graph, _inner_site(manifest)), 4.0)


def zero_branches(network: Network, manifest: ModelManifest) -> Network:
    """Two neighbouring blocks add nothing to their shortcuts."""
    first = len(manifest.blocks) // 2
    for block in manifest.blocks[first : first + 2]:
        network = _rescaled(network, _convolution_before(network.graph, block.output, avoid=block.shortcut), 0.0)
    return network


def blur(radius: float) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    """Gaussian, σ in pixels."""
    return lambda image, _: image.filter(ImageFilter.GaussianBlur(radius))


def noise(sigma: float) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    """Gaussian, σ of 255."""

    def add(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        pixels = np.asarray(image, np.float32)
        noisy = pixels + generator.normal(0, sigma, pixels.shape)
        return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))

    return add


def compress(quality: int) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    """JPEG, once more."""

    def again(image: Image.Image, _: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        with Image.open(file) as opened:
            return opened.convert(image.mode)

    return again


def break_some(tensor: Tensor) -> Tensor:
    """One NaN in every hundredth image."""
    broken = tensor.copy()
    broken[::100, 0, 0, 0] = np.nan
    return broken


_SHIFT = ("drift", "out_of_distribution")

FAULTS: dict[str, Fault] = {
    "channels killed": Fault("half of one layer's channels", ("dead_channels", "dying_layer"), weights=kill_channels),
    "weights ×4": Fault("of one convolution", ("exploding", *_SHIFT), weights=scale_weights),
    "branches zeroed": Fault("two neighbouring blocks", ("branch_ignored",), weights=zero_branches),
    "blur 0.5": Fault("Gaussian, σ = 0.5 pixels", _SHIFT, pixels=blur(0.5)),
    "blur 1": Fault("Gaussian, σ = 1 pixel", _SHIFT, pixels=blur(1.0)),
    "noise 5": Fault("Gaussian, σ = 5 of 255", _SHIFT, pixels=noise(5)),
    "noise 15": Fault("Gaussian, σ = 15 of 255", _SHIFT, pixels=noise(15)),
    "JPEG 50": Fault("compressed again, quality 50", _SHIFT, pixels=compress(50)),
    "JPEG 10": Fault("compressed again, quality 10", _SHIFT, pixels=compress(10)),
    "label mix": Fault("three classes five times as frequent", ("class_mix",), classes=(3, 5, 6)),
    "NaN": Fault("one NaN in 1 % of the images", ("not_finite",), tensor=break_some),
}
