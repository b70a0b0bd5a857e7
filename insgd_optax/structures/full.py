"""Full: the whole second moment of a layer's input, as in recursive least squares."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from insgd_optax.layout import Layout
from insgd_optax.numerics import one_by_one, safe_power
from insgd_optax.settings import Number, check_is_static
from insgd_optax.structures.base import Lasting, LayerInput, Structure, Sums
from insgd_optax.structures.diagonal import Diagonal

# Measured on a CPU (`python -m benchmarks.step_time`), in multiply-adds of a layer's own products:
# the cost of one with a gradient, which is narrower than a batch, and a fixed cost per layer.
NARROW, EACH_LAYER = 5, 1.4e6


@dataclasses.dataclass(frozen=True)
class Full(Lasting):
    r"""Keeps ``A`` itself, damped relative to its mean eigenvalue.

    .. math::
      A^{-1} G = (\mathbb{E}[x x^\top] + \lambda \bar P I)^{-1} G, \qquad
      \bar P = \tfrac{1}{n} \operatorname{tr} \mathbb{E}[x x^\top]

    The second moment is estimated from ``rows`` rows of each batch (of each use, if a weight is
    used several times). The batch is cut into that many stretches of equal length, and one row is
    drawn from each, so every row is equally likely.

    The factor is recomputed after every ``refresh_every`` updates, and after 0, 1, 3, 7, ... of
    them at first. Under `jax.vmap` it is recomputed at every update, since JAX then runs both sides
    of a branch. It is relative to :math:`\bar P`, which is current at every step. A direction that
    was never seen is divided by :math:`\lambda \bar P` and never by less. So use a damping of
    0 only with all rows of a batch.

    State: ``n²`` values, and as many for the factor if it is cached.

    >>> A = jnp.array([[[2.0, 1.0], [1.0, 2.0]]])            # mean eigenvalue 2
    >>> full = Full(damping=0.5)
    >>> relative = full.apply(full.factor(A, -1, 0.0, jnp.array([2.0])), jnp.ones((1, 2, 1)))
    >>> [round(float(u) / 2, 4) for u in relative.ravel()]   # the eigenvalue of (1, 1) is 3 + 1
    [0.25, 0.25]

    Attributes:
      damping: :math:`\lambda`, without unit.
      refresh_every: number of updates between refreshes of the factor.
      rows: number of rows to draw from each batch, on all devices together; None for all. The same
        batch, keys and counters in the loss's arguments give the same rows.
      max_inputs: layers with more inputs get `Diagonal`. So do lookups, whose second moment is
        diagonal, and weights with one axis, which are mostly biases.

    Raises:
      ValueError: if a setting is out of its range.

    References:
      Sayed (2003), recursive least squares. Benzing, "Gradient Descent on Neurons and its Link to
      Approximate Second-Order Optimization" (FOOF), ICML 2022. Petersen et al., "ISAAC Newton",
      ICLR 2023.
    """

    damping: int | float = 0.1
    refresh_every: int = 10
    rows: int | None = 512
    max_inputs: int = 2048

    def __post_init__(self) -> None:
        least = {"damping": 0, "refresh_every": 1, "max_inputs": 1}
        for name, bound in (least if self.rows is None else least | {"rows": 1}).items():
            check_is_static(name, getattr(self, name))
            if not getattr(self, name) >= bound:
                raise ValueError(f"{name} must be at least {bound}, not {getattr(self, name)}.")

    @property
    def order(self) -> int:
        return 2

    def for_layer(self, layout: Layout) -> Structure:
        plain = layout.one_hot or len(layout.shape) < 2 or layout.inputs > self.max_inputs
        return Diagonal() if plain else self

    def shape(self, groups: int, inputs: int) -> tuple[int, ...]:
        return groups, inputs, inputs

    def work(self, rows: int, inputs: int, outputs: int, uses: int = 1) -> float:
        drawn = rows if self.rows is None else min(rows, uses * self.rows)
        # A Cholesky factor, and two triangular systems with `inputs` right-hand sides.
        solved = 7 / 3 * inputs**3 / self.refresh_every
        applied = NARROW * inputs**2 * outputs
        return drawn * inputs**2 + solved + applied + EACH_LAYER

    def observe(self, seen: LayerInput) -> Sums:
        rows = seen.rows(self.rows)
        sums = jnp.einsum("gri,grj->gij", rows, rows, precision=jax.lax.Precision.HIGHEST)
        return sums, jnp.full(seen.groups, rows.shape[1], sums.dtype)

    def feature_power(
        self, power: Float[Array, "groups inputs inputs"]
    ) -> Float[Array, "groups inputs 1"]:
        return jnp.diagonal(power, axis1=1, axis2=2)[:, :, None]

    def squared_norm(self, power: Float[Array, "groups inputs inputs"]) -> Float[Array, " groups"]:
        return jnp.sum(power**2, axis=(1, 2))

    def guarded(
        self,
        history: Float[Array, "groups inputs inputs"],
        batch: Float[Array, "groups inputs inputs"],
    ) -> tuple[Float[Array, "groups inputs inputs"], Float[Array, " groups"]]:
        return history, jnp.maximum(_mean_eigenvalue(history), _mean_eigenvalue(batch))

    def factor(
        self,
        power: Float[Array, "groups inputs inputs"],
        exponent: Number,
        eps: Number,
        level: Float[Array, " groups"],
    ) -> Float[Array, "groups inputs inputs"]:
        del eps  # replaced by the damping
        level = level[:, None, None]
        identity = jnp.broadcast_to(jnp.eye(power.shape[1], dtype=power.dtype), power.shape)
        # A group without rows so far counts as white until the next refresh.
        relative = jnp.where(level > 0, power * safe_power(level, -1), identity)
        # Cholesky costs a fifth, but needs a damping above the rounding error of a zero eigenvalue.
        exact = self.damping > 64 * _rounding(power)
        if isinstance(exponent, int | float) and exponent == -1 and exact:
            return one_by_one(_inverse, relative + self.damping * identity)
        settings = (jnp.asarray(each, power.dtype) for each in (exponent, self.damping))
        return one_by_one(_damped_power, relative, *settings)

    def apply(
        self,
        factor: Float[Array, "groups inputs inputs"],
        gradient: Inexact[Array, "groups inputs outputs"],
    ) -> Inexact[Array, "groups inputs outputs"]:
        return jnp.einsum("gij,gjo->gio", factor, gradient, precision=jax.lax.Precision.HIGHEST)


def _inverse(positive: Float[Array, "inputs inputs"]) -> Float[Array, "inputs inputs"]:
    lower = jnp.linalg.cholesky(positive, symmetrize_input=False)
    identity = jnp.eye(len(positive), dtype=positive.dtype)
    inverse = jax.scipy.linalg.cho_solve((lower, True), identity)
    return (inverse + inverse.T) / 2


def _damped_power(
    matrix: Float[Array, "inputs inputs"], exponent: Float[Array, ""], damping: Float[Array, ""]
) -> Float[Array, "inputs inputs"]:
    values, vectors = jnp.linalg.eigh(matrix)
    values = jnp.where(values > _rounding(matrix) * values[-1:], values, 0)
    scaled = vectors * safe_power(values + damping, exponent)[None, :]
    return jnp.matmul(scaled, vectors.T, precision=jax.lax.Precision.HIGHEST)


def _rounding(matrices: Float[Array, "*groups inputs inputs"]) -> float:
    """The rounding error of an eigenvalue of zero, over the largest eigenvalue."""
    return matrices.shape[-1] * float(jnp.finfo(matrices.dtype).eps)


def _mean_eigenvalue(power: Float[Array, "groups inputs inputs"]) -> Float[Array, " groups"]:
    return jnp.mean(jnp.diagonal(power, axis1=1, axis2=2), axis=1)
