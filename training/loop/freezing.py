"""Stages that stay as they are: for fine-tuning."""

from collections.abc import Iterable

from torch import nn

from training.resnet.network import ResNet

STEM = "stem"


def freeze(network: ResNet, names: Iterable[str]) -> list[nn.Module]:
    """The modules of the stages `names`, their parameters fixed; `stem` is all before the first stage.

    Raises `ValueError` for one that the network does not have, or when nothing would be left to learn.
    """
    stages = [name for name in network.order if name.startswith("layer")]
    before = list(network.order[: network.order.index(stages[0])])
    known = [STEM, *(name for name in network.order if name not in before)]
    frozen: list[nn.Module] = []
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {name!r} to freeze; choose from {', '.join(known)}")
        frozen += [network.get_submodule(each) for each in (before if name == STEM else [name])]
    for module in frozen:
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"freeze {' '.join(names)} leaves nothing to learn: leave one out")
    return frozen
