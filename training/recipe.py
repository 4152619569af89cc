"""How a network is trained, in numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum on a warmed cosine schedule, with weight averaging (He 2015, brought up to date)."""

    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 0.1
    """Peak of the schedule."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 5e-4
    """On weights of convolutions, linear layers, recurrent cells and attention; see `training.groups`."""
    warmup_epochs: float = 1.0
    """Linear rise to the peak."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over all classes."""
    mixup_alpha: float = 0.0
    """Images are mixed with others, half and half more often the larger it is (Zhang 2018); 0: not at all."""
    cutmix_alpha: float = 0.0
    """Images get a box of others, at 1 of all sizes alike (Yun 2019); 0: no; with mixup: one of both a batch."""
    averaging_epochs: float = 1.0
    """Time constant of the exponential average of the weights that is kept, in epochs; 0 keeps the last weights."""
    crop_padding: int | None = None
    """Largest random shift in pixels; one eighth of the image's shorter side if not given."""
    initialiser: str = "he"
    """Key of the initialiser catalogue: the weights before the first step."""
    initialiser_parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the initialiser that are not at their default, by name."""
    pretrained: str | None = None
    """File of weights (.pth, .safetensors, …) that initialiser `pretrained` loads."""
    seed: int = 0
    """Of the initial weights, the order of images and the augmentation; 0 to 2³¹ − 1."""

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2: batch normalisation needs more than one image"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
            "momentum": (0 < self.momentum < 1, "between 0 and 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a finite number, 0 or more"),
            "warmup_epochs": (0 <= self.warmup_epochs < math.inf, "a finite number, 0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "from 0 to below 1"),
            "mixup_alpha": (0 <= self.mixup_alpha < math.inf, "a finite number, 0 or more"),
            "cutmix_alpha": (0 <= self.cutmix_alpha < math.inf, "a finite number, 0 or more"),
            "averaging_epochs": (0 <= self.averaging_epochs < math.inf, "a finite number, 0 or more"),
            "crop_padding": (self.crop_padding is None or self.crop_padding >= 0, "0 or more"),
            "seed": (0 <= self.seed < 2**31, "0 to 2147483647"),
        }
        for name, (fine, expected) in rules.items():
            if not fine:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: use {expected}")
