"""Fetch the libraries of the page of `inrflow view` from npm into inrflow_core/viewer/page/vendor, with their licenses.

    python -m tools.viewer_libraries

Needs npm and the network; a user needs neither. three.js comes as one module of the parts that the page imports, made by
esbuild; the others are their authors' minified files. `libraries.json` has each file's version, license and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "inrflow_core" / "viewer" / "page" / "vendor"
VERSIONS = {"3dmol": "2.5.5", "openseadragon": "6.1.1", "three": "0.187.0"}
BUNDLER = "esbuild@0.28.2"
PARTS = (
    *("BufferAttribute", "BufferGeometry", "DirectionalLight", "DoubleSide", "HemisphereLight", "Mesh"),
    *("MeshStandardMaterial", "PerspectiveCamera", "Points", "Scene", "ShaderMaterial", "WebGLRenderer"),
)
"""What the page imports of three.js, beside the addon OrbitControls."""
FILES = {
    "3dmol": "build/3Dmol-min.js",
    "openseadragon": "build/openseadragon/openseadragon.min.js",
    "three": "three.min.js",
}
LICENSES = {
    "3dmol": ("BSD-3-Clause", "LICENSE"),
    "openseadragon": ("BSD-3-Clause", "LICENSE.txt"),
    "three": ("MIT", "LICENSE"),
}

WEBPACK_LICENSE = "build/3Dmol-min.js.LICENSE.txt"
"""What the first line of 3Dmol-min.js refers to."""
CONTAINED = (
    *("iobuffer/LICENSE", "netcdfjs/LICENSE", "pako/LICENSE", "pako/lib/zlib/deflate.js"),
    *("upng-js/LICENSE", "upng-js/node_modules/pako/LICENSE"),
    *("3dmol/src/parsers/cifutils/decoder.ts", "3dmol/src/ProteinSurface4.ts"),
)
"""Licenses, or sources with notices in their comments, of what 3Dmol-min.js contains beside what 3Dmol's own license names."""


def main() -> int:
    VENDOR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packages = [f"{package}@{version}" for package, version in VERSIONS.items()]
        subprocess.run(["npm", "install", "--no-save", "--silent", *packages, BUNDLER], cwd=folder, check=True)
        bundle_three(folder)
        table = {package: copy(folder / "node_modules" / package, package) for package in VERSIONS}
        modules = folder / "node_modules"
        shutil.copyfile(modules / "3dmol" / WEBPACK_LICENSE, VENDOR / Path(WEBPACK_LICENSE).name)
        texts = [f"# {name}\n\n{notice(modules / name)}\n" for name in CONTAINED]
        (VENDOR / "3dmol.contained.LICENSE.txt").write_text("\n".join(texts), encoding="utf-8")
    (VENDOR / "libraries.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


def bundle_three(folder: Path) -> None:
    """One minified module of the parts, in three's own folder."""
    entry = folder / "entry.js"
    entry.write_text(
        f'export {{ {", ".join(PARTS)} }} from "three";\n'
        'export { OrbitControls } from "three/addons/controls/OrbitControls.js";\n'
    )
    out = folder / "node_modules" / "three" / FILES["three"]
    command = ["node_modules/.bin/esbuild", str(entry), "--bundle", "--minify", "--format=esm", "--legal-comments=eof"]
    subprocess.run([*command, f"--outfile={out}"], cwd=folder, check=True, capture_output=True)


def notice(path: Path) -> str:
    """A license, or the comments of a source that speak of one."""
    text = path.read_text(encoding="utf-8")
    if path.name == "LICENSE":
        return text.strip()
    comments = re.findall(r"/\*[\s\S]*?\*/|(?:^//.*\n)+", text, flags=re.MULTILINE)
    return "\n\n".join(
        comment.strip() for comment in comments if re.search(r"copyright|licen[sc]e|\(c\)", comment, re.IGNORECASE)
    )


def copy(source: Path, package: str) -> dict[str, str]:
    """Copy a library and its license; returns its row of the table."""
    kind, license_file = LICENSES[package]
    target = VENDOR / Path(FILES[package]).name
    shutil.copyfile(source / FILES[package], target)
    shutil.copyfile(source / license_file, VENDOR / f"{package}.LICENSE.txt")
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    return {"version": VERSIONS[package], "license": kind, "file": target.name, "sha256": digest}


if __name__ == "__main__":
    sys.exit(main())
