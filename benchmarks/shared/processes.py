"""Work in several single-threaded processes."""

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def in_processes(work: Sequence[Callable[[], str]], jobs: int) -> None:
    """Runs all calls and prints their results or errors.

    The networks are small. A second thread hardly helps, a second process does.

    Raises:
      RuntimeError: if a call failed, once all others have finished.
    """
    failed = 0
    begin, spawn = time.perf_counter(), multiprocessing.get_context("spawn")
    pools = concurrent.futures.ProcessPoolExecutor(jobs, spawn, initializer=_end_with_parent)
    with _single_threaded(), pools as pool:
        futures = [pool.submit(each) for each in work]
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), start=1):
                error = future.exception()
                failed += error is not None
                said = future.result() if error is None else f"failed: {error!r}"
                minutes = (time.perf_counter() - begin) / 60
                print(f"{number}/{len(work)} after {minutes:.1f} min: {said}", flush=True)
        except BaseException:
            # A process that waits would take the next call, and this one would wait for it.
            for process in multiprocessing.active_children():
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise RuntimeError(f"{failed} of {len(work)} failed. Their errors are above.")


def _end_with_parent() -> None:
    """Ends this process with its parent. It would otherwise wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Sets one thread for processes that start inside. They read this before importing jax."""
    settings = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "NPROC": "1"}
    settings["XLA_FLAGS"] += " " + os.environ.get("XLA_FLAGS", "")
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
