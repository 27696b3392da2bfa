"""How many threads compiled functions use, process-wide."""

from __future__ import annotations


def set_num_threads(threads: int) -> None:
    """Set how many threads parallel loops and matrix products use, the calling one included.

    ``tx.function(..., threads=n)`` sets a lower limit for one function. Where ``threadpoolctl`` is
    installed, its ``threadpool_limits`` works too, as a context; the pool is listed there under the
    name ``tetractys``.

    Parameters
    ----------
    threads : int
        From 1 to 1024.

    Raises
    ------
    ValueError
        When it is not.

    Examples
    --------
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    from .runtime import cpu_threads
    cpu_threads.set_num_threads(threads)


def get_num_threads() -> int:
    """Return how many threads parallel loops use, the calling one included.

    :func:`set_num_threads` decides, else ``TETRACTYS_NUM_THREADS``, else ``OMP_NUM_THREADS``, else
    the CPUs the process may use: its affinity, and the quota of its control group (container).
    """
    from .runtime import cpu_threads
    return cpu_threads.get_num_threads()
