"""What a query of latent diffusion's function costs: the modulated read-out of DDMI against the residual MLP.

    python tests/benchmarks/readouts.py

The read-outs have the paper's sizes for images at 256 x 256 (width 256, three fields of 64 channels); the MLP also the width of the
`-lean` presets. Operations of a forward pass by torch's counter, without the interpolation of the fields, which is the same; CPU
seconds of one thread, fp32, with it: the least of the repeats, the read-outs taking turns. One function, 64 x 64 queries.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inrflow_core.networks import basis_readout, modulated_readout
from inrflow_core.planning import flops
from inrflow_core.sets import Grid, Queries, SetSpec

SPEC = SetSpec(2, 3, Grid((256, 256)))
FIELDS = ((64, 64), (64, 128), (64, 256))
"""Channels and side of each field."""
REPEATS = 5
SIDE = 64


def main() -> None:
    torch.set_num_threads(1)
    widths = [channels for channels, _ in FIELDS]
    readouts: dict[str, Any] = {
        "modulated, 256": modulated_readout.build_field_readout(modulated_readout.Config(width=256), SPEC, widths),
        "residual MLP, 256": basis_readout.build_field_readout(basis_readout.Config(width=256), SPEC, widths),
        "residual MLP, 128": basis_readout.build_field_readout(basis_readout.Config(width=128), SPEC, widths),
    }
    fields = tuple(torch.randn(1, channels, side, side) for channels, side in FIELDS)
    axis = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    queries = Queries(torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1), torch.arange(SIDE**2))
    operations, seconds = {}, dict.fromkeys(readouts, float("inf"))
    with torch.no_grad():
        for name, readout in readouts.items():
            with flops.counter() as counter:
                readout.query(fields, queries)
            operations[name] = counter.get_total_flops() / len(queries)
        for _ in range(REPEATS):
            for name, readout in readouts.items():
                start = time.process_time()
                readout.query(fields, queries)
                seconds[name] = min(seconds[name], time.process_time() - start)
    first = next(iter(readouts))
    print("| read-out | parameters | MFLOP a query | CPU microseconds a query | ratio of operations, time |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, readout in readouts.items():
        count = sum(weight.numel() for weight in readout.parameters())
        ratios = operations[name] / operations[first], seconds[name] / seconds[first]
        print(
            f"| {name} | {count:,} | {operations[name] / 1e6:.3f} | {1e6 * seconds[name] / len(queries):.1f} | "
            f"{ratios[0]:.2f}, {ratios[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
