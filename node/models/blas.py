"""A fast BLAS for mlx on Linux, put in place before mlx is imported."""

import ctypes
import sys

LIBRARIES = ("libopenblas.so.0", "libblis.so.4")
"""Tried in this order; Debian has the first in libopenblas0-pthread."""
_SET_THREADS = {LIBRARIES[0]: "openblas_set_num_threads", LIBRARIES[1]: "bli_thread_set_num_threads"}


def preload_blas() -> str | None:
    """Load a fast BLAS so that mlx uses it, and give the name of the library, or None when there is none or no need.

    The mlx wheel for Linux brings a reference BLAS that is 20 to 50 times slower in float32. Symbols loaded globally
    come before it, so this must run before the first `import mlx` of the process. On macOS mlx uses the system's own.
    """
    if sys.platform != "linux":
        return None
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    return None


def use_one_thread() -> None:
    """Have the BLAS that `preload_blas` loads compute each product on the thread that asks for it, from now on.

    Where products are short, waking a second thread costs what it saves, and while it waits for the next product it
    keeps a core from everybody else. Nothing changes where no such library is loaded.
    """
    if (name := preload_blas()) is not None:
        set_threads = getattr(ctypes.CDLL(name), _SET_THREADS[name], None)
        if set_threads is not None:
            set_threads(1)
