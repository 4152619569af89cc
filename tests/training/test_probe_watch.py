"""Probes of a training that goes on: what they keep, what they say, and that they change nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.small import Crash, SilentBar, problem
from training.activations.catalogue import find_activation
from training.initialisers.entry import weighted
from training.loop.trainer import Trainer
from training.loop.watch import Moment, Watch
from training.probes.keepers import ProbeFile, Spoken, TensorBoard, scalars
from training.probes.probing import Probing
from training.probes.reading import LayerReading, NetworkReading, WeightReading
from training.probes.warnings import warnings
from training.probes.watch import ProbeWatch
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

LAYER = LayerReading("layer1.0.act1", 0.1, 1.0, 0.0, 0.0, 0.0, 5.0, {})
WEIGHT = WeightReading("layer1.0.conv1", 1e-3, 0.1, 1e-3)


class Steps(Watch):
    """Keeps the first convolution's weights before and after each step, and its gradient."""

    def __init__(self) -> None:
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []
        self.gradients: list[np.ndarray] = []

    def before_step(self, moment: Moment) -> None:
        self.before.append(self._first(moment).detach().double().numpy().copy())

    def after_backward(self, moment: Moment) -> None:
        gradient = self._first(moment).grad
        assert gradient is not None
        self.gradients.append(gradient.double().numpy().copy())

    def after_step(self, moment: Moment) -> None:
        self.after.append(self._first(moment).detach().double().numpy().copy())

    def _first(self, moment: Moment) -> torch.Tensor:
        return next(layer.weight for _, layer in weighted(moment.model))


def _train(watches: list[Watch], checkpoint: Path, activation: str = "rrelu") -> Trainer:
    config = NetworkConfig("resnet8", activation, classes=3, channels=1)
    trainer = Trainer(config, Recipe(epochs=2, batch_size=10), problem(), torch.device("cpu"))
    trainer.watches.extend(watches)
    trainer.train(checkpoint, SilentBar())
    return trainer


def test_what_is_kept_is_what_the_steps_were_and_nothing_else_changes(tmp_path: Path) -> None:
    steps = Steps()
    probes = ProbeWatch(find_activation("rrelu"), 3, [ProbeFile(tmp_path / "probes.jsonl")])
    watched = _train([probes, steps], tmp_path / "watched.pt")
    alone = _train([], tmp_path / "alone.pt")
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name])
    lines = [json.loads(line) for line in (tmp_path / "probes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 3, 6]
    for line in lines:
        at = line["step"]
        assert line["layers"][0] == "act1"
        assert line["gradient_rms"][0] == pytest.approx(np.sqrt(np.mean(steps.gradients[at] ** 2)), rel=1e-3)
        size = np.sqrt(np.mean(steps.before[at] ** 2))
        change = np.sqrt(np.mean((steps.after[at] - steps.before[at]) ** 2))
        assert line["update_ratio"][0] == pytest.approx(change / size, rel=1e-3)
    assert not any(module._forward_hooks for module in watched.model.modules())


@pytest.mark.parametrize(
    ("layers", "weights", "first", "sentence"),
    [
        ([], [replace(WEIGHT, gradient_rms=3e-9)], False, "gradient of layer1.0.conv1 has vanished: 3e-09"),
        ([], [replace(WEIGHT, gradient_rms=0.0)] * 3, False, "gradient of layer1.0.conv1 has vanished: 0e+00"),
        ([], [replace(WEIGHT, update_ratio=20.0)], False, "changed the weights of layer1.0.conv1 by 2e+01 times"),
        ([], [replace(WEIGHT, update_ratio=1e-9)], False, "layer1.0.conv1 by no more than 1e-09 of their size"),
        ([], [replace(WEIGHT, gradient_rms=3e4)], False, "gradient of layer1.0.conv1 has exploded: 3e+04"),
        ([], [replace(WEIGHT, gradient_rms=float("inf"), update_ratio=0.0)], False, "of layer1.0.conv1 is no number"),
        ([], [replace(WEIGHT, update_ratio=0.0)], False, "layer1.0.conv1 by no more than 0e+00 of their size"),
        ([replace(LAYER, saturated=0.6, usual=0.0)], [], False, "60% of the inputs of layer1.0.act1 are where it is"),
        ([replace(LAYER, saturated=0.97)], [], False, "97% of the inputs of layer1.0.act1 are where it is flat"),
        ([LAYER, replace(LAYER, name="act1", std=0.01)], [], True, "of layer1.0.act1 are 100 times as large as those"),
        ([LAYER, replace(LAYER, name="b", dead_units=0.75)], [], False, "75% of the units of b are dead"),
        ([replace(LAYER, mean=float("nan"))], [], False, "the output of layer1.0.act1 is no number any more"),
        ([LAYER, replace(LAYER, rank=1.0)], [], False, "after layer1.0.act1 images differ in one direction alone"),
    ],
)
def test_trouble_is_said_in_words(
    layers: list[LayerReading], weights: list[WeightReading], first: bool, sentence: str
) -> None:
    (said,) = warnings(NetworkReading(tuple(layers), tuple(weights)), 0 if first else 5).values()
    assert sentence in said


def test_what_is_well_gives_no_warning() -> None:
    assert warnings(NetworkReading((LAYER, LAYER), (WEIGHT, WEIGHT)), 0) == {}
    # Branches that start from 0.
    silent = NetworkReading((LAYER,), (replace(WEIGHT, gradient_rms=0.0, update_ratio=None),))
    assert warnings(silent, 0) == {}
    # Channels that are padded with zeros, behind branches that start from 0, two steps later still.
    empty = replace(LAYER, dead_units=0.75, saturated=1.0)
    waiting = NetworkReading((LAYER, empty), (replace(WEIGHT, gradient_rms=0.0, update_ratio=None), WEIGHT))
    assert warnings(waiting, 0) == warnings(waiting, 2) == {}
    assert set(warnings(waiting, 3)) == {"gradient", "dead", "saturation"}
    # Scales differ once training is on its way.
    assert warnings(NetworkReading((LAYER, replace(LAYER, std=99.0)), ()), 5) == {}


def test_each_kind_of_trouble_is_said_once() -> None:
    said: list[str] = []
    spoken = Spoken(said.append)
    model = torch.nn.Linear(1, 1)
    moment = Moment(4, 0, model, torch.optim.SGD(model.parameters(), lr=0.1), 0.1)
    reading = NetworkReading((), ())
    spoken.keep(moment, reading, {"dead": "60% are dead"})
    spoken.keep(moment, reading, {"dead": "70% are dead", "rank": "no rank"})
    assert said == ["warning: step 5: 60% are dead", "warning: step 5: no rank"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = torch.nn.Linear(1, 1)
    reading = NetworkReading((replace(LAYER, learned={"weight": (0.25, 0.1, 0.4)}),), (WEIGHT,))
    moment = Moment(7, 0, model, torch.optim.SGD(model.parameters(), lr=0.1), 0.1)
    board = TensorBoard(tmp_path)
    board.begin(0)
    board.keep(moment, reading, {"dead": "60% are dead"})
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    (found,) = events.Scalars("gradient_rms/layer1.0.conv1")
    assert (found.step, found.value) == (7, pytest.approx(1e-3))
    assert set(events.Tags()["scalars"]) == set(scalars(reading))
    assert scalars(reading)["learned/layer1.0.act1.weight"] == 0.25


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_run_is_kept_without_gap_or_duplicate(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config, recipe = NetworkConfig("resnet8", classes=3, channels=1), Recipe(epochs=2, batch_size=10)

    def part(crash: int | None) -> None:
        trainer = Trainer(config, recipe, problem(), torch.device("cpu"))
        probing = Probing(probe_every=2, tensorboard=tmp_path / "board")
        trainer.watches.extend(probing.watches(find_activation("relu"), tmp_path, print))
        if crash is not None:
            trainer.watches.append(Crash(crash))
        if (tmp_path / "checkpoint.pt").exists():
            trainer.restore(tmp_path / "checkpoint.pt")
        trainer.train(tmp_path / "checkpoint.pt", SilentBar())

    # Steps 4 and 6 are made twice, the second time after the checkpoint of the first epoch.
    with pytest.raises(RuntimeError, match="power"):
        part(crash=6)
    with (tmp_path / "probes.jsonl").open("a") as file:
        file.write('{"step": 7, "epo')
    part(crash=None)
    lines = [json.loads(line) for line in (tmp_path / "probes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    events = accumulator.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert [event.step for event in events.Scalars("gradient_rms/conv1")] == [0, 2, 4, 6]
    assert [event.step for event in events.Scalars("held_out_accuracy")] == [3, 7]
    assert [event.step for event in events.Scalars("loss")] == [0]


def test_the_record_sums_up_what_was_found(tmp_path: Path) -> None:
    file = ProbeFile(tmp_path / "probes.jsonl")
    assert file.summary() is None
    model = torch.nn.Linear(1, 1)
    for step, found in ((0, {}), (100, {"dead": "60% are dead"}), (200, {"dead": "70% are dead"})):
        moment = Moment(step, 0, model, torch.optim.SGD(model.parameters(), lr=0.1), 0.1)
        file.keep(moment, NetworkReading((LAYER,), (WEIGHT,)), found)
    expected = {"dead": {"sentence": "60% are dead", "steps": [100, 200]}}
    assert file.summary() == {"readings": 3, "last_step": 200, "warnings": expected}
    # A run that an older version began.
    file.path.write_text('{"step": 0, "warnings": ["60% are dead"]}\n')
    expected = {"60% are dead": {"sentence": "60% are dead", "steps": [0]}}
    assert file.summary() == {"readings": 1, "last_step": 0, "warnings": expected}


def test_a_full_disk_does_not_stop_training(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "probes.jsonl").symlink_to("/dev/full")
    file = ProbeFile(tmp_path / "probes.jsonl", said.append)
    model = torch.nn.Linear(1, 1)
    moment = Moment(0, 0, model, torch.optim.SGD(model.parameters(), lr=0.1), 0.1)
    for _ in range(2):
        file.keep(moment, NetworkReading((LAYER,), (WEIGHT,)), {})
    (sentence,) = said
    assert sentence.endswith("probes.jsonl cannot be written (No space left on device): training goes on")


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="probe_every=-1 is not allowed"):
        Probing(probe_every=-1)
    assert Probing(probe_every=0).watches(find_activation("relu"), tmp_path, print) == []
