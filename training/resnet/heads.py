"""From the last feature maps N×C×H×W to logits N×K."""

from collections.abc import Callable

from torch import nn

# Channels, classes, the name of the last linear layer → the parts of the head in their order.
Head = Callable[[int, int, str], dict[str, nn.Module]]


def linear_head(channels: int, classes: int, classifier: str) -> dict[str, nn.Module]:
    """logits = W · mean over H×W + b."""
    return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), classifier: nn.Linear(channels, classes)}


HEADS: dict[str, Head] = {
    "linear": linear_head,
}
