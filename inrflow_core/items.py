"""Items to judge, or to judge by: pictures, clouds or proteins of a shard, a folder of shards or of files, read in parts."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from inrflow_core import clouds, examples, manifest, registry, shards, structure_files
from inrflow_core.batches import Batch, Wanted
from inrflow_core.errors import DAMAGED_ARRAYS, IntegrityError, MissingError, UsageError, did_you_mean
from inrflow_core.structures import Structure

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
CLOUDS = {".ply", ".npy"}
MODES = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""What a picture file is read as."""
ARCHIVED = {"images": "image", "arr_0": "image", "points": "points"}
"""Arrays of an .npz file that hold items, and their domain; `arr_0` is that of ADM's sample files."""
IMAGE, CAMERA = "image", "camera"
"""The conditions that hold pictures of a cloud, in several views, and where each was seen from."""
UNKNOWN = {"kind": "unknown"}
"""How clouds are normalised that `inrflow sample` wrote as .npz or .ply: these do not say it, shards do."""
MARK = b"comment inrflow"
BLOCK = 64
"""Clouds that are read together."""
SMALL = ("offset", "scale", "view", "item")
"""Conditions that are read with every item; others, as pictures and their tokens, are many times larger than a cloud."""
KINDS = (
    "a folder of shards, an .h5, .npz or .npy file of samples, or a folder of pictures, of .ply or .npy clouds, "
    "or of .pdb, .cif or .bcif structures"
)
NOUNS = {"image": "pictures", "points": "clouds", "protein": "proteins"}
"""What items of each domain are called."""


@dataclass(frozen=True)
class Items:
    """Some pictures, uint8 (H W C), clouds, float32 (P C), or proteins, that can be read by number."""

    source: Path
    domain: str
    count: int
    digest: str
    """sha256 of what decides them: a manifest, a file, or the names and bytes of a folder's files."""
    fetch: Callable[[Sequence[int]], Batch]
    split: str | None = None
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    """What is known of where they come from."""
    verify: Callable[[], None] = lambda: None
    """Compares every byte with the digests that shards have beside them; raises IntegrityError, naming what is damaged."""
    fetch_pictures: Callable[[Sequence[int], np.ndarray], np.ndarray] | None = None
    """Given some places and a view of each (from 0 on), what clouds look like, uint8 (B H W 3); None where nobody knows."""
    fetch_cameras: Callable[[Sequence[int], np.ndarray], np.ndarray] | None = None
    """The same of the cameras that saw them, float32 (B 4 4) as `cameras` has them."""
    structures: Callable[[Sequence[int]], list[Structure]] | None = None
    """Of proteins: the structures at some places, each under the name that it is paired by."""
    names: Callable[[], list[str]] | None = None
    """Of proteins: those names, of all."""
    places: np.ndarray | None = None
    """Of a part: where each item stands in the whole split, which is what samples record; None for the whole."""

    def read(self, indices: Sequence[int]) -> Batch:
        """The items at `indices`, in that order.

        Raises:
            IntegrityError: one cannot be read, or holds numbers that are not finite; names it.
            UsageError: they are not of one size.
        """
        batch = self.fetch(indices)
        sizes = [] if batch.sizes is None else sorted({self.shape[0], *batch.sizes.tolist()})
        if len(sizes) > 1:
            raise UsageError(
                f"the clouds of `{self.source}` differ in size: {sizes[0]:,} to {sizes[-1]:,} points",
                hint="give clouds of one size",
            )
        if batch.values.dtype.kind == "f":
            for place in np.flatnonzero(~np.isfinite(batch.values).all(axis=(1, 2))):
                name = batch.names[place] if batch.names else f"number {indices[int(place)]}"
                raise IntegrityError(
                    f"a cloud of `{self.source}` holds numbers that are not finite: {name}",
                    hint="leave it out, or make it again",
                )
        return batch

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item, the first as good as any; of proteins, which differ in size, none."""
        if self.domain == "protein":
            return ()
        return tuple(self.fetch([0]).values.shape[1:])

    @property
    def name(self) -> str:
        """What their place is called, where no text can hold a byte of it with a mark in its stead."""
        return os.fsencode(self.source.name or self.source.resolve().name).decode(errors="replace")

    @property
    def spelled(self) -> str:
        """Where they lie, for messages."""
        return f"`{self.source}`" + (f", split `{self.split}`" if self.split else "")


def open_items(place: Path, split: str | None = None, prefer: Sequence[str] = (), *, all_models: bool = False) -> Items:
    """The items at a place: `prefer` names the splits to take, the first that is there, where `split` names none.

    A file of several structures is the first of them, or with `all_models` an item for each (see `of_structures`).

    Raises:
        MissingError: there is nothing, or nothing to judge.
        IntegrityError: it is damaged.
        UsageError: it holds no items, or has no such split.
    """
    if place.suffix.lower() == ".h5" or (place / manifest.NAME).is_file():
        return _from_shards(place, split, prefer)
    if not place.exists():
        raise MissingError(f"`{place}` does not exist", hint=f"give {KINDS}")
    if split is not None:
        raise UsageError(f"`{place}` is no folder of shards, so it has no split `{split}`", hint="leave it out")
    if place.is_dir():
        return _from_files(place, all_models=all_models)
    if structure_files.is_structure(place.name):
        return of_structures(place, [(place.name, place)], all_models=all_models)
    if place.suffix.lower() in (".npz", ".npy"):
        return _from_array(place)
    raise UsageError(f"`{place}` holds no samples", hint=f"give {KINDS}")


def splits(place: Path) -> list[str]:
    """Names of the splits of a folder of shards; none of anything else."""
    return shards.Shards(place).splits if (place / manifest.NAME).is_file() else []


def some(items: Items, places: np.ndarray) -> Items:
    """The items at some places, in that order."""
    digest = hashlib.sha256(f"{items.digest} {items.split} {places.tolist()}".encode()).hexdigest()

    def fetch(indices: Sequence[int]) -> Batch:
        return items.fetch(places[np.asarray(indices, dtype=np.int64)].tolist())

    def viewed(fetch_views: Callable[[Sequence[int], np.ndarray], np.ndarray] | None) -> Any:
        if fetch_views is None:
            return None
        return lambda indices, views: fetch_views(places[np.asarray(indices, dtype=np.int64)].tolist(), views)

    of_whole = places if items.places is None else items.places[places]
    found = replace(
        items,
        count=len(places),
        digest=digest,
        fetch=fetch,
        fetch_pictures=viewed(items.fetch_pictures),
        fetch_cameras=viewed(items.fetch_cameras),
        places=of_whole.astype(np.int64),
    )
    structures, names = items.structures, items.names
    if structures is None or names is None:
        return found
    return replace(
        found,
        structures=lambda indices: structures(places[np.asarray(indices, dtype=np.int64)].tolist()),
        names=lambda: [names()[place] for place in places],
    )


def spread(items: Items, most: int) -> Items:
    """At most so many of the items, evenly spread."""
    return items if items.count <= most else some(items, np.linspace(0, items.count - 1, most).round().astype(np.int64))


def of_classes(items: Items, names: Sequence[str]) -> Items:
    """Those items, from shards, whose class is one of `names`.

    Raises:
        UsageError: they have no such class, or none of it.
    """
    opened = shards.Shards(items.source) if items.split is not None else None
    for name in names:
        if opened is None or name not in opened.classes:
            raise UsageError(
                f"{items.spelled} has no class `{name}`",
                hint=did_you_mean(name, () if opened is None else opened.classes),
            )
    assert opened is not None and items.split is not None
    numbers = [opened.classes.index(name) for name in names]
    places = np.flatnonzero(np.isin(opened.labels(items.split), numbers))
    if not len(places):
        raise UsageError(f"{items.spelled} holds nothing of the classes {', '.join(names)}", hint="name others")
    facts = {**items.facts, "classes": ", ".join(names)}
    return replace(some(items, places), facts=facts)


def enlarged(items: Items, size: tuple[int, int], filter: str) -> Items:
    """Pictures enlarged to rows and columns by Pillow's `bilinear` or `bicubic` filter, when they are read."""
    from PIL import Image

    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[filter]

    def fetch(indices: Sequence[int]) -> Batch:
        batch = items.fetch(indices)
        channels = batch.values.shape[3]
        large = [
            np.array(Image.fromarray(one.squeeze(2) if channels == 1 else one).resize((size[1], size[0]), resampling))
            for one in batch.values
        ]
        return replace(batch, values=np.stack(large).reshape(len(large), *size, channels))

    digest = hashlib.sha256(f"{items.digest} {filter} {size[0]}x{size[1]}".encode()).hexdigest()
    return replace(items, fetch=fetch, digest=digest)


def normalised(items: Items, points: int, protocol: str, what: str) -> Float64[np.ndarray, "N P 3"]:
    """All clouds of some items, thinned to so many points each, as a protocol compares them (`clouds.normalise`).

    Raises:
        UsageError: a cloud has fewer points, or the protocol needs units that are not known.
        IntegrityError: a cloud is damaged.
    """
    found: list[np.ndarray] = []
    names: list[str] = []
    conditions: dict[str, list[np.ndarray]] = {}
    for start in range(0, items.count, BLOCK):
        places = range(start, min(start + BLOCK, items.count))
        batch = items.read(places)
        found += clouds.thinned(list(batch.values), points, places, what=what)
        names += batch.names
        for name, rows in batch.condition.items():
            conditions.setdefault(name, []).append(rows)
    units = clouds.SOURCE
    if items.normalisation:
        units = clouds.units(items.normalisation, {name: np.concatenate(rows) for name, rows in conditions.items()})
    return clouds.normalise(clouds.checked(found, what=what, names=names), protocol, units, what=what)


def _from_shards(place: Path, split: str | None, prefer: Sequence[str]) -> Items:
    opened = shards.Shards(place)
    if split is not None and split not in opened.splits:
        raise UsageError(f"`{place}` has no split `{split}`", hint=did_you_mean(split, opened.splits))
    chosen = split or next((name for name in prefer if name in opened.splits), opened.splits[0])
    is_file = place.suffix.lower() == ".h5" and not place.is_dir()
    told = opened.manifest
    if is_file:
        facts = {key: str(value) for key, value in told.settings.items()}
    else:
        facts = {"data set": told.dataset, **{key: str(value) for key, value in told.settings.items()}}
    known = opened.conditions(chosen)
    small = Wanted([name for name in SMALL if name in known])
    found = Items(
        place,
        opened.domain,
        opened.count(chosen),
        manifest.digest(place if is_file else place / manifest.NAME),
        functools.partial(opened.read, chosen, with_names=True, conditions=small),
        None if is_file else chosen,
        told.normalisation,
        facts,
        functools.partial(opened.verify, [chosen]),
        functools.partial(_views_of, opened, chosen, IMAGE) if IMAGE in known else None,
        functools.partial(_views_of, opened, chosen, CAMERA) if CAMERA in known else None,
    )
    if opened.domain != "protein":
        return found
    names = functools.partial(opened.names, chosen)
    return replace(found, structures=functools.partial(_stored, opened, chosen), names=names)


def _stored(opened: shards.Shards, split: str, indices: Sequence[int]) -> list[Structure]:
    """Structures as they lie in shards; their residues are numbered from 1."""
    batch = opened.read(split, indices, with_names=True, conditions=Wanted(("residues", "is_known")))
    assert batch.sizes is not None
    found = []
    for place, (atoms, count) in enumerate(zip(batch.sizes, batch.counts["residues"], strict=True)):
        codes = batch.condition["residues"][place, :count]
        is_known = batch.condition["is_known"][place, :atoms] > 0
        numbers = np.arange(1, count + 1, dtype=np.int64)
        found.append(Structure(batch.names[place], codes, batch.values[place, :atoms], is_known, numbers))
    return found


def _views_of(opened: shards.Shards, split: str, name: str, indices: Sequence[int], views: np.ndarray) -> np.ndarray:
    """A condition of one view of each of some sets.

    Raises:
        UsageError: there is no such view.
    """
    count = opened.views(split, name)
    if len(views) and not 0 <= views.min() <= views.max() < count:
        raise UsageError(
            f"`{opened.folder}` has {count} views of every object, and some sample was drawn from number {views.max()}",
            hint="give the reference that the samples were drawn from",
        )
    wanted = Wanted([name], (views + 0.5) / count)
    return opened.read(split, indices, conditions=wanted).condition[name]


def _from_files(folder: Path, *, all_models: bool) -> Items:
    files = [(name, folder / name) for name, _ in examples.walk(folder)]
    kinds = Counter(_kind(path) for _, path in files)
    held = [domain for domain in NOUNS if kinds[domain]]
    if not held:
        raise MissingError(f"`{folder}` holds neither pictures nor clouds nor proteins", hint=f"give {KINDS}")
    if len(held) > 1:
        told = " and ".join(f"{kinds[domain]} {NOUNS[domain]}" for domain in held)
        raise UsageError(f"`{folder}` holds {told}", hint="keep them in folders of their own")
    (domain,) = held
    kept = [(name, path) for name, path in files if _kind(path) == domain]
    if domain == "protein":
        return of_structures(folder, kept, all_models=all_models)
    read_one = _picture if domain == "image" else _cloud

    @functools.cache
    def first() -> tuple[str, np.ndarray]:
        return kept[0][0], read_one(kept[0][1])

    def fetch(indices: Sequence[int]) -> Batch:
        return _stacked(folder, first(), [(kept[i][0], read_one(kept[i][1])) for i in indices])

    is_ours = domain == "points" and any(MARK in _head(path) for _, path in kept[:1])
    return Items(folder, domain, len(kept), _digest(kept), fetch, normalisation=UNKNOWN if is_ours else {})


def of_structures(place: Path, files: Sequence[tuple[str, Path]], *, all_models: bool = False) -> Items:
    """Proteins of files below `place`; the name of each is that of its file without the suffixes.

    Of a file of several models the first counts. With `all_models` each counts and has its number, from 0 on, behind the
    name: `1abc-0`, `1abc-1`; the files are then read once to count them.

    Raises:
        UsageError: two have one name.
        IntegrityError: a file cannot be read.
    """
    stems = [structure_files.stem(name) for name, _ in files]
    twice = next((name for name, count in Counter(stems).items() if count > 1), None)
    if twice is not None:
        raise UsageError(
            f"`{place}` holds several files that are called `{twice}` without their suffixes", hint="keep one of each"
        )

    @functools.lru_cache(maxsize=64)
    def models(file: int) -> list[Structure]:
        path = files[file][1]
        return structure_files.read_models(path) if all_models else [structure_files.read(path)]

    counts = [len(models(file)) if all_models else 1 for file in range(len(files))]
    places = [(file, number) for file, count in enumerate(counts) for number in range(count)]
    names = [stems[file] if counts[file] == 1 else f"{stems[file]}-{number}" for file, number in places]

    def structures(indices: Sequence[int]) -> list[Structure]:
        return [replace(models(places[i][0])[places[i][1]], name=names[i]) for i in indices]

    def fetch(indices: Sequence[int]) -> Batch:
        raise AssertionError("proteins are read as structures")

    return Items(place, "protein", len(names), _digest(files), fetch, structures=structures, names=lambda: names)


def _digest(files: Sequence[tuple[str, Path]]) -> str:
    hashed = hashlib.sha256()
    for name, path in files:
        hashed.update(f"{name}\0{manifest.digest(path)}\n".encode(errors="surrogateescape"))
    return hashed.hexdigest()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2048)


def _from_array(path: Path) -> Items:
    name, values = _array(path)
    domain = ARCHIVED.get(name) or ("image" if values.dtype == np.uint8 else "points")
    is_right = values.dtype == np.uint8 if domain == "image" else values.dtype.kind == "f"
    wanted, channels = (4, (1, 3, 4)) if domain == "image" else (3, (3, 6))
    if not is_right or values.ndim != wanted or not len(values) or values.shape[-1] not in channels:
        raise IntegrityError(
            f"`{path}` holds {values.dtype} of shape {values.shape}, no pictures and no clouds",
            hint="pictures are uint8 (N H W C), clouds float (N P 3)",
        )
    dtype = np.uint8 if domain == "image" else np.float32

    def fetch(indices: Sequence[int]) -> Batch:
        with np.errstate(over="ignore"):  # what is too large for float32 is infinite, which `read` refuses
            some = values[np.asarray(indices)].astype(dtype, copy=False)
        return _batch(some, [str(i) for i in indices])

    facts = _origin(path)
    normalisation = UNKNOWN if facts and domain == "points" else {}
    return Items(path, domain, len(values), manifest.digest(path), fetch, normalisation=normalisation, facts=facts)


def _origin(path: Path) -> dict[str, str]:
    """What an .npz of `inrflow sample` says of itself, if it does; raises IntegrityError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            told = json.loads(str(archive["origin"]))
        return {str(key): str(value) for key, value in told.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise IntegrityError(f"`{path}` cannot be read: {error}", hint="copy it again, or make it again") from error
    except (TypeError, KeyError, ValueError, AttributeError):
        return {}


def _array(path: Path) -> tuple[str, np.ndarray]:
    try:
        found: Any = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(found, np.ndarray):  # the content decides, whatever the name says
            return "", found
        with found as archive:
            name = next((name for name in ARCHIVED if name in archive), None)
            if name is None:
                held = ", ".join(f"`{name}`" for name in archive) or "nothing"
                raise UsageError(f"`{path}` holds {held}, no samples", hint="name the array `images` or `points`")
            return name, archive[name]
    except DAMAGED_ARRAYS as error:
        raise IntegrityError(f"`{path}` cannot be read: {error}", hint="copy it again, or make it again") from error


def _stacked(folder: Path, pattern: tuple[str, np.ndarray], read: list[tuple[str, np.ndarray]]) -> Batch:
    """Items of the shape of `pattern`, the folder's first, as a batch.

    Raises:
        UsageError: they differ; names the first that does.
    """
    first_name, first = pattern
    for name, values in read:
        if values.shape != first.shape:
            raise UsageError(
                f"`{folder / name}` is {_spelled(values)}, and `{folder / first_name}` is {_spelled(first)}",
                hint="all pictures must have one size and mode, all clouds one number of points",
            )
    return _batch(np.stack([values for _, values in read]), [name for name, _ in read])


def _batch(values: np.ndarray, names: list[str]) -> Batch:
    return Batch(values, np.full(len(values), -1, dtype=np.int64), names, np.empty(0, dtype=np.int64))


def _picture(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            _check_picture(path, picture)
            image: Any = picture.convert(MODES[picture.mode])
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise IntegrityError(f"`{path}` cannot be read as a picture: {error}", hint="copy it again") from error
    return np.array(image).reshape(image.height, image.width, -1)


def _check_picture(path: Path, picture: Any) -> None:
    """Nothing, where a file holds one picture of 8 bits; of 16-bit colours Pillow would keep the upper 8 unsaid."""
    is_deep = any(";16" in str(tile[3]) for tile in picture.tile)
    if picture.mode not in MODES or is_deep:
        got = "16 bits per channel, not 8" if is_deep else f"the mode {picture.mode}, not 8 bits per channel"
        raise IntegrityError(f"`{path}` has {got}", hint="save it as an 8 bit picture")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise IntegrityError(f"`{path}` holds {frames} pictures, not one", hint="save each as a file of its own")


def _cloud(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".ply":
        return registry.find("exporters", "ply").read(path)
    _, values = _array(path)
    if values.ndim != 2 or values.shape[1] not in (3, 6) or values.dtype.kind != "f" or not len(values):
        raise IntegrityError(
            f"`{path}` holds {values.dtype} of shape {values.shape}, no cloud", hint="a cloud is float (P 3)"
        )
    return np.asarray(values, dtype=np.float32)


def _kind(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if structure_files.is_structure(path.name):
        return "protein"
    return "image" if suffix in PICTURES else "points" if suffix in CLOUDS else None


def _spelled(values: np.ndarray) -> str:
    if values.dtype == np.uint8:
        mode = {1: "grey", 3: "RGB", 4: "RGBA"}[values.shape[2]]
        return f"{values.shape[0]} x {values.shape[1]} pixels, {mode}"
    return f"{len(values):,} points of {values.shape[1]} numbers"
