"""What a model draws from held-out photos or sequences beside the truth, as a sheet of images.

    python tools/compare_with_truth.py runs/objects-demo sheet.png --data shards/objects     # photo, sample, truth
    python tools/compare_with_truth.py runs/proteins-demo sheet.png --data shards/proteins   # sample, truth

The objects or proteins are spread evenly over the held-out split. Clouds are seen from the photo's side, and the Chamfer
distance to the right object is above each sample, next to its mean to the others; proteins lie on their truth, with
their lDDT.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from inrflow_cli.options import parse_settings
from inrflow_core import registry
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.proteins import residue_alignment, superposition
from inrflow_core.proteins.structure import Structure
from inrflow_core.sample_files import readers, subsets
from inrflow_core.sample_files.collection import IMAGE, SampleCollection, ShardCollection
from inrflow_core.sampling import condition_inputs, options
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.sampling.sample import iter_samples, load
from inrflow_core.visualization import image_grid, point_rendering, protein_rendering

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TILE = 160


def main() -> None:
    """Draw, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--data", required=True, help="the shards that the run learned from")
    parser.add_argument("--num", type=int, default=12)
    parser.add_argument("--points", type=int, default=4096)
    parser.add_argument("--sampler")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--set", action="append", metavar="sampler|method.KEY=VALUE")
    parser.add_argument("--elevation", type=float, default=20.0, help="of the photos' cameras, in degrees")
    parser.add_argument("--ema", type=float, help="decay of the averaged weights; 0 for the weights themselves")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load(arguments.run, ema=arguments.ema)
    split = model.preset.data.config.held_out or model.preset.data.config.train
    true = subsets.evenly_spaced_items(readers.open_collection(Path(arguments.data), split), arguments.num)
    indices = np.arange(true.count) if true.source_indices is None else true.source_indices
    draw = folds if model.domain.NAME == "protein" else objects
    tiles, captions, columns = draw(model, true, indices.tolist(), arguments)
    image_grid.tile_images(tiles, columns=columns, captions=captions).save(arguments.sheet)


Sheet = tuple[list[Image.Image], list[str], int]


def objects(model: Model, true: SampleCollection, indices: list[int], arguments: argparse.Namespace) -> Sheet:
    """Photo, sample and truth of each object, two objects to a row."""
    assert isinstance(true, ShardCollection)
    condition = condition_inputs.conditions_from_shards(model, true.shards, true.shard_split, indices)
    request = SampleRequest(indices, size=arguments.points, condition=condition)
    sampled = np.concatenate(
        [clouds for _, clouds in iter_samples(model, request, sampling_options_of(model, arguments))]
    )
    clouds = true.read(range(true.count)).values[:, : arguments.points]
    photos = true.load_views(IMAGE, range(true.count), np.zeros(true.count, np.int64))
    distance = registry.find("distances", "cd")
    between = np.array([[distance.distance(*map(distance.prepare, (a, b))) for b in clouds] for a in sampled])
    tiles, captions = [], []
    for number, (photo, sample, truth) in enumerate(zip(photos, sampled, clouds, strict=True)):
        seen = {"size": TILE, "azimuth": 0.0, "elevation": arguments.elevation}
        others = np.delete(between[number], number).mean()
        tiles += [Image.fromarray(photo).resize((TILE, TILE), Image.Resampling.LANCZOS)]
        tiles += [point_rendering.cloud(sample, **seen), point_rendering.cloud(truth, **seen)]
        captions += ["photo", f"{between[number, number]:.3f} ({others:.2f})", "truth"]
    right = between.diagonal().mean()
    others = (between.sum() - between.trace()) / (between.size - len(between))
    print(f"Chamfer distance to the right object {right:.4f}, to the others {others:.4f}")
    return tiles, captions, 6


def folds(model: Model, true: SampleCollection, indices: list[int], arguments: argparse.Namespace) -> Sheet:
    """Sample and truth of each protein, one on the other's place, three proteins to a row."""
    assert isinstance(true, ShardCollection)
    tiles, captions, scores = [], [], []
    for truth, index in zip(true.structures(range(true.count)), indices, strict=True):
        condition = condition_inputs.conditions_from_shards(model, true.shards, true.shard_split, [index])
        request = SampleRequest([index], condition=condition)
        ((_, (sample,)),) = iter_samples(model, request, sampling_options_of(model, arguments))
        assert isinstance(sample, Structure)
        moved, score = laid(sample, truth)
        both = protein_rendering.render_proteins(
            [truth.ca[truth.ca_is_known], moved], columns=2, size=TILE, is_one_view=True
        )
        tiles += [both.crop((TILE, 0, 2 * TILE, TILE)), both.crop((0, 0, TILE, TILE))]
        captions += [f"lDDT {score:.2f}", truth.name]
        scores.append(score)
    print(f"C-alpha lDDT {np.mean(scores):.3f} over {len(scores)} proteins")
    return tiles, captions, 6


def laid(sample: Structure, truth: Structure) -> tuple[Float[np.ndarray, "L 3"], float]:
    """The C-alphas of a sample, laid on those of its truth that are known, and its lDDT by these."""
    both = residue_alignment.c_alphas(sample, truth, residue_alignment.align_residues(sample, truth, "number"))
    return superposition.superpose(*both)(sample.ca), superposition.lddt(*both)


def sampling_options_of(model: Model, arguments: argparse.Namespace) -> SamplingOptions:
    """The preset's sampling options, changed by `--sampler`, `--steps` and `--set`."""
    of_sampler, of_method = parse_settings(arguments.set)
    return options.sampling_options(
        model,
        sampler=arguments.sampler,
        steps=arguments.steps,
        sampler_settings=of_sampler,
        method_settings=of_method,
    )


if __name__ == "__main__":
    main()
