"""What holds of every format: found by suffix, the same bytes twice, origin inside, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_core import registry
from inrflow_core.domains._contract import domain_classes
from inrflow_core.errors import OutOfMemory, UsageError
from inrflow_core.sample_files import writer
from tests import protein_files

ORIGIN = {"inrflow": "0.1.0", "preset": "solids-demo", "seeds": "7-8"}
FORMATS = [(name, domain.NAME) for domain in domain_classes() for name in domain.FORMATS]


def samples(domain: str, count: int = 2) -> Any:
    if domain == "protein":
        return [protein_files.structure(seed=seed) for seed in range(count)]
    rng = np.random.default_rng(3)
    if domain == "image":
        return rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    if domain in ("radiance", "video"):
        return rng.integers(0, 256, (count, 3, 8, 8, 3), dtype=np.uint8)
    points = rng.normal(size=(count, 600, 3))
    return (points / np.linalg.norm(points, axis=2, keepdims=True)).astype(np.float32)


def content(path: Path) -> bytes:
    """The bytes of a file, or of all files of a folder."""
    return b"".join(file.read_bytes() for file in sorted(path.iterdir())) if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize(("name", "domain"), FORMATS)
def test_the_same_samples_are_the_same_bytes(tmp_path: Path, name: str, domain: str) -> None:
    suffix = registry.find("formats", name).SUFFIXES[0]
    written = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        files = writer.write(tmp_path / folder / f"out{suffix}", samples(domain), domain, origin=ORIGIN)
        written.append([(file.name, content(file)) for file in files])
        assert sorted(file.name for file in (tmp_path / folder).iterdir()) == sorted(file.name for file in files)
    assert written[0] == written[1]


@pytest.mark.parametrize(("name", "domain"), FORMATS)
def test_the_provenance_is_inside(tmp_path: Path, name: str, domain: str) -> None:
    path = tmp_path / f"out{registry.find('formats', name).SUFFIXES[0]}"
    items = [{"seed": "7"}, {"seed": "8"}]
    for file in writer.write(path, samples(domain), domain, origin=ORIGIN, items=items):
        raw = content(file)
        text = raw.decode("latin-1") if name != "npz" else str(np.load(file, allow_pickle=False)["origin"])
        assert "solids-demo" in text
        assert "seed" in text


def test_formats_that_hold_one_sample_are_numbered_each_with_its_own_origin(tmp_path: Path) -> None:
    items = [{"seed": "7"}, {"seed": "8"}]
    files = writer.write(tmp_path / "out.ply", samples("points"), "points", origin=ORIGIN, items=items)
    assert [file.name for file in files] == ["out-000.ply", "out-001.ply"]
    assert b"comment seed: 8\n" in files[1].read_bytes()
    assert writer.files(tmp_path / "out.png", 2) == [tmp_path / "out.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.jpg", "no format of the domain `image` writes `.jpg` files"), ("out", "writes `out`, which has no suffix")],
)
def test_a_suffix_that_no_format_has_is_refused_with_those_that_are_written(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        writer.exporter_for(Path(name), "image")
    assert caught.value.hint == "give a name that ends in one of `.npz`, `.png`"


def test_images_have_no_ply() -> None:
    with pytest.raises(UsageError, match=r"no format of the domain `image` writes `\.ply`"):
        writer.exporter_for(Path("out.ply"), "image")
    assert writer.domains_for(Path("out.PLY")) == ("points", "radiance", "shape")
    assert "image" in writer.domains_for(Path("out.h5"))


def test_an_option_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`\.npz` files have no option `is_text`"):
        writer.write(tmp_path / "out.npz", samples("points"), "points", origin=ORIGIN, is_text=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    writer.write(tmp_path / "out.npz", samples("points"), "points", origin=ORIGIN)
    before = (tmp_path / "out.npz").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        writer.write(tmp_path / "out.npz", samples("points") + 1, "points", origin=ORIGIN)
    assert (tmp_path / "out.npz").read_bytes() == before
    writer.write(tmp_path / "out.npz", samples("points") + 1, "points", origin=ORIGIN, overwrite=True)
    assert (tmp_path / "out.npz").read_bytes() != before


@pytest.mark.parametrize(("name", "domain"), [("ply", "points"), ("frames", "video")])
def test_a_full_disk_leaves_none_of_several_files_so_that_the_same_command_resumes(tmp_path, monkeypatch, name, domain):
    form = registry.find("formats", name)
    many, whole = samples(domain, 3), form.write

    def write(path, *given, **options):
        if "002" in path.name:
            raise OutOfMemory("no room")
        whole(path, *given, **options)

    monkeypatch.setattr(form, "write", write)
    with pytest.raises(OutOfMemory, match="no room"):
        writer.write(tmp_path / f"out.{name}", many, domain, origin={})
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert len(writer.write(tmp_path / f"out.{name}", many, domain, origin={})) == 3
