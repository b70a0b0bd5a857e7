"""Work in several processes, each of one thread."""

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def in_processes(work: Sequence[Callable[[], str]], jobs: int) -> None:
    """Calls everything, and prints what each call returns or raises.

    The networks are small: a second thread makes them hardly faster, a second process does.

    Raises:
      RuntimeError: if some calls failed, after all others.
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
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise RuntimeError(f"{failed} of {len(work)} failed; what they said is above.")


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes that start inside read these before they import jax."""
    settings = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "NPROC": "1"}
    settings["XLA_FLAGS"] += " " + os.environ.get("XLA_FLAGS", "")
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
