"""A convolution whose weights are disturbed in training."""

from typing import cast

from torch import Tensor, nn


class RegularisedConvolution(nn.Conv2d):
    """y = conv(x, regulariser(weight)); its parameters, and their names, are those of the convolution it is made of."""

    def __init__(self, convolution: nn.Conv2d, regulariser: nn.Module) -> None:
        assert type(convolution) is nn.Conv2d
        # Its own weights are never made: they would take memory and, worse, random draws.
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            cast(tuple[int, int], convolution.kernel_size),
            cast(tuple[int, int], convolution.stride),
            cast(tuple[int, int], convolution.padding),
            cast(tuple[int, int], convolution.dilation),
            convolution.groups,
            convolution.bias is not None,
            convolution.padding_mode,
            device="meta",
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        self.regulariser = regulariser

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.regulariser(self.weight)
        return cast(Tensor, self._conv_forward(x, weight, self.bias))
