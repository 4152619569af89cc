"""Assembles a residual network from the catalogues. Shapes: images N×C×H×W, logits N×K."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from training.activations.catalogue import find_activation
from training.activations.entry import Activation
from training.regularisers.regularisation import Regularisation, choose_regularisers
from training.resnet.arrangements import ARRANGEMENTS, Arrangement
from training.resnet.block import Extras, Junction, ResidualBlock
from training.resnet.branches import BRANCHES, BranchShape
from training.resnet.dense import check_dense, dense_stages
from training.resnet.heads import HEADS
from training.resnet.merges import Merge, find_merge
from training.resnet.normalisers import NORMALISERS, Normaliser, check_normaliser, give_biases
from training.resnet.reversible import ReversibleStage, check_reversible
from training.resnet.shortcuts import SHORTCUTS, projection_shortcut
from training.resnet.squeeze import SqueezeExcitation
from training.resnet.stems import STEMS
from training.resnet.variants import Variant, find_variant


@dataclass(frozen=True)
class NetworkConfig:
    """What names a network completely: the same configuration builds the same modules."""

    network: str = "resnet20"
    """Key of the variants catalogue."""
    activation: str = "relu"
    """Key of the activation catalogue, used at every site."""
    arrangement: str = "original"
    """Key of the arrangement catalogue."""
    classes: int = 10
    channels: int = 3
    """Channels of the input image."""
    activation_parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the activation that are not at their default, by name."""
    shortcut: str = "identity"
    """Key of the catalogue of merges: what becomes of branch and shortcut where they meet."""
    shortcut_parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the shortcut that are not at their default, by name."""
    normaliser: str = "batch"
    """Key of the normaliser catalogue."""
    head: str = "linear"
    """Key of the head catalogue."""
    regularisers: Mapping[str, float] = field(default_factory=dict)
    """Rates of regularisers by their key, and their parameters as `key.parameter`."""


@dataclass(frozen=True)
class Parts:
    """The parts that all blocks of a network are made of."""

    activation: Activation
    arrangement: Arrangement
    merge: Merge
    merge_parameters: Mapping[str, float]
    normaliser: Normaliser
    regularisation: Regularisation

    def extras(self, position: float, squeeze: int) -> Extras:
        """What belongs to no arrangement, for the block at `position` l/L."""
        squeezing = {"se": lambda width: SqueezeExcitation(width, squeeze)} if squeeze else {}
        ends = {**squeezing, **self.normaliser.ends, **self.regularisation.ends(position)}
        normaliser = self.normaliser
        return Extras(normaliser.build, self.regularisation.inner(position), normaliser.before, normaliser.behind, ends)

    def junction(self, variant: Variant, activated: int, entering: int, summed: int, stride: int) -> Junction | None:
        """The shortcut of a block that is entered by `entering` channels, of which an activation makes `activated`."""
        if not self.merge.joins:
            return None
        if self.merge.projects:
            shortcut: nn.Module = projection_shortcut(activated, summed, stride, self.normaliser.projected)
        elif entering == summed and stride == 1:
            shortcut = nn.Identity()
        else:
            shortcut = SHORTCUTS[variant.shortcut](activated, summed, stride, self.normaliser.projected)
        merge = self.merge.build(summed, self.merge_parameters) if self.merge.build else None
        return Junction(shortcut, merge)


class ResNet(nn.Module):
    """logits = head(stages(stem(images)))."""

    def __init__(self, parts: Mapping[str, nn.Module], smallest: int = 1) -> None:
        """`parts` are run in their order, on images of at least `smallest` × `smallest`."""
        super().__init__()
        self.smallest = smallest
        for name, part in parts.items():
            self.add_module(name, part)
        self.order = tuple(parts)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if min(height, width) < self.smallest:
            raise ValueError(
                f"images of {height}×{width} are too small for this network: it needs {self.smallest}×{self.smallest}"
            )
        x = images
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


def build_network(config: NetworkConfig) -> ResNet:
    """Build the network that `config` names, with PyTorch's default initialisation.

    Raises `ValueError` for an unknown name, an impossible number, or parts that do not go together, naming what does.
    """
    return assemble(find_variant(config.network), config)


def assemble(variant: Variant, config: NetworkConfig) -> ResNet:
    """The network of `config` with `variant` for the one that it names."""
    _check(config)
    _check_shortcut(variant, config)
    key = "none" if variant.stage == "plain" else config.shortcut
    merge, merge_parameters = find_merge(key, config.shortcut_parameters)
    parts = Parts(
        activation=find_activation(config.activation, config.activation_parameters),
        arrangement=ARRANGEMENTS[config.arrangement],
        merge=merge,
        merge_parameters=merge_parameters,
        normaliser=NORMALISERS[config.normaliser],
        regularisation=choose_regularisers(config.regularisers, merge.joins),
    )
    check_normaliser(config.normaliser, config.arrangement, merge.joins)
    # In this order: what is drawn for each part, from one seed, depends on it.
    stem = _stem(variant, parts, config.channels)
    stages, width = _stages(variant, parts)
    head = HEADS[config.head](width, config.classes, variant.classifier)
    network = ResNet(stem | stages | head, variant.smallest)
    if parts.normaliser.biased:
        give_biases(network)
    return network


def _check(config: NetworkConfig) -> None:
    catalogues: dict[str, Mapping[str, object]] = {
        "arrangement": ARRANGEMENTS,
        "normaliser": NORMALISERS,
        "head": HEADS,
    }
    for kind, catalogue in catalogues.items():
        key = getattr(config, kind)
        if key not in catalogue:
            raise ValueError(f"unknown {kind} {key!r}; choose from {', '.join(catalogue)}")
    if config.classes < 2:
        raise ValueError(f"classes={config.classes} is not allowed: a classifier needs at least 2")
    if config.channels < 1:
        raise ValueError(f"channels={config.channels} is not allowed: an image has at least 1")


def _check_shortcut(variant: Variant, config: NetworkConfig) -> None:
    if variant.stage == "dense":
        check_dense(config.network, config.arrangement, config.shortcut, config.normaliser, config.regularisers)
    if variant.stage == "reversible":
        check_reversible(config.network, config.arrangement, config.shortcut, variant.stem)
    if variant.stage == "plain" and config.shortcut not in ("identity", "none"):
        raise ValueError(
            f"network {config.network!r} has no shortcuts, so there is no place for shortcut {config.shortcut!r}: "
            "leave it at 'identity', or choose a residual network"
        )


def _stem(variant: Variant, parts: Parts, channels: int) -> dict[str, nn.Module]:
    """Before pre-activated blocks it ends without an activation, and normalised only if they do not begin with that."""
    width = parts.activation.width_before(variant.entering)
    stem = STEMS[variant.stem](channels, variant.entering, parts.activation, parts.normaliser.build)
    between: dict[str, nn.Module] = {}
    if "bn" not in parts.arrangement.before:
        between["bn1"] = parts.normaliser.build(width)
    if not parts.arrangement.preactivated:
        between["act1"] = parts.activation.build(width)
    return {**stem.before, **between, **stem.after}


def _stages(variant: Variant, parts: Parts) -> tuple[dict[str, nn.Module], int]:
    """The stages by name, with what follows the last sum of pre-activated blocks; and the channels that leave them."""
    arrangement, activation = parts.arrangement, parts.activation
    if variant.stage == "dense":
        stages, width = dense_stages(variant, activation, parts.normaliser.build)
    else:
        stages, width = _residual_stages(variant, parts)
    if arrangement.preactivated:
        before = activation.width_before(width)
        if "bn" in arrangement.before:
            stages["final_bn"] = parts.normaliser.build(before)
        stages["final_act"] = activation.build(before)
    if parts.normaliser.before is not None:
        stages["final_bias"] = parts.normaliser.before(activation.width_after(width))
    return stages, activation.width_after(width)


def _residual_stages(variant: Variant, parts: Parts) -> tuple[dict[str, nn.Module], int]:
    """The stages by name, and the nominal width of what leaves them."""
    width_in, expansion = variant.entering // variant.streams, BRANCHES[variant.branch].expansion
    join = ReversibleStage if variant.stage == "reversible" else nn.Sequential
    built = 0
    stages: dict[str, nn.Module] = {}
    for number, (depth, width) in enumerate(zip(variant.depths, variant.widths, strict=True), start=1):
        blocks = []
        for index in range(depth):
            stride = 2 if number > 1 and index == 0 else 1
            built += 1
            blocks.append(_block(variant, parts, width_in, width, stride, built / sum(variant.depths)))
            width_in = width * expansion
        stages[f"layer{number}"] = join(*blocks)
    return stages, width_in * variant.streams


def _block(variant: Variant, parts: Parts, width_in: int, width: int, stride: int, position: float) -> ResidualBlock:
    """A block from the nominal width `width_in` to that of its stage; `position` is l/L, 1 for the last of all.

    Every convolution, a shortcut's too, reads what an activation gave and writes what one takes; a block of
    pre-activated ones is entered by a sum.
    """
    branch, arrangement, activation = BRANCHES[variant.branch], parts.arrangement, parts.activation
    width_out = width * branch.expansion
    activated = activation.width_after(width_in)
    entering = activation.width_before(width_in) if arrangement.preactivated else activated
    summed = activation.width_after(width_out) if arrangement.sums_activated else activation.width_before(width_out)
    shape = BranchShape(activated, width, round(width * variant.inner_width), stride, variant.groups)
    convolutions = [
        parts.regularisation.convolution(convolution, position)
        for convolution in branch.convolutions(shape, activation)
    ]
    # What goes around a block of a reversible stage never went through an activation of it.
    source = entering if variant.stage == "reversible" else activated
    junction = parts.junction(variant, source, entering, summed, stride)
    return ResidualBlock(
        entering, convolutions, junction, arrangement, activation, parts.extras(position, variant.squeeze)
    )
