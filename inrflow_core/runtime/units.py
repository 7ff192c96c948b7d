"""Bytes as text for people."""

from __future__ import annotations


def format_bytes(num_bytes: float) -> str:
    """Bytes as a person says them, in powers of 1000: 812 B, 4.1 MB, 2.6 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
