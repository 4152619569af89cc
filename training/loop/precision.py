"""In what numbers a network is trained."""

from typing import Any, Literal

import torch

Kind = Literal["fp32", "bf16", "fp16"]

TYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Weights are in single precision, always; layers compute in `kind` where PyTorch's autocast says so.

    With `fp16` the loss is scaled, so that small gradients are not 0, and a step whose gradients are not finite is left
    out (Micikevicius 2018).
    """

    def __init__(self, kind: Kind, device: torch.device) -> None:
        self.kind, self.device = kind, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=kind == "fp16")

    def cast(self) -> Any:
        """For the forward pass."""
        return torch.autocast(self.device.type, TYPES.get(self.kind), enabled=self.kind in TYPES)

    def backward(self, loss: torch.Tensor) -> None:
        """Of the loss, scaled where that must be."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """Give gradients their true size, once a step, before somebody looks at them."""
        self.scaler.unscale_(optimiser)

    def step(self, optimiser: torch.optim.Optimizer) -> None:
        """Of the optimiser, unless the gradients overflowed."""
        self.scaler.step(optimiser)
        self.scaler.update()
