"""Tokens of images: each patch in its position, with the ray through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inrflow_core.feature_networks import patches
from inrflow_core.feature_networks._contract import posed_image_tokens
from inrflow_core.geometry import cameras
from tests import camera_rings


def test_rays_on_a_device_are_those_of_the_cameras() -> None:
    poses = np.stack([cameras.orbit(30, 20), cameras.orbit(200, -10, 2.0, field_of_view=60)])
    got = cameras.pluecker_batch(torch.from_numpy(poses), 5, 7)
    expected = np.stack([cameras.pluecker(camera, 5, 7) for camera in poses])
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)


def test_a_token_is_the_patch_and_then_its_ray() -> None:
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    poses = torch.from_numpy(camera_rings.orbit_ring(2))
    embedder = patches.load(None)
    got = posed_image_tokens(embedder, images, poses)
    assert got.dtype == torch.float16 and got.shape == (2, 64, 192 + 6)
    torch.testing.assert_close(got[..., :192], embedder(images).half(), rtol=0, atol=0)
    torch.testing.assert_close(got[..., 192:], cameras.pluecker_batch(poses, 8, 8).half(), rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_tokens_of_the_processor() -> None:
    images = torch.randint(0, 256, (2, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    poses = torch.from_numpy(camera_rings.orbit_ring(2))
    here = posed_image_tokens(patches.load(None), images, poses)
    there = posed_image_tokens(patches.load(None, "cuda"), images.cuda(), poses.cuda())
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=2e-3)
