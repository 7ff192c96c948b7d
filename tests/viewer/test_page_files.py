"""The page's files: nothing from the network, every import is there, every library has its license."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from inrflow_core.viewer.server import PAGE

OWN = sorted(path for path in PAGE.iterdir() if path.is_file())
VENDOR = PAGE / "vendor"


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_a_file_names_no_address_outside(path):
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)


def test_every_script_and_style_that_a_file_names_is_there():
    names = re.findall(r'(?:src|href)="(page/[^"]+)"', (PAGE / "index.html").read_text(encoding="utf-8"))
    assert len(names) >= 3
    for name in names:
        assert (PAGE.parent / name).is_file(), name
    for path in PAGE.glob("*.js"):
        for name in re.findall(r'from "(\./[^"]+)"', path.read_text(encoding="utf-8")):
            assert (PAGE / name).is_file(), f"{path.name} imports {name}"


def test_every_element_that_the_scripts_look_up_is_in_the_page():
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    for path in PAGE.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'(?:find|getElementById)\("([^"]+)"\)', text):
            assert f'id="{name}"' in html, f"{path.name}: {name}"
        for name in re.findall(r'this\.part\("([^"]+)"\)', text):
            assert re.search(rf'class="{name}"', html), f"{path.name}: {name}"


def test_every_library_is_the_recorded_one_and_has_its_license():
    table = json.loads((VENDOR / "libraries.json").read_text(encoding="utf-8"))
    for name, row in table.items():
        assert hashlib.sha256((VENDOR / row["file"]).read_bytes()).hexdigest() == row["sha256"], name
        assert "Copyright" in (VENDOR / f"{name}.LICENSE.txt").read_text(encoding="utf-8"), name
        text = (VENDOR / row["file"]).read_text(encoding="utf-8")
        for file in re.findall(r"license information please see (\S+)", text):
            assert (VENDOR / file).is_file(), f"{row['file']} names {file}"
    scripts = {path.name for path in VENDOR.glob("*.js")}
    assert scripts == {row["file"] for row in table.values()}


def test_what_3dmol_contains_has_its_license_beside_it():
    own, contained = (
        (VENDOR / name).read_text(encoding="utf-8") for name in ("3dmol.LICENSE.txt", "3dmol.contained.LICENSE.txt")
    )
    for name in ("GLmol", "Three.js", "jQuery"):
        assert f"* {name}" in own
    parts = {
        **{"iobuffer/": "Copyright", "netcdfjs/": "Copyright", "upng-js/LICENSE": "Photopea"},
        **{"pako/LICENSE": "Vitaly Puzrin", "deflate.js": "Jean-loup Gailly"},
        **{"decoder.ts": "mmtf-javascript", "ProteinSurface4.ts": "Permission to use, copy, modify, and distribute"},
    }
    for name, words in parts.items():
        assert name in contained and words in contained, name


def test_the_bundle_of_three_has_the_names_that_the_page_imports_and_no_more():
    names: set[str] = set()
    for path in PAGE.glob("*.js"):
        for part in re.findall(r'import {([^}]*)}\s*from "./vendor/three', path.read_text(encoding="utf-8")):
            names |= {name.strip() for name in part.split(",")}
    exported = re.findall(r"export\s*{([^}]*)}", (VENDOR / "three.min.js").read_text(encoding="utf-8"))
    assert {part.split(" as ")[-1].strip() for part in exported[-1].split(",")} == names
