"""Where a network's numbers ceased to be numbers, and what is said of it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from training.outcomes import DivergedError


@torch.no_grad()
def _not_finite(model: nn.Module) -> str:
    """In words, the first parameter or buffer of `model` that is not finite; empty if there is none."""
    for name, values in [*model.named_parameters(), *model.named_buffers()]:
        if not torch.isfinite(values).all():
            return f"{name}, whose values are not finite any more"
    return ""


@torch.no_grad()
def first_not_finite(model: nn.Module, images: Tensor) -> str:
    """In words, the first layer in the order of `model` whose weights, or else whose outputs, are not all finite.

    The images go forward once more, so random parts draw again and running statistics move.
    """
    if where := _not_finite(model):
        return where
    found: list[str] = []

    def look(name: str) -> None:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        handles.append(model.get_submodule(name).register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if name and not any(module.children()):
            look(name)
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return f"{found[0]}, which gave it out" if found else "the loss itself, of finite outputs"


def diverged_in_step(
    loss: float, step: int, epoch: int, where: str, learning_rate: float, checkpoint: Path | None
) -> DivergedError:
    """What is said of a loss of no number at `step`, in the epoch after `epoch` whole ones, that began in `where`."""
    return DivergedError(
        f"the loss is {loss} at step {step + 1}, in epoch {epoch + 1}; it began in {where}; {_kept(checkpoint)}: lower "
        f"learning_rate={learning_rate} in another --run"
    )


def check_weights(model: nn.Module, step: int, epoch: int, learning_rate: float, checkpoint: Path) -> None:
    """Raise `DivergedError` where the loss of `step` was a number still, and the weights that it led to are none.

    Asked before they are saved, and take the place of good ones.
    """
    if where := _not_finite(model):
        raise DivergedError(
            f"the loss was a number at step {step + 1}, in epoch {epoch + 1}, and the weights after it are none; it "
            f"began in {where}; {_kept(checkpoint)}: lower learning_rate={learning_rate} in another --run"
        )


def diverged_in_evaluation(loss: float, epoch: int, learning_rate: float, checkpoint: Path) -> DivergedError:
    """What is said where only the loss of held-out images is no number, after `epoch` epochs."""
    return DivergedError(
        f"the held-out loss is {loss} after epoch {epoch}, where the training loss is a number: running statistics or "
        f"averaged weights are too large; {_kept(checkpoint)}: lower learning_rate={learning_rate}, or choose another "
        "initialiser, in another --run"
    )


def _kept(checkpoint: Path | None) -> str:
    return f"the last good state is {checkpoint}" if checkpoint and checkpoint.exists() else "none was saved before"
