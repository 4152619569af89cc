"""Training as a careful researcher writes it down, without any of ours: what our loop is measured against."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.data.images import DataSet, channel_moments
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig, build_network


@dataclass(frozen=True)
class Extras:
    """What our loop does beside, each to be switched on alone."""

    channels_last: bool = False
    """Channels of a pixel side by side; ours has images so, for that is how its crop gathers them."""
    loss_read: bool = False
    """The loss of each step is read and must be a number."""
    averaged: bool = False
    """An exponential average of weights and statistics, by PyTorch's `AveragedModel`."""


def plain_loop(config: NetworkConfig, recipe: Recipe, data: DataSet, extras: Extras = Extras()) -> Iterator[Tensor]:
    """One epoch, yielding the loss after each step: the network, SGD, cosine, smoothing and augmentation of `recipe`.

    All images are one tensor in memory, a batch is taken out of it by its indices and augmented as a whole. No
    averaging, nothing that could be resumed, no look at any number.
    """
    torch.manual_seed(recipe.seed)
    model = build_network(config).train()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    mean, std = (torch.tensor(moments).reshape(-1, 1, 1) for moments in channel_moments(data.training.pixels))
    pixels, labels = torch.from_numpy(data.training.pixels), torch.from_numpy(data.training.labels)
    steps, padding = len(labels) // recipe.batch_size, min(pixels.shape[2:]) // 8
    if extras.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    matrices = [each for each in model.parameters() if each.ndim > 1]
    others = [each for each in model.parameters() if each.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    average = None
    if extras.averaged:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / steps), use_buffers=True)  # type: ignore[no-untyped-call]
    order = torch.randperm(len(labels))
    for step in range(steps):
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        images = (augmented(pixels[chosen], padding, data.mirrored).float() - mean) / std
        if extras.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(model(images), labels[chosen], label_smoothing=recipe.label_smoothing)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if average:
            average.update_parameters(model)
        if extras.loss_read and not loss.isfinite().item():
            raise ValueError(f"the loss is {loss.item()} at step {step + 1}")
        yield loss.detach()


def augmented(images_NCHW: Tensor, padding: int, mirrored: bool) -> Tensor:
    """Each image shifted by up to `padding`, zeros coming in, and half of them mirrored if they may be."""
    count, channels, height, width = images_NCHW.shape
    padded = F.pad(images_NCHW, (padding,) * 4)
    rows = torch.randint(2 * padding + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(2 * padding + 1, (count, 1)) + torch.arange(width)
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    cropped = padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
    if not mirrored:
        return cropped
    return torch.where(torch.rand(count, 1, 1, 1) < 0.5, cropped.flip(3), cropped)
