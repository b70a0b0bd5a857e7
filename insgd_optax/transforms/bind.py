"""Binding: extra arguments for an optimizer behind a wrapper that hands none on."""

import functools
from typing import Any

import optax


def bind(tx: optax.GradientTransformation, **extra_args: Any) -> optax.GradientTransformation:
    """The transformation with extra arguments of ``update`` filled in.

    Some wrappers (``optax.contrib.sam``, ``optax.lookahead``,
    ``optax.contrib.split_real_and_imaginary``) hand no extra argument on. Bind the statistics
    inside the train step, and make the wrapper there as well: it is only a pair of functions, and
    its state is valid from step to step.

    >>> import jax.numpy as jnp
    >>> import insgd_optax as insgd
    >>> def wrapped(**extra_args):
    ...     fast = insgd.bind(insgd.insgd(0.5, momentum=0.0, relative=0.0), **extra_args)
    ...     return optax.lookahead(fast, sync_period=5, slow_step_size=0.5)
    >>> params = {"kernel": jnp.zeros((2, 1))}
    >>> state = wrapped().init(optax.LookaheadParams.init_synced(params))
    >>> loss_fn = lambda params, inputs: jnp.sum(inputs @ params["kernel"])
    >>> _, grads, input_stats = insgd.value_and_grad(loss_fn)(params, jnp.eye(2))
    >>> updates, state = wrapped(input_stats=input_stats).update(
    ...     grads, state, optax.LookaheadParams.init_synced(params))
    >>> updates.fast["kernel"].shape
    (2, 1)

    Args:
      tx: the transformation.
      **extra_args: what its ``update`` gets besides what it is called with: ``input_stats``,
        ``groups``, and whatever else it takes.

    Returns:
      A transformation whose ``update`` takes the three usual arguments. Like every plain
      transformation it ignores other ones.
    """
    update = functools.partial(optax.with_extra_args_support(tx).update, **extra_args)
    return optax.GradientTransformation(tx.init, update)
