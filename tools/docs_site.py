"""Pages of the site that are made from other files: the README, model cards, the notebook, and the API by its docstrings.

A hook of MkDocs (`mkdocs.yml`); `make docs` builds the site.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CARDS = "inrflow_core/shipped"
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
"""Pages of the site, from files at the top of the project."""
NOTEBOOKS = ("tutorials/python-notebook.ipynb",)
API = {
    "sampling": (
        "Sampling",
        ["sampling.sample", "sampling.options", "sampling.labels", "sampling.python_inputs", "sampling.request"]
        + ["sampling.invert", "sampling.condition_inputs", "sampling.write_samples", "sampling.sample_to_files"]
        + ["sampling.sharded", "conditioners.image", "conditioners.text"],
    ),
    "models": (
        "Models and fields",
        ["models", "fields", "sets", "errors", "proteins.structure", "geometry.cameras"],
    ),
    "runs": ("Runs and shipped models", ["runs.run", "runs.shipped", "runs.export"]),
    "presets": ("Presets", ["config.preset", "config.typed", "registry"]),
    "data": ("Shards and files", ["shards.shard_dataset", "sample_files.readers", "sample_files.writer"]),
    "evaluation": (
        "Evaluation",
        [
            "evaluation.evaluator",
            "evaluation.gather",
            "evaluation.metric_specs",
            "evaluation.results",
            "evaluation.job",
        ],
    ),
    "training": ("Training", ["training.setup", "runtime.progress", "runtime.query_budget"]),
    "contracts": (
        "Contracts of parts",
        [f"{kind}._contract" for kind in ("datasets", "domains", "methods", "metrics", "conditioners")]
        + ["metrics._inputs", "samplers._fixed_steps"],
    ),
}
"""Pages of the API by name: title, and modules of `inrflow_core`."""
PUBLIC = ROOT / "inrflow_core" / "public" / "inrflow" / "__init__.pyi"
"""The names of `import inrflow`."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made here to those of docs/."""
    from mkdocs.structure.files import File

    for uri, text in pages().items():
        files.append(File.generated(config, uri, content=text))
    files.append(File.generated(config, "highlight.css", content=highlight_css()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave docs/ lead to the pages that are made here."""
    up = "../" * page.file.src_uri.count("/")
    for name, source in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)+{re.escape(source)}(?=[)#])", f"]({up}{name}", markdown)
    return markdown.replace(f"](../{up}{CARDS}/", f"]({up}{CARDS}/")


def pages() -> dict[str, str]:
    """The Markdown of every page that is made here, by its place on the site."""
    made = {name: top_page(ROOT / source) for name, source in PAGES.items()}
    for path in sorted((ROOT / CARDS).glob("*.md")):
        made[f"{CARDS}/{path.name}"] = card(path)
    for name in NOTEBOOKS:
        made[Path(name).with_suffix(".md").as_posix()] = notebook_page(ROOT / "docs" / name)
    made["api/inrflow.md"] = public_page()
    for name, (title, modules) in API.items():
        sections = "\n\n".join(f"::: inrflow_core.{module}" for module in modules)
        made[f"api/{name}.md"] = f"# {title}\n\n{sections}\n"
    return made


def public_names() -> dict[str, tuple[str, str]]:
    """By name of `import inrflow`, the module that defines it and its name there."""
    imports = [node for node in ast.parse(PUBLIC.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {each.asname or each.name: (node.module or "", each.name) for node in imports for each in node.names}


def public_page() -> str:
    """The names of `import inrflow` with the first line of their docstrings, each a link to its place in the API."""
    rows = []
    for name, (module, attribute) in sorted(public_names().items(), key=lambda item: item[0].lower()):
        if module != "inrflow_core":
            source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
            (node,) = [each for each in ast.parse(source).body if getattr(each, "name", None) == attribute]
            assert isinstance(node, ast.FunctionDef | ast.ClassDef)
            first = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split()).replace("|", "\\|")
            rows.append(f"| [`inrflow.{name}`][{module}.{attribute}] | {first} |")
    return "\n".join(["# import inrflow", "", "| name | is |", "| --- | --- |", *rows, ""])


def highlight_css() -> str:
    """The colors of code, in a light and a dark theme."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style, cssclass="highlight") for style in ("friendly", "github-dark"))
    return f"{light.get_style_defs()}\n{dark.get_style_defs('[data-bs-theme=dark] .highlight')}\n"


def top_page(path: Path) -> str:
    """A page of the project's top: links into docs/ lose that folder, other files of the project are named without a link."""
    text = path.read_text(encoding="utf-8").replace("](docs/", "](")
    for name, source in PAGES.items():
        text = re.sub(rf"\]\({re.escape(source)}(?=[)#])", f"]({name}", text)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?:CITATION\.cff|Dockerfile|LICENSE|presets/[^)]*)\)", r"\1", text)


def card(path: Path) -> str:
    """A model card, whose links lead to the pages of docs/."""
    return re.sub(r"\]\(\.\./\.\./docs/", "](../../", path.read_text(encoding="utf-8"))


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, its code, and what that printed and drew."""
    parts = [f"*This page is the notebook [{path.name}]({path.name}).*"]
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                encoded = "".join(data["image/png"]).replace("\n", "")
                parts.append(f"![drawn by the cell above](data:image/png;base64,{encoded})")
            else:
                text = "".join(output.get("text") or data["text/plain"]).rstrip("\n")
                parts.append(f"```text\n{text}\n```")
    title, *rest = parts[1:]
    return "\n\n".join([title, parts[0], *rest]) + "\n"
