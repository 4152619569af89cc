"""Images sent through a network before it is trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def passing(network: nn.Module) -> Iterator[None]:
    """Without gradients, in training mode as the first step will be; running statistics stay what they were."""
    mode = network.training
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(mode)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(kept[name])
