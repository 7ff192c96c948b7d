"""Couplings of data and noise within a set whose points have no order: which noise is mixed with which point in training.

Source: the assignment within a set is the permutation of equivariant flow matching (Klein et al. 2023, arXiv:2306.15030; Song
et al. 2023, arXiv:2312.07168), without rotations; the papers of INRFlow have none. Minibatch optimal transport (Tong et al.
2023, arXiv:2302.00482) assigns whole samples of a batch instead. Hui et al. 2025 (arXiv:2502.12456) find approximate
assignments of large clouds easier to learn than exact ones.

The points are permuted and not the noise, which comes to the same: noise stays keyed by (seed, id). The least sum of squared
distances does not depend on the data's scale, because it is the largest sum of scalar products.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from inrflow_core.errors import UsageError
from inrflow_core.methods._flow_config import Config
from inrflow_core.numerics import assignment, noise_field
from inrflow_core.sets import CoordValueSet, SetSpec

ASSIGNMENTS = {"assignment": assignment.exact, "blocked-assignment": assignment.blocked}


def check(config: Config, spec: SetSpec) -> None:
    """Raise UsageError if sets are coupled whose points may not be permuted.

    Raises:
        UsageError: `coupling` is not `independent`, and a value belongs to its coordinate.
    """
    if config.coupling != "independent" and not spec.is_permutable:
        raise UsageError(
            f"[method] `coupling` is `{config.coupling}`, which permutes the points of a set, and each value of this domain "
            "belongs to its coordinate",
            hint="leave `coupling` out, or choose a domain of unordered points, such as `points`",
        )


def couple(config: Config, sets: CoordValueSet) -> CoordValueSet:
    """The sets with their points in the order that assigns point i to the training noise of point i.

    Runs on the CPU. A set depends on its own seed and values alone; sets with values that are not finite stay as they are.
    """
    assert sets.mask is None and sets.queries.coordinates is None
    assign = ASSIGNMENTS[config.coupling]
    keys, channels = sets.queries.noise_keys.long(), sets.values.shape[-1]
    noise = noise_field.normal(sets.seeds, keys, purpose="noise", channels=channels).double().numpy()
    values = sets.values.double().numpy()
    order = [
        assign(*pair) if np.isfinite(pair[1]).all() else np.arange(len(keys))
        for pair in zip(noise, values, strict=True)
    ]
    index = torch.from_numpy(np.stack(order))
    return replace(sets, values=sets.values.gather(1, index[..., None].expand(-1, -1, channels)))
