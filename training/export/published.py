"""What a published graph puts out: logits, and what the head shows of itself beside them."""

from torch import Tensor, nn

from models.manifest import ATTENTION
from training.classifier import PixelClassifier
from training.resnet.attention import AttentionWeights

LOGITS = "logits"


class PublishedClassifier(nn.Module):
    """A classifier with all outputs of its graph, logits first; its parts have the names that they have there."""

    mean: Tensor
    scale: Tensor

    def __init__(self, classifier: PixelClassifier) -> None:
        super().__init__()
        self.network = classifier.network
        self.register_buffer("mean", classifier.mean)
        self.register_buffer("scale", classifier.scale)
        self._shown = [module for module in self.network.modules() if isinstance(module, AttentionWeights)]
        assert len(self._shown) <= 1, "a network has one head"
        self.names = (LOGITS, *(ATTENTION for _ in self._shown))
        """Of the outputs, in their order."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        shown: list[Tensor] = []

        def show(_: nn.Module, __: tuple[Tensor, ...], weights: Tensor) -> None:
            shown.append(weights)

        hooks = [module.register_forward_hook(show) for module in self._shown]
        try:
            logits: Tensor = self.network((pixels - self.mean) * self.scale)
        finally:
            for hook in hooks:
                hook.remove()
        return (logits, *shown)
