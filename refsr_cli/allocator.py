"""How the C library gives memory back."""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's `mallopt`, from malloc.h."""


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def keep_buffers() -> None:
    """Lets glibc keep large buffers that are freed instead of giving them back and fetching them again, page by page,
    for every layer of a net. What the user has set in the environment stays; elsewhere than in glibc nothing is done.
    To be called once, by a program, before it needs much memory."""
    if not _is_glibc() or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library = ctypes.CDLL(None)
    if not library.mallopt(_MMAP_THRESHOLD, 2**30):  # before glibc 2.35 it is at most that
        library.mallopt(_MMAP_THRESHOLD, 2**25)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back() -> None:
    """Lets glibc give back what is free: before buffers of other sizes are needed, which would hardly fit into the gaps
    that the ones before leave. Elsewhere nothing is done."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)
