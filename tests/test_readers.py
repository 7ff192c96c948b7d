"""One reader for each kind of file: the calls that open or parse one are in one file. Read from the source with `ast`."""

from __future__ import annotations

import ast

import pytest

from tests.test_imports import FILES, name_of, parsed

READERS: dict[str, tuple[str, ...]] = {
    "numpy.load": ("inrflow_core/storage/array_file.py",),
    "numpy.memmap": (),
    "numpy.fromfile": (),
    "numpy.loadtxt": (),
    "numpy.genfromtxt": (),
    "numpy.lib.format": ("inrflow_core/storage/array_file.py",),  # headers alone
    "numpy.lib.npyio": (),
    "h5py.File": ("inrflow_core/shards/hdf5.py", "inrflow_core/shards/writer.py"),  # the second writes, in memory
    "json.load": (),
    "json.loads": ("inrflow_core/storage/typed_json.py",),
    "json.JSONDecoder": (),
    "tomli.load": (),
    "tomli.loads": ("inrflow_core/config/toml.py",),
    "safetensors.safe_open": ("inrflow_core/storage/safetensors_file.py",),
    "safetensors.numpy.load": (),
    "safetensors.numpy.load_file": (),
    "safetensors.torch.load": (),
    "safetensors.torch.load_file": (),
    "torch.load": ("inrflow_core/weights/published_files.py",),  # tensors alone, of `weights convert`
    "torch.jit.load": ("inrflow_core/weights/published_files.py",),  # with `--trust`
    "PIL.Image.open": ("inrflow_core/visualization/image_io.py",),
    "biotite.structure.io": ("inrflow_core/proteins/atom_tables.py",),
    "trimesh.load": (),
    "lmdb.open": (),
    "zipfile.ZipFile": ("inrflow_core/datasets/_archives.py", "inrflow_core/weights/published_files.py"),
    "tarfile.open": ("inrflow_core/datasets/_archives.py",),
    "pickle.load": (),
    "pickle.loads": (),
    "pickle.Unpickler": ("inrflow_core/datasets/_array_pickle.py",),  # one that refuses everything but arrays
}
"""Calls that read a file or its bytes, and the only files that may have them."""
FORBIDDEN = ("plyfile", "gemmi", "Bio", "meshio", "imageio", "cv2", "tomllib", "yaml", "pandas")
"""Packages that read what `formats`, `proteins` and `visualization` read already."""


def names_of_imports(tree: ast.Module) -> dict[str, str]:
    """The full name of every imported name, wherever in the file it is imported."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def references(tree: ast.Module) -> set[str]:
    """The full name of everything from a package that a file uses, but for annotations: `np.load` is `numpy.load`."""
    names, used = names_of_imports(tree), set()
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(part, ast.AST)
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts, node = [node.attr, *parts], node.value
        if isinstance(node, ast.Name) and node.id in names:
            used.add(".".join([names[node.id], *parts]))
    return used


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_kind_of_file_has_one_reader(path):
    used = references(parsed(path))
    for call, allowed in READERS.items():
        is_used = any(f"{name}.".startswith(f"{call}.") for name in used)
        assert not is_used or name_of(path) in allowed, f"`{call}`: read it with {' or '.join(allowed) or 'nothing'}"
    assert not {name.partition(".")[0] for name in names_of_imports(parsed(path)).values()} & {*FORBIDDEN}


def test_every_reader_is_there():
    """The table above names no file that lost its call, and the search finds calls under every name of a package."""
    used = {name_of(path): references(parsed(path)) for path in FILES}
    for call, allowed in READERS.items():
        for path in allowed:
            assert any(f"{name}.".startswith(f"{call}.") for name in used[path]), f"{call} in {path}"
    for line in ("import numpy as np\nnp.load(p)", "from numpy import load\nload(p)", "import numpy\nnumpy.load(p)"):
        assert "numpy.load" in references(ast.parse(line))
