"""How a network is trained, in numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum on a warmed cosine schedule, with weight averaging (He 2015, brought up to date)."""

    recipe: str = "quick"
    """Named recipe that all numbers come from which are not given: quick, he2015, modern, speedrun or fine_tune."""
    epochs: int = 20
    """Passes over the training images."""
    iterations: int = 0
    """Steps of the optimiser, rounded up to whole epochs, in place of --epochs; 0: as many as the epochs have."""
    batch_size: int = 64
    """Images a step, of all processes together."""
    accumulation: int = 1
    """Parts of a batch that go through the network one after the other, for want of memory; normalised each alone."""
    optimiser: str = "sgd"
    """sgd, adamw or muon (with adamw for what is no matrix inside of the network)."""
    learning_rate: float = 0.1
    """Peak of the schedule."""
    momentum: float = 0.9
    """Of the gradient: Nesterov's, Adam's first β, or Muon's."""
    nesterov: bool = True
    """Whether the momentum of sgd is Nesterov's."""
    weight_decay: float = 5e-4
    """On weights of convolutions, linear layers, recurrent cells and attention; see `training.optimisers.groups`."""
    clip_norm: float = 0.0
    """Gradients are shortened to this norm, of all together; 0: never."""
    schedule: str = "cosine"
    """cosine, one_cycle, multi_step, low_multi_step or constant."""
    warmup_epochs: float = 1.0
    """Linear rise to the peak; of one_cycle its rise; of low_multi_step at the lower rate."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of training after which multi_step lowers the rate."""
    drop: float = 0.1
    """What multi_step multiplies the rate with."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over all classes."""
    mixup_alpha: float = 0.0
    """Images are mixed with others, half and half more often the larger it is (Zhang 2018); 0: not at all."""
    cutmix_alpha: float = 0.0
    """Images get a box of others, at 1 of all sizes alike (Yun 2019); 0: no; with mixup: one of both a batch."""
    crop_padding: int | None = None
    """Largest random shift in pixels; one eighth of the image's shorter side if not given."""
    rand_augment: int = 0
    """Operations of RandAugment for each image (Cubuk 2020); 0: none."""
    rand_augment_strength: float = 9.0
    """Of those operations, 0 to 30."""
    random_erasing: float = 0.0
    """Probability that a rectangle of an image is hidden (Zhong 2017)."""
    averaging: Literal["ema", "swa", "none"] = "ema"
    """Weights that are kept: exponential average, mean of the last epochs' (Izmailov 2018), or the last ones."""
    averaging_epochs: float = 1.0
    """Time constant of the exponential average in epochs; 0 keeps the last weights."""
    averaging_start: float = 0.75
    """Share of training after which swa begins."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the layers' arithmetic; weights are in single precision. fp16 scales the loss."""
    channels_last: bool = False
    """Lay features out with the channels of a pixel side by side: faster on GPUs with half precision."""
    compile: bool = False
    """Compile the network with torch.compile, which takes a minute at first; not with annealed_dropout."""
    freeze: tuple[str, ...] = ()
    """Stages that stay as they are, with their running statistics: stem, layer1, … For fine-tuning."""
    initialiser: str = "he"
    """Key of the initialiser catalogue: the weights before the first step."""
    initialiser_parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the initialiser that are not at their default, by name."""
    pretrained: str | None = None
    """File of weights (.pth, .safetensors, …) that initialiser `pretrained` loads."""
    seed: int = 0
    """Of the initial weights, the order of images and the augmentation; 0 to 2³¹ − 1."""

    def __post_init__(self) -> None:
        # What JSON made a list of.
        for name in ("milestones", "freeze"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        number, share = "a finite number, 0 or more", "from 0 to below 1"
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "iterations": (self.iterations >= 0, "0 or more"),
            "batch_size": (self.batch_size >= 2, "at least 2: batch normalisation needs more than one image"),
            "accumulation": (1 <= self.accumulation <= self.batch_size, "1 to the batch size"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
            "momentum": (0 < self.momentum < 1, "between 0 and 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, number),
            "clip_norm": (0 <= self.clip_norm < math.inf, number),
            "warmup_epochs": (0 <= self.warmup_epochs < math.inf, number),
            "milestones": (all(0 < each < 1 for each in self.milestones), "shares between 0 and 1"),
            "drop": (0 < self.drop <= 1, "above 0, to 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, share),
            "mixup_alpha": (0 <= self.mixup_alpha < math.inf, number),
            "cutmix_alpha": (0 <= self.cutmix_alpha < math.inf, number),
            "crop_padding": (self.crop_padding is None or self.crop_padding >= 0, "0 or more"),
            "rand_augment": (0 <= self.rand_augment <= 16, "0 to 16"),
            "rand_augment_strength": (0 <= self.rand_augment_strength <= 30, "0 to 30"),
            "random_erasing": (0 <= self.random_erasing <= 1, "0 to 1"),
            "averaging_epochs": (0 <= self.averaging_epochs < math.inf, number),
            "averaging_start": (0 <= self.averaging_start < 1, share),
            "seed": (0 <= self.seed < 2**31, "0 to 2147483647"),
        }
        for name, (fine, expected) in rules.items():
            if not fine:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: use {expected}")

    def whole_epochs(self, steps: int) -> int:
        """How many there are, of `steps` each."""
        return math.ceil(self.iterations / steps) if self.iterations else self.epochs
