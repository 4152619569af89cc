"""`python -m training train`"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from training.activations.catalogue import find_activation
from training.commands.data import print_skipped
from training.commands.parts import Parts
from training.commands.report import reported
from training.data.card import LISTED
from training.data.sources import NEEDS, DataConfig, load_data
from training.loop.checkpoint import Saving
from training.loop.world import joined, only_first, own_device
from training.probes.probing import Probing
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.run import Run, RunConfig
from training.tracking.keeper import tracked
from training.tracking.tracking import Tracking


def train(
    data: DataConfig = DataConfig(),  # noqa: B008  (frozen)
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    parts: Parts = Parts(),  # noqa: B008  (frozen)
    network: str = "resnet8",
    regularisers: dict[str, float] | None = None,
    run: Path | None = None,
    resume: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    saving: Saving = Saving(),  # noqa: B008  (frozen)
    probing: Probing = Probing(),  # noqa: B008  (frozen)
    tracking: Tracking = Tracking(),  # noqa: B008  (frozen)
    json: Path | None = None,
) -> None:
    """Train a network; with no option a small one on digits, in seconds.

    Args:
        data: What to learn from.
        recipe: How.
        parts: What the network is made of.
        network: Key of the network catalogue.
        regularisers: Rates by name, for example `dropout 0.3 stochastic_depth 0.5`, and their parameters, for
            example `dropblock 0.1 dropblock.size 5`.
        run: Folder of the run; runs/<data>-<network>-<activation>-<arrangement> and what else
            is not at its default if not given.
        resume: Go on with the run in the folder, if there is one.
        device: Where to train; auto takes CUDA where there is one.
        threads: CPU threads; one for each core if not given.
        saving: When.
        probing: What is read of the layers meanwhile.
        tracking: Who else is told.
        json: File for a report of how it ended, for programs; `-` is standard output.
    """
    with reported(json) as report, joined(choose_device(device)) as world, only_first(world):
        if threads is not None:
            if threads < 1:
                raise ValueError(f"threads={threads} is not allowed: use at least 1")
            torch.set_num_threads(threads)
        data = data.resolved()
        if recipe.pretrained:
            recipe = replace(recipe, pretrained=str(Path(recipe.pretrained).resolve()))
        loaded = load_data(data)
        print_skipped(loaded.skipped[:LISTED], len(loaded.skipped))
        config = parts.network(network, len(loaded.class_names), loaded.preprocessing.channels, regularisers)
        asked = RunConfig(config, data, recipe)
        this = Run(run or Path("runs") / _name(asked), asked)
        report["folder"] = str(this.folder)
        activation = find_activation(config.activation, config.activation_parameters)
        processes = str(world.size)
        told = tracking.of(this, loaded, print, processes=processes) if world.first else None
        watches = probing.watches(activation, this.folder, print, [told] if told else []) if world.first else []
        with tracked(told, report):
            trainer = this.train(loaded, own_device(choose_device(device)), resume, saving, world, watches)
            result = trainer.evaluate()
            report |= {
                "accuracy": result.accuracy,
                "loss": result.loss,
                "images": result.images,
                "epochs": trainer.epoch,
                "seconds": round(trainer.seconds, 1),
                "processes": world.size,
            }
        print(f"held-out accuracy {result.accuracy:.2%} on {result.images} images after {trainer.seconds:.0f} s")
        print(f"publish it with: python -m training publish {this.folder} --name NAME")


def _name(config: RunConfig) -> str:
    """Of the run's folder: data, network, activation, arrangement, and what else is not at its default."""
    data, network, recipe = config.data, config.network, config.recipe
    parts = [Path(data.data_dir).name if data.data_dir and data.data in NEEDS else data.data, network.network]
    parts += [network.activation, *_given(network.activation_parameters), network.arrangement]
    optional = {
        "shortcut": (network.shortcut, network.shortcut_parameters),
        "normaliser": (network.normaliser, {}),
        "head": (network.head, {}),
    }
    for option, (key, parameters) in optional.items():
        if key != getattr(NetworkConfig(), option) or parameters:
            parts += [key, *_given(parameters)]
    parts += _given(network.regularisers)
    if recipe.recipe != Recipe().recipe:
        parts.append(recipe.recipe)
    if recipe.initialiser != Recipe().initialiser or recipe.initialiser_parameters:
        parts += [recipe.initialiser, *_given(recipe.initialiser_parameters)]
    return "-".join(parts)


def _given(parameters: Mapping[str, float]) -> list[str]:
    return [f"{key}{value:g}" for key, value in parameters.items()]


def choose_device(device: str) -> torch.device:
    """The device named, or the best there is; raises `ValueError` when CUDA is asked for and absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but PyTorch finds no CUDA device: use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
