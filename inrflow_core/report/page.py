"""Write report.html: one self-contained HTML file that needs no network (docs/metrics.md).

The same page gives the same bytes: it contains no time, path or host. Its Content-Security-Policy forbids requests, and
everything but rotating clouds and choosing an axis works without scripts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from inrflow_core.report import galleries, plots, protein_tables, score_table
from inrflow_core.report.content import Entry as Entry  # re-exported, as the next
from inrflow_core.report.content import Gallery as Gallery
from inrflow_core.report.content import Histogram as Histogram
from inrflow_core.report.content import Page as Page
from inrflow_core.report.content import Progress as Progress
from inrflow_core.report.content import Score as Score
from inrflow_core.report.protein_tables import spread as spread
from inrflow_core.storage.atomic_write import atomic_write


def write(path: Path, page: Page) -> None:
    """Write the page, whole or not at all.

    Raises:
        OutOfMemory: the disk is full.
        UsageError: the file cannot be written.
    """
    with atomic_write(path) as beside:
        beside.write_text(html(page), encoding="utf-8", newline="\n")


def html(page: Page) -> str:
    """The page as text."""
    footer = "Written by <code>inrflow eval</code>. The same numbers are in <code>metrics.json</code>."
    return self_contained(page.title, score_table.reference_list(page), _sections(page), footer)


def self_contained(title: str, head: str, sections: Sequence[str], footer: str) -> str:
    """A page of sections in HTML, as text: with its style, and the script that rotates the clouds of galleries."""
    style, script = _beside("page.css"), _beside("clouds.js")
    return Template(_beside("page.html")).substitute(
        title=escape(title),
        style=style,
        script=script,
        # Allows this script, this style and embedded images, and nothing else.
        policy=f"default-src 'none'; img-src data:; style-src {_allowed(style)}; script-src {_allowed(script)};"
        " base-uri 'none'; form-action 'none'",
        against=head,
        sections="\n".join(section for section in sections if section),
        footer=footer,
    )


def _sections(page: Page) -> list[str]:
    return [
        score_table.table(page),
        plots.curves(page.entries),
        *(galleries.photos(content) for content in page.photos),
        *(galleries.gallery(gallery) for gallery in page.galleries),
        *(protein_tables.section(content) for content in page.protein_tables),
        "" if page.neighbors is None else galleries.neighbors(page.neighbors),
        plots.histograms(page.histograms),
        score_table.facts(page.entries),
    ]


def _beside(name: str) -> str:
    return resources.files("inrflow_core.report").joinpath(name).read_text(encoding="utf-8")


def _allowed(text: str) -> str:
    """The policy's name of a script or style: a digest of the text between the tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
