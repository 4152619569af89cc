"""What probes add to a step of training: `python -m benchmarks probes`."""

import time
from collections.abc import Callable
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pairing import interleave, paired_ratio
from training.activations.catalogue import find_activation
from training.classifier import PixelClassifier
from training.loop.watch import Moment
from training.probes.keepers import Keeper
from training.probes.reading import NetworkReading
from training.probes.watch import ProbeWatch
from training.resnet.network import NetworkConfig, build_network

CASES = (("resnet20", "relu"), ("resnet20", "mish"))
BATCH, SIZE, ROUNDS, EVERY = 32, 32, 8, 100
ALLOWED = 0.03


class Kept(Keeper):
    """The newest reading."""

    def keep(self, moment: Moment, reading: NetworkReading, found: dict[str, str]) -> None:  # noqa: ARG002
        self.reading = reading


def probes() -> list[dict[str, str]]:
    """Seconds of the processor of a step that is read by those of one that is not, interleaved, one thread."""
    torch.set_num_threads(1)
    return [_row(network, activation) for network, activation in CASES]


def _row(network: str, activation: str) -> dict[str, str]:
    torch.manual_seed(0)
    model = PixelClassifier(build_network(NetworkConfig(network, activation)), [128.0] * 3, [64.0] * 3).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE)).float()
    labels = torch.randint(0, 10, (BATCH,))
    moment = Moment(1, 0, model, optimiser, 0.01)
    watch = ProbeWatch(find_activation(activation), 1, [Kept()])
    arms = {name: _step(moment, images, labels, each) for name, each in {"plain": None, "read": watch}.items()}
    times = interleave(arms, ROUNDS, warm_up=1)
    ratio = paired_ratio(times["read"], times["plain"])
    return {
        "network": network,
        "activation": activation,
        "read / plain step": str(ratio),
        f"overhead with --probe-every {EVERY}": f"{(ratio.median - 1) / EVERY:.2%}",
        f"at most {ALLOWED:.0%} from --probe-every": str(max(1, ceil((ratio.high - 1) / ALLOWED))),
    }


def _step(moment: Moment, images: Tensor, labels: Tensor, watch: ProbeWatch | None) -> Callable[[], float]:
    def step() -> float:
        started = time.process_time()
        if watch:
            watch.before_step(moment)
        loss = F.cross_entropy(moment.model(images), labels)
        moment.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if watch:
            watch.after_backward(moment)
        moment.optimiser.step()
        if watch:
            watch.after_step(moment)
        return time.process_time() - started

    return step
