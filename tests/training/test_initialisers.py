"""Weights before the first step against the formulas of their papers, and what training makes of them."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.training.small import SilentBar, problem
from training.data import digits
from training.initialisers import INITIALISERS, find_initialiser, initialise
from training.initialisers.autoencoder import pretrain, reconstruction_error
from training.initialisers.entry import convolutions, weighted
from training.loop.trainer import Trainer
from training.recipes.recipe import Recipe
from training.resnet.merges import Gating
from training.resnet.network import NetworkConfig, ResNet, build_network

CPU = torch.device("cpu")
WIDE = NetworkConfig("wrn_16_4")
PLAIN_NORM = replace(WIDE, network="resnet20", normaliser="none")


def built(config: NetworkConfig, key: str, images: Tensor | None = None, **parameters: float) -> ResNet:
    torch.manual_seed(0)
    network = build_network(config)
    initialise(network, key, parameters, images)
    return network


def images(count: int = 32, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


# Of a weight with n_in inputs and n_out outputs; He 2015, LeCun 1998, Glorot & Bengio 2010.
VARIANCES = {
    "he": lambda _, n_out: 2 / n_out,
    "he_fan_in": lambda n_in, _: 2 / n_in,
    "lecun": lambda n_in, _: 1 / n_in,
    "glorot": lambda n_in, n_out: 2 / (n_in + n_out),
    "gaussian": lambda *_: 0.01**2,
}


def paired(key: str) -> str:
    return "uniform" if key == "gaussian" else f"{key}_uniform"


@pytest.mark.parametrize("uniform", [False, True], ids=["normal", "uniform"])
@pytest.mark.parametrize("key", VARIANCES)
def test_variance_and_distribution(key: str, uniform: bool) -> None:
    network = built(WIDE, paired(key) if uniform else key)
    for name, layer in weighted(network):
        if key.startswith("he") and isinstance(layer, nn.Linear):
            continue
        weight = layer.weight.detach().double()
        kernel = weight[0, 0].numel()
        expected = VARIANCES[key](weight.shape[1] * kernel, weight.shape[0] * kernel)
        count = weight.numel()
        # Kurtosis 3 and 1.8: the variance of a sample's variance is (kurtosis − 1) / n. Five standard deviations.
        kurtosis = 1.8 if uniform else 3.0
        assert weight.var().item() == pytest.approx(expected, rel=5 * math.sqrt((kurtosis - 1) / count)), name
        assert abs(weight.mean().item()) <= 5 * math.sqrt(expected / count), name
        if uniform:
            assert weight.abs().max() <= math.sqrt(3 * expected) * (1 + 1e-6), name
        else:
            assert (weight.abs() > math.sqrt(3 * expected)).any(), name


def test_std_is_a_parameter() -> None:
    for key in ("gaussian", "uniform"):
        layer = dict(weighted(built(WIDE, key, std=0.2)))["layer3.1.conv2"]
        assert layer.weight.std().item() == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("config", [WIDE, NetworkConfig("resnext29_8x64d")], ids=lambda config: config.network)
def test_orthogonal_keeps_lengths(config: NetworkConfig) -> None:
    network = built(config, "orthogonal", gain=1.5)
    grouped = 0
    for name, layer in weighted(network):
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        grouped += groups > 1
        for weight in layer.weight.detach().flatten(1).chunk(groups):
            short = weight if weight.shape[0] <= weight.shape[1] else weight.T
            assert (short @ short.T - 2.25 * torch.eye(len(short))).abs().max() < 1e-4, name
    assert bool(grouped) == ("resnext" in config.network)


def test_delta_orthogonal_is_a_convolution_that_keeps_lengths() -> None:
    network = built(WIDE, "delta_orthogonal", gain=1.0)
    for name, convolution in convolutions(network):
        weight = convolution.weight.detach()
        if max(convolution.stride) == 1 and weight.shape[0] >= weight.shape[1]:
            x = torch.randn(2, weight.shape[1], 8, 8)
            torch.testing.assert_close(convolution(x).norm(), x.norm(), msg=name)
        middle = weight.shape[2] // 2
        rest = weight.clone()
        rest[:, :, middle, middle] = 0
        assert not rest.any()


@pytest.mark.parametrize("normaliser", ["batch", "none", "skipinit"])
@pytest.mark.parametrize("arrangement", ["original", "full_preactivation"])
def test_lsuv_gives_every_layer_unit_variance(normaliser: str, arrangement: str) -> None:
    config = NetworkConfig("resnet20", normaliser=normaliser, arrangement=arrangement, shortcut="shortcut_only_gating")
    network = built(config, "lsuv", images())
    fresh = {name: buffer.clone() for name, buffer in build_network(config).named_buffers()}
    assert all(torch.equal(buffer, fresh[name]) for name, buffer in network.named_buffers()), "nothing is left behind"
    seen: dict[str, float] = {}
    for name, layer in weighted(network):
        bias = torch.zeros(()) if layer.bias is None else layer.bias.detach()
        layer.register_forward_hook(
            lambda _m, _i, out, name=name, bias=bias: seen.update(
                {name: (out - (bias[:, None, None] if bias.ndim and out.ndim == 4 else bias)).var().item()}
            )
        )
    network.train()(images())
    assert len(seen) == len(dict(weighted(network)))
    assert seen == {name: pytest.approx(1, rel=1e-3) for name in seen}


def test_he_keeps_the_scale_of_plain_rectifiers_and_glorot_loses_half_of_it_a_layer() -> None:
    """He 2015, section 2.2: E[y²] stays with 2/n, and halves in every layer with 1/n."""
    squares = {}
    for key in ("he_fan_in", "lecun"):
        # Of one width all the way: padding at the borders costs a little.
        network = nn.Sequential(*[part for _ in range(20) for part in (nn.Conv2d(64, 64, 1), nn.ReLU())])
        torch.manual_seed(0)
        initialise(network, key)
        for layer in network:
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            x = torch.relu(torch.randn(8, 64, 8, 8))
            squares[key] = (network(x).square().mean() / x.square().mean()).item()
    assert 0.1 < squares["he_fan_in"] < 10
    assert squares["lecun"] / squares["he_fan_in"] == pytest.approx(2**-20, rel=1e-3)


@pytest.mark.parametrize(("network", "inner"), [("resnet20", 1), ("resnet50", 2)])
def test_fixup_scales_branches(network: str, inner: int) -> None:
    """Zhang 2019, section 3: L^(−1/(2m − 2)), the last convolution and the classifier 0."""
    module = built(NetworkConfig(network, normaliser="fixup"), "fixup")
    depth = {"resnet20": 9, "resnet50": 16}[network]
    for name, convolution in convolutions(module):
        weight = convolution.weight.detach().double()
        of_he = 2 / (weight.shape[0] * weight[0, 0].numel())
        if re.search(rf"layer\d\.\d+\.conv{inner + 1}$", name):
            assert not weight.any(), name
        else:
            scale = depth ** (-1 / (2 * inner)) if re.search(r"layer\d\.\d+\.conv", name) else 1
            tolerance = 5 * math.sqrt(2 / weight.numel())
            assert weight.var().item() == pytest.approx(of_he * scale**2, rel=tolerance), name
    logits = module(images(2, 64))
    assert not logits.any(), "the classifier starts at 0"


@pytest.mark.parametrize(
    ("initialiser", "normaliser"), [("zero_gamma", "batch"), ("fixup", "fixup"), ("he", "skipinit"), ("fixup", "none")]
)
def test_blocks_start_as_their_shortcut(initialiser: str, normaliser: str) -> None:
    """With ReLU, what entered a block that keeps its shape leaves it."""
    module = built(NetworkConfig("resnet20", normaliser=normaliser), initialiser).train()
    seen = {}
    for name in ("layer1.0", "layer2.2", "layer3.1"):
        module.get_submodule(name).register_forward_hook(
            lambda _m, inputs, out, name=name: seen.update({name: torch.equal(inputs[0], out)})
        )
    module(images())
    assert seen == dict.fromkeys(seen, True)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("initialiser", "config", "message"),
    [
        ("fixup", NetworkConfig("resnet8"), "batch normalisation would undo it"),
        ("fixup", NetworkConfig("resnet8", normaliser="skipinit"), "multiplies it by 0"),
        ("fixup", NetworkConfig("plain20", normaliser="none"), "no shortcut beside each"),
        ("zero_gamma", NetworkConfig("plain20"), "no shortcut beside each"),
        ("zero_gamma", NetworkConfig("resnet8", arrangement="full_preactivation"), "end with batch normalisation"),
        ("zero_gamma", NetworkConfig("resnet8", arrangement="bn_after_addition"), "end with batch normalisation"),
        ("zero_gamma", NetworkConfig("resnet8", normaliser="none"), "end with batch normalisation"),
        ("lsuv", NetworkConfig("resnet8"), "needs images"),
        ("pretrained", NetworkConfig("resnet8"), "needs a file of weights"),
        ("magic", NetworkConfig("resnet8"), "unknown initialiser 'magic'; choose from he, "),
    ],
)
def test_what_has_no_meaning_is_refused(initialiser: str, config: NetworkConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(config, initialiser)


@pytest.mark.parametrize(
    ("key", "parameters", "message"),
    [
        ("he", {"std": 0.1}, "initialiser 'he' has no parameter 'std'; it has: none"),
        ("gaussian", {"std": 0.0}, "std=0.0 of initialiser 'gaussian' is not allowed"),
        ("orthogonal", {"gain": float("inf")}, "gain=inf of initialiser 'orthogonal' is not allowed"),
        ("layerwise_autoencoder", {"steps": 1.5}, "steps=1.5 of initialiser"),
        ("layerwise_autoencoder", {"steps": 1e9}, "steps=1000000000.0 of initialiser"),
    ],
)
def test_impossible_parameters(key: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_initialiser(key, parameters)


@pytest.mark.parametrize("key", [key for key, entry in INITIALISERS.items() if not entry.needs_weights])
def test_gates_keep_their_bias_and_activations_their_values(key: str) -> None:
    config = NetworkConfig("resnet8", "prelu", "original", 3, 3, shortcut="exclusive_gating")
    normaliser = "fixup" if key == "fixup" else "batch"
    parameters = {"steps": 2.0} if key == "layerwise_autoencoder" else {}
    network = built(replace(config, normaliser=normaliser), key, images(8, 8), **parameters)
    for module in network.modules():
        if isinstance(module, Gating):
            assert module.gate.bias is not None
            assert (module.gate.bias == -6).all()
    assert (network.get_parameter("act1.weight") == 0.25).all()
    assert (network.get_parameter("bn1.bias") == 0).all()


def test_autoencoder_gives_back_more_of_what_it_reads() -> None:
    read = torch.nn.functional.avg_pool2d(torch.randn(16, 8, 18, 18), 3, 1)
    for layer in (
        nn.Conv2d(8, 8, 3, 1, 1),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.Conv2d(8, 16, 1, 2),
        nn.Conv2d(8, 8, 3, 1, 1, groups=2),
    ):
        before = reconstruction_error(layer, layer.weight, read)
        size = layer.weight.norm().item()
        pretrain(layer, read, steps=40, learning_rate=0.01)
        # Only the pattern is learned.
        assert layer.weight.norm().item() == pytest.approx(size, rel=1e-4)
        assert reconstruction_error(layer, layer.weight, read) < before


def test_autoencoder_goes_through_the_whole_network() -> None:
    start = built(NetworkConfig("resnet8"), "he_fan_in")
    trained = built(NetworkConfig("resnet8"), "layerwise_autoencoder", images(16, 8), steps=3)
    again = built(NetworkConfig("resnet8"), "layerwise_autoencoder", images(16, 8), steps=3)
    for name, convolution in convolutions(start):
        first, second = (network.get_parameter(f"{name}.weight") for network in (trained, again))
        assert not torch.equal(convolution.weight, first), name
        assert torch.equal(first, second)
    assert all(parameter.grad is None for parameter in trained.parameters())


class TestTraining:
    @pytest.mark.parametrize("normaliser", ["batch", "none"])
    def test_zeros_never_break_symmetry(self, normaliser: str, tmp_path: Path) -> None:
        """Real steps on digits: units of a layer stay equal, and nothing but the classes' frequencies is learned."""
        config = NetworkConfig("resnet8", channels=1, normaliser=normaliser)
        recipe = Recipe(epochs=1, batch_size=128, initialiser="zeros", averaging_epochs=0)
        trainer = Trainer(config, recipe, digits.load(), CPU)
        trainer.train(tmp_path / "checkpoint.pt", SilentBar())
        for name, convolution in convolutions(trainer.model.network):
            assert (convolution.weight == convolution.weight[:1]).all(), name
        assert trainer.evaluate().accuracy < 0.15
        linear = trainer.model.network.get_parameter("linear.bias")
        assert linear.std() > 0, "the one thing that can be learned"

    def test_trainer_uses_what_the_recipe_names(self) -> None:
        config = NetworkConfig("resnet8", channels=1, classes=3)
        recipe = Recipe(initialiser="gaussian", initialiser_parameters={"std": 0.5})
        network = Trainer(config, recipe, problem(), CPU).model.network
        assert network.get_parameter("layer3.0.conv2.weight").std().item() == pytest.approx(0.5, rel=0.03)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_fine_tuning_keeps_its_own_classifier(self, suffix: str, tmp_path: Path) -> None:
        source = built(NetworkConfig("resnet8", channels=1, classes=10), "glorot")
        path = tmp_path / f"weights{suffix}"
        state = source.state_dict()
        torch.save(state, path) if suffix == ".pth" else safetensors.torch.save_file(state, path)
        config = NetworkConfig("resnet8", channels=1, classes=3)
        recipe = Recipe(initialiser="pretrained", pretrained=str(path))
        network = Trainer(config, recipe, problem(), CPU).model.network
        own = {"linear.weight", "linear.bias"}
        assert all(torch.equal(network.state_dict()[name], state[name]) for name in state if name not in own)
        assert network.get_parameter("linear.weight").shape == (3, 64)

    def test_a_file_for_another_initialiser_is_refused(self) -> None:
        with pytest.raises(ValueError, match="initialiser 'he' reads no file of weights"):
            Trainer(NetworkConfig("resnet8", channels=1), Recipe(pretrained="x.pth"), problem(), CPU)
