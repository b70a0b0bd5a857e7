"""Check: one number that theory predicts beside the number that was measured."""

from typing import Literal, NamedTuple

Kind = Literal["equal", "at most", "at least"]


class Check(NamedTuple):
    """A prediction and a measurement.

    Attributes:
      label: what is compared, in words.
      predicted: what theory says, or the bound that it gives.
      measured: what the library did.
      tolerance: how far the two may be apart, in their own unit.
      kind: whether the prediction is a value or a bound of the measurement.
    """

    label: str
    predicted: float
    measured: float
    tolerance: float = 0.0
    kind: Kind = "equal"

    @property
    def holds(self) -> bool:
        """Whether the measurement is as predicted; not, if it is no number."""
        excess = self.measured - self.predicted
        if self.kind == "equal":
            return abs(excess) <= self.tolerance
        return excess <= self.tolerance if self.kind == "at most" else -excess <= self.tolerance


def number(value: float) -> str:
    """Four digits, and nothing that differs between machines: what is left of rounding is 0."""
    if abs(value) < 1e-9:
        return "0"
    short = float(f"{value:.4g}")
    return f"{short:,.0f}" if abs(short) >= 1000 else f"{short:.4g}"
