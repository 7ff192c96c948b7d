"""Pages of `inrflow eval` but for the samples per second, the one number on them that a repeated command measures anew."""

from __future__ import annotations

import re
from pathlib import Path


def without_rates(path: Path) -> bytes:
    """The bytes of a file of results; of a page without its rates."""
    return re.sub(rb'<td class="rate">[^<]*</td>', b"", path.read_bytes())
