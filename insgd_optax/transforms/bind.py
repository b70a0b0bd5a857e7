"""bind: binds extra arguments to an optimizer inside a wrapper that drops them."""

import functools
from typing import Any

import optax


def bind(tx: optax.GradientTransformation, **extra_args: Any) -> optax.GradientTransformation:
    """Binds extra arguments to a transformation's ``update``.

    Some wrappers drop extra arguments (``optax.contrib.sam``, ``optax.lookahead``,
    ``optax.contrib.split_real_and_imaginary``). Bind the statistics inside the train step and
    create the wrapper there too. A wrapper is only a pair of functions, so its state stays valid
    from step to step.

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
      **extra_args: the arguments to bind, such as ``input_stats`` and ``groups``.

    Returns:
      A transformation whose ``update`` takes the three usual arguments. Like any plain
      transformation, it gets no others from ``optax.chain``.
    """
    update = functools.partial(optax.with_extra_args_support(tx).update, **extra_args)
    return optax.GradientTransformation(tx.init, update)
