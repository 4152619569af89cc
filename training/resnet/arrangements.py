"""Where normalisation and activation stand among the convolutions of a residual branch (He 2016, Identity Mappings).

Kinds of parts are named as published checkpoints name them: `bn`, `act`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arrangement:
    """The parts before and after each convolution of the branch, and after the sum, in their order."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """After every convolution but the last."""
    after_last: tuple[str, ...] = ()
    after_sum: tuple[str, ...] = ()

    @property
    def preactivated(self) -> bool:
        """Whether a block takes and leaves a bare sum: the stem ends bare, and the head starts with an activation."""
        return "act" in self.before

    @property
    def sums_activated(self) -> bool:
        """Whether what is added has gone through an activation already."""
        return "act" in self.after_last


# Stem and head are as the appendix of He 2016 and its authors' code have them. The sums of pre-activated networks are
# bare: the stem ends without an activation, and one more follows the last sum, after BN where blocks begin with BN.
# The others end their stem with an activation and need none before the head: what leaves their last block is activated,
# or a sum of activated parts (`relu_before_addition`).
ARRANGEMENTS: dict[str, Arrangement] = {
    # y = act(BN(conv(… act(BN(conv(x))))) + shortcut), He 2015.
    "original": Arrangement(after=("bn", "act"), after_last=("bn",), after_sum=("act",)),
    # y = act(BN(conv(… ) + shortcut)): the shortcut is normalised too.
    "bn_after_addition": Arrangement(after=("bn", "act"), after_sum=("bn", "act")),
    # y = act(BN(conv(…))) + shortcut: with ReLU the sum can only grow.
    "relu_before_addition": Arrangement(after=("bn", "act"), after_last=("bn", "act")),
    # y = BN(conv(act(… BN(conv(act(x)))))) + shortcut.
    "relu_only_preactivation": Arrangement(before=("act",), after=("bn",), after_last=("bn",)),
    # y = conv(act(BN(… conv(act(BN(x)))))) + shortcut, He 2016.
    "full_preactivation": Arrangement(before=("bn", "act")),
}
