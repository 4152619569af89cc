"""The residual family: stems, shortcuts, block arrangements and the variants that combine them."""
