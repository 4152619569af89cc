"""Reading the positions of feature maps as a sequence. Shapes: feature maps N×C×H×W, states N×2h, T = H·W positions."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Cell(NamedTuple):
    """A recurrent cell, and how ONNX writes it."""

    build: type[nn.LSTM] | type[nn.GRU]
    operator: str
    gates: tuple[int, ...]
    """PyTorch's order of the gates in ONNX's order."""
    attributes: dict[str, Any]


CELLS: dict[str, Cell] = {
    "lstm": Cell(nn.LSTM, "LSTM", (0, 3, 1, 2), {}),
    "gru": Cell(nn.GRU, "GRU", (1, 0, 2), {"linear_before_reset": 1}),
}


class BidirectionalReader(nn.Module):
    """Reads the H·W positions row by row, forward and backward, and gives the state each direction ends with, N×2h.

    With several layers each reads the states of both directions of the layer below. Cells (Hochreiter and Schmidhuber
    1997; Cho et al. 2014) as in `torch.nn.LSTM` and `torch.nn.GRU`, states start at 0. Images of any size can be read.
    """

    def __init__(self, cell: str, channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.cell = CELLS[cell]
        self.cells = self.cell.build(channels, hidden, layers, batch_first=True, bidirectional=True)

    def freeze(self) -> None:
        """Make it ready for export, and for nothing else: keep its weights as ONNX has them too, W, R and B a layer."""
        for layer in range(self.cells.num_layers):
            for name, weights in zip("WRB", self._weights(layer), strict=True):
                self.register_buffer(f"{name}{layer}", weights)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×2h: forward after the last position, backward after the first."""
        hidden = self.cells.hidden_size
        if torch.onnx.is_in_onnx_export():
            forward, backward = self._nodes(x.flatten(2).permute(2, 0, 1))
            return torch.cat([forward[-1], backward[0]], 1)
        states, _ = self.cells(x.flatten(2).transpose(1, 2))
        return torch.cat([states[:, -1, :hidden], states[:, 0, hidden:]], 1)

    def _nodes(self, x_TNC: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's states T×N×h of each direction, a layer one node: the exporter would unroll it in T steps
        before it finds that out, which takes 6 s for 64 positions.
        """
        steps, batch = x_TNC.shape[:2]
        hidden = self.cells.hidden_size
        for layer in range(self.cells.num_layers):
            states: Tensor = torch.onnx.ops.symbolic(
                self.cell.operator,
                (x_TNC, *(self.get_buffer(f"{name}{layer}") for name in "WRB")),
                {"hidden_size": hidden, "direction": "bidirectional", **self.cell.attributes},
                dtype=x_TNC.dtype,
                shape=(steps, 2, batch, hidden),
            )
            forward, backward = states[:, 0], states[:, 1]
            x_TNC = torch.cat([forward, backward], 2)
        return forward, backward

    @torch.no_grad()
    def _weights(self, layer: int) -> Iterator[Tensor]:
        """W 2×gh×C, R 2×gh×h and B 2×2gh, g gates, as ONNX has them."""
        ends = (f"_l{layer}", f"_l{layer}_reverse")
        for kinds in (("weight_ih",), ("weight_hh",), ("bias_ih", "bias_hh")):
            yield torch.stack([torch.cat([self._reordered(kind + end) for kind in kinds]) for end in ends])

    def _reordered(self, name: str) -> Tensor:
        gates = getattr(self.cells, name).chunk(len(self.cell.gates))
        return torch.cat([gates[gate] for gate in self.cell.gates])
