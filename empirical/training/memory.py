"""Freed memory kept for the next step.

A step on the CPU makes and frees hundreds of arrays of the same sizes. The C library of Linux (glibc) gives large ones back to the
system again and again, and then every page of the next is fetched and zeroed anew, which can cost more than the arithmetic on it.
"""

import ctypes
import sys

LARGEST, TRIM = 32 * 2**20, 2**31 - 1  # bytes: arrays up to the first are kept (glibc takes no more), freed memory up to the second


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to `TRIM` bytes, until it ends; its peak stays the same, and so does every number.

    Returns:
        Whether that was possible: on glibc only.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    trim_threshold, mmap_threshold = -1, -3  # names of the two in malloc.h
    return bool(mallopt(mmap_threshold, LARGEST) and mallopt(trim_threshold, TRIM))
