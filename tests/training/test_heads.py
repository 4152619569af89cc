"""Each head against its equations, and its graph against PyTorch at several sizes of images."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.manifest import ATTENTION
from tests.training.reading import logits_by_hand
from training.classifier import PixelClassifier
from training.export.graph import INPUT, export, open_session
from training.export.half import halve
from training.resnet.attention import AttentionPool
from training.resnet.heads import HEADS, MOST_HIDDEN
from training.resnet.network import NetworkConfig, build_network
from training.resnet.recurrent import BidirectionalReader

CLASSES = 5
SIZES = [(1, 1), (2, 3), (4, 4)]


def features(channels: int, size: tuple[int, int], batch: int = 3) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("head", "layers"), [(f"{a}birnn{b}", n) for a, n in (("", 1), ("deep_", 3)) for b in ("", "_gru")]
)
@torch.no_grad()
def test_recurrent_heads_are_their_equations_unrolled(head: str, layers: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    parts = HEADS[head](6, CLASSES, "fc")
    reader, readout = parts.values()
    assert isinstance(reader, BidirectionalReader)
    assert isinstance(readout, nn.Linear)
    assert reader.cells.num_layers == layers
    x = features(6, size)
    module = nn.Sequential(OrderedDict(parts))
    state = {name: value.double() for name, value in module.state_dict().items()}
    expected = logits_by_hand(x.double(), state, "gru" if "gru" in head else "lstm", layers)
    assert (module(x) - expected).abs().max() <= 1e-5


def test_a_reader_has_as_many_states_as_channels_up_to_a_limit() -> None:
    for channels, hidden in ((6, 6), (2048, MOST_HIDDEN)):
        with torch.device("meta"):
            reader = HEADS["birnn"](channels, CLASSES, "fc")["reader"]
        assert isinstance(reader, BidirectionalReader)
        assert reader.cells.hidden_size == hidden


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_attention_is_a_weighted_mean_by_a_softmax_of_scores(size: tuple[int, int]) -> None:
    pool = AttentionPool(6)
    pool.weights.query.normal_(std=3, generator=torch.Generator().manual_seed(0))
    x = features(6, size)
    weights, pooled = pool.weights(x).double(), pool(x)
    query = pool.weights.query.flatten().double()
    for image, given, mean in zip(x.double(), weights, pooled, strict=True):
        positions = image.reshape(6, -1).T
        exponentials = (positions @ query / 6**0.5).exp()
        expected = exponentials / exponentials.sum()
        assert (given.flatten() - expected).abs().max() <= 1e-6
        assert (mean - expected @ positions).abs().max() <= 1e-5
        assert abs(float(given.sum()) - 1) <= 1e-6


@torch.no_grad()
def test_untrained_attention_is_average_pooling_and_has_a_gradient() -> None:
    pool, x = AttentionPool(4), features(4, (3, 5))
    torch.testing.assert_close(pool(x), x.mean((2, 3)))
    with torch.enable_grad():
        (pool(x) ** 2).sum().backward()
    assert pool.weights.query.grad is not None
    assert pool.weights.query.grad.abs().max() > 0


def classifier(head: str, activation: str = "relu") -> PixelClassifier:
    torch.manual_seed(0)
    network = build_network(NetworkConfig("resnet8", activation, classes=CLASSES, channels=1, head=head))
    for module in network.modules():
        if isinstance(module, AttentionPool):
            nn.init.normal_(module.weights.query, std=3)
    return PixelClassifier(network, [120.0], [60.0]).eval()


@pytest.mark.parametrize("activation", ["crelu", "maxout"])
@pytest.mark.parametrize("head", HEADS)
def test_heads_take_what_activations_leave_of_channels(head: str, activation: str) -> None:
    logits = classifier(head, activation)(torch.zeros(2, 1, 9, 12))
    assert logits.shape == (2, CLASSES)


@pytest.mark.parametrize("shape", [(8, 8), (9, 20)], ids=str)
def test_the_graph_puts_out_attention_beside_logits(shape: tuple[int, int]) -> None:
    trained = classifier("attention")
    graph = export(trained, "relu", (1, *shape))
    size = (-(-shape[0] // 4), -(-shape[1] // 4))
    assert [(spec.name, spec.shape) for spec in graph.outputs] == [
        ("logits", (-1, CLASSES)),
        (ATTENTION, (-1, *size)),
    ]
    for model, bound in ((graph.model, 1e-5), (halve(graph.model), 1e-2)):
        session = open_session(model)
        for batch in (1, 4):
            pixels = np.random.default_rng(batch).integers(0, 256, (batch, 1, *shape)).astype(np.float32)
            logits, weights = session.run(["logits", ATTENTION], {INPUT: pixels})
            with torch.no_grad():
                expected = trained(torch.from_numpy(pixels)).numpy()
            assert np.abs(logits - expected).max() <= bound
            assert weights.dtype == np.float32
            assert weights.shape == (batch, *size)
            assert np.abs(weights.sum((1, 2)) - 1).max() <= bound
            assert weights.std((1, 2)).max() > 1e-3


@pytest.mark.parametrize(
    ("head", "shape"),
    [("birnn", (1, 1)), ("birnn_gru", (3, 7)), ("deep_birnn_gru", (32, 32)), ("deep_birnn", (64, 40))],
    ids=str,
)
def test_recurrent_heads_are_exported_at_any_size_for_any_batch(head: str, shape: tuple[int, int]) -> None:
    """A layer is one node, however many positions it reads: 1, 2, 64 and 160."""
    trained = classifier(head)
    graph = export(trained, "relu", (1, *shape))
    assert [spec.name for spec in graph.outputs] == ["logits"]
    nodes = [node.op_type for node in graph.model.graph.node]
    assert nodes.count("GRU" if "gru" in head else "LSTM") == (3 if head.startswith("deep") else 1)
    for model, bound in ((graph.model, 1e-4), (halve(graph.model), 1e-2)):
        session = open_session(model)
        for batch in (1, 3, 16):
            pixels = np.random.default_rng(batch).integers(0, 256, (batch, 1, *shape)).astype(np.float32)
            with torch.no_grad():
                expected = trained(torch.from_numpy(pixels)).numpy()
            assert np.abs(session.run(["logits"], {INPUT: pixels})[0] - expected).max() <= bound
