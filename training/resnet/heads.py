"""From the last feature maps N×C×H×W to logits N×K. C is what leaves the stages, whatever the activation."""

from collections.abc import Callable
from functools import partial

from torch import nn

from training.resnet.attention import AttentionPool
from training.resnet.recurrent import BidirectionalReader

# Channels, classes, the name of the last linear layer → the parts of the head in their order.
Head = Callable[[int, int, str], dict[str, nn.Module]]

# States of a reader in each direction; of a narrow network as many as it has channels.
MOST_HIDDEN = 128


def linear_head(channels: int, classes: int, classifier: str) -> dict[str, nn.Module]:
    """logits = W · mean over H×W + b."""
    return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), classifier: nn.Linear(channels, classes)}


def attention_head(channels: int, classes: int, classifier: str) -> dict[str, nn.Module]:
    """logits = W · Σ a x + b, a ∝ exp(q · x / √C) over H×W with a learned q; a is an output of the graph too."""
    return {"attention": AttentionPool(channels), classifier: nn.Linear(channels, classes)}


def recurrent_head(cell: str, layers: int, channels: int, classes: int, classifier: str) -> dict[str, nn.Module]:
    """logits = W · (last state forward, last state backward) + b.

    Its last layer is called `readout`, whatever published checkpoints call theirs: those read channel means.
    """
    del classifier
    hidden = min(channels, MOST_HIDDEN)
    reader = BidirectionalReader(cell, channels, hidden, layers)
    return {"reader": reader, "readout": nn.Linear(2 * hidden, classes)}


HEADS: dict[str, Head] = {
    "linear": linear_head,
    "attention": attention_head,
    "birnn": partial(recurrent_head, "lstm", 1),
    "birnn_gru": partial(recurrent_head, "gru", 1),
    "deep_birnn": partial(recurrent_head, "lstm", 3),
    "deep_birnn_gru": partial(recurrent_head, "gru", 3),
}
