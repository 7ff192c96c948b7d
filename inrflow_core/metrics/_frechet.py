"""The Frechet distance of the Gaussians that have the mean and covariance of two sets of features.

Source: Dowson and Landau, 1982; as a metric of images, Heusel et al. 2017, arXiv:1706.08500, equation 6:
|m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2).

The last trace is the sum of the singular values of F1^T F2, where S = F F^T: real, with an error of the rounding of the
largest. The square root of the product of two covariances becomes complex and loses half its digits if one is singular.
F is the Cholesky factor or, for fewer images than features, the centered features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from inrflow_core.metrics._feature_checks import checked, count_of, width_of
from inrflow_core.metrics._inputs import Features, assign_groups
from inrflow_core.numerics import gaussian_stats
from inrflow_core.numerics.gaussian_stats import GaussianStats

ROUNDING = 10 * np.finfo(np.float64).eps
"""A safe bound of the error of eigenvalues, relative to the largest."""

PROTOCOLS = ("clean", "torch-fidelity", "adm", "random")
"""Of FID: how images are resized and quantized for Inception-v3, or random features."""

Side = Float32[np.ndarray, "N F"] | GaussianStats


@dataclass(frozen=True)
class Gaussian:
    """A mean and a factor of a covariance."""

    mean: Float64[np.ndarray, " F"]
    factor: Float64[np.ndarray, "F K"]
    """The covariance is `factor @ factor.T`."""


def pooled_features(protocol: str) -> tuple[str, str, str]:
    """Network, output and preprocessing of one of the `PROTOCOLS`."""
    return ("random", "all", "v1") if protocol == "random" else ("inception", "pool", protocol)


def unit(protocol: str) -> str:
    """None: a squared distance of features."""
    return ""


def compute(inputs: Features, protocol: str) -> float:
    """The squared distance; 0 for equal Gaussians up to rounding, never negative.

    Raises:
        UsageError: as `_feature_checks.checked`.
    """
    features = checked(inputs)
    return distance(gaussian(features.samples), gaussian(features.reference))


def jackknife_values(inputs: Features, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The distance without each group; covariances of the groups are subtracted from the whole."""
    features = checked(inputs)
    samples = _leaving_out(features.samples, parts, inputs.sample_clusters)
    reference = _leaving_out(features.reference, parts, inputs.reference_clusters)
    return np.array([distance(gaussian(samples(part)), gaussian(reference(part))) for part in range(parts)])


def remark(inputs: Features, protocol: str) -> str | None:
    """A warning if there are no more images than features: the distance is then much too large."""
    width = width_of(inputs.samples)
    few = [
        f"{count_of(side)} {name}"
        for name, side in (("samples", inputs.samples), ("references", inputs.reference))
        if 0 < count_of(side) <= width
    ]
    if not few:
        return None
    return f"{' and '.join(few)} for {width} features: much larger than with many, and comparable at equal numbers only"


def gaussian(side: Side) -> Gaussian:
    """The Gaussian of some features or of their moments."""
    if isinstance(side, GaussianStats):
        return Gaussian(side.mean, _root(side.covariance))
    if len(side) > side.shape[1]:
        return gaussian(gaussian_stats.from_features(side))
    centered = side.astype(np.float64)
    mean = centered.mean(0)
    centered -= mean
    return Gaussian(mean, centered.T / np.sqrt(len(side) - 1))


def distance(first: Gaussian, second: Gaussian) -> float:
    """The squared Frechet distance of two Gaussians."""
    difference = first.mean - second.mean
    overlap = _sum_of_singular_values(first.factor.T @ second.factor)
    spread = sum(float(np.vdot(each.factor, each.factor)) for each in (first, second))
    return max(0.0, float(difference @ difference + spread - 2 * overlap))


def _sum_of_singular_values(matrix: Float64[np.ndarray, "N M"]) -> float:
    """To a relative error of 1e-8: roots of the eigenvalues of the Gram matrix if accurate enough (4x faster), else an SVD.

    The error of an eigenvalue is the rounding of the largest, that of its root this over twice the root: too large for
    eigenvalues near 0.
    """
    squares = np.linalg.eigvalsh(matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix)
    if squares[0] > ROUNDING * squares[-1]:
        roots = np.sqrt(squares)
        error = ROUNDING * squares[-1] * np.sum(0.5 / roots)
        if error <= 1e-8 * roots.sum():
            return float(roots.sum())
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def _root(covariance: Float64[np.ndarray, "F F"]) -> Float64[np.ndarray, "F F"]:
    """A matrix F with F F^T the covariance."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0))


def _leaving_out(side: Side, parts: int, clusters: Int64[np.ndarray, " N"] | None) -> Callable[[int], Side]:
    """A function that returns a side without one of its groups."""
    if isinstance(side, GaussianStats):
        return lambda part: side
    groups = assign_groups(len(side), parts, clusters)
    sizes = np.bincount(groups, minlength=parts)
    if len(side) - sizes.max() <= side.shape[1] or sizes.min() < 2:
        return lambda part: side[groups != part]
    whole = gaussian_stats.from_features(side)
    return lambda part: gaussian_stats.subtract(whole, gaussian_stats.from_features(side[groups == part]))
