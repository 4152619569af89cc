"""Looking into the layers leaves a network its fusions, all but those that ARCHITECTURE.md names."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from models.instrument import tapped_tensors
from service.runtime.taps import mark, put_out
from tests.service.test_taps import convolutions, optimised
from tests.training.exports import Case, Exported, manifest
from tests.training.small import calibrate, randomise
from training.classifier import PixelClassifier
from training.export.graph import export
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.network import NetworkConfig, build_network

SIZE = 16

# What is folded into a convolution before and after, and how often. A sum that an activation alone reads is put out
# itself, so the activation is not folded in any more; and one whose operand is put out is not folded in either.
LOST = {
    "relu_before_addition": (Counter({"+": 2}), Counter({"": 2})),
    "relu_only_preactivation": (Counter({"Relu+": 3}), Counter({"+": 3})),
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_fusions_survive_in_every_arrangement(arrangement: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig("resnet8", arrangement=arrangement))
    randomise(network)
    given = PixelClassifier(network, [110.0, 120.0, 130.0], [50.0, 57.0, 64.0]).eval()
    calibrate(given, SIZE)
    graph = export(given, "relu", (3, SIZE, SIZE))
    said = manifest(Exported(Case("", "relu", arrangement, SIZE), given, given, graph))
    tensors = tapped_tensors(graph.model, said)
    tapped = optimised(mark(graph.model, tensors), tmp_path)
    put_out(tapped, tensors, said)
    plain = optimised(graph.model, tmp_path)
    before, after = Counter(convolutions(plain)), Counter(convolutions(tapped))
    assert before.total() == after.total()
    if any(node.domain == "com.microsoft.nchwc" for node in plain.graph.node):  # where sums are folded in: on x86
        assert (before - after, after - before) == LOST.get(arrangement, (Counter(), Counter()))
