"""The numbers that the rules compare with, and the budget of false alarms."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class Thresholds(BaseModel):
    """Defaults of every rule. Shares and levels are between 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    expected_hours_between_false_alarms: Positive = 720.0
    """Until a confirmed alarm of drift or class mix that has no cause; the level of each window follows from it."""
    window_seconds: Positive = 300.0
    """How often a window is judged; windows do not overlap."""
    confirmations: Annotated[int, Field(ge=1)] = 3
    """Windows that must agree …"""
    confirmation_windows: Annotated[int, Field(ge=1)] = 5
    """… of the last this many."""

    minimum_images: dict[str, Annotated[int, Field(ge=1)]] = {}
    """By rule, instead of the rule's own."""

    dormant_score: Positive = 0.025
    """E|h| of a channel over the mean of its layer. Sokar et al. 2023, arXiv 2302.12902."""
    quiet_rate: Share = 0.01
    """A channel is quiet when it is active in a smaller share of images."""
    quiet_share: Share = 0.5
    """Share of quiet channels beyond which a layer is dying."""
    saturated_unit: Share = 0.95
    """A unit is saturated when more than this share of its values is."""
    saturated_share: Share = 0.5
    """Share of saturated units beyond which a layer is saturated."""
    rise: Share = 0.1
    """Quiet channels, saturated values: what is added to the baseline's share before it matters."""
    mean_shift: Share = 0.6
    """Σμ² / ΣE[x²] over the channels."""
    explosion: Annotated[float, Field(gt=1)] = 4.0
    """Times the baseline's RMS; its inverse is vanishing."""
    half_precision_maximum: Positive = 8192.0
    """An activation beyond it in an fp16 layer is within three doublings of overflow."""
    rank_loss: Share = 0.5
    """Of the baseline's effective rank."""
    residual_share: Positive = 0.05
    """‖branch‖ / ‖shortcut‖ below which a block adds almost nothing …"""
    residual_loss: Share = 0.25
    """… if it is also below this part of the baseline's."""

    drift_effect: Positive = 0.1
    """Wasserstein distance of a scalar in its standard deviations."""
    channel_effect: Positive = 0.2
    """|Δ mean| of a channel in its standard deviations …"""
    channel_share: Share = 0.05
    """… on this share of a layer's channels."""
    mix_effect: Share = 0.1
    """Half of Σ|Δ share| over the predicted classes: the share of images that would have to change their class."""

    outlier_share: Share = 0.03
    """Share of images with p < 0.01 that is worth a word; 0.01 is expected."""
    calibration_images: Annotated[int, Field(ge=100)] = 1000
    """What the p-values of single images must be calibrated with."""

    @model_validator(mode="after")
    def _can_be_confirmed(self) -> Self:
        if self.confirmations > self.confirmation_windows:
            raise ValueError(
                f"confirmations={self.confirmations} of confirmation_windows={self.confirmation_windows} can never "
                f"come together: use at most {self.confirmation_windows}"
            )
        return self
