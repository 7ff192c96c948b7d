"""The homes of data sets: each that somebody distributes has a page and a license, in the docs and in the hints of `prepare`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inrflow_core import registry
from inrflow_core.datasets._homes import HOMES, home_hint
from inrflow_core.errors import MissingError
from inrflow_core.preparation import job

OWN = {"clouds", "image-folder", "mesh-folder", "video", "views"}
"""Data sets that read any folder of a user's own files."""


def test_every_data_set_that_somebody_distributes_has_a_home():
    distributed = {
        name for name in registry.names("datasets") if registry.find("datasets", name).NEEDS_SOURCE and name not in OWN
    }
    assert distributed == set(HOMES)
    assert all(re.fullmatch(r"https?://[\w.-]+(/[\w.~/-]*)?", home.page) and home.license for home in HOMES.values())


def test_the_docs_have_the_page_and_the_license_of_each(checkout: Path):
    text = (checkout / "docs" / "data-sets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| <(\S+)> \| (.+) \|$", text, re.MULTILINE)
    assert {name: (page, license) for name, page, license in rows} == {
        name: tuple(home) for name, home in HOMES.items()
    }


@pytest.mark.parametrize("name", ["ffhq", "shapenet", "imagenet"])
@pytest.mark.parametrize("exists", [False, True], ids=["no folder", "an empty folder"])
def test_the_hint_of_missing_data_names_the_page(name: str, exists: bool, tmp_path: Path):
    source = tmp_path / "raw"
    if exists:
        source.mkdir()
    dataset = registry.find("datasets", name)
    request = job.PrepareJob(name, source, tmp_path / "out", dataset.Config(), None)
    with pytest.raises(MissingError) as caught:
        job.scan(request)
    assert HOMES[name].page in (caught.value.hint or "") and HOMES[name].license in (caught.value.hint or "")


def test_a_folder_of_ones_own_has_no_home():
    assert home_hint("image-folder") == ""
