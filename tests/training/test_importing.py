"""Published state dictionaries: layouts that were written down independently give the logits that they give there."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.training.layouts import CifarLayout, ImageNetLayout, trained
from training.resnet.network import NetworkConfig, build_network
from training.weights.file import read_weights
from training.weights.importing import load_weights

Layout = Callable[[], nn.Module]

LAYOUTS: dict[str, tuple[Layout, int]] = {
    "resnet20": (partial(CifarLayout, 3), 10),
    "resnet56": (partial(CifarLayout, 9), 10),
    "resnet110": (partial(CifarLayout, 18), 10),
    "resnet1202": (partial(CifarLayout, 200), 10),
    "resnet18": (partial(ImageNetLayout, [2, 2, 2, 2], deep=False), 1000),
    "resnet34": (partial(ImageNetLayout, [3, 4, 6, 3], deep=False), 1000),
    "resnet50": (partial(ImageNetLayout, [3, 4, 6, 3], deep=True), 1000),
    "resnet101": (partial(ImageNetLayout, [3, 4, 23, 3], deep=True), 1000),
    "resnet152": (partial(ImageNetLayout, [3, 8, 36, 3], deep=True), 1000),
    "wide_resnet50_2": (partial(ImageNetLayout, [3, 4, 6, 3], deep=True, base=128), 1000),
    "wide_resnet101_2": (partial(ImageNetLayout, [3, 4, 23, 3], deep=True, base=128), 1000),
    "resnext50_32x4d": (partial(ImageNetLayout, [3, 4, 6, 3], deep=True, groups=32, base=4), 1000),
    "resnext101_32x8d": (partial(ImageNetLayout, [3, 4, 23, 3], deep=True, groups=32, base=8), 1000),
}


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_names_and_shapes_are_the_published_ones(name: str) -> None:
    layout, classes = LAYOUTS[name]
    with torch.device("meta"):
        ours, published = build_network(NetworkConfig(name, classes=classes)), layout()
    assert shapes(ours) == shapes(published)


def test_tweaked_networks_have_the_names_of_their_checkpoints() -> None:
    with torch.device("meta"):
        tweaked = shapes(build_network(NetworkConfig("resnet50d", classes=1000)))
        squeezed = shapes(build_network(NetworkConfig("se_resnet50", classes=1000)))
    stem = {"conv1.0": (32, 3, 3, 3), "conv1.1": (32,), "conv1.3": (32, 32, 3, 3), "conv1.4": (32,)}
    stem |= {"conv1.6": (64, 32, 3, 3), "bn1": (64,)}
    shortcuts = {"layer1.0.downsample.1": (256, 64, 1, 1), "layer2.0.downsample.1": (512, 256, 1, 1)}
    norms = {"layer1.0.downsample.2": (256,), "layer2.0.downsample.2": (512,)}
    for name, shape in {**stem, **shortcuts, **norms}.items():
        assert tweaked[f"{name}.weight"] == shape
    assert not [name for name in tweaked if name.startswith("layer1.0.downsample.0")]
    assert squeezed["layer1.0.se.fc1.weight"] == (16, 256, 1, 1)
    assert squeezed["layer4.2.se.fc2.bias"] == (2048,)


@pytest.mark.parametrize("name", ["resnet20", "resnet56", "resnet18", "resnet50", "resnext50_32x4d"])
def test_logits_are_those_of_the_published_layout(name: str, tmp_path: Path) -> None:
    layout, classes = LAYOUTS[name]
    size = 32 if classes == 10 else 64
    published = trained(layout(), size)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    ours = build_network(NetworkConfig(name, classes=classes))
    load_weights(ours, read_weights(tmp_path / "weights.pth"))
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = published(images), ours.eval()(images)
    assert expected.std() > 0.05
    assert (actual - expected).abs().max() <= 1e-5


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPERS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any]]] = {
    "alone": ("", lambda state: state),
    "cifar": ("state_dict", lambda state: {"state_dict": prefixed("module.", state), "best_prec1": 91.7, "epoch": 3}),
    "torchvision": ("model", lambda state: {"model": state, "optimizer": {"state": {}}, "epoch": 1}),
    "model_state_dict": ("model_state_dict", lambda state: {"model_state_dict": state, "loss": torch.tensor(0.5)}),
    "compiled": ("", lambda state: prefixed("module._orig_mod.", state)),
    "lightning": ("state_dict", lambda state: {"state_dict": prefixed("model.", state)}),
    "averaged": (
        "model_ema",
        lambda state: {
            "model": {name: tensor * 0 for name, tensor in state.items()},
            "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", state)},
        },
    ),
    "averaged, not used": ("state_dict", lambda state: {"state_dict_ema": None, "state_dict": state}),
    "nested": ("ema.model", lambda state: {"ema": {"model": state}}),
    "ours": (
        "averaged",
        lambda state: {
            "averaged": {
                "n_averaged": torch.tensor(7),
                **prefixed("module.", {"mean": torch.zeros(3), "scale": torch.ones(3), **prefixed("network.", state)}),
            }
        },
    ),
    "without counters": ("", lambda state: {name: each for name, each in state.items() if "num_batches" not in name}),
    "other name of the classifier": ("", lambda state: {k.replace("linear", "fc"): v for k, v in state.items()}),
    "half precision": ("", lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()}),
}


@cache
def _small() -> nn.Module:
    return trained(CifarLayout(1), 16)


def small() -> dict[str, Tensor]:
    """A state of 8 layers, to be changed at will."""
    return {name: tensor.clone() for name, tensor in _small().state_dict().items()}


def network(classes: int = 10) -> nn.Module:
    return build_network(NetworkConfig("resnet8", classes=classes))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_wrapped_around_weights_is_taken_off(wrapper: str, tmp_path: Path) -> None:
    entry, wrap = WRAPPERS[wrapper]
    torch.save(wrap(small()), tmp_path / "weights.th")
    ours = network()
    given = read_weights(tmp_path / "weights.th")
    assert load_weights(ours, given) == ()
    assert given.entry == entry
    for name, tensor in ours.state_dict().items():
        if "num_batches" not in name:
            expected = small()[name]
            assert torch.equal(tensor, expected.half().float() if wrapper == "half precision" else expected), name


def test_older_files_are_read(tmp_path: Path) -> None:
    """As PyTorch wrote them before 1.6, and as safetensors."""
    torch.save({"state_dict": small()}, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(small(), tmp_path / "new.safetensors")
    for file in ("old.th", "new.safetensors"):
        ours = network()
        load_weights(ours, read_weights(tmp_path / file))
        assert torch.equal(ours.state_dict()["linear.weight"], small()["linear.weight"])


class TestFineTuning:
    def test_a_classifier_of_other_classes_stays_as_it_was(self, tmp_path: Path) -> None:
        torch.save(small(), tmp_path / "weights.pth")
        ours = network(classes=3)
        before = ours.state_dict()["linear.weight"].clone()
        left_out = load_weights(ours, read_weights(tmp_path / "weights.pth"), other_classes=True)
        assert left_out == ("linear.weight", "linear.bias")
        assert torch.equal(ours.state_dict()["linear.weight"], before)
        assert torch.equal(ours.state_dict()["conv1.weight"], small()["conv1.weight"])

    def test_one_of_the_same_classes_is_taken(self, tmp_path: Path) -> None:
        torch.save(small(), tmp_path / "weights.pth")
        ours = network()
        assert load_weights(ours, read_weights(tmp_path / "weights.pth"), other_classes=True) == ()
        assert torch.equal(ours.state_dict()["linear.weight"], small()["linear.weight"])

    def test_it_is_refused_where_it_was_not_asked_for(self, tmp_path: Path) -> None:
        torch.save(small(), tmp_path / "weights.pth")
        with pytest.raises(ValueError, match="tells 10 classes apart, and the network 3: give 10 class names"):
            load_weights(network(classes=3), read_weights(tmp_path / "weights.pth"))


def refusal(stored: Any, tmp_path: Path) -> str:
    """What is said of a file, and nothing was changed then."""
    torch.save(stored, tmp_path / "weights.pth")
    ours = network()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(ValueError, match=r"weights\.pth") as refused:
        load_weights(ours, read_weights(tmp_path / "weights.pth"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    return str(refused.value)


class TestWhatDoesNotFit:
    def test_everything_is_listed_by_name(self, tmp_path: Path) -> None:
        state = small()
        del state["bn1.bias"], state["layer2.0.conv1.weight"]
        state["layer9.weight"] = torch.ones(1)
        state["layer1.0.conv2.weight"] = torch.ones(16, 16, 1, 1)
        state["linear.bias"][3] = float("nan")
        state["layer3.0.bn1.running_var"][0] = -1
        said = refusal(state, tmp_path)
        assert "missing: bn1.bias, layer2.0.conv1.weight;" in said
        assert "extra: layer9.weight;" in said
        assert "misshapen: layer1.0.conv2.weight (16×16×1×1, expected 16×16×3×3);" in said
        assert "not finite or no weights: layer3.0.bn1.running_var, linear.bias:" in said

    def test_lists_are_bounded(self, tmp_path: Path) -> None:
        said = refusal({f"part{index}": torch.ones(1) for index in range(500)} | {"x" * 9999: torch.ones(1)}, tmp_path)
        assert "and 493 more" in said
        assert len(said) < 2000

    def test_names_that_are_not_printable_are_quoted(self, tmp_path: Path) -> None:
        assert "'a\\nb'" in refusal(small() | {"a\nb": torch.ones(1)}, tmp_path)

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.ones(10, 64, dtype=torch.int32),
            torch.ones(10, 64, dtype=torch.complex64),
            torch.ones(10, 64).to_sparse(),
            torch.full((10, 64), 1e300, dtype=torch.float64),
        ],
        ids=["integers", "complex", "sparse", "beyond single precision"],
    )
    def test_what_are_no_weights_is_refused(self, tensor: Tensor, tmp_path: Path) -> None:
        said = refusal(small() | {"linear.weight": tensor}, tmp_path)
        assert "not finite or no weights: linear.weight" in said

    def test_another_depth(self, tmp_path: Path) -> None:
        said = refusal(CifarLayout(2).state_dict(), tmp_path)
        assert "extra: layer1.1.conv1.weight" in said
        assert "missing" not in said

    def test_a_tensor_that_only_looks_large_is_refused_by_its_shape(self, tmp_path: Path) -> None:
        huge = torch.zeros(1).expand(1 << 40)
        assert f"conv1.weight ({1 << 40}, expected" in refusal(small() | {"conv1.weight": huge}, tmp_path)
