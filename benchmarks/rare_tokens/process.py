"""A random process of heavy-tailed tokens, of which the context tells three quarters.

The next token is, with probability 0.5, the *successor* of the last token; with 0.25, another
successor of the token two before it; else a new draw from Zipf's law. Successors are two fixed
permutations of the tokens that nearly keep their frequency: what follows a rare token is rare. So
rare tokens can be told from the context as well as frequent ones can, given enough steps, and what
the best possible model would lose is known.
"""

import functools

import numpy as np
from jaxtyping import Float, Int

TOKENS, CONTEXT = 2000, 4
# Of the successor of the last token, and of the one of the token two before it.
SUCCESSORS = (0.5, 0.25)
SHARE_OF_NEW = 1 - sum(SUCCESSORS)
BURN_IN = 50
DECILES = 10


@functools.cache
def permutations() -> tuple[Int[np.ndarray, "tokens"], ...]:
    """The same for all seeds, which draw nothing but tokens and weights."""
    rng = np.random.default_rng(0)
    spread = np.log(np.arange(1, TOKENS + 1))
    return tuple(np.argsort(spread + rng.normal(0, 0.5, TOKENS)) for _ in SUCCESSORS)


def zipf() -> Float[np.ndarray, "tokens"]:
    shares = 1 / np.arange(1, TOKENS + 1)
    return shares / shares.sum()


@functools.cache
def frequencies() -> Float[np.ndarray, "tokens"]:
    """How often each token comes in the long run, exactly."""
    found = zipf()
    for _ in range(200):  # what is missing falls by a quarter each time
        after = SHARE_OF_NEW * zipf()
        for share, successor in zip(SUCCESSORS, permutations(), strict=True):
            after[successor] += share * found
        found = after
    return found


def deciles() -> Int[np.ndarray, "tokens"]:
    """Tenths of the text, not of the vocabulary: 0 holds the most frequent token, 9 most tokens.

    A token belongs to the tenth that the middle of its share lies in, the frequent ones first.
    """
    order = np.argsort(-frequencies())
    share = frequencies()[order]
    tenths = np.empty(TOKENS, int)
    tenths[order] = ((np.cumsum(share) - share / 2) * DECILES).astype(int)
    return tenths


def text(seed: int, streams: int, length: int) -> Int[np.ndarray, "rows window"]:
    """Windows of a context and its next token, from independent streams and in random order."""
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
    """The loss of the process's own probabilities; its mean is the entropy that no model beats."""
    target, (near, far) = windows[:, -1], permutations()
    chance = SHARE_OF_NEW * zipf()[target]
    chance += SUCCESSORS[0] * (near[windows[:, -2]] == target)
    chance += SUCCESSORS[1] * (far[windows[:, -4]] == target)
    return -np.log(chance)
