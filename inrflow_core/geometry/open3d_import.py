"""Import Open3D, which is slow to import, needs a system library, and prints too much.

Its wheels load libusb-1.0, which a bare machine lacks. Where the system has none, the copy inside the package
`libusb-package` (the extra `libusb`) is loaded first under the same name.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from functools import cache
from types import ModuleType

from inrflow_core.errors import MissingError

LIBRARY = "libusb-1.0.so.0"


@cache
def load_open3d() -> ModuleType:
    """Open3D, imported on first use (0.7 s) and set to print errors only.

    Raises:
        MissingError: a system library that it needs does not exist.
    """
    _preload_libusb()
    try:
        open3d = importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        raise MissingError(
            f"Open3D cannot be loaded: {error}",
            hint="as root: `apt-get install libusb-1.0-0 libgl1 libegl1 libx11-6`; else: `pip install inrflow[libusb]`",
        ) from error
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d


def _preload_libusb() -> None:
    """Load the library from pip where the system has none; where neither has it, Open3D's own error says so."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        try:
            package = importlib.import_module("libusb_package")
        except ImportError:
            return
        ctypes.CDLL(str(package.get_library_path()), mode=ctypes.RTLD_GLOBAL)


if __name__ == "__main__":
    try:
        load_open3d()
    except MissingError as error:
        print(f"error: {error.message}\n\nhint: {error.hint}", file=sys.stderr)
        sys.exit(int(error.code))
