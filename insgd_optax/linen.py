"""Flax Linen: a TrainState that passes extra arguments to the optimizer."""

import dataclasses
from typing import Any, TypeVar, cast

import optax
from flax.training import train_state

from insgd_optax.transforms.bind import bind

State = TypeVar("State", bound=train_state.TrainState)


class TrainState(train_state.TrainState):
    """Flax's ``TrainState``, whose ``apply_gradients`` takes ``input_stats``.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import flax.linen as nn
    >>> import insgd_optax as insgd
    >>> model, inputs = nn.Dense(1), jnp.array([[1.0, 2.0], [3.0, 0.0]])
    >>> params = model.init(jax.random.key(0), inputs)["params"]
    >>> state = insgd.linen.TrainState.create(
    ...     apply_fn=model.apply, params=params, tx=insgd.insgd())
    >>> def loss_fn(params, inputs):
    ...     return jnp.mean(state.apply_fn({"params": params}, inputs) ** 2)
    >>> loss, grads, input_stats = insgd.value_and_grad(loss_fn)(state.params, inputs)
    >>> state = state.apply_gradients(grads=grads, input_stats=input_stats)
    >>> state.step
    1

    A subclass may add fields such as ``batch_stats``, like a subclass of Flax's own.
    """

    params: optax.Params  # annotated as FrozenDict in Flax, but usually a dict

    def apply_gradients(self: State, *, grads: optax.Updates, **kwargs: Any) -> State:
        """Takes one step of the optimizer.

        Args:
          grads: the gradients, with the structure of ``params``.
          **kwargs: new values of the state's fields. All other names are arguments of
            ``tx.update``: ``input_stats``, ``groups`` and so on.

        Returns:
          The state with new ``step``, ``params``, ``opt_state`` and given fields.

        Raises:
          ValueError: if the optimizer needs ``input_stats`` and they are missing or do not fit.
        """
        names = {field.name for field in dataclasses.fields(self)}
        fields = {name: value for name, value in kwargs.items() if name in names}
        extra_args = {name: value for name, value in kwargs.items() if name not in names}
        bound = self.replace(tx=bind(self.tx, **extra_args))
        fields = {"tx": self.tx, **fields}
        return cast(State, train_state.TrainState.apply_gradients(bound, grads=grads, **fields))
