"""Where the activations and the residual blocks of a foreign graph are, and what the activations mean."""

from models.sites.activations import find_sites
from models.sites.blocks import find_blocks

__all__ = ["find_blocks", "find_sites"]
