"""Balanced softmax, and the size of gradients at a model's output."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd

LOGITS = jax.random.normal(jax.random.key(0), (6, 4), jnp.float64)
LABELS = jnp.array([0, 1, 2, 3, 1, 1])


def test_a_prior_that_is_the_same_for_all_classes_changes_nothing():
    plain = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    balanced = insgd.balanced_softmax_cross_entropy(LOGITS, LABELS, jnp.full(4, -1.5))
    np.testing.assert_allclose(balanced, plain, rtol=1e-12)


def test_the_balanced_softmax_weighs_every_class_by_its_prior():
    prior = np.array([0.5, 0.3, 0.15, 0.05])
    losses = insgd.balanced_softmax_cross_entropy(LOGITS, LABELS, jnp.log(jnp.asarray(prior)))
    weighed = prior * np.exp(np.asarray(LOGITS))
    chosen = weighed[np.arange(6), np.asarray(LABELS)]
    np.testing.assert_allclose(losses, -np.log(chosen / weighed.sum(axis=1)), rtol=1e-10)


def test_padding_has_no_loss_and_no_gradient():
    labels = LABELS.at[0].set(-1).at[1].set(9)
    prior = jnp.zeros(4)

    def total(logits: jax.Array) -> jax.Array:
        return jnp.sum(insgd.balanced_softmax_cross_entropy(logits, labels, prior))

    assert insgd.balanced_softmax_cross_entropy(LOGITS, labels, prior)[:2].tolist() == [0, 0]
    gradient = np.asarray(jax.grad(total)(LOGITS))
    assert np.all(gradient[:2] == 0) and np.all(gradient[2:] != 0)


def test_logits_of_padding_that_are_not_finite_reach_no_gradient():
    logits, labels = LOGITS.at[0].set(jnp.nan), LABELS.at[0].set(-1)

    def total(logits: jax.Array) -> jax.Array:
        return jnp.sum(insgd.balanced_softmax_cross_entropy(logits, labels, jnp.zeros(4)))

    gradient = np.asarray(jax.grad(total)(logits))
    assert np.all(gradient[0] == 0) and np.all(np.isfinite(gradient))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("labels", "prior", "words"),
    [(LABELS[:, None], jnp.zeros(4), "one integer"), (LABELS, jnp.zeros(1), "log_prior has shape")],
)
def test_shapes_that_do_not_fit_are_an_error(labels, prior, words):
    with pytest.raises(ValueError, match=words):
        insgd.balanced_softmax_cross_entropy(LOGITS, labels, prior)


def test_bytes_as_labels_have_their_loss():
    labels, logits = jnp.array([3, 255], jnp.uint8), jnp.zeros((2, 256), jnp.bfloat16)
    losses = insgd.balanced_softmax_cross_entropy(logits, labels, jnp.zeros(256))
    np.testing.assert_allclose(losses, np.log(256), rtol=1e-6)


def test_the_softmax_s_gradient_norm_is_that_of_automatic_differentiation():
    def losses(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)

    gradient = jax.grad(lambda logits: losses(logits).sum())(LOGITS)
    norms = np.linalg.norm(gradient, axis=1)
    np.testing.assert_allclose(insgd.softmax_gradient_norm(LOGITS, LABELS), norms, rtol=1e-5)
    np.testing.assert_allclose(insgd.output_gradient_norm(losses, LOGITS), norms, rtol=1e-10)


def test_no_gradient_flows_through_the_norms():
    def total(logits: jax.Array) -> jax.Array:
        by_hand = insgd.output_gradient_norm(lambda y: jnp.sum(jnp.sin(y), axis=-1), logits)
        return jnp.sum(insgd.softmax_gradient_norm(logits, LABELS)) + jnp.sum(by_hand)

    np.testing.assert_array_equal(jax.grad(total)(LOGITS), np.zeros((6, 4)))


def test_losses_that_were_averaged_already_are_an_error():
    for mean in (lambda outputs: jnp.mean(outputs, axis=0), jnp.mean):
        with pytest.raises(ValueError, match="one loss for every example"):
            insgd.output_gradient_norm(mean, LOGITS)


def test_norms_of_half_precision_outputs_do_not_overflow():
    halves = lambda outputs: jnp.sum(jnp.square(outputs), axis=-1) / 2  # noqa: E731
    norms = insgd.output_gradient_norm(halves, jnp.full((2, 3), 300, jnp.float16))
    np.testing.assert_allclose(norms, 300 * np.sqrt(3), rtol=1e-3)
