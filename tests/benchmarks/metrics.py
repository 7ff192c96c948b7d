"""What metrics cost: of images CPU seconds of a value and of its interval, and images a second of each network; of proteins
CPU milliseconds of a pair.

    python tests/benchmarks/metrics.py                # 10,000 against 10,000 images, some minutes on one core
    python tests/benchmarks/metrics.py --num 1000     # fewer
    python tests/benchmarks/metrics.py --proteins     # of proteins alone, some seconds

Features are made up, since their values cost the same; networks that want weights have random ones. One thread, CPU
seconds (time.process_time), one pass each.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core import registry
from inrflow_core.evaluation import intervals
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.feature_networks import clip, inception, random_filters, vgg16
from inrflow_core.metrics import _contract
from inrflow_core.metrics._image_pairs import Pairs
from inrflow_core.metrics._inputs import Features
from inrflow_core.numerics import gaussian_stats
from inrflow_core.proteins import superposition

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=10_000, help="images on either side")
    parser.add_argument("--proteins", action="store_true", help="pairs of proteins alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.proteins:
        of_images(arguments.num)
    of_proteins()


def of_images(num: int) -> None:
    """Two tables: metrics, and networks."""
    print("| metric | value (CPU s) | interval (CPU s) |\n| --- | ---: | ---: |", flush=True)
    generator = np.random.default_rng(0)
    samples, reference = (generator.normal(size=(num, 2048)).astype(np.float32) for _ in range(2))
    both, against_moments = Features(samples, reference), Features(samples, gaussian_stats.from_features(reference))
    logits = generator.normal(size=(num, 1008)).astype(np.float32)
    images = generator.integers(0, 256, (100, 256, 256, 3), dtype=np.uint8)
    pairs = Pairs(images, images ^ 7)
    cost("fid", "clean", both, f"{num:,} against {num:,}, 2048 features")
    cost("fid", "clean", against_moments, "the same against moments")
    cost("kid", "torch-fidelity", both, f"{num:,} against {num:,}")
    cost("precision", "inception:adm", both, f"{num:,} against {num:,}, 2048 features")
    cost("inception-score", "adm", Features(logits, logits[:0]), f"{num:,}")
    cost("psnr", "rgb", pairs, "100 pairs of 256 x 256 RGB")
    cost("ssim", "inside", pairs, "100 pairs of 256 x 256 RGB")
    print("\n| network | images | a second of CPU |\n| --- | --- | ---: |", flush=True)
    for count, side, channels in ((1024, 28, 1), (256, 64, 3), (32, 256, 3)):
        extract("random", random_filters.RandomFilters(), "v1", (count, side, side, channels))
    for name, network, form in (
        ("inception", inception.Inception(), "clean"),
        ("vgg16", vgg16.VGG16(), "stylegan"),
        ("clip", clip.ImageEncoder(), "openai"),
    ):
        extract(name, network, form, (16, 256, 256, 3))
    network_of_clips()
    networks_of_clouds()


def of_proteins(residues: int = 300, atoms: int = 2400) -> None:
    """One table: a pair of made-up globules, as dense as proteins are."""
    generator = np.random.default_rng(0)

    def globule(count: int) -> np.ndarray:
        directions = generator.normal(size=(count, 3))
        radii = 21.0 * generator.random((count, 1)) ** (1 / 3)  # Angstrom, of 300 residues
        return directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii

    def shaken(positions: np.ndarray, size: float) -> np.ndarray:
        return positions + size * generator.normal(size=positions.shape)

    chain, heavy = globule(residues), globule(atoms)
    print("\n| pair of proteins | a pair (CPU ms) |\n| --- | ---: |", flush=True)
    for what, measure in (
        (f"lDDT, {residues} C-alphas", partial(superposition.lddt, shaken(chain, 1.0), chain)),
        (f"lDDT, {atoms:,} heavy atoms", partial(superposition.lddt, shaken(heavy, 1.0), heavy)),
        (f"TM-score, {residues} residues 1 Angstrom off", partial(superposition.tm_score, shaken(chain, 1.0), chain)),
        (f"TM-score, {residues} residues 4 Angstrom off", partial(superposition.tm_score, shaken(chain, 4.0), chain)),
        (f"TM-score, {residues} residues, unrelated", partial(superposition.tm_score, globule(residues), chain)),
        (f"RMSD, {residues} C-alphas", partial(superposition.rmsd, shaken(chain, 1.0), chain)),
    ):
        measure()
        start = time.process_time()
        for _ in range(10):
            measure()
        print(f"| {what} | {100 * (time.process_time() - start):.2g} |", flush=True)


def cost(name: str, protocol: str, evidence: Any, what: str) -> None:
    """One row: the metric of some evidence, and its interval."""
    metric = _contract.find(name)
    start = time.process_time()
    value = metric.file.compute(evidence, protocol)
    middle = time.process_time()
    intervals.metric_interval(MetricSpec(name, metric, protocol), evidence, value)
    end = time.process_time()
    print(f"| {metric.title}, {what} | {middle - start:.2g} | {end - middle:.2g} |", flush=True)


def extract(name: str, network: torch.nn.Module, form: str, shape: tuple[int, ...]) -> None:
    """One row: how many images a network takes in a second, resizing included."""
    from inrflow_core.feature_networks import _resize
    from inrflow_core.feature_networks._image_features import Extractor

    module = registry.find("feature_networks", name)
    resizers = getattr(module, "RESIZERS", {form: _resize.no_resize})
    extractor = Extractor(network.eval().requires_grad_(False), module.OUTPUTS, resizers, {}, torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    extractor(images[:2], tuple(module.OUTPUTS), form)
    start = time.process_time()
    extractor(images, tuple(module.OUTPUTS), form)
    rate = len(images) / (time.process_time() - start)
    print(f"| `{name}:{form}` | {shape[1]} x {shape[2]} | {rate:.3g} |", flush=True)


def network_of_clips() -> None:
    """A table of its own: what a clip of 16 frames of 256 x 256 costs I3D, resizing included."""
    from inrflow_core.feature_networks import i3d
    from inrflow_core.feature_networks._video_features import ClipExtractor

    network = i3d.I3D()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.uniform_(0, 0.02)
    features = {name: partial(i3d.logits, network, preprocessing=name) for name in i3d.PREPROCESSING}
    extractor = ClipExtractor(features, i3d.OUTPUTS, i3d.CHUNK, torch.device("cpu"), i3d.FILES)
    clips = np.random.default_rng(0).integers(0, 256, (i3d.CHUNK, i3d.FRAMES, 256, 256, 3), dtype=np.uint8)
    print("\n| network | a clip (CPU s) |\n| --- | ---: |", flush=True)
    for name in i3d.PREPROCESSING:
        extractor(clips[:1], ("logits",), name)
        start = time.process_time()
        extractor(clips, ("logits",), name)
        print(f"| `i3d:{name}` | {(time.process_time() - start) / len(clips):.2g} |", flush=True)


def networks_of_clouds() -> None:
    """A table of its own: what a cloud costs a network, and how much of that its farthest points are."""
    from inrflow_core.feature_networks import _point_features, pointnet2, ulip2

    print(
        "\n| network | points | CPU ms a cloud | of these the farthest points |\n| --- | ---: | ---: | ---: |",
        flush=True,
    )
    generator = np.random.default_rng(0)
    for module, network, prepare in (
        (pointnet2, pointnet2.PointNet2(), pointnet2.positions),
        (ulip2, ulip2.PointEncoder(), ulip2.in_gray),
    ):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.02)
        network.eval().requires_grad_(False)
        clouds = torch.from_numpy(generator.normal(size=(_point_features.CHUNK, module.POINTS, 3)).astype(np.float32))
        with torch.inference_mode():
            inputs = prepare(clouds)
            network(inputs, ())
            start = time.process_time()
            network(inputs, ())
            middle = time.process_time()
            _point_features.farthest_point_sampling(inputs[..., :3].contiguous(), 512)
            end = time.process_time()
        whole, part = (1e3 * seconds / len(clouds) for seconds in (middle - start, end - middle))
        print(f"| `{module.WEIGHTS.name}` | {module.POINTS:,} | {whole:.3g} | {part:.2g} |", flush=True)


if __name__ == "__main__":
    main()
