"""Texts of tokens with a frequency proportional to 1 / rank."""

from benchmarks.shared import networks
from benchmarks.shared.data import texts
from benchmarks.suite.task import Examples, Splits, Task

TOKENS, LENGTH, NUMBER, HELD = 64, 16, 4096, 256


def transformer() -> Task:
    """A causal transformer. The loss is the mean over all tokens."""
    text = texts(TOKENS, NUMBER + 2 * HELD, LENGTH + 1)
    parts = text[:NUMBER], text[NUMBER : NUMBER + HELD], text[NUMBER + HELD :]
    splits = Splits(*(Examples(part[:, :-1], part[:, 1:]) for part in parts))
    return Task(networks.Transformer(TOKENS), splits, None, batch=16, steps=1000)


WORKLOADS = {"Zipf text, transformer": transformer}
