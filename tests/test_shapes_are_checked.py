"""The tests run with every annotated shape checked; this proves that the checker is on."""

from __future__ import annotations

import beartype
import numpy as np
import pytest
import torch

from inrflow_core.evaluation import pairwise_distances
from inrflow_core.metrics._cloud_inputs import DistanceSpec
from inrflow_core.numerics import paths
from inrflow_core.runtime.progress import format_bytes


def test_a_wrong_shape_raises():
    path = paths.PATHS["linear"]
    data = torch.zeros(2, 5, 3)
    paths.interpolate(path, data, torch.zeros(2, 5, 3), torch.zeros(2))
    with pytest.raises(beartype.roar.BeartypeCallHintViolation, match="interpolate"):
        paths.interpolate(path, data, torch.zeros(2, 4, 3), torch.zeros(2))


def test_a_wrong_shape_raises_where_the_annotation_has_a_name_of_its_own():
    clouds = np.zeros((2, 8, 3))
    with pytest.raises(beartype.roar.BeartypeCallHintViolation, match="compute_distances"):
        pairwise_distances.compute_distances(clouds[..., :2], clouds, DistanceSpec("cd", "inrflow"))


def test_a_wrong_type_raises_where_no_annotation_names_an_array():
    with pytest.raises(beartype.roar.BeartypeCallHintViolation, match="format_bytes"):
        format_bytes("many")  # pyright: ignore[reportArgumentType]
