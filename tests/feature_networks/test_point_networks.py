"""The two networks of clouds, with random weights: PointNet++ of P-FID and PointBERT of ULIP-I."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _point_features, pointnet2, ulip2
from inrflow_core.feature_networks._point_features import CloudExtractor
from inrflow_core.feature_networks._weights_file import find
from tests.feature_networks import published


@pytest.fixture(scope="module")
def extractors(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ulip2, "LAYERS", 2)
        for module, network in ((pointnet2, pointnet2.PointNet2()), (ulip2, ulip2.PointEncoder())):
            published.randomize(network)
            published.write(folder / module.WEIGHTS.file, network.state_dict(), published.metadata(module.WEIGHTS))
        yield {m.WEIGHTS.name: m.load(folder / m.WEIGHTS.file) for m in (pointnet2, ulip2)}


CASES = (("pointnet2", "point-e", "features", 4096), ("ulip2", "gray", "embedding", 10_000))


def clouds(count: int, points: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Points on ellipsoids."""
    generator = np.random.default_rng(seed)
    points_on = generator.normal(size=(count, points, channels))
    points_on[..., :3] /= np.linalg.norm(points_on[..., :3], axis=2, keepdims=True)
    points_on[..., :3] *= generator.uniform(0.3, 1, (count, 1, 3))
    return np.clip(points_on, -1, 1).astype(np.float32)


def test_parameters_and_tensors_are_as_many_as_published():
    """Of ULIP-2's checkpoint others counted 226 tensors of the encoder and a projection (768, 1280)."""
    with torch.device("meta"):
        points, bert = pointnet2.PointNet2(), ulip2.PointEncoder()
    published = 226 - 2 + 1  # less two counters of batches, and with the projection
    assert len(bert.state_dict()) == published and bert.projection.weight.shape == (1280, 768)
    layers = [(3, 128), (128, 128), (128, 256), (259, 256), (256, 256), (256, 512), (515, 512), (512, 1024)]
    layers += [(1024, 2048), (2048, 1024), (1024, 512)]
    linear, norms = sum(a * b + b for a, b in layers), sum(2 * b for _, b in layers)
    sizes = {name: tensor.numel() for name, tensor in points.state_dict().items()}
    assert sum(n for name, n in sizes.items() if not name.endswith(("mean", "variance"))) == linear + norms + 513 * 40


@pytest.mark.parametrize(("name", "form", "output", "points"), CASES)
def test_company_position_and_size_change_nothing_and_shape_does(
    extractors: dict[str, CloudExtractor], name: str, form: str, output: str, points: int
):
    extractor, some = extractors[name], clouds(5, points)
    features = extractor(some, (output,), form)[output]
    torch.testing.assert_close(extractor(some[4:], (output,), form)[output], features[4:], rtol=1e-4, atol=1e-4)
    # A power of two and a shift that float32 takes without rounding much.
    moved = extractor(4 * some[:1] + np.float32(0.5), (output,), form)[output]
    spread = float((features[0] - features[1]).abs().max())
    assert float((moved - features[:1]).abs().max()) < 0.05 * spread
    assert spread > 0.01


@pytest.mark.parametrize(("name", "form", "output", "points"), CASES)
def test_of_more_points_the_fixed_ones_are_seen_and_of_fewer_it_is_said_what_to_draw(
    extractors: dict[str, CloudExtractor], name: str, form: str, output: str, points: int
):
    extractor, some = extractors[name], clouds(1, points + 500)
    same = np.empty((1, points, 3), np.float32)
    same[:, _point_features.point_subset(points, points).numpy()] = some[
        :, _point_features.point_subset(points + 500, points).numpy()
    ]
    features, expected = (extractor(each, (output,), form)[output] for each in (some, same))
    assert torch.equal(features, expected)
    with pytest.raises(UsageError, match=f"the clouds have 2,048 points each, and the network needs {points:,}") as e:
        extractor(some[:, :2048], (output,), form)
    assert f"--points {points}" in (e.value.hint or "")


def test_the_order_of_points_changes_nothing_but_the_start(extractors: dict[str, CloudExtractor]):
    """Where no ball holds more points than are looked at; ULIP-2 looks at the nearest, always."""
    generator = torch.Generator().manual_seed(0)
    sparse = torch.randn(1, 600, 3, generator=generator)
    sparse = _point_features.in_unit_ball(
        sparse / sparse.norm(dim=2, keepdim=True) * torch.rand(1, 600, 1, generator=generator) ** (1 / 3)
    )
    mixed = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(599, generator=generator)])
    for name, points in (("pointnet2", sparse), ("ulip2", torch.cat([sparse, sparse.abs()], dim=2))):
        network, (output, *_) = extractors[name].network, extractors[name].outputs
        with torch.inference_mode():
            plain, same, other = (network(points[:, p], (output,))[output] for p in (slice(None), mixed, mixed.flip(0)))
        torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(other, plain, rtol=1e-3, atol=1e-3), "the start counts"


def test_colors_are_seen_in_color_alone(extractors: dict[str, CloudExtractor]):
    extractor, some = extractors["ulip2"], clouds(1, 10_000, channels=6)
    plain = extractor(some[..., :3], ("embedding",), "gray")["embedding"]
    assert torch.equal(extractor(some, ("embedding",), "gray")["embedding"], plain)
    assert not torch.allclose(extractor(some, ("embedding",), "color")["embedding"], plain, rtol=1e-2, atol=1e-2)
    some[..., 3:] = 2 * 0.4 - 1
    in_color = extractor(some, ("embedding",), "color")["embedding"]
    torch.testing.assert_close(in_color, plain, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="the clouds have no colors"):
        extractor(some[..., :3], ("embedding",), "color")


def test_absent_and_damaged_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INRFLOW_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingError, match="the weights of `pointnet2` are absent") as caught:
        find("pointnet2", {})
    lines = (caught.value.hint or "").splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 120
    assert (
        "`inrflow weights list pointnet2`" in lines[0] and "`inrflow weights convert pointnet2 pointnet.pt" in lines[1]
    )
    network = pointnet2.PointNet2()
    published.randomize(network)
    tensors = network.state_dict() | {"classes.weight": torch.zeros(40, 256)}
    published.write(tmp_path / "pointnet2.safetensors", tensors, published.metadata(pointnet2.WEIGHTS))
    with pytest.raises(IntegrityError, match=r"`classes.weight` as \(40, 256\), the network as \(40, 512\)"):
        pointnet2.load(tmp_path / "pointnet2.safetensors")
