"""What every test here asks of an experiment."""

from theory.check import Check


def assert_holds(checks: list[Check]) -> None:
    """Every prediction of an experiment is met."""
    assert checks
    for check in checks:
        assert check.holds, (
            f"{check.label}: predicted {check.kind} {check.predicted!r} "
            f"(tolerance {check.tolerance:g}), measured {check.measured!r}"
        )
