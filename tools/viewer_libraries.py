"""Fetch the libraries of the page of `inrflow view` from npm into inrflow_core/viewer/page/vendor, with their licenses.

    python -m tools.viewer_libraries

Needs npm and the network; a user needs neither. three.js comes as one module of the parts that the page imports, made by
esbuild; the others are their authors' minified files. `libraries.json` has each file's version, license and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "inrflow_core" / "viewer" / "page" / "vendor"
VERSIONS = {"3dmol": "2.5.5", "openseadragon": "6.1.1", "three": "0.187.0"}
BUNDLER = "esbuild@0.28.2"
PARTS = (
    *(
        "AmbientLight",
        "BufferAttribute",
        "BufferGeometry",
        "Color",
        "DirectionalLight",
        "DoubleSide",
        "HemisphereLight",
    ),
    *("Mesh", "MeshStandardMaterial", "PerspectiveCamera", "Points", "Scene", "ShaderMaterial", "Vector3"),
    "WebGLRenderer",
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


def main() -> int:
    VENDOR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packages = [f"{package}@{version}" for package, version in VERSIONS.items()]
        subprocess.run(["npm", "install", "--no-save", "--silent", *packages, BUNDLER], cwd=folder, check=True)
        bundle_three(folder)
        table = {package: copy(folder / "node_modules" / package, package) for package in VERSIONS}
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
