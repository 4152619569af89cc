"""Which group each other one is compared with."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from training.studies.case import AXES, Case


@dataclass(frozen=True)
class Baseline:
    """Groups that differ in this axis alone are compared with the one that has this value."""

    axis: str
    value: str

    @classmethod
    def parse(cls, text: str, cases: Sequence[Case]) -> "Baseline":
        """`value` or `axis=value`; raises `ValueError` for what no run has, or two axes have."""
        axis, separator, value = text.rpartition("=")
        if separator and axis not in AXES:
            raise ValueError(f"unknown axis {axis!r} in baseline {text!r}; choose from {', '.join(AXES)}")
        among = [axis] if separator else list(AXES)
        found = [name for name in among if any(case.axes()[name] == value for case in cases)]
        if not found:
            raise ValueError(f"baseline {text!r} is in no run of this study: name a value of one of its lists")
        varied = [name for name in found if len({case.axes()[name] for case in cases}) > 1]
        if len(varied) > 1 or (len(found) > 1 and not varied):
            choices = ", ".join(f"{name}={value}" for name in varied or found)
            raise ValueError(f"baseline {text!r} may be any of {choices}: say which")
        return cls((varied or found)[0], value)

    def of(self, case: Case) -> Case | None:
        """The run that `case` is compared with; None for the baseline itself."""
        if case.axes()[self.axis] == self.value:
            return None
        if self.axis == "learning_rate":
            return replace(case, learning_rate=float(self.value))
        return Case(**{**asdict(case), self.axis: self.value})

    def __str__(self) -> str:
        return f"{self.axis}={self.value}"
