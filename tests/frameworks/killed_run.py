"""A run that is killed again and again: ``python killed_run.py FOLDER STEPS KILLS``.

Each life is its own process and continues from the last checkpoint. It is killed after a random
step: by a thread, a few milliseconds later, or in every second life as soon as a background save
has started. The last life finishes and writes FOLDER/params.npz. FOLDER/killed.txt has one line
for each kill, which says whether it left an unfinished save.
"""

import os
import pathlib
import random
import signal
import sys
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

import insgd_optax as insgd

SHAPES = {"hidden": (256, 1024), "head": (1024, 8)}  # large enough that a save takes a while


def _loss(params: Any, x: Any) -> Any:
    return jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["head"] - 1) ** 2)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_later(seconds: float) -> None:
    def wait() -> None:
        time.sleep(seconds)
        _die()

    threading.Thread(target=wait).start()


def live(folder: pathlib.Path, steps: int, kill: random.Random | None, in_save: bool) -> None:
    """One life of the run; with `kill` it does not finish."""
    tx = insgd.insgd(0.03)

    @jax.jit
    def step(params: Any, state: Any, key: Any) -> Any:
        new, key = jax.random.split(key)
        x = jax.random.normal(new, (16, 256))
        _, grads, input_stats = insgd.value_and_grad(_loss)(params, x)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state, key

    keys = zip(SHAPES, jax.random.split(jax.random.PRNGKey(0), 2), strict=True)
    params = {name: 0.05 * jax.random.normal(key, SHAPES[name]) for name, key in keys}
    run = params, tx.init(params), jax.random.PRNGKey(1)
    with ocp.CheckpointManager(
        folder / "run", options=ocp.CheckpointManagerOptions(max_to_keep=2)
    ) as manager:
        begun = manager.latest_step() or 0
        if begun:
            shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, run)
            run = manager.restore(begun, args=ocp.args.StandardRestore(shapes))
        killed_at = kill.randrange(begun + 1, begun + 5) if kill else None
        for number in range(begun + 1, steps + 1):
            run = step(*run)
            if number == killed_at and not in_save:
                _die_later(kill.uniform(0, 0.1))
            manager.save(number, args=ocp.args.StandardSave(run))  # goes on in the background
            if number == killed_at and in_save:
                _die()
        manager.wait_until_finished()
    if kill:
        time.sleep(60)  # until the thread has killed it
    np.savez(folder / "params.npz", **jax.device_get(run[0]))


def main(folder: pathlib.Path, steps: int, kills: int) -> None:
    folder.mkdir(exist_ok=True)
    lines = []
    for number in range(kills + 1):
        pid = os.fork()
        if pid == 0:
            alive = number == kills
            live(folder, steps, None if alive else random.Random(number), number % 2 == 0)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if number < kills:
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
            unfinished = [path for path in (folder / "run").iterdir() if "tmp" in path.name]
            lines.append("in a save" if unfinished else "between saves")
        else:
            assert status == 0, status
    (folder / "killed.txt").write_text("\n".join(lines))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:]))
