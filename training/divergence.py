"""Where a network's numbers ceased to be numbers."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def first_not_finite(model: nn.Module, images: Tensor) -> str:
    """In words, the first layer in the order of `model` whose weights, or else whose outputs, are not all finite.

    The images go forward once more, so random parts draw again and running statistics move.
    """
    for name, values in [*model.named_parameters(), *model.named_buffers()]:
        if not torch.isfinite(values).all():
            return f"{name}, whose values are not finite any more"
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
