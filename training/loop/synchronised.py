"""Batch normalisation by the statistics of the whole batch, of which each process has a share.

`torch.nn.SyncBatchNorm` does so on GPUs alone; on the CPU this one does the same.
"""

from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """Σ over processes; so the gradient is Σ too."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """y = γ·(x − μ)/√(σ² + ε) + β with μ and σ² of the images of all processes; in evaluation as ever.

    Two sums go around in training, first of x, then of (x − μ)², which loses no digits to cancellation. All is in the
    precision of γ, as in PyTorch's own: sums of half precision would lose digits, or overflow.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training or not distributed.is_initialized():
            return super().forward(x_NCHW)
        values_NCHW = x_NCHW.to(self.weight.dtype)
        channels = x_NCHW.shape[1]
        count = values_NCHW.new_tensor([x_NCHW.numel() / channels])
        sums = _sum(torch.cat([values_NCHW.sum((0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values_NCHW - mean.reshape(1, -1, 1, 1)
        variance = _sum(centred.square().sum((0, 2, 3))) / total
        self._remember(mean.detach(), (variance * total / (total - 1).clamp(min=1)).detach())
        scaled = centred * torch.rsqrt(variance + self.eps).reshape(1, -1, 1, 1)
        return (scaled * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)).to(x_NCHW.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        # Reversible networks run a block twice, and say so by this.
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def synchronise(model: nn.Module, device: torch.device) -> None:
    """Make every batch normalisation of `model` one over all processes; parameters and names stay what they are."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            # Same parameters, same buffers, same hooks: it differs in `forward` alone.
            module.__class__ = SynchronisedBatchNorm2d
