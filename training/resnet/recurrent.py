"""Reading the positions of feature maps as a sequence. Shapes: feature maps N×C×H×W, states N×2h."""

import torch
from torch import Tensor, nn

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class BidirectionalReader(nn.Module):
    """Reads the H·W positions row by row, forward and backward, and gives the state each direction ends with, N×2h.

    With several layers each reads the states of both directions of the layer below. Cells (Hochreiter and Schmidhuber
    1997; Cho et al. 2014) as in `torch.nn.LSTM` and `torch.nn.GRU`, states start at 0. Images of any size can be read.
    """

    def __init__(self, cell: str, channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.cells = CELLS[cell](channels, hidden, layers, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×2h: forward after the last position, backward after the first."""
        states, _ = self.cells(x.flatten(2).transpose(1, 2))
        hidden = self.cells.hidden_size
        return torch.cat([states[:, -1, :hidden], states[:, 0, hidden:]], 1)
