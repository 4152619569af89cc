"""`python -m training train`"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from training.commands.data import print_skipped
from training.data.card import LISTED
from training.data.sources import NEEDS, DataConfig, load_data
from training.recipe import Recipe
from training.resnet.network import NetworkConfig
from training.run import Run, RunConfig


def train(
    data: DataConfig = DataConfig(),  # noqa: B008  (frozen)
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    network: str = "resnet8",
    activation: str = "relu",
    activation_parameters: dict[str, float] | None = None,
    arrangement: str = "original",
    shortcut: str = "identity",
    shortcut_parameters: dict[str, float] | None = None,
    normaliser: str = "batch",
    head: str = "linear",
    regularisers: dict[str, float] | None = None,
    run: Path | None = None,
    resume: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
) -> None:
    """Train a network; with no option a small one on digits, in seconds.

    Args:
        data: What to learn from.
        recipe: How.
        network: Key of the network catalogue.
        activation: Key of the activation catalogue; `python -m training activations` lists it.
        activation_parameters: Parameters of the activation by name, for example `alpha 0.5`.
        arrangement: Key of the arrangement catalogue.
        shortcut: Key of the catalogue of shortcuts.
        shortcut_parameters: Parameters of the shortcut by name, for example `bias -7`.
        normaliser: Key of the normaliser catalogue.
        head: Key of the head catalogue.
        regularisers: Rates by name, for example `dropout 0.3 stochastic_depth 0.5`, and their parameters, for
            example `dropblock 0.1 dropblock.size 5`.
        run: Folder of the run; runs/<data>-<network>-<activation>-<arrangement> and what else
            is not at its default if not given.
        resume: Go on with the run in the folder, if there is one.
        device: Where to train; auto takes CUDA where there is one.
        threads: CPU threads; one for each core if not given.
    """
    chosen = choose_device(device)
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads={threads} is not allowed: use at least 1")
        torch.set_num_threads(threads)
    data = data.resolved()
    if recipe.pretrained:
        recipe = replace(recipe, pretrained=str(Path(recipe.pretrained).resolve()))
    loaded = load_data(data)
    print_skipped(loaded.skipped[:LISTED], len(loaded.skipped))
    config = NetworkConfig(
        network,
        activation,
        arrangement,
        len(loaded.class_names),
        loaded.preprocessing.channels,
        activation_parameters or {},
        shortcut,
        shortcut_parameters or {},
        normaliser,
        head,
        regularisers or {},
    )
    asked = RunConfig(config, data, recipe)
    this = Run(run or Path("runs") / _name(asked), asked)
    trainer = this.train(loaded, chosen, resume)
    result = trainer.evaluate()
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
