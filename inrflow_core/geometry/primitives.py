"""Solids with exact formulas: what is inside, how far they reach, and points with normals uniform on their surface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64

Points = Float64[np.ndarray, "N 3"]
STEP = 1e-7
"""A step off a surface, in units of the solids: shorter than anything of theirs."""


@runtime_checkable
class Primitive(Protocol):
    """A simple solid."""

    @property
    def area(self) -> float:
        """Of its surface."""
        ...

    def is_inside(self, points: Points) -> Bool[np.ndarray, " N"]:
        """Whether points are inside or on the surface."""
        ...

    def support(self, directions: Points) -> Float64[np.ndarray, " N"]:
        """How far it reaches along unit vectors, from the origin."""
        ...

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Points, Points]:
        """Points uniform on its surface, and the outward unit normals there."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid along the axes."""

    radii: tuple[float, float, float]
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def area(self) -> float:
        """Thomsen's formula: exact for balls, else within 1.1 %."""
        a, b, c = np.power(self.radii, 1.6075)
        return float(4 * np.pi * ((a * b + b * c + c * a) / 3) ** (1 / 1.6075))

    def is_inside(self, points: Points) -> Bool[np.ndarray, " N"]:
        """See `Primitive`."""
        return np.square((points - self.center) / self.radii).sum(1) <= 1

    def support(self, directions: Points) -> Float64[np.ndarray, " N"]:
        """See `Primitive`."""
        return directions @ np.array(self.center) + np.linalg.norm(directions * self.radii, axis=1)

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Points, Points]:
        """See `Primitive`: directions of a ball, thinned by how much the ellipsoid stretches the surface there."""

        def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
            directions = _directions(rng, number)
            stretch = np.linalg.norm(directions / self.radii, axis=1) * min(self.radii)
            return directions, rng.random(number) < stretch

        directions = _accepted(draw, count)
        normals = directions / self.radii
        return directions * self.radii + self.center, normals / np.linalg.norm(normals, axis=1, keepdims=True)


@dataclass(frozen=True)
class Box:
    """A box along the axes."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    @property
    def area(self) -> float:
        """See `Primitive`."""
        return float(2 * self._sides().sum())

    def is_inside(self, points: Points) -> Bool[np.ndarray, " N"]:
        """See `Primitive`."""
        return np.all([points >= self.low, points <= self.high], axis=(0, 2))

    def support(self, directions: Points) -> Float64[np.ndarray, " N"]:
        """See `Primitive`."""
        return np.maximum(directions * self.low, directions * self.high).sum(1)

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Points, Points]:
        """See `Primitive`."""
        axis = rng.choice(3, count, p=self._sides() / self._sides().sum())
        is_high = rng.random(count) < 0.5
        points = rng.uniform(self.low, self.high, (count, 3))
        rows = np.arange(count)
        points[rows, axis] = np.where(is_high, np.array(self.high)[axis], np.array(self.low)[axis])
        normals = np.zeros((count, 3))
        normals[rows, axis] = np.where(is_high, 1.0, -1.0)
        return points, normals

    def _sides(self) -> np.ndarray:
        """The areas of one side across x, y and z."""
        x, y, z = np.subtract(self.high, self.low)
        return np.array([y * z, z * x, x * y])


@dataclass(frozen=True)
class Cone:
    """A frustum around an axis: a disc of one radius at `start`, of another at `end`. Equal radii are a cylinder."""

    radii: tuple[float, float]
    start: float
    end: float
    axis: int = 2

    @property
    def area(self) -> float:
        """See `Primitive`."""
        return float(self._areas().sum())

    def is_inside(self, points: Points) -> Bool[np.ndarray, " N"]:
        """See `Primitive`."""
        along, across = self._split(points)
        share = (along - self.start) / (self.end - self.start)
        radius = self.radii[0] + share * (self.radii[1] - self.radii[0])
        return (share >= 0) & (share <= 1) & (np.linalg.norm(across, axis=1) <= radius)

    def support(self, directions: Points) -> Float64[np.ndarray, " N"]:
        """See `Primitive`."""
        along, across = self._split(directions)
        reach = np.linalg.norm(across, axis=1)
        return np.maximum(along * self.start + reach * self.radii[0], along * self.end + reach * self.radii[1])

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Points, Points]:
        """See `Primitive`."""
        part = rng.choice(3, count, p=self._areas() / self.area)
        angle, u = rng.uniform(0, 2 * np.pi, count), rng.random(count)
        near, far = self.radii
        side = np.sqrt(near**2 + u * (far**2 - near**2))  # radii of a cone's side, whose area grows with them
        share = u if near == far else (side - near) / (far - near)
        ends = np.where(part == 1, self.start, self.end)
        radius = np.where(part == 0, side, np.where(part == 1, near, far) * np.sqrt(u))
        along = np.where(part == 0, self.start + share * (self.end - self.start), ends)
        slope = (near - far) / (self.end - self.start)
        length = np.hypot(1, slope)
        outward = np.where(part == 0, 1 / length, 0.0)
        axial = np.where(part == 0, slope / length, np.where(part == 1, -1.0, 1.0))
        circle = np.stack([np.cos(angle), np.sin(angle)], 1)
        return self._join(along, radius[:, None] * circle), self._join(axial, outward[:, None] * circle)

    def _areas(self) -> np.ndarray:
        """Of the side, and of the two discs."""
        near, far = self.radii
        return np.pi * np.array([(near + far) * np.hypot(self.end - self.start, near - far), near**2, far**2])

    def _split(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return points[:, self.axis], points[:, [(self.axis + 1) % 3, (self.axis + 2) % 3]]

    def _join(self, along: np.ndarray, across: np.ndarray) -> np.ndarray:
        return np.roll(np.concatenate([along[:, None], across], 1), self.axis, axis=1)


@dataclass(frozen=True)
class Torus:
    """A torus around z."""

    radius: float
    tube: float

    @property
    def area(self) -> float:
        """See `Primitive`."""
        return 4 * np.pi**2 * self.radius * self.tube

    def is_inside(self, points: Points) -> Bool[np.ndarray, " N"]:
        """See `Primitive`."""
        return np.hypot(np.hypot(points[:, 0], points[:, 1]) - self.radius, points[:, 2]) <= self.tube

    def support(self, directions: Points) -> Float64[np.ndarray, " N"]:
        """See `Primitive`."""
        return self.radius * np.hypot(directions[:, 0], directions[:, 1]) + self.tube * np.linalg.norm(
            directions, axis=1
        )

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Points, Points]:
        """See `Primitive`: angles around the tube, thinned where the ring is shorter."""

        def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
            angle = rng.uniform(0, 2 * np.pi, number)
            share = (self.radius + self.tube * np.cos(angle)) / (self.radius + self.tube)
            return angle[:, None], rng.random(number) < share

        angle, around = _accepted(draw, count)[:, 0], rng.uniform(0, 2 * np.pi, count)
        outward = np.stack([np.cos(around), np.sin(around), np.zeros(count)], 1)
        normals = np.cos(angle)[:, None] * outward + np.sin(angle)[:, None] * np.array([0.0, 0.0, 1.0])
        return self.radius * outward + self.tube * normals, normals


@dataclass(frozen=True)
class Union:
    """Solids together."""

    parts: Sequence[Primitive]

    def is_inside(self, points: Points) -> Bool[np.ndarray, " N"]:
        """Whether points are inside any part."""
        return np.any([part.is_inside(points) for part in self.parts], axis=0)

    def support(self, directions: Points) -> Float64[np.ndarray, " N"]:
        """How far the parts reach along unit vectors, from the origin."""
        return np.max([part.support(directions) for part in self.parts], axis=0)

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Points, Points]:
        """Points uniform on the surface of the whole, in random order, and the outward unit normals there."""
        areas = np.array([part.area for part in self.parts])
        points, normals = np.empty((0, 3)), np.empty((0, 3))
        while len(points) < count:
            parts = [
                part.sample(rng, int(number))
                for part, number in zip(self.parts, rng.multinomial(2 * count, areas / areas.sum()), strict=True)
            ]
            at, across = (np.concatenate([part[k] for part in parts]) for k in range(2))
            # What is within another part has no free side.
            is_free = ~self.is_inside(at + STEP * across)
            order = rng.permutation(np.flatnonzero(is_free))
            points, normals = np.concatenate([points, at[order]]), np.concatenate([normals, across[order]])
        return points[:count], normals[:count]


def _directions(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _accepted(draw: Callable[[int], tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """The first `count` rows that a function draws and accepts."""
    rows: list[np.ndarray] = []
    while sum(map(len, rows)) < count:
        values, is_accepted = draw(count)
        rows.append(values[is_accepted])
    return np.concatenate(rows)[:count] if rows else draw(0)[0]
