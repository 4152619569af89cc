"""What the layer statistics cost: the instrumented session against the plain one, opened as the service opens them."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.networks import random_pixels, untrained
from benchmarks.pairing import interleave, paired_ratio
from models.instrument import instrument
from models.statistics.layers import StatisticsReader
from models.statistics.layout import output_widths
from service.runtime.provider import choose_provider
from service.runtime.sessions import Sessions
from training.export import INPUT, OUTPUT
from training.resnet.network import NetworkConfig

CASES = (
    (NetworkConfig("resnet20", "relu"), 32, 400),
    (NetworkConfig("resnet20", "mish", "full_preactivation"), 32, 300),
    (NetworkConfig("resnet50", "relu", classes=1000), 224, 12),
)
BATCHES = (1, 8)

Arm = Callable[[dict[str, np.ndarray]], object]


def statistics_cost() -> list[dict[str, str]]:
    """One row a network and batch size: milliseconds of the plain run, and ratios to it."""
    return [row for config, size, rounds in CASES for row in _measure(config, size, rounds)]


def _measure(config: NetworkConfig, size: int, rounds: int) -> Iterator[dict[str, str]]:
    graph, manifest = untrained(config, size)
    sessions = Sessions(choose_provider("auto"), threads=1)
    plain = sessions.open(graph.SerializeToString())
    instrumented = sessions.open(instrument(graph, manifest).SerializeToString())
    names = [OUTPUT, *output_widths(manifest)]
    reader = StatisticsReader(manifest)

    def answer(feed: dict[str, np.ndarray]) -> None:
        outputs = dict(zip(names, instrumented.run(names, feed), strict=True))
        for row in range(len(feed[INPUT])):
            reader.image(outputs, row, channels=False)

    arms: dict[str, Arm] = {
        "plain": lambda feed: plain.run([OUTPUT], feed),
        "plain again": lambda feed: plain.run([OUTPUT], feed),
        "statistics": lambda feed: instrumented.run(names, feed),
        "statistics, answered": answer,
    }
    for batch in BATCHES:
        feed = {INPUT: random_pixels(batch, size)}
        times = interleave({name: _timed(arm, feed) for name, arm in arms.items()}, max(rounds // batch, 6))
        same = np.array_equal(plain.run([OUTPUT], feed)[0], instrumented.run([OUTPUT], feed)[0])
        yield {
            "network": f"{config.network} {config.activation} {config.arrangement}",
            "batch": str(batch),
            "plain ms": f"{np.median(times['plain']) * 1000:.2f}",
            **{name: str(paired_ratio(times[name], times["plain"])) for name in list(arms)[1:]},
            "rounds": str(len(times["plain"])),
            "logits identical": "yes" if same else "no",
        }


def _timed(arm: Arm, feed: dict[str, np.ndarray]) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        arm(feed)
        return time.perf_counter() - started

    return measure
