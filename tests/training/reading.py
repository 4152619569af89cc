"""Recurrent heads by their equations, unrolled position by position, on their weights by name."""

from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


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


def read_by_hand(sequence: list[Tensor], state: State, cell: str, layer: int, back: bool) -> list[Tensor]:
    """The states of one direction of one layer, in the order of the positions."""
    end = f"_l{layer}" + ("_reverse" if back else "")
    w = [state[f"reader.cells.{kind}{end}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    h = c = sequence[0].new_zeros(len(sequence[0]), w[1].shape[1])
    states = []
    for x in reversed(sequence) if back else sequence:
        if cell == "lstm":
            h, c = lstm_step(x, h, c, w)
        else:
            h = gru_step(x, h, w)
        states.append(h)
    return states[::-1] if back else states


def logits_by_hand(x: Tensor, state: State, cell: str, layers: int) -> Tensor:
    """Of a reader with this many layers that reads x, N×C×H×W, row by row."""
    _, _, height, width = x.shape
    sequence = [x[:, :, row, column] for row in range(height) for column in range(width)]
    for layer in range(layers):
        forward, backward = (read_by_hand(sequence, state, cell, layer, back) for back in (False, True))
        sequence = [torch.cat(pair, 1) for pair in zip(forward, backward, strict=True)]
    return torch.cat([forward[-1], backward[0]], 1) @ state["readout.weight"].T + state["readout.bias"]
