"""Whether a run may go on from a checkpoint: of its network, recipe and data, and of draws it can go on with."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from training.loop.differences import differences
from training.loop.random_state import RandomState
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

MOST_NAMED = 3


def check_state(
    state: dict[str, Any],
    network: NetworkConfig,
    recipe: Recipe,
    data_digest: str,
    model: nn.Module,
    checkpoint: Path,
) -> None:
    """Raise `ValueError` for the state of another network, recipe or data set, naming what differs."""
    wanted = {"network": asdict(network), "recipe": asdict(recipe), "data_digest": data_digest}
    # What older ones do not mention is taken for the same.
    stored = {
        name: {**each, **state.get(name, {})} if isinstance(each, dict) else state.get(name, each)
        for name, each in wanted.items()
    }
    if found := differences(stored, wanted):
        raise ValueError(f"checkpoint {checkpoint} is of another run ({'; '.join(found)}): use another --run")
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state.get("model", {}).items()}
    if found := differences(theirs, shapes):
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise ValueError(
            f"checkpoint {checkpoint} has other weights ({'; '.join(found[:MOST_NAMED])}{more}): use another --run"
        )


def check_draws(state: dict[str, Any], random: RandomState, processes: int, checkpoint: Path) -> None:
    """Raise `ValueError` where the network drew random numbers in an epoch that as many processes cannot go on with."""
    stored = state.get("random", [])
    alike = not stored or (len(stored) == processes and random.fits(stored[0]))
    if state.get("drawn") and not alike:
        raise ValueError(
            f"checkpoint {checkpoint} was written within an epoch by {len(stored)} processes, each of which drew "
            f"random numbers: go on with as many, on the same kind of device, not with {processes}"
        )
