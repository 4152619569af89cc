"""What reaches a fair accuracy soonest, on a GPU."""

from training.recipes.recipe import Recipe


def speedrun() -> Recipe:
    """The means of the CIFAR-10 speed records (Page 2018; Jordan 2024).

    A dozen epochs of large batches, one cycle, Muon on matrices, smoothing, half precision with channels last. Neither
    their networks nor their whitened first convolution nor their alternating flips. Add --compile where a run is longer
    than compiling takes.
    """
    return Recipe(
        recipe="speedrun",
        epochs=12,
        batch_size=512,
        optimiser="muon",
        learning_rate=6e-3,
        momentum=0.9,
        weight_decay=0.02,
        schedule="one_cycle",
        warmup_epochs=2.5,
        label_smoothing=0.2,
        averaging_epochs=0.5,
        precision="bf16",
        channels_last=True,
    )
