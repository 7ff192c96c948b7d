"""Distances between two clouds of equal size: one file each, the file's name its registration.

A distance's file has

    IS_SYMMETRIC: bool                    whether between(a, b) is between(b, a)
    prepare(cloud) -> prepared            may be left out; what can be known of one cloud before it meets others
    between(a, b) -> float                the distance of two (prepared) clouds, on the CPU
    batch(a, b) -> (K,)                   may be left out: that of K pairs (K P 3) as torch tensors, on any device

`pairs.py` beside this package takes them over all pairs of two lists of clouds, in several processes, resumably.
"""
