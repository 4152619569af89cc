"""Where the activations and the residual blocks are in a graph that was not made here, and what the activations mean."""

from models.sites.activations import find_sites
from models.sites.blocks import find_blocks

__all__ = ["find_blocks", "find_sites"]
