"""Pages of memory that a process keeps: what it frees it soon takes again.

The C library gives large blocks back to the system as soon as they are freed, and the system clears them anew when
they are taken again: drawing a cloud spent a fifth of its CPU time on that. glibc alone has these settings.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""glibc's numbers of the settings (malloc.h)."""
MAX_RETAINED_BYTES = 2**31 - 1


def retain_freed_pages() -> bool:
    """From now on take large blocks from the heap, and keep up to 2 GiB of it when they are freed.

    For commands that allocate the same sizes again and again. False, and nothing done, where this is no glibc.
    """
    setting = getattr(ctypes.CDLL(None), "mallopt", None)
    return setting is not None and bool(setting(MMAP_MAX, 0)) and bool(setting(TRIM_THRESHOLD, MAX_RETAINED_BYTES))
