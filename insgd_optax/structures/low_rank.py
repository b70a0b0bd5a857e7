"""LowRank: a few directions of a layer's input, and the remaining variance of each feature."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from insgd_optax.layout import Layout
from insgd_optax.numerics import one_by_one, safe_power
from insgd_optax.settings import Number, check_is_count, check_is_static
from insgd_optax.structures.base import (
    ELEMENTWISE_COST,
    EveryUpdate,
    LayerInput,
    Structure,
    Sums,
)
from insgd_optax.structures.frequency import Frequency
from insgd_optax.structures.mean_variances import MeanVariances

# Fitted to `benchmarks/step_time` on a CPU. A product with a few columns takes this many times as
# long per multiply-add as a large one, and the gradient is read and written this many times.
THIN, PASSES = 8, 5


@dataclasses.dataclass(frozen=True)
class LowRank(EveryUpdate):
    r"""Replaces ``A`` by a few directions, and by a diagonal for the rest.

    .. math::
      A \approx \frac{D + B B^\top}{1 + \lambda}, \qquad
      B B^\top = Y (\Omega^\top Y)^{-1} Y^\top, \qquad
      D = \operatorname{diag}(A - B B^\top) + \lambda \bar P I, \qquad
      Y = \mathbb{E}\, x (x^\top \Omega)

    This is the Nyström approximation. It never exceeds ``A`` and is exact if the rank of ``A`` is
    at most ``rank``. The sketch ``Y`` is linear in ``A``, so the sums of batches and devices add.
    The test matrix :math:`\Omega` holds the first columns of an orthonormal cosine transform, with
    its rows in a fixed random order. Its first column is constant, which finds the mean of inputs
    behind a ReLU. With :math:`Q = D^{-1/2} B` the power is

    .. math::
      D^{p/2} (I + Q Q^\top)^p D^{p/2} / (1 + \lambda)^p,

    which is exact for the exponents -1, 0 and 1. It is exact for any exponent if ``D`` is the same
    for all features. State: ``rank + 1`` values per feature. Lookups get `Frequency`. Weights with
    one axis, which are mostly biases, get `MeanVariances`.

    >>> kept = jnp.array([[[2.0, 3.0], [2.0, 3.0]]]) / jnp.array([1.0, 2**0.5])
    >>> structure = LowRank(rank=1)               # A = [[2, 1], [1, 2]], Ω = (1, 1) / √2, P̄ = 2
    >>> factor = structure.factor(kept, exponent=-1, eps=0.0, level=jnp.array([2.0]))
    >>> solved = structure.apply(factor, jnp.array([[[1.0, 1.0], [1.0, -1.0]]])) / 2
    >>> solved[0].round(4).tolist()               # B Bᵀ = 1.5: 2 / (0.5 + 2 + 3) and 2 / (0.5 + 2)
    [[0.363..., 0.799...], [0.363..., -0.799...]]

    Attributes:
      rank: number of directions.
      damping: :math:`\lambda`, without unit.
      rows: number of rows to draw from each batch, as in `Full`; None for all.

    Raises:
      ValueError: if a setting is out of its range. The damping must be positive.

    References:
      Williams, Seeger, "Using the Nyström Method to Speed Up Kernel Machines" (NIPS 2000). Tropp,
      Yurtsever, Udell, Cevher, "Fixed-rank approximation of a positive-semidefinite matrix from
      streaming data" (NIPS 2017) for the shift. Woodbury (1950) for the inverse.
    """

    rank: int = 8
    damping: int | float = 1.0
    rows: int | None = 512

    def __post_init__(self) -> None:
        check_is_count("rank", self.rank)
        if self.rows is not None:
            check_is_count("rows", self.rows)
        check_is_static("damping", self.damping)
        if not self.damping > 0:
            raise ValueError(f"damping must be positive, not {self.damping}.")

    @property
    def order(self) -> int:
        return 2

    def for_layer(self, layout: Layout) -> Structure:
        if layout.one_hot:
            return Frequency()
        return MeanVariances(self.damping) if len(layout.shape) < 2 else self

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        return groups, inputs, 1 + min(self.rank, inputs)

    def work(self, rows: int, inputs: int, outputs: int, uses: int = 1) -> float:
        rank = min(self.rank, inputs)
        drawn = rows if self.rows is None else min(rows, uses * self.rows)
        sketched = 2 * drawn * inputs * rank
        factored = 3 * inputs * rank**2 + ELEMENTWISE_COST * inputs * (1 + rank)
        applied = inputs * outputs * (2 * rank * THIN + PASSES * ELEMENTWISE_COST)
        return float(sketched + factored + applied)

    def observe(self, seen: LayerInput) -> Sums:
        """Sums of each squared feature, and of its products with the sketch of its row."""
        rows = seen.rows(self.rows)
        test = _test_matrix(seen.inputs, min(self.rank, seen.inputs), rows.dtype)
        sketch = jnp.einsum("gri,ik->grk", rows, test, precision=jax.lax.Precision.HIGHEST)
        products = jnp.einsum("gri,grk->gik", rows, sketch, precision=jax.lax.Precision.HIGHEST)
        squares = jnp.sum(rows**2, axis=1)[:, :, None]
        sums = jnp.concatenate([squares, products], axis=2)
        return sums, jnp.full(seen.groups, rows.shape[1], sums.dtype)

    def feature_power(self, power: Float[Array, "groups inputs _"]) -> Float[Array, "groups _ 1"]:
        return power[:, :, :1]

    def squared_norm(self, power: Float[Array, "groups inputs _"]) -> Float[Array, " groups"]:
        level = jnp.mean(power[:, :, 0], axis=1)
        relative = power * safe_power(level, -1)[:, None, None]
        directions = _directions(relative[:, :, 1:])
        gram = jnp.einsum("gik,gil->gkl", directions, directions)
        # The diagonal is that of A. All other entries are those of B Bᵀ.
        beside = jnp.sum(gram**2, axis=(1, 2)) - jnp.sum(jnp.sum(directions**2, 2) ** 2, axis=1)
        return level**2 * (jnp.sum(relative[:, :, 0] ** 2, axis=1) + beside)

    def guarded(
        self, history: Float[Array, "groups inputs _"], batch: Float[Array, "groups inputs _"]
    ) -> tuple[Float[Array, "groups inputs _"], Float[Array, " groups"]]:
        mean_squares = (jnp.mean(kept[:, :, 0], axis=1) for kept in (history, batch))
        return history, jnp.maximum(*mean_squares)

    def factor(
        self,
        power: Float[Array, "groups inputs _"],
        exponent: Number,
        eps: Number,
        level: Float[Array, " groups"],
    ) -> Float[Array, "groups _ _"]:
        """``[[diagonal, directions], [0, K]]`` as one array, with ``K`` from `_between`."""
        del eps  # replaced by the damping
        # Relative to the mean square, as powers of a tiny variance would leave float32.
        relative = power * safe_power(level, -1)[:, None, None]
        directions = _directions(relative[:, :, 1:])
        rest = jnp.maximum(relative[:, :, 0] - jnp.sum(directions**2, axis=2), 0)
        damped = ((rest + self.damping) / (1 + self.damping))[:, :, None]
        directions = directions / jnp.sqrt(jnp.asarray(1 + self.damping, directions.dtype))
        between = _between(directions * safe_power(damped, -0.5), exponent)
        turned = directions * safe_power(damped, (exponent - 1) / 2)
        below = jnp.zeros_like(between[:, :, :1])
        upper = jnp.concatenate([safe_power(damped, exponent), turned], axis=2)
        return jnp.concatenate([upper, jnp.concatenate([below, between], axis=2)], axis=1)

    def apply(
        self, factor: Float[Array, "groups _ _"], gradient: Inexact[Array, "groups inputs outputs"]
    ) -> Inexact[Array, "groups inputs outputs"]:
        inputs, highest = gradient.shape[1], jax.lax.Precision.HIGHEST
        turned, between = factor[:, :inputs, 1:], factor[:, inputs:, 1:]
        along = jnp.einsum("gik,gio->gko", turned, gradient, precision=highest)
        along = jnp.einsum("gkl,glo->gko", between, along, precision=highest)
        inner = jnp.einsum("gik,gko->gio", turned, along, precision=highest)
        return factor[:, :inputs, :1] * gradient + inner


def _test_matrix(inputs: int, rank: int, dtype: jnp.dtype) -> Float[Array, "inputs rank"]:
    """The first columns of a cosine transform, with shuffled rows to avoid the order of pixels.

    NumPy guarantees that this shuffle never changes, so a saved sketch stays valid.
    """
    order = np.random.RandomState(0).permutation(inputs)
    angles = jnp.asarray(np.pi * (order + 0.5) / inputs, dtype)
    waves = jnp.cos(angles[:, None] * jnp.arange(rank, dtype=dtype)[None])
    sizes = np.sqrt(np.where(np.arange(rank) > 0, 2, 1) / inputs)
    return waves * jnp.asarray(sizes, dtype)[None]


def _directions(sketch: Float[Array, "groups inputs rank"]) -> Float[Array, "groups inputs rank"]:
    """``B``, from the sketch of a matrix with a mean eigenvalue of 1.

    The core ``Ωᵀ Y`` is singular if inputs have fewer directions. A shift above its rounding error
    keeps it positive. This only makes ``B`` smaller, and the diagonal takes the rest.
    """
    inputs, rank = sketch.shape[1:]
    test = _test_matrix(inputs, rank, sketch.dtype)
    core = jnp.einsum("ik,gil->gkl", test, sketch, precision=jax.lax.Precision.HIGHEST)
    core = (core + core.mT) / 2
    identity = jnp.eye(rank, dtype=core.dtype)
    shift = (64 + inputs) * float(jnp.finfo(core.dtype).eps)
    core = core + shift * (1 + core) * identity[None]
    root = one_by_one(_inverse_root, core)
    return jnp.einsum("gik,gkl->gil", sketch, root, precision=jax.lax.Precision.HIGHEST)


def _between(
    scaled: Float[Array, "groups inputs rank"], exponent: Number
) -> Float[Array, "groups rank rank"]:
    """``K`` such that ``(I + Q Qᵀ) ** exponent = I + Q K Qᵀ``."""
    highest = jax.lax.Precision.HIGHEST
    gram = jnp.einsum("gik,gil->gkl", scaled, scaled, precision=highest)
    if isinstance(exponent, int | float) and exponent == -1:  # Woodbury, without eigenvalues
        root = one_by_one(_inverse_root, gram + jnp.eye(gram.shape[1], dtype=gram.dtype)[None])
        return -jnp.einsum("gik,gjk->gij", root, root, precision=highest)
    return one_by_one(_power_less_identity, gram, jnp.asarray(exponent, gram.dtype))


def _power_less_identity(
    gram: Float[Array, "rank rank"], exponent: Float[Array, ""]
) -> Float[Array, "rank rank"]:
    """``K`` from ``Qᵀ Q``, by its eigenvalues."""
    values, vectors = jnp.linalg.eigh(gram)
    values = jnp.maximum(values, 0)
    growth = jnp.expm1(exponent * jnp.log1p(values)) * safe_power(values, -1)
    return jnp.matmul(vectors * growth[None, :], vectors.T, precision=jax.lax.Precision.HIGHEST)


def _inverse_root(positive: Float[Array, "rank rank"]) -> Float[Array, "rank rank"]:
    """``R`` such that ``R Rᵀ`` is the inverse."""
    lower = jnp.linalg.cholesky(positive, symmetrize_input=False)
    identity = jnp.eye(len(positive), dtype=positive.dtype)
    return jax.scipy.linalg.solve_triangular(lower, identity, lower=True).T
