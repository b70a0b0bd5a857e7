"""One process of several that train together: ``python one_host.py PORT PROCESSES NUMBER OUT``.

With one process there is no coordinator. The first process writes the parameters to OUT.
"""

import sys

import jax
import numpy as np

port, processes, number, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
jax.config.update("jax_platforms", "cpu")
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, number, initialization_timeout=60)

import jax.numpy as jnp  # noqa: E402 (the processes meet first)
import optax  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import insgd_optax as insgd  # noqa: E402

mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
batches = rng.normal(size=(20, 32, 6)).astype(np.float32)
params = {
    "hidden": rng.normal(size=(6, 8)).astype(np.float32) / 3,
    "head": rng.normal(size=(8, 3)).astype(np.float32) / 3,
}
structure = insgd.Full(rows=8)  # draws rows of the global batch


def loss_fn(params, x):
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["head"] - 1) ** 2)


tx = insgd.insgd(0.05, structure=structure)


@jax.jit
def step(params, state, x):
    _, grads, stats = insgd.value_and_grad(loss_fn, structure=structure)(params, x)
    updates, state = tx.update(grads, state, params, input_stats=stats)
    return optax.apply_updates(params, updates), state


def spread(array, spec):
    """A global array, of which this process gives what lies on its own devices."""
    return jax.make_array_from_callback(
        array.shape, NamedSharding(mesh, spec), lambda index: array[index]
    )


state = jax.jit(tx.init)(params)
params, state = jax.tree.map(lambda leaf: spread(np.asarray(leaf), P()), (params, state))
for x in batches:
    params, state = step(params, state, spread(x, P("data")))
insgd.check_state(state, params)
if number == 0:
    np.savez(out, hidden=np.asarray(params["hidden"]), head=np.asarray(params["head"]))
