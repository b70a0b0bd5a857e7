"""The page: shares, the worst cases, and a table of all cases."""

import numpy as np

from benchmarks.robustness.cell import FACTORS
from benchmarks.robustness.comparison import (
    ABOVE_CHANCE,
    POINTS,
    SHARE,
    Case,
    Verdict,
    tally,
    verdict,
)
from benchmarks.shared.contender import OURS, contenders
from benchmarks.shared.report import markdown_table

FACTOR_NAMES = ("⅓", "1", "3")
WORST = 10


def page(cases: list[Case], seeds: int) -> str:
    """The whole page."""
    if not cases:
        return "No network, batch size and schedule has been run with all optimizers yet.\n"
    parts = [_shares(cases), _by_net(cases), _worst(cases), _all(cases, seeds)]
    return "\n\n".join(parts) + "\n"


def _shares(cases: list[Case]) -> str:
    caption = (
        "Each optimizer at its default learning rate, untuned, against the best of the others, "
        f"each of these at its best of three. *Within*: not behind by more than {POINTS:g} point "
        f"of accuracy ({SHARE:.0%} of the loss) or two standard errors of the paired difference. "
        f"*Diverged*: a run is not finite, less than {ABOVE_CHANCE:g} points above chance, or at a "
        "loss above the start's; such a case is never within."
    )
    header = ["optimizer", "default", "cases", "within", "share", "win", "tie", "loss", "diverged"]
    rows = []
    for name in cases[0].scores:
        found, rate = tally(cases, name), contenders()[name].default_rate
        counts = [found.wins, found.ties, found.losses, found.diverged]
        within = [str(found.wins + found.ties), f"{found.within:.0%}"]
        rows.append([name, f"{rate:g}", str(found.cases), *within, *map(str, counts)])
    return f"{caption}\n\n{markdown_table(header, rows)}"


def _by_net(cases: list[Case]) -> str:
    """Counts of cases within the tolerance, by network and optimizer."""
    names = list(cases[0].scores)
    nets = dict.fromkeys(case.net for case in cases)
    rows = []
    for net in nets:
        here = [case for case in cases if case.net == net]
        tallies = [tally(here, name) for name in names]
        within = [f"{each.wins + each.ties}" for each in tallies]
        rows.append([net, str(len(here)), *within, str(tallies[names.index(OURS)].diverged)])
    header = ["network", "cases", *(f"{name} within" for name in names), f"{OURS} diverged"]
    return f"The same by network.\n\n{markdown_table(header, rows)}"


def _worst(cases: list[Case]) -> str:
    """Cases where ours diverged, then those where it is furthest behind in tolerances."""
    judged = [(case, verdict(case, OURS)) for case in cases]
    losses = [(case, found) for case, found in judged if found.outcome == "loss"]
    losses.sort(key=_badness)
    lines = [_worst_line(case, found) for case, found in losses[:WORST]]
    caption = f"Where {OURS} at its default diverged or is furthest behind:"
    return "\n".join([caption, "", *(lines or ["- nowhere"])])


def _badness(judged: tuple[Case, Verdict]) -> tuple[bool, float]:
    case, found = judged
    return not case.diverged_at_default(OURS), found.gain / found.tolerance


def _worst_line(case: Case, found: Verdict) -> str:
    rival = case.best_rival(OURS)
    where = f"{case.net}, batch {case.batch}, {case.schedule}"
    return f"- {where}: {_gain(case, found)} against {rival} (tolerance {found.tolerance:.1f})"


def _gain(case: Case, found: Verdict) -> str:
    diverged = ", diverged" if case.diverged_at_default(OURS) else ""
    return f"{found.gain:+.1f}{' %' if case.chance is None else ''}{diverged}"


def _all(cases: list[Case], seeds: int) -> str:
    caption = (
        "Means of validation accuracy in percent, or of validation loss, over the last tenth of "
        f"the steps and {seeds} seeds: at the default, then at the best of three learning rates "
        "with its factor. ✗: diverged."
    )
    names = list(cases[0].scores)
    header = ["network", "batch", "schedule", *names, f"{OURS} against the best", "verdict"]
    rows = []
    for case in cases:
        found = verdict(case, OURS)
        place = [case.net, str(case.batch), case.schedule]
        scores = [_score(case, name) for name in names]
        rows.append([*place, *scores, _gain(case, found), found.outcome])
    return f"{caption}\n\n{markdown_table(header, rows)}"


def _score(case: Case, name: str) -> str:
    digits = 2 if case.chance is None else 1
    best = case.best_factor(name)
    default, tuned = (np.mean(found) for found in (case.at_default(name), case.best(name)))
    mark = " ✗" if case.diverged_at_default(name) else ""
    factor = dict(zip(FACTORS, FACTOR_NAMES, strict=True))[FACTORS[best]]
    return f"{default:.{digits}f}{mark} → {tuned:.{digits}f} ({factor})"
