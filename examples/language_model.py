"""Trains a small causal transformer on made-up text, and looks at rare and frequent tokens.

    python examples/language_model.py

The source of the text is known. Half of the tokens follow from the one before, a quarter repeat
the one four places back, and a quarter are drawn with Zipf's frequencies. So the best possible loss
is known too. Rates rise for a tenth of the run and fall to zero with a cosine. About a minute.
"""

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure
from tqdm import tqdm

import insgd_optax as insgd
import report

TOKENS, LENGTH, BATCH_SIZE = 256, 32, 16
SEEDS, EVERY = range(2), 50
ZIPF = 1 / np.arange(1, TOKENS + 1)
ZIPF /= ZIPF.sum()
FOLLOWER = np.random.default_rng(0).permutation(TOKENS)


def write_texts(rng: np.random.Generator, number: int) -> Int[np.ndarray, "texts length"]:
    texts = rng.choice(TOKENS, (number, LENGTH), p=ZIPF)
    kind = rng.random((number, LENGTH))
    for place in range(4, LENGTH):
        follows, repeats = kind[:, place] < 0.5, kind[:, place] > 0.75
        texts[follows, place] = FOLLOWER[texts[follows, place - 1]]
        texts[repeats, place] = texts[repeats, place - 4]
    return texts


def best_losses(texts: Int[np.ndarray, "texts length"]) -> Float[np.ndarray, "texts predicted"]:
    """The loss of a model that knows the source, for every token from the fifth on."""
    token = texts[:, 4:]
    follows, repeats = token == FOLLOWER[texts[:, 3:-1]], token == texts[:, :-4]
    return -np.log(0.5 * follows + 0.25 * repeats + 0.25 * ZIPF[token])


class Transformer(nn.Module):
    """Two blocks of causal attention and a perceptron, each behind a LayerNorm."""

    width: int = 64

    @nn.compact
    def __call__(self, texts: Int[Array, "texts length"]) -> Float[Array, "texts length tokens"]:
        places, mask = jnp.arange(texts.shape[1]), nn.make_causal_mask(texts)
        hidden = nn.Embed(TOKENS, self.width)(texts) + nn.Embed(LENGTH, self.width)(places)
        for _ in range(2):
            attention = nn.MultiHeadDotProductAttention(num_heads=4)
            hidden = hidden + attention(nn.LayerNorm()(hidden), mask=mask)
            wide = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(hidden)))
            hidden = hidden + nn.Dense(self.width)(wide)
        return nn.Dense(TOKENS)(nn.LayerNorm()(hidden))


MODEL = Transformer()


@jax.jit
def token_losses(params, texts: Int[Array, "texts length"]) -> Float[Array, "texts predicted"]:
    """The loss of every token from the fifth on. Each is predicted from those before it."""
    logits = jnp.asarray(MODEL.apply({"params": params}, texts))[:, 3:-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, texts[:, 4:])


def loss_fn(params, texts: Int[Array, "texts length"]) -> Float[Array, ""]:
    return token_losses(params, texts).mean()


@partial(jax.jit, static_argnames="optimizer")
def train_step(optimizer, params, state, texts):
    loss, grads, input_stats = insgd.value_and_grad(loss_fn)(params, texts)
    updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    return optax.apply_updates(params, updates), state, loss


def train(optimizer, test: np.ndarray, steps: int, seed: int, name: str):
    """The mean test loss along the run, and the final loss of every test token."""
    params = MODEL.init(jax.random.key(seed), test[:1])["params"]
    state, rng, curve = optimizer.init(params), np.random.default_rng(seed), []
    for step in tqdm(range(steps), f"{name}, seed {seed}", disable=None):
        if step % EVERY == 0:
            curve.append(token_losses(params, test).mean())
        params, state, _ = train_step(optimizer, params, state, write_texts(rng, BATCH_SIZE))
    return np.array(curve), np.asarray(token_losses(params, test))


def main() -> None:
    args = report.options(__doc__, steps=1000).parse_args()
    test = write_texts(np.random.default_rng(1000), 512)
    curves, losses = {}, {"best possible": best_losses(test)}
    for name, make, peak in (("Adam", optax.adam, 1e-3), ("INSGD", insgd.insgd, 0.04)):
        optimizer = make(optax.warmup_cosine_decay_schedule(0, peak, args.steps // 10, args.steps))
        runs = [train(optimizer, test, args.steps, seed, name) for seed in SEEDS]
        curves[name], losses[name] = (np.mean(each, axis=0) for each in zip(*runs, strict=True))

    by_count = np.argsort(-np.bincount(test.ravel(), minlength=TOKENS))
    frequent, rare = np.isin(test[:, 4:], by_count[:16]), np.isin(test[:, 4:], by_count[128:])
    rows = [
        [name, *(f"{part.mean():.3f}" for part in (each, each[frequent], each[rare]))]
        for name, each in losses.items()
    ]
    print(report.table(["optimizer", "test loss", "16 frequent tokens", "128 rare tokens"], rows))
    print(f"\nMeans over {len(SEEDS)} seeds after {args.steps} steps, each at its usual peak rate.")
    args.out.mkdir(parents=True, exist_ok=True)
    draw(args.out / "language_model.png", test, curves, losses)
    print(f"Written: {args.out / 'language_model.png'}")


def draw(path: Path, test: np.ndarray, curves: dict, losses: dict) -> None:
    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, curve in curves.items():
        left.plot(EVERY * np.arange(len(curve)), curve, color=report.COLORS[name], label=name)
    left.axhline(losses["best possible"].mean(), color="0.35", ls=":", label="best possible")
    left.set(xlabel="training step", ylabel="test loss")
    left.legend()
    counts = np.bincount(test.ravel(), minlength=TOKENS)
    bins = np.array_split(np.argsort(counts), 8)
    shares = [counts[tokens].mean() / test.size for tokens in bins]
    for name in curves:
        excess = losses[name] - losses["best possible"]
        means = [excess[np.isin(test[:, 4:], tokens)].mean() for tokens in bins]
        right.plot(shares, means, "o-", color=report.COLORS[name])
    right.set(xlabel="frequency of a token", ylabel="test loss above the best", xscale="log")
    figure.savefig(path)


if __name__ == "__main__":
    main()
