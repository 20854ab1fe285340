"""What a step gives back stays with the process."""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Of glibc's malloc.h."""
_MOST: Final = 2**31 - 1


def keep_freed_memory() -> None:
    """Have the C library keep freed memory, where it is glibc.

    Each step frees its states and gradients, and asks for as much again. Handed to the kernel in between,
    every page of it is made and zeroed anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MOST)
        mallopt(_M_TRIM_THRESHOLD, _MOST)
