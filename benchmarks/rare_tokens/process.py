"""A random process of heavy-tailed tokens. The context determines three quarters of them.

With probability 0.5 the next token is the *successor* of the last token. With 0.25 it is another
successor, of the token two before the last. Otherwise it is a new draw from Zipf's law. Successors
are two fixed permutations of the tokens that nearly keep their frequency, so rare tokens follow
rare tokens. With enough steps the context predicts rare tokens as well as frequent ones. The loss
of the best possible model is known.
"""

import functools

import numpy as np
from jaxtyping import Float, Int

TOKENS, CONTEXT = 2000, 4
# The probabilities of the two successors.
SUCCESSORS = (0.5, 0.25)
SHARE_OF_NEW = 1 - sum(SUCCESSORS)
BURN_IN = 50
DECILES = 10


@functools.cache
def permutations() -> tuple[Int[np.ndarray, "tokens"], ...]:
    """The two successor tables. All seeds share them: a seed draws only tokens and weights."""
    rng = np.random.default_rng(0)
    spread = np.log(np.arange(1, TOKENS + 1))
    return tuple(np.argsort(spread + rng.normal(0, 0.5, TOKENS)) for _ in SUCCESSORS)


def zipf() -> Float[np.ndarray, "tokens"]:
    shares = 1 / np.arange(1, TOKENS + 1)
    return shares / shares.sum()


@functools.cache
def frequencies() -> Float[np.ndarray, "tokens"]:
    """The exact long-run frequency of each token."""
    found = zipf()
    for _ in range(200):  # the error falls by a quarter each time
        after = SHARE_OF_NEW * zipf()
        for share, successor in zip(SUCCESSORS, permutations(), strict=True):
            after[successor] += share * found
        found = after
    return found


def deciles() -> Int[np.ndarray, "tokens"]:
    """The tenth of the text of each token: 0 holds the most frequent token, 9 most tokens.

    Tokens are sorted by frequency. A token belongs to the tenth with the middle of its share.
    """
    order = np.argsort(-frequencies())
    share = frequencies()[order]
    tenths = np.empty(TOKENS, int)
    tenths[order] = ((np.cumsum(share) - share / 2) * DECILES).astype(int)
    return tenths


def text(seed: int, streams: int, length: int) -> Int[np.ndarray, "rows window"]:
    """Windows of a context and its next token, from independent streams, in random order."""
    rng = np.random.default_rng(seed)
    steps = BURN_IN + CONTEXT + length
    fresh = rng.choice(TOKENS, (steps, streams), p=zipf())
    kind = rng.choice(len(SUCCESSORS) + 1, (steps, streams), p=[*SUCCESSORS, SHARE_OF_NEW])
    tokens, (near, far) = fresh.copy(), permutations()
    for now in range(3, steps):
        told = np.where(kind[now] == 0, near[tokens[now - 1]], far[tokens[now - 3]])
        tokens[now] = np.where(kind[now] == 2, fresh[now], told)
    windows = np.lib.stride_tricks.sliding_window_view(tokens[BURN_IN:], CONTEXT + 1, axis=0)
    return rng.permutation(windows.reshape(-1, CONTEXT + 1)).astype(np.int32)


def least_losses(windows: Int[np.ndarray, "rows window"]) -> Float[np.ndarray, "rows"]:
    """The loss of the true probabilities. Its mean is the entropy, which no model beats."""
    target, (near, far) = windows[:, -1], permutations()
    chance = SHARE_OF_NEW * zipf()[target]
    chance += SUCCESSORS[0] * (near[windows[:, -2]] == target)
    chance += SUCCESSORS[1] * (far[windows[:, -4]] == target)
    return -np.log(chance)
