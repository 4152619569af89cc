"""Each head against its equations, and its graph against PyTorch at several sizes of images."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.manifest import ATTENTION
from training.classifier import PixelClassifier
from training.export import INPUT, export, open_session
from training.half import halve
from training.resnet.attention import AttentionPool
from training.resnet.heads import HEADS, MOST_HIDDEN
from training.resnet.network import NetworkConfig, build_network
from training.resnet.recurrent import BidirectionalReader

CLASSES = 5
SIZES = [(1, 1), (2, 3), (4, 4)]


def features(channels: int, size: tuple[int, int], batch: int = 3) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def lstm_step(x: Tensor, h: Tensor, c: Tensor, w: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Gates in the order input, forget, cell, output (Hochreiter and Schmidhuber 1997)."""
    i, f, g, o = (x @ w[0].T + w[2] + h @ w[1].T + w[3]).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(x: Tensor, h: Tensor, w: list[Tensor]) -> Tensor:
    """Gates in the order reset, update, new (Cho et al. 2014)."""
    (xr, xz, xn), (hr, hz, hn) = (x @ w[0].T + w[2]).chunk(3, 1), (h @ w[1].T + w[3]).chunk(3, 1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    return (1 - z) * (xn + r * hn).tanh() + z * h


def read_by_hand(sequence: list[Tensor], cells: nn.LSTM | nn.GRU, layer: int, back: bool) -> list[Tensor]:
    """The states of one direction of one layer, in the order of the positions."""
    end = f"_l{layer}" + ("_reverse" if back else "")
    w = [getattr(cells, kind + end).double() for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    h = c = torch.zeros(len(sequence[0]), cells.hidden_size, dtype=torch.float64)
    states = []
    for x in reversed(sequence) if back else sequence:
        if isinstance(cells, nn.LSTM):
            h, c = lstm_step(x, h, c, w)
        else:
            h = gru_step(x, h, w)
        states.append(h)
    return states[::-1] if back else states


def logits_by_hand(x: Tensor, reader: BidirectionalReader, readout: nn.Linear) -> Tensor:
    _, _, height, width = x.shape
    sequence = [x[:, :, row, column].double() for row in range(height) for column in range(width)]
    for layer in range(reader.cells.num_layers):
        forward, backward = (read_by_hand(sequence, reader.cells, layer, back) for back in (False, True))
        sequence = [torch.cat(pair, 1) for pair in zip(forward, backward, strict=True)]
    return torch.cat([forward[-1], backward[0]], 1) @ readout.weight.double().T + readout.bias.double()


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
    expected = logits_by_hand(x, reader, readout)
    assert (nn.Sequential(*parts.values())(x) - expected).abs().max() <= 1e-5


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


@pytest.mark.parametrize(("head", "shape"), [("birnn", (8, 12)), ("deep_birnn_gru", (8, 8))], ids=str)
def test_recurrent_heads_are_exported_for_any_batch(head: str, shape: tuple[int, int]) -> None:
    trained = classifier(head)
    graph = export(trained, "relu", (1, *shape))
    assert [spec.name for spec in graph.outputs] == ["logits"]
    session = open_session(graph.model)
    for batch in (1, 3, 16):
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, 1, *shape)).astype(np.float32)
        with torch.no_grad():
            expected = trained(torch.from_numpy(pixels)).numpy()
        assert np.abs(session.run(["logits"], {INPUT: pixels})[0] - expected).max() <= 1e-4
