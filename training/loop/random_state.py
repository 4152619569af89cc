"""The generators that networks draw from while they are trained: PyTorch's own, on the CPU and on a GPU."""

import torch
from torch import Tensor


class RandomState:
    """Seeded for each epoch, so that an epoch that is resumed to draws the same; stored within one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._fresh = self.now()

    def now(self) -> Tensor:
        """All of it, in bytes."""
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return torch.cat(states)

    def seed(self, seed: int) -> None:
        """Begin an epoch."""
        torch.manual_seed(seed)
        self._fresh = self.now()

    def drawn(self) -> bool:
        """Whether the network drew anything in this epoch."""
        return not torch.equal(self.now(), self._fresh)

    def fits(self, state: Tensor) -> bool:
        """Whether `state` is of such a device."""
        return len(state) == len(self._fresh)

    def restore(self, state: Tensor) -> None:
        """Go on from where `now` was asked; `seed` comes first, for `drawn`."""
        length = len(torch.get_rng_state())
        torch.set_rng_state(state[:length].clone())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state[length:].clone(), self.device)
