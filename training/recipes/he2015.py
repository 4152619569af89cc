"""The recipe of the paper that introduced residual networks."""

from training.recipes.recipe import Recipe


def he2015() -> Recipe:
    """He, Zhang, Ren & Sun 2015, section 4.2, CIFAR-10.

    64,000 iterations of 128 images at 0.1, a tenth of it after 32,000 and after 48,000; momentum 0.9, decay 1e-4;
    shifts of up to 4 pixels and mirroring. For 110 layers the paper begins with about 400 iterations at 0.01:
    `--schedule low_multi_step --warmup-epochs 1`. What differs: iterations are rounded up to whole epochs, and the two
    places with them (64,124 of 50,000 images); mean and deviation of each channel are normalised, where the paper takes
    off the mean of each pixel; norms and biases do not decay, of which the paper says nothing.
    """
    return Recipe(
        recipe="he2015",
        iterations=64_000,
        batch_size=128,
        nesterov=False,
        weight_decay=1e-4,
        schedule="multi_step",
        warmup_epochs=0.0,
        milestones=(0.5, 0.75),
        label_smoothing=0.0,
        crop_padding=4,
        averaging="none",
    )
