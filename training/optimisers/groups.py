"""Which parameters decay, and which learn at a share of the learning rate."""

from dataclasses import dataclass

from torch import Tensor, nn

from training.resnet.attention import AttentionWeights
from training.resnet.normalisers import Multiplier, ScalarBias


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike."""

    parameters: list[nn.Parameter]
    weight_decay: float
    share: float = 1.0
    """Of the learning rate."""


def parameter_groups(network: nn.Module, weight_decay: float, scalar_share: float = 1.0) -> list[Group]:
    """All parameters of `network` that learn, each in one group, in the order of the network.

    What features are multiplied with as a matrix decays: weights of convolutions and linear layers, of both kinds in
    recurrent cells, and the query of an attention, which is a 1×1 convolution to one score. Norms, biases, slopes and
    scalars do not: a smaller one is not a simpler network, and decay pulls a slope towards ReLU (He 2015, PReLU). The
    scalars of a normaliser learn at `scalar_share` of the rate (Zhang 2019: a tenth).
    """
    matrices = _matrices(network)
    scalars = _scalars(network) if scalar_share != 1 else set()
    parameters = [each for each in network.parameters() if each.requires_grad]
    groups = [
        Group([each for each in parameters if each in matrices], weight_decay),
        Group([each for each in parameters if each not in matrices | scalars], 0.0),
        Group([each for each in parameters if each in scalars], 0.0, scalar_share),
    ]
    return [group for group in groups if group.parameters]


def _matrices(network: nn.Module) -> set[Tensor]:
    found: set[Tensor] = set()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            found.add(module.weight)
        elif isinstance(module, nn.RNNBase):
            found.update(weight for name, weight in module.named_parameters() if name.startswith("weight_"))
        elif isinstance(module, AttentionWeights):
            found.add(module.query)
    return found


def _scalars(network: nn.Module) -> set[Tensor]:
    owners = (module for module in network.modules() if isinstance(module, ScalarBias | Multiplier))
    return {parameter for owner in owners for parameter in owner.parameters()}
