"""Running native code on several cores, in torch's own threads where that is possible.

Between two operations torch's OpenMP workers spin, waiting for the next one. Threads of our own would
fight them for the cores: a matrix's noise then took three times as long. So the kernels run in that same
team, by calling the OpenMP runtime that torch itself has loaded. Without one that is known (macOS,
Windows) a thread pool serves.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch

_PROCESS = os.getpid()


def run_in_team(function: int, argument: int, threads: int) -> None:
    """Call the native ``void function(void *argument)`` once in each of ``threads`` threads; wait for all.

    Args:
        function: Address of the function; it must share out the work among its callers by itself.
        argument: Address passed to each call.
        threads: How many calls.
    """
    # An OpenMP team does not survive a fork: its threads exist in the parent only.
    if threads == 1 or os.getpid() != _PROCESS:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(argument)
        return
    fork_join = _gomp_parallel()
    if fork_join is not None:
        fork_join(function, argument, threads, 0)
        return
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)
    for future in [_pool(threads).submit(call, argument) for _ in range(threads)]:
        future.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="zoft-noise")


@lru_cache(maxsize=1)
def _gomp_parallel() -> ctypes._NamedFuncPointer | None:
    """Return ``GOMP_parallel`` of the libgomp that torch has loaded, or None."""
    for folder in (Path(torch.__file__).parent / "lib", Path(torch.__file__).parent.parent / "torch.libs"):
        for path in sorted(folder.glob("libgomp*.so*")):
            try:
                # Only if it is in this process already: a second runtime would be a second team.
                library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            except OSError:
                continue
            function = library.GOMP_parallel
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            function.restype = None
            return function
    return None
