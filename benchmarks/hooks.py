"""The layer statistics as one would compute them in PyTorch: forward hooks on every activation and block."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from models.manifest import ActivationSite, ModelManifest

Collected = list[list[Tensor] | list[float]]


class HookedClassifier:
    """A network with hooks that compute what `models.statistics.layout` lists, per image and channel.

    With `items` every tensor becomes a number for the whole layer, as hooks that feed a dashboard do it.
    """

    def __init__(self, classifier: nn.Module, manifest: ModelManifest, items: bool) -> None:
        self._classifier = classifier
        self._items = items
        self.collected: Collected = []
        modules = dict(classifier.named_modules())
        for site in manifest.sites:
            modules[f"network.{site.name}"].register_forward_hook(self._site_hook(site))
        for block in manifest.blocks:
            self._hook_block(modules[f"network.{block.name}"])

    def __call__(self, images: Tensor) -> Tensor:
        """The logits; what the hooks found is in `collected`."""
        self.collected.clear()
        logits: Tensor = self._classifier(images)
        return logits

    def _site_hook(self, site: ActivationSite) -> Callable[..., None]:
        region = site.saturation

        def hook(_: nn.Module, __: Any, x: Tensor) -> None:
            positive = (x > 0).float().mean((2, 3))
            values = [x.mean((2, 3)), (x * x).mean((2, 3)), positive, x.amax((2, 3))]
            if site.signed:
                values.append(x.amin((2, 3)))
            if region is not None and region.below == 0 and not site.signed:
                values.append(1 - positive)
            self._collect(values)

        return hook

    def _hook_block(self, module: nn.Module) -> None:
        shortcuts: list[Tensor] = []

        def shortcut_hook(_: nn.Module, __: Any, shortcut: Tensor) -> None:
            shortcuts.append(shortcut)

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # An identity may not be called at all.
            shortcut = shortcuts.pop() if shortcuts else inputs[0]
            change = output - shortcut
            self._collect([(change * change).mean((1, 2, 3)), (shortcut * shortcut).mean((1, 2, 3))])

        module.get_submodule("downsample").register_forward_hook(shortcut_hook)
        module.register_forward_hook(hook)

    def _collect(self, values: list[Tensor]) -> None:
        self.collected.append([value.mean().item() for value in values] if self._items else values)
