"""What a step gives back stays with the process."""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Of glibc's malloc.h."""
_MOST: Final = 2**31 - 1
_MOST_OF_OLDER: Final = 32 * 2**20
"""Where the first is refused: half of a heap, in glibc's malloc.c."""


def keep_freed_memory() -> None:
    """Have the C library keep freed memory, where it is glibc.

    Each step frees its states and gradients, and asks for as much again. Handed to the kernel in between,
    every page of it is made and zeroed anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # Either call stops glibc from raising the thresholds by itself: the second without the first would be
    # worse than none.
    if mallopt(_M_MMAP_THRESHOLD, _MOST) or mallopt(_M_MMAP_THRESHOLD, _MOST_OF_OLDER):
        mallopt(_M_TRIM_THRESHOLD, _MOST)
