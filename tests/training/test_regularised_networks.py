"""Networks with regularisers: built, evaluated, exported, trained and resumed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from tests.training.regularising import within
from tests.training.small import SilentBar, problem, randomise
from training.classifier import PixelClassifier
from training.commands.train import train
from training.data.images import DataSet
from training.data.sources import DataConfig
from training.export.graph import export
from training.loop.trainer import Trainer
from training.recipes.recipe import Recipe
from training.regularisers.catalogue import REGULARISERS
from training.regularisers.rate import Rate, find_rates, set_progress
from training.regularisers.stochastic_depth import StochasticDepth
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.block import ResidualBlock
from training.resnet.network import NetworkConfig, build_network
from training.run import Run, RunConfig, training_record

CPU = torch.device("cpu")
# One of each place, that together disturb whatever can be.
ALL = {"disout": 0.2, "dropconnect": 0.2, "stochastic_depth": 0.3}
CHOICES: list[dict[str, float]] = [*({name: 0.3} for name in REGULARISERS), ALL]
choices = pytest.mark.parametrize("regularisers", CHOICES, ids="+".join)
# The whole catalogue, up to three at once, for what takes seconds.
COVERING: list[dict[str, float]] = [
    ALL,
    {"dropout": 0.2, "targeted_dropout": 0.3, "stochastic_depth": 0.2},
    {"annealed_dropout": 0.3, "targeted_dropout": 0.3},
    {"standout": 0.3, "dropconnect": 0.2},
    {"dropblock": 0.2, "stochastic_depth": 0.2},
]
covering = pytest.mark.parametrize("regularisers", COVERING, ids="+".join)


def test_the_catalogue_is_covered() -> None:
    assert {name for chosen in COVERING for name in chosen} == set(REGULARISERS)


def network(regularisers: Mapping[str, float], **parts: str) -> nn.Module:
    torch.manual_seed(0)
    return build_network(NetworkConfig("resnet8", channels=1, classes=3, regularisers=regularisers, **parts))


def at_full(module: nn.Module) -> nn.Module:
    """In training mode and each regulariser at its full rate."""
    module.train()
    for part in module.modules():
        if isinstance(rate := getattr(part, "rate", None), Rate):
            rate.progress = max((0.0, 1.0), key=rate.schedule)
    return module


@choices
def test_the_state_dictionary_and_first_weights_are_those_without(regularisers: dict[str, float]) -> None:
    """So that checkpoints load, whatever they were trained with, and runs can be compared."""
    plain, regularised = network({}).state_dict(), network(regularisers).state_dict()
    assert list(plain) == list(regularised)
    assert all(torch.equal(plain[name], regularised[name]) for name in plain)
    build_network(NetworkConfig("resnet8", channels=1, classes=3)).load_state_dict(regularised, strict=True)


@choices
@pytest.mark.parametrize(
    ("arrangement", "activation"), [*zip(ARRANGEMENTS, ("relu", "crelu", "glu", "mish", "crelu"), strict=True)]
)
def test_evaluation_is_that_of_the_network_without(
    regularisers: dict[str, float], arrangement: str, activation: str
) -> None:
    """Bit for bit; in training the two differ. Some activations change the number of channels."""
    plain = network({}, arrangement=arrangement, activation=activation)
    regularised = network(regularisers, arrangement=arrangement, activation=activation)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), regularised.eval()(x))
        assert not torch.allclose(plain.train()(x), at_full(regularised)(x))


@choices
def test_every_weight_learns(regularisers: dict[str, float]) -> None:
    torch.manual_seed(0)
    module = at_full(network(regularisers, arrangement="full_preactivation"))
    module(torch.randn(16, 1, 8, 8)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def wholly(model: ModelProto) -> tuple[list[object], dict[str, Tensor]]:
    """Every node with its name and edges, and every weight."""
    nodes: list[object] = [
        (node.op_type, node.domain, node.name, tuple(node.input), tuple(node.output)) for node in model.graph.node
    ]
    weights = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in model.graph.initializer
    }
    return nodes, weights


def exported(regularisers: Mapping[str, float]) -> ModelProto:
    module = network(regularisers)
    randomise(module)
    return export(PixelClassifier(at_full(module), [128.0], [64.0]), "relu", (1, 8, 8)).model


@pytest.fixture(scope="module")
def plain() -> ModelProto:
    return exported({})


@covering
def test_nothing_is_left_behind_in_an_exported_graph(regularisers: dict[str, float], plain: ModelProto) -> None:
    nodes, weights = wholly(exported(regularisers))
    expected_nodes, expected_weights = wholly(plain)
    assert nodes == expected_nodes
    assert list(weights) == list(expected_weights)
    assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)


class TestPlaces:
    def test_dropout_stands_before_every_convolution_but_the_first(self) -> None:
        module = build_network(NetworkConfig("resnet8", regularisers={"dropout": 0.3}))
        for block in (part for part in module.modules() if isinstance(part, ResidualBlock)):
            assert [name for name in block.steps if name.startswith(("conv", "drop"))] == ["conv1", "drop2", "conv2"]

    def test_weights_of_branches_are_regularised_and_no_others(self) -> None:
        module = build_network(NetworkConfig("resnet50", regularisers={"dropconnect": 0.3}))
        found = {name for name, part in module.named_modules() if name.endswith(".regulariser") and part is not None}
        convolutions = {name for name, part in module.named_modules() if isinstance(part, nn.Conv2d)}
        branches = {name for name in convolutions if ".conv" in name}
        assert found == {f"{name}.regulariser" for name in branches}
        assert convolutions - branches == {"conv1", *(f"layer{n}.0.downsample.0" for n in (1, 2, 3, 4))}

    @pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet50"])
    def test_survival_falls_linearly_over_the_blocks(self, name: str) -> None:
        """Huang 2016: p_l = 1 − l/L·(1 − p_L), at every moment of training."""
        with torch.device("meta"):
            module = build_network(NetworkConfig(name, regularisers={"stochastic_depth": 0.4}))
        parts = [part for part in module.modules() if isinstance(part, StochasticDepth)]
        blocks = [part for part in module.modules() if isinstance(part, ResidualBlock)]
        assert len(parts) == len(blocks)
        for progress in (0.0, 0.5, 1.0):
            set_progress(find_rates(module), progress)
            for number, part in enumerate(parts, start=1):
                assert 1 - part.rate.now == pytest.approx(1 - number / len(blocks) * (1 - 0.6))

    def test_blocks_survive_as_often_as_that(self) -> None:
        """What leaves a block whose branch was left out is its shortcut."""
        module = network({"stochastic_depth": 0.6}, arrangement="full_preactivation").train()
        ends: dict[str, Tensor] = {}
        for name, part in module.named_modules():
            if isinstance(part, StochasticDepth):
                part.register_forward_hook(lambda _m, _i, out, name=name: ends.update({name: out}))
        images = 3000
        with torch.no_grad():
            module(torch.randn(images, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
        assert len(ends) == 3
        for number, end in enumerate(ends.values(), start=1):
            survived = (end != 0).flatten(1).any(1).double().mean().item()
            assert within(survived, 1 - number / 3 * 0.6, images)

    def test_refused_where_nothing_would_come_through(self) -> None:
        with pytest.raises(ValueError, match="'stochastic_depth' needs shortcuts"):
            network({"stochastic_depth": 0.5}, shortcut="none")

    def test_each_convolution_has_its_own_mask(self) -> None:
        module = build_network(NetworkConfig("resnet50", regularisers={"dropout": 0.3}))
        block = module.get_submodule("layer1.0")
        assert block.get_submodule("drop2") is not block.get_submodule("drop3")


class Stop(Exception):  # noqa: N818
    pass


class StoppingBar(SilentBar):
    def line(self, text: str) -> None:
        raise Stop(text)


def configured(regularisers: Mapping[str, float], activation: str = "relu") -> NetworkConfig:
    return NetworkConfig("resnet8", activation, classes=3, channels=1, regularisers=regularisers)


def trained(config: NetworkConfig, recipe: Recipe, path: Path, data: DataSet | None = None) -> Trainer:
    run = Trainer(config, recipe, data or problem(), CPU)
    run.train(path, SilentBar())
    return run


def weights(run: Trainer) -> dict[str, Tensor]:
    return {**run.model.state_dict(), **{f"averaged.{name}": v for name, v in run.averaged.state_dict().items()}}


def assert_identical(first: Trainer, second: Trainer) -> None:
    one, other = weights(first), weights(second)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert first.history == second.history


class TestTraining:
    @covering
    def test_same_seed_same_weights_in_one_go_or_resumed(self, regularisers: dict[str, float], tmp_path: Path) -> None:
        """Masks are drawn anew in every process; rates follow their schedule from wherever a run goes on."""
        recipe = Recipe(epochs=3, batch_size=16, seed=5, mixup_alpha=0.4, cutmix_alpha=1.0)
        whole = trained(configured(regularisers), recipe, tmp_path / "whole.pt")
        path = tmp_path / "resumed.pt"
        for number in range(recipe.epochs):
            torch.manual_seed(number)
            torch.rand(number + 1)
            part = Trainer(configured(regularisers), recipe, problem(), CPU)
            if path.exists():
                part.restore(path)
            with pytest.raises(Stop):
                part.train(path, StoppingBar())
        last = Trainer(configured(regularisers), recipe, problem(), CPU)
        last.restore(path)
        assert_identical(last, whole)

    @choices
    def test_it_makes_a_difference(self, regularisers: dict[str, float], tmp_path: Path) -> None:
        recipe = Recipe(epochs=2, batch_size=16)
        runs = [trained(configured(chosen), recipe, tmp_path / "c.pt") for chosen in ({}, regularisers)]
        assert not torch.equal(weights(runs[0])["network.conv1.weight"], weights(runs[1])["network.conv1.weight"])

    def test_at_rate_0_it_makes_none(self, tmp_path: Path) -> None:
        recipe = Recipe(epochs=1, batch_size=16)
        still = {"targeted_dropout": 0.0, "stochastic_depth": 0.0, "dropout": 0.0}
        runs = [trained(configured(chosen), recipe, tmp_path / "c.pt") for chosen in ({}, still)]
        assert_identical(*runs)

    @pytest.mark.parametrize(("name", "formula"), [("annealed_dropout", lambda t: 1 - t), ("dropblock", lambda t: t)])
    def test_rates_follow_their_formula_step_by_step(self, name: str, formula: Callable[[float], float]) -> None:
        """40 images in batches of 16, 16 and 8, so three steps an epoch; also of a run that is gone on with."""
        run = Trainer(configured({name: 0.4}), Recipe(epochs=4, batch_size=16), problem(), CPU)
        seen: list[float] = []
        (first, *_) = (part for part in run.model.modules() if hasattr(part, "rate"))
        first.register_forward_pre_hook(lambda *_: seen.append(first.rate.now))
        run.epoch = 1
        for _ in range(2):
            run._train_epoch(SilentBar())
            run.epoch += 1
        assert seen == pytest.approx([0.4 * formula(step / 12) for step in range(3, 9)])

    def test_masks_are_drawn_by_the_seed_and_anew_every_epoch(self) -> None:
        """Two epochs that start from the same weights and see the same images differ by their masks alone."""
        recipe = Recipe(batch_size=64, crop_padding=0)
        runs = [Trainer(configured({"dropout": 0.3}), recipe, problem(mirrored=False), CPU) for _ in range(3)]
        runs[2].epoch = 1
        losses = [run._train_epoch(SilentBar()) for run in runs]
        assert losses[0] == losses[1] != losses[2]

    @covering
    def test_a_network_learns(self, regularisers: dict[str, float], tmp_path: Path) -> None:
        recipe = Recipe(epochs=4, batch_size=8)
        assert (
            trained(configured(regularisers), recipe, tmp_path / "c.pt", problem(training=120)).evaluate().accuracy
            >= 0.9
        )

    def test_weights_decay_as_without(self) -> None:
        run = Trainer(configured({"dropconnect": 0.1}), Recipe(weight_decay=0.25), problem(), CPU)
        decays = {id(p): group["weight_decay"] for group in run.optimiser.param_groups for p in group["params"]}
        weight = run.model.network.get_submodule("layer1.0.conv1").weight
        assert decays[id(weight)] == 0.25


class TestRun:
    def test_what_was_asked_for_is_stored_and_recorded(self, tmp_path: Path) -> None:
        chosen = {"dropblock": 0.2, "dropblock.size": 3.0}
        run = Run(tmp_path / "run", RunConfig(configured(chosen), DataConfig(), Recipe(epochs=1, cutmix_alpha=1.0)))
        trainer = run.train(problem(), CPU, resume=False)
        assert RunConfig.read(run.folder) == run.config
        options = training_record(run.config, trainer).options
        assert (options["regularisers.dropblock"], options["regularisers.dropblock.size"]) == (0.2, 3.0)
        assert options["cutmix_alpha"] == 1.0
        other = replace(run, config=replace(run.config, network=configured({"dropblock": 0.3})))
        with pytest.raises(ValueError, match=r"regularisers\.dropblock was 0\.2, now 0\.3"):
            other.prepare(resume=True, data_digest="")

    def test_by_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        train(recipe=Recipe(epochs=1, batch_size=512), regularisers={"stochastic_depth": 0.2}, device="cpu")
        folder = tmp_path / "runs" / "digits-resnet8-relu-original-stochastic_depth0.2"
        assert RunConfig.read(folder).network.regularisers == {"stochastic_depth": 0.2}
