"""Check: a predicted number and the measured one."""

from typing import Literal, NamedTuple

Kind = Literal["equal", "at most", "at least"]


class Check(NamedTuple):
    """A prediction and a measurement.

    Attributes:
      label: the row's name in the table.
      predicted: the theorem's value or bound.
      measured: the library's value.
      tolerance: the largest allowed difference, in the same unit.
      kind: whether the prediction is a value or a bound on the measurement.
    """

    label: str
    predicted: float
    measured: float
    tolerance: float = 0.0
    kind: Kind = "equal"

    @property
    def holds(self) -> bool:
        """Whether the measurement agrees with the prediction. NaN does not."""
        excess = self.measured - self.predicted
        if self.kind == "equal":
            return abs(excess) <= self.tolerance
        return excess <= self.tolerance if self.kind == "at most" else -excess <= self.tolerance


def number(value: float) -> str:
    """Four digits. Rounding errors differ between machines, so tiny values become 0."""
    if abs(value) < 1e-9:
        return "0"
    short = float(f"{value:.4g}")
    return f"{short:,.0f}" if abs(short) >= 1000 else f"{short:.4g}"
