"""What raises accuracy when time does not matter."""

from training.recipes.recipe import Recipe


def modern() -> Recipe:
    """The means of torchvision's newer recipes (Vryniotis 2021; Wightman 2021), scaled to small images and one machine.

    Long cosine, label smoothing, mixup or CutMix on each batch, RandAugment (there: TrivialAugment), random erasing,
    and an exponential average; the numbers of the optimiser are those usual for CIFAR, not theirs for ImageNet.
    """
    return Recipe(
        recipe="modern",
        epochs=300,
        batch_size=128,
        warmup_epochs=5.0,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        rand_augment=2,
        rand_augment_strength=9.0,
        random_erasing=0.1,
        averaging_epochs=3.0,
    )
