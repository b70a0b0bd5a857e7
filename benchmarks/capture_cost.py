"""What the capture and the normalizer cost: trace, compile and step time beside SGD and Adam.

    python -m benchmarks.capture_cost

Every optimizer takes its turn in every round, and what is printed are medians over rounds of the
ratio to SGD with momentum in the same round: other load on the machine hits all of them alike.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import optax

import insgd_optax as insgd
from benchmarks.workloads import Workload, all_workloads

Step = Callable[..., Any]


def plain_step(workload: Workload, optimizer: optax.GradientTransformation) -> Step:
    def step(params: Any, state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(workload.loss_fn)(params, inputs, labels)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def captured_step(workload: Workload, structure: insgd.Structure) -> tuple[Step, Any]:
    optimizer = insgd.insgd(0.01, structure=structure)
    grad_fn = insgd.value_and_grad(workload.loss_fn, structure=structure)

    def step(params: Any, state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        loss, grads, input_stats = grad_fn(params, inputs, labels)
        updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state, loss

    return step, optimizer


def contenders(workload: Workload) -> dict[str, tuple[Step, Any]]:
    sgd, adam = optax.sgd(0.01, momentum=0.9), optax.adam(1e-3)
    return {
        "SGD": (plain_step(workload, sgd), sgd),
        "Adam": (plain_step(workload, adam), adam),
        "INSGD Scalar": captured_step(workload, insgd.Scalar()),
        "INSGD Diagonal": captured_step(workload, insgd.Diagonal()),
    }


def traced_and_compiled(step: Step, arguments: tuple[Any, ...]) -> tuple[float, float, Any]:
    """Seconds to trace, seconds to compile, and the compiled step."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(step).trace(*arguments)
    traced = time.perf_counter()
    compiled = lowered.lower().compile()
    return traced - start, time.perf_counter() - traced, compiled


def seconds_per_step(compiled: Any, arguments: tuple[Any, ...], steps: int) -> float:
    params, state, *batch = arguments
    start = time.perf_counter()
    for _ in range(steps):
        params, state, loss = compiled(params, state, *batch)
    jax.block_until_ready(loss)
    return (time.perf_counter() - start) / steps


def measure(workload: Workload, rounds: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """For every optimizer its times, one of each kind a round."""
    steppers, times, compiled = contenders(workload), {}, {}
    arguments = {
        name: (workload.params, optimizer.init(workload.params), *workload.batch)
        for name, (_, optimizer) in steppers.items()
    }
    for name in steppers:
        times[name] = {"trace": [], "compile": [], "step": []}
    for _ in range(max(3, rounds // 4)):
        for name, (step, _) in steppers.items():
            trace, compile_, compiled[name] = traced_and_compiled(step, arguments[name])
            times[name]["trace"].append(trace)
            times[name]["compile"].append(compile_)
    for _ in range(rounds):
        for name in steppers:
            times[name]["step"].append(seconds_per_step(compiled[name], arguments[name], steps))
    return times


def report(workload: Workload, times: dict[str, dict[str, list[float]]]) -> None:
    print(f"\n{workload.name}: ratio to SGD, median over rounds (SGD itself in seconds)")
    print(f"  {'':16}{'trace':>9}{'compile':>9}{'step':>9}{'state numbers':>16}")
    for name, (_, optimizer) in contenders(workload).items():
        numbers = sum(leaf.size for leaf in jax.tree.leaves(optimizer.init(workload.params)))
        cells = ""
        for kind, values in times[name].items():
            base = times["SGD"][kind]
            ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
            cells += f"{statistics.median(values) if name == 'SGD' else ratio:>9.3f}"
        print(f"  {name:16}{cells}{numbers:>16,}")


def gradient_trace_ratio(workload: Workload, rounds: int) -> float:
    """Time to trace the capturing gradient over that of `jax.value_and_grad`, median of rounds."""
    ratios = []
    for _ in range(rounds):
        seconds = []
        for differentiate in (jax.value_and_grad, insgd.value_and_grad):
            jax.clear_caches()
            start = time.perf_counter()
            jax.jit(differentiate(workload.loss_fn)).trace(workload.params, *workload.batch)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Prints what the capture and the normalizer cost, as ratios to plain SGD."
    )
    parser.add_argument("--rounds", type=int, default=20, help="rounds of steps (default 20)")
    parser.add_argument("--steps", type=int, default=5, help="steps a round (default 5)")
    parser.add_argument("--only", default="", help="only workloads with this in their name")
    options = parser.parse_args()
    for workload in all_workloads():
        if options.only in workload.name:
            report(workload, measure(workload, options.rounds, options.steps))
            ratio = gradient_trace_ratio(workload, 9)
            print(f"  tracing insgd_optax.value_and_grad over jax.value_and_grad: {ratio:.2f}")


if __name__ == "__main__":
    main()
