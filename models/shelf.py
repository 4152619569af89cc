"""Where the models that ship are, and where new ones go unless another place is named."""

from pathlib import Path

SHIPPED_MODELS = Path(__file__).parent / "store"
