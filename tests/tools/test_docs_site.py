"""The site of `make docs`: its navigation has every page, its API every module by name, and nothing in it is fetched."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import docs_site

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*\"")


def entries(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [one for part in (nav.values() if isinstance(nav, dict) else nav) for one in entries(part)]


def test_the_navigation_has_every_page_once():
    nav = entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    made = {name for name in docs_site.pages() if not name.startswith(docs_site.CARDS)}
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(nav) == sorted(made | written)


def test_every_module_of_the_api_is_a_file_with_a_docstring():
    modules = [module for _, modules in docs_site.API.values() for module in modules]
    assert len(modules) == len(set(modules))
    for module in modules:
        path = ROOT / "inrflow_core" / f"{module.replace('.', '/')}.py"
        assert path.read_text(encoding="utf-8").startswith('"""'), module


def test_the_api_has_the_modules_of_the_public_names_and_the_python_page_uses_no_others():
    names = docs_site.public_names()
    used = {module.partition(".")[2] for module, _ in names.values()} - {""}
    assert used <= {module for _, modules in docs_site.API.values() for module in modules}
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert "from inrflow_core" not in text
    on_page = set(re.findall(r"\binrflow\.([A-Za-z_]\w+)", text))
    assert on_page - {"safetensors"} <= set(names) and len(on_page) > 30


def test_links_of_the_top_pages_and_cards_stay_on_the_site():
    pages = docs_site.pages()
    assert "](view.md)" in pages["index.md"] and "](contributing.md)" in pages["index.md"]
    for name, text in pages.items():
        assert "](docs/" not in text and not re.search(r"\]\((?:\.\./){3}", text), name
    assert "data:image/png;base64," in pages["tutorials/python-notebook.md"]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 40 and 'id="inrflow_core.sampling.sample.load"' in (tmp_path / "api/sampling.html").read_text()
    assert 'href="sampling.html#inrflow_core.sampling.sample.load"' in (tmp_path / "api/inrflow.html").read_text()
    assert not [(page.name, found) for page in pages for found in LOADED.findall(page.read_text(encoding="utf-8"))]
    styles = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?(?:https?:)?//", styles) and "@import" not in styles
