"""Networks that can be run backwards: their inverse, their gradients, and what a training step keeps."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.classifier import PixelClassifier
from training.export.graph import export
from training.regularisers.rate import find_rates, set_progress
from training.resnet.network import NetworkConfig, ResNet, assemble, build_network
from training.resnet.reversible import ReversibleStage, features, invert
from training.resnet.variants import VARIANTS, Variant, find_variant, irevnet, revnet

ARRANGEMENT = "full_preactivation"
# Largest error of inverse(forward(x)), relative to the largest |x|.
INVERSE_BOUND = {torch.float32: 1e-4, torch.float64: 1e-12}


def config(network: str, **others: object) -> NetworkConfig:
    return NetworkConfig(network, arrangement=ARRANGEMENT, **others)  # type: ignore[arg-type]


def build(network: str, size: int = 8, dtype: torch.dtype = torch.float64, **others: object) -> ResNet:
    """With random weights, and running statistics that are those of random images."""
    torch.manual_seed(0)
    model = build_network(config(network, **others)).to(dtype)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        norm.momentum = None
    with torch.no_grad():
        model.train()(images(8, size, dtype))
    return model.eval()


def images(count: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", INVERSE_BOUND)
@pytest.mark.parametrize("network", ["irevnet19", "irevnet109"])
def test_the_image_is_found_again_from_the_features(network: str, dtype: torch.dtype) -> None:
    model = build(network, dtype=dtype)
    x = images(4, 8, dtype)
    with torch.no_grad():
        error = (invert(model, features(model, x)) - x).abs().max() / x.abs().max()
    assert 0 < error <= INVERSE_BOUND[dtype]


@pytest.mark.parametrize("dtype", INVERSE_BOUND)
@pytest.mark.parametrize("network", ["revnet38", "revnet110"])
def test_a_stage_of_a_revnet_is_inverted_where_it_keeps_the_size(network: str, dtype: torch.dtype) -> None:
    model = build(network, dtype=dtype)
    with torch.no_grad():
        x = model.get_submodule("conv1")(images(4, 8, dtype))
        stage = model.get_submodule("layer1")
        assert isinstance(stage, ReversibleStage)
        error = (stage.inverse(stage(x)) - x).abs().max() / x.abs().max()
    assert error <= INVERSE_BOUND[dtype]


def test_what_cannot_be_inverted_says_so() -> None:
    model = build("revnet38")
    with pytest.raises(ValueError, match="block 0 of this stage cannot be inverted: its shortcut is a PaddedShortcut"):
        invert(model, features(model, images(2, 8)))
    with pytest.raises(ValueError, match="no reversible stage"):
        invert(build("resnet8"), torch.zeros(1, 64, 2, 2))
    with pytest.raises(ValueError, match="feature maps of 9×9 cannot be cut"):
        build("irevnet19", size=8)(images(1, 9))


def test_a_unit_of_two_blocks_is_that_of_the_paper() -> None:
    """y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁), with F and G written out."""
    model = build("revnet38")
    stage = model.get_submodule("layer1")
    assert isinstance(stage, ReversibleStage)

    def branch(block: nn.Module, x: Tensor) -> Tensor:
        state = block.state_dict()
        for number in (1, 2):
            weight, bias, mean, variance = (
                state[f"bn{number}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
            )
            scale = weight / (variance + 1e-5).sqrt()
            shift = bias - mean * scale
            x = (x * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
            x = F.conv2d(x, state[f"conv{number}.weight"], padding=1)
        return x

    with torch.no_grad():
        x = images(2, 8).repeat(1, 11, 1, 1)[:, :32]
        x1, x2 = x[:, :16], x[:, 16:]
        for unit in range(3):
            x1 = x1 + branch(stage[2 * unit], x2)
            x2 = x2 + branch(stage[2 * unit + 1], x1)
        assert (stage(x) - torch.cat([x1, x2], 1)).abs().max() <= 1e-12


@pytest.mark.parametrize(
    "regularisers",
    [{}, {"dropout": 0.3}, {"stochastic_depth": 0.5}, {"disout": 0.2, "dropconnect": 0.2, "stochastic_depth": 0.3}],
    ids=str,
)
@pytest.mark.parametrize("network", ["revnet38", "irevnet37"])
def test_gradients_and_statistics_are_those_without_recomputation(
    network: str, regularisers: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "irevnet37", irevnet(37))
    model = build(network, dtype=torch.float32, regularisers=regularisers).train()
    # Of those that rise with training all.
    set_progress(find_rates(model), 1.0)
    recomputed, kept = step(model, True), step(model, False)
    for name, expected in kept.items():
        difference = (recomputed[name] - expected).double().norm()
        assert difference <= 1e-5 * expected.double().norm(), name


def step(model: ResNet, recompute: bool, kind: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """All that one step computes, layers in `kind`: loss, gradients of weights and images, running statistics."""
    model = copy.deepcopy(model)
    for stage in (module for module in model.modules() if isinstance(module, ReversibleStage)):
        stage.recompute = recompute
    x = images(8, 8, torch.float32).requires_grad_()
    torch.manual_seed(5)
    with torch.autocast("cpu", kind, enabled=kind != torch.float32):
        loss = F.cross_entropy(model(x), torch.arange(8))
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    gradients = {f"d{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    buffers = {name: buffer.float() for name, buffer in model.named_buffers()}
    return {"loss": loss.detach(), "images": x.grad, "draw": torch.rand(1), **gradients, **buffers}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_are_no_further_off_than_without_recomputation(kind: torch.dtype) -> None:
    """The backward pass, which is outside of autocast, computes branches in the numbers of the forward pass."""
    # A smooth one: at a kink rounding alone would decide.
    model = build("revnet38", dtype=torch.float32, activation="softplus").train()
    exact = flat(step(model, False))
    recomputed, kept = flat(step(model, True, kind)), flat(step(model, False, kind))
    assert (recomputed - exact).norm() <= 1.5 * (kept - exact).norm() <= 0.1 * exact.norm()


def flat(values: dict[str, Tensor]) -> Tensor:
    """The gradients of the weights."""
    return torch.cat(
        [value.flatten().double() for name, value in values.items() if name.endswith((".weight", ".bias"))]
    )


@pytest.mark.parametrize("build_variant", [lambda n: revnet(6 * n + 2, (8, 16, 32)), lambda n: irevnet(9 * n + 1)])
def test_what_a_training_step_keeps_does_not_grow_with_depth(build_variant: object) -> None:
    assert callable(build_variant)
    kept = [saved_bytes(assemble(build_variant(n), config("revnet38"))) for n in (2, 4, 12)]
    assert kept[0] == kept[1] == kept[2] > 0
    unlike = assemble(build_variant(12), config("revnet38"))
    for module in unlike.modules():
        if isinstance(module, ReversibleStage):
            module.recompute = False
    assert saved_bytes(unlike) > 3 * kept[2]


def saved_bytes(model: nn.Module) -> int:
    """Of all tensors but parameters that are kept for the backward pass, each counted once."""
    own = {parameter.data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(images(4, 16, torch.float32)).sum()
    return sum(sizes.values())


@pytest.mark.parametrize(
    ("network", "others", "reason"),
    [
        ("revnet38", {"arrangement": "original"}, "nothing may follow the sum"),
        ("irevnet19", {"arrangement": "relu_only_preactivation"}, "which normalises there"),
        ("revnet38", {"arrangement": ARRANGEMENT, "shortcut": "conv_1x1"}, "found again by subtraction"),
        ("irevnet19", {"arrangement": ARRANGEMENT, "shortcut": "none"}, "found again by subtraction"),
        ("irevnet19", {"arrangement": ARRANGEMENT, "channels": 33}, "33 channels of an image do not fit into 32"),
    ],
)
def test_what_does_not_go_together_is_refused(network: str, others: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_network(NetworkConfig(network, **others))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variant", "activation"), [(revnet(14, (8, 16, 32)), "relu"), (irevnet(10), "crelu")], ids=["revnet", "irevnet"]
)
def test_the_graph_is_a_plain_one(variant: Variant, activation: str) -> None:
    """One node an activation, one sum a block, and the logits of PyTorch, which the export itself checks."""
    torch.manual_seed(0)
    model = assemble(variant, config("revnet38", activation=activation))
    exported = export(PixelClassifier(model, (127.5,) * 3, (64.0,) * 3), activation, (3, 8, 8))
    blocks = sum(variant.depths)
    assert len(exported.blocks) == blocks
    assert len(exported.sites) == (3 if variant.branch == "quartered" else 2) * blocks + 1
    assert sum(node.op_type == "Add" for node in exported.model.graph.node) == blocks
    assert all(node.domain in ("", "reslens") for node in exported.model.graph.node)


def test_published_sizes() -> None:
    """Gomez 2017, table 1: 0.46 and 1.73 million parameters, as the ResNet-32 and ResNet-110 have."""
    for network, millions in {"revnet38": 0.46, "revnet110": 1.73}.items():
        with torch.device("meta"):
            model = assemble(find_variant(network), config(network))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
