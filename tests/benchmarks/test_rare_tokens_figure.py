"""The figure of rare tokens: a color means the same optimizer as in every other figure."""

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.rare_tokens import report
from benchmarks.rare_tokens.comparison import Found, Row
from benchmarks.rare_tokens.contenders import contenders
from benchmarks.shared.report import STYLES


def test_exponents_have_colors_that_no_optimizer_has(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "write_figure", lambda path, figure: figures.append(figure))
    loss = np.ones(3)
    rows = [Row(name, 1, {0.1: 1.0}, 0.1, loss, np.ones((3, 10))) for name in contenders()]
    report.draw(tmp_path / "figure.png", Found(rows, np.zeros(11)))
    colors = {
        text.get_text(): line.lines[0].get_color()
        for axis in figures[0].axes
        for line, text in zip(axis.containers, axis.get_legend().get_texts(), strict=True)
    }
    plt.close(figures[0])
    optimizers = {color for color, _ in STYLES.values()}
    behind = {color for name, color in colors.items() if "frequency" in name}
    assert not behind & optimizers and len(behind) == 2
    assert colors["SGD"] == STYLES["SGD"][0]
    assert colors["INSGD"] == colors["INSGD, relative=0"] == STYLES["INSGD"][0]
