"""Where a batch's jobs run: threads of this process, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

from fcn_convert.batch.jobs import BatchError
from fcn_convert.batch.watch import Watch

CONNECT_SECONDS = 30


@contextmanager
def threads(count: int, watch: Watch) -> Iterator[Executor]:
    """Give a pool of threads; where the block is left early, what goes on in it is stopped."""
    with ThreadPoolExecutor(count, "fcn-convert") as pool:
        try:
            yield pool
        except BaseException:
            watch.stop()
            pool.shutdown(wait=False, cancel_futures=True)  # leaving the block waits
            raise


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """Give the workers of a Dask cluster by its scheduler's address.

    A job whose worker dies is run again by another; conversions that are on the way when the block
    is left early run to their end there. Raises BatchError where there is no such scheduler.
    """
    try:
        from distributed import Client  # noqa: PLC0415 - heavy, and an extra
    except ImportError:
        raise BatchError("--scheduler needs Dask: pip install 'fcn-convert[dask]'") from None
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise BatchError(f"{address}: no Dask scheduler answers: {error}") from error
    with client:
        # Not pure: Dask would answer from memory for a conversion whose output was removed since.
        pool = client.get_executor(pure=False)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)
