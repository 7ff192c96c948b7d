"""Clouds on the surfaces of simple solids, within [-0.5, 0.5]."""

from __future__ import annotations

import numpy as np


def sphere(random: np.random.Generator, count: int) -> np.ndarray:
    x = random.normal(size=(count, 3))
    return (x / np.linalg.norm(x, axis=1, keepdims=True) / 2).astype(np.float32)


def box(random: np.random.Generator, count: int) -> np.ndarray:
    x = random.uniform(-0.5, 0.5, (count, 3))
    axis = random.integers(0, 3, count)
    x[np.arange(count), axis] = np.sign(x[np.arange(count), axis]) / 2
    return x.astype(np.float32)


def torus(random: np.random.Generator, count: int) -> np.ndarray:
    a, b = random.uniform(0, 2 * np.pi, (2, count))
    reach = 0.35 + 0.15 * np.cos(b)
    return np.stack([reach * np.cos(a), reach * np.sin(a), 0.15 * np.sin(b)], 1).astype(np.float32)


def plane(random: np.random.Generator, count: int) -> np.ndarray:
    return (random.uniform(-0.5, 0.5, (count, 3)) * [1, 1, 0.05]).astype(np.float32)


ALL = (sphere, box, torus, plane)


def clouds(count: int, points: int, *, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """`count` clouds, the kinds in turn, each stretched by its own factors and with noise: (count, points, 3)."""
    random = np.random.default_rng(seed)
    made = [
        ALL[number % len(ALL)](random, points) * random.uniform(0.6, 1, 3) + noise * random.normal(size=(points, 3))
        for number in range(count)
    ]
    return np.stack(made).astype(np.float32)
