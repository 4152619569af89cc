"""Weights that others published → a network of ours: every name and shape must be what the network has."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.weights.file import Weights

# Counts the batches behind running statistics; older checkpoints have none, and it changes no logit.
COUNTER = "num_batches_tracked"
# What the last linear layer is called, by family.
CLASSIFIERS = ("fc", "linear", "classifier", "head")
# What others call parts that have another name here.
RENAMED_PARTS = {"shortcut": "downsample"}
LISTED = 8
LONGEST_NAME = 100


@dataclass(frozen=True)
class _Fit:
    """How tensors of a file fit a network, by name."""

    missing: list[str]
    extra: list[str]
    misshapen: list[str]
    unusable: list[str]
    """No real numbers, not finite, or a variance below 0."""


def load_weights(network: nn.Module, weights: Weights, *, other_classes: bool = False) -> tuple[str, ...]:
    """Give `network` the weights and running statistics of a state dictionary in torchvision's or the CIFAR layout.

    With `other_classes`, a classifier of another number of classes is left out: that of the network stays as it is.
    Returns the names of what was left out.

    Raises `ValueError` when a name is missing, too many, of another shape, or has numbers that are not finite; it
    lists them, and the network stays as it was.
    """
    expected = network.state_dict()
    classifier = _classifier(network)
    tensors = _renamed(weights.tensors, expected, classifier)
    left_out: tuple[str, ...] = ()
    if classifier and (theirs := _other_classes(tensors, expected, classifier)) is not None:
        if not other_classes:
            ours = len(expected[f"{classifier}.weight"])
            raise ValueError(
                f"{weights.path} tells {theirs} classes apart, and the network {ours}: give {theirs} class names"
            )
        left_out = tuple(name for name in expected if name.startswith(f"{classifier}."))
        tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
        expected = {name: tensor for name, tensor in expected.items() if name not in left_out}
    if wrong := _describe(_compare(tensors, expected)):
        raise ValueError(
            f"{weights.path} does not fit the network: {wrong}: name the architecture and options it is of"
        )
    network.load_state_dict(tensors, strict=False)
    return left_out


def count_classes(network: nn.Module, weights: Weights) -> int:
    """How many classes weights of `network`, whatever its own classes, tell apart; raises `ValueError` if none do."""
    expected, classifier = network.state_dict(), _classifier(network)
    name = f"{classifier}.weight"
    tensor = _renamed(weights.tensors, expected, classifier).get(name)
    if tensor is None or tensor.ndim != 2:
        raise ValueError(
            f"{weights.path} has no matrix {name}, whose rows are the classes: name the architecture and options it is "
            "of, and give --classes"
        )
    return len(tensor)


def _classifier(network: nn.Module) -> str | None:
    """Name of the last linear layer."""
    return next((name for name, part in reversed([*network.named_modules()]) if isinstance(part, nn.Linear)), None)


def _renamed(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], classifier: str | None
) -> dict[str, Tensor]:
    """The tensors under the names that the network has for parts that are called otherwise elsewhere."""
    ours = {part for name in expected for part in name.split(".")}
    parts = {theirs: part for theirs, part in RENAMED_PARTS.items() if theirs not in ours}
    if classifier in CLASSIFIERS and not any(name.startswith(f"{classifier}.") for name in tensors):
        parts |= {other: classifier for other in CLASSIFIERS if other not in ours}
    return {".".join(parts.get(part, part) for part in name.split(".")): tensor for name, tensor in tensors.items()}


def _other_classes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], classifier: str) -> int | None:
    """The number of classes of a classifier that differs in nothing else."""
    name = f"{classifier}.weight"
    if name not in tensors or tensors[name].ndim != 2 or tensors[name].shape[1] != expected[name].shape[1]:
        return None
    theirs = len(tensors[name])
    return None if theirs == len(expected[name]) else theirs


def _compare(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> _Fit:
    present = [name for name in expected if name in tensors]
    fitting = [name for name in present if tensors[name].shape == expected[name].shape]
    return _Fit(
        missing=[name for name in expected if name not in tensors and not name.endswith(COUNTER)],
        extra=[name for name in tensors if name not in expected],
        misshapen=[
            f"{name} ({_shape(tensors[name])}, expected {_shape(expected[name])})"
            for name in present
            if name not in fitting
        ],
        unusable=[name for name in fitting if not _usable(name, tensors[name])],
    )


def _usable(name: str, tensor: Tensor) -> bool:
    if name.endswith(COUNTER):
        return True
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or not tensor.is_floating_point():
        return False
    # As the network holds it: what is finite in 64 bits need not be in 32.
    values = tensor.float()
    return bool(torch.isfinite(values).all()) and not (name.endswith("running_var") and bool((values < 0).any()))


def _describe(fit: _Fit) -> str:
    """What does not fit, by name; empty where all does."""
    kinds = {
        "missing": fit.missing,
        "extra": fit.extra,
        "misshapen": fit.misshapen,
        "not finite or no weights": fit.unusable,
    }
    return "; ".join(f"{kind}: {_listing(names)}" for kind, names in kinds.items() if names)


def _listing(names: Iterable[str]) -> str:
    shown = [name if len(name) <= LONGEST_NAME and name.isprintable() else repr(name[:LONGEST_NAME]) for name in names]
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return ", ".join(shown[:LISTED]) + more


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
