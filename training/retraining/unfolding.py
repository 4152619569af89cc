"""Weights of a published graph → the network that they are of, with normalisations that can be trained again.

A graph has no batch normalisation where it was folded into the convolution before: W' = γ/σ·W, b' = β − γμ/σ. Which
γ, μ and σ it was is lost, and for evaluation does not matter. For training it does: there, a normalisation uses the
moments of its batch, which must be near those that it has. So they are measured, on images: μ and σ² of what comes in,
then γ = σ and β = b' + μ. In evaluation that is the published function; in training it is the same one but for the
batch's chance.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from training.activations.entry import ActivationModule
from training.classifier import PixelClassifier
from training.export.sites import NETWORK

FOLDED_BIAS = ".weight_bias"
"""Behind the name of a convolution: the bias that its normalisation became."""


def read_back(classifier: PixelClassifier, model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> None:
    """Give `classifier` the weights of the graph that was made of such a one; `pixels` N×C×H×W are for the moments.

    What a graph does not name stays as it is built: the caller compares logits.
    """
    published = {each.name: _tensor(each) for each in model.graph.initializer}
    state = classifier.state_dict()
    found = {name: published[short] for name in state if (short := name.removeprefix(NETWORK)) in published}
    found |= _slopes(classifier, published, found)
    fitting = {name: tensor.reshape(state[name].shape) for name, tensor in found.items() if _fits(tensor, state[name])}
    classifier.load_state_dict(fitting, strict=False)
    classifier.eval()
    _unfold(classifier, published, set(fitting), torch.from_numpy(pixels).float())


def _tensor(initializer: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(initializer).copy())


def _fits(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.numel() == expected.numel() and tensor.is_floating_point()


def _slopes(
    classifier: PixelClassifier, published: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What activations learned goes by another name in a graph: the only one of its size under the same module."""
    slopes = {}
    for path, module in classifier.named_modules():
        if not isinstance(module, ActivationModule):
            continue
        missing = {name: value for name, value in module.named_parameters() if f"{path}.{name}" not in found}
        inputs = [value for name, value in published.items() if name.startswith(f"{path.removeprefix(NETWORK)}.")]
        for name, parameter in missing.items():
            fitting = [value for value in inputs if _fits(value, parameter)]
            if len(fitting) == 1:
                slopes[f"{path}.{name}"] = fitting[0]
    return slopes


def _unfold(classifier: PixelClassifier, published: Mapping[str, Tensor], known: set[str], pixels: Tensor) -> None:
    """Give every normalisation that the graph lacks the moments of what it reads, and undo them by weight and bias."""
    paths = {module: path for path, module in classifier.named_modules()}
    makers: dict[int, str] = {}
    folded: dict[nn.BatchNorm2d, tuple[str, Tensor]] = {}

    def made(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        makers[id(output)] = paths[module].removeprefix(NETWORK)
        kept.append(output)

    def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        folded[module] = (makers.get(id(inputs[0]), ""), inputs[0])

    # As long as they are kept, no other tensor has their identity.
    kept: list[Tensor] = []
    handles = [module.register_forward_hook(made) for module in paths if isinstance(module, nn.Conv2d)]
    lacking = [m for m in paths if isinstance(m, nn.BatchNorm2d) and f"{paths[m]}.running_mean" not in known]
    for module in lacking:
        _neutralise(module)
        handles.append(module.register_forward_pre_hook(read))
    try:
        with torch.no_grad():
            # Twice: with the biases that are found by the first run, the second sees what the graph computes.
            classifier(pixels[:2])
            biases = {module: published.get(f"{maker}{FOLDED_BIAS}") for module, (maker, _) in folded.items()}
            for module, bias in biases.items():
                if bias is not None:
                    module.bias.copy_(bias)
            kept.clear()
            makers.clear()
            classifier(pixels)
            for module, (_, x) in folded.items():
                _restore(module, x)
    finally:
        for handle in handles:
            handle.remove()


def _neutralise(module: nn.BatchNorm2d) -> None:
    """The identity, but for its bias."""
    assert module.running_mean is not None
    assert module.running_var is not None
    with torch.no_grad():
        module.weight.fill_(1)
        module.bias.zero_()
        module.running_mean.zero_()
        module.running_var.fill_(1 - module.eps)


def _restore(module: nn.BatchNorm2d, x: Tensor) -> None:
    assert module.running_mean is not None
    assert module.running_var is not None
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    module.running_mean.copy_(mean)
    module.running_var.copy_(variance)
    module.weight.copy_((variance + module.eps).sqrt())
    module.bias.add_(mean)
