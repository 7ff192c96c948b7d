"""Metrics: one file each, the file's name its registration (docs/metrics.md).

A metric's file has

    TITLE: str                           its name in the papers: "FID"
    DOMAIN: str                          "image" or "points"
    PROTOCOLS: tuple[str, ...]           every way to take it, the default first; words joined by colons: "emd-exact:inrflow"
    HIGHER_IS_BETTER: bool
    unit(protocol) -> str                what the value is in: "", "%", "dB", "10^-3"
    need(protocol) -> Need               what it judges by
    compute(evidence, protocol) -> float the value, in its unit; UsageError where there are too few samples
    LEAST: int                           may be left out: 2; the fewest samples (and references) that it takes
    NEEDS_REFERENCE: bool                may be left out: True; False where `evidence.reference` is not looked at
    note(evidence, protocol) -> str | None      may be left out: what to bear in mind with this value
    left_out(evidence, protocol, parts) -> 1-D array   may be left out: `compute` of `evidence.without(part, parts)` for
                                         each part, for less than so many times its price (`confidence.interval`)

A user names it as in `mmd`, `mmd:emd-exact` or `mmd:emd-exact:lion-global`: the first protocol that has all the words.
"""
