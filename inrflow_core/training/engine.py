"""DeepSpeed, used by this file alone: backward pass, step, and gathering and loading of weights and optimizer states.

A single process opens no port and starts no child; nothing is compiled at the start; the optimizer is torch's own; bf16 is
autocast around the method, so that weights, gradients and moments are fp32 in every ZeRO stage. State is gathered and loaded
one parameter at a time, in one format for all stages and any number of processes: a run may resume with another stage or
another number of processes, and no pickle is ever read.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.config.training import Config
from inrflow_core.methods._contract import Method, StepState
from inrflow_core.methods._trained_weights import hidden_matrices
from inrflow_core.runtime import process_group
from inrflow_core.runtime.distributed import World
from inrflow_core.runtime.process_group import init_process_group, rank_variables, temporary_environment
from inrflow_core.sets import TrainBatch
from inrflow_core.storage import safetensors_file
from inrflow_core.training import optimizers
from inrflow_core.training.muon import Fragment, Muon
from inrflow_core.training.optimizers import MOMENTS, Clipping


class TrainedWeights(NamedTuple):
    """The weights that an optimizer of a stage updates."""

    optimizer: str
    own: dict[str, nn.Parameter]
    """By their names in the method."""
    of_stage: dict[str, nn.Parameter]
    """Those that all optimizers of the stage update."""


class MeanLoss(nn.Module):
    """The mean loss of a method over a batch, under the precision of the run."""

    def __init__(self, method: nn.Module, precision: str, device: torch.device) -> None:
        super().__init__()
        self.method: Any = method
        # Every weight is used once in a pass: caching its cast would take the memory of half a model.
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)

    def forward(self, batch: TrainBatch, state: StepState, optimizer: str = "main") -> Float[Tensor, ""]:
        """One number, fp32: the loss that an optimizer minimizes."""
        with self.autocast:
            return self.method.loss(batch, state, optimizer).float().mean()


class Engine:
    """A method and one optimizer under DeepSpeed, in one process or sharded over several.

    `trained` are the weights that the optimizer updates, by default all that require gradients, and those that any optimizer
    of the stage updates, of which averages are taken.
    """

    def __init__(
        self,
        method: nn.Module,
        settings: Config,
        world: World,
        *,
        precision: str,
        num_micro: int,
        trained: TrainedWeights | None = None,
    ) -> None:
        assert isinstance(method, Method)
        self.world = world
        self.stage = settings.zero_stage
        self.num_micro = num_micro
        self._updates = torch.zeros((), dtype=torch.int64, device=world.device)
        method.to(world.device)
        self.method = method
        # Stage 3 gathers a weight when it is used: all processes must use it equally often.
        method.use_single_bucket = self.stage == 3 and world.size > 1
        self._planned = {name: (p.dtype, tuple(p.shape)) for name, p in self._state().items()}
        every = {name: p for name, p in method.named_parameters() if p.requires_grad}
        trained = TrainedWeights("main", every, every) if trained is None else trained
        self.optimizer, self._trained, self._stage_weights = trained
        self._adam = self._build_optimizer(settings)
        self._clipping = None
        if _uses_own_clipping(settings):
            is_shared = self.stage in (1, 2) and world.size > 1
            self._clipping = Clipping(self._adam, settings.clip, is_shared=is_shared)
        objective = MeanLoss(method, precision, world.device)
        bucket = min(settings.bucket, sum(p.numel() for p in self._trained.values()))  # DeepSpeed takes it whole,
        bucket += bucket % 2  # and in pairs
        config = _deepspeed_config(settings, world, num_micro, bucket)
        with _replaced_linear(torch.nn.functional.linear):  # stage 3 replaces it in the whole process
            self._engine = _initialize(objective, self._adam, world, config)
            self._linear = torch.nn.functional.linear
        if isinstance(self._adam, Muon) and self.stage > 0:
            self._locate_matrices(self._adam)
        if self.stage == 0 and world.size == 1:
            self._engine.enable_backward_allreduce = False  # no other process, and it would copy the gradients

    def backward(self, batch: TrainBatch, state: StepState) -> Float[Tensor, ""]:
        """Add the gradient of one micro-batch; returns its mean loss."""
        with _replaced_linear(self._linear):
            loss = self._engine(batch, state, self.optimizer)
            self._engine.backward(loss)
        self._last = loss.detach()
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        return self._last

    def step(self, rate: float) -> Float[Tensor, ""]:
        """Clip the gradient and update the weights; returns the gradient's norm before clipping, on the device.

        If the norm is not finite, inf is returned and the step is skipped: weights and moments do not change. Only stage 3 and
        offloaded optimizers synchronize the device, because DeepSpeed then computes the norm.
        """
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._engine.step()
        if self._clipping is not None:
            norm = self._clipping.norm
        else:
            norm = torch.tensor(float(self._engine.get_global_grad_norm()), device=self.world.device)
            norm = torch.where(norm.isfinite(), norm, torch.inf)
        self._updates += norm.isfinite()
        return norm

    def select(self) -> None:
        """Let only the weights of this optimizer require gradients; for stages with several optimizers."""
        for weight in self._stage_weights.values():
            weight.requires_grad_(False)
        for weight in self._trained.values():
            weight.requires_grad_(True)

    def close(self) -> None:
        """Release the method, so that another engine can train it."""
        self._engine.destroy()
        # Garbage collection would call it again, and unlink the moments of the next engine.
        self._engine.destroy = lambda: None
        for weight in self._trained.values():
            weight.grad = None

    @property
    def num_updates(self) -> int:
        """Steps that were not skipped; waits for the device."""
        return int(self._updates)

    def all_reduce_sum(self, *numbers: float) -> list[float]:
        """The sums of numbers over all processes."""
        return process_group.all_reduce_sum(self.world, *numbers)

    def barrier(self) -> None:
        """Wait until every process calls this."""
        process_group.barrier(self.world)

    def local_weights(self) -> list[Tensor]:
        """The weights that this process averages.

        All of them on the main process and none on the others; in stage 3, this process's partition of each.
        """
        if self.stage == 3:
            return [_partition_of(parameter) for parameter in self._stage_weights.values()]
        return list(self._stage_weights.values()) if self.world.is_main else []

    def layout(self) -> safetensors_file.Layout:
        """Names, types and shapes of the whole weights, as in a file."""
        return self._planned

    def moments_layout(self) -> safetensors_file.Layout:
        """Names, types and shapes of the optimizer's moments."""
        return {
            f"{moment}.{name}": (torch.float32, self._planned[name][1]) for moment in MOMENTS for name in self._trained
        }

    def weights(self, own: list[Tensor] | None = None) -> Iterator[Tensor]:
        """The whole weights, one after the other, in the layout's order; every process must exhaust the iterator.

        With `own`, the tensors of an average, as from `local_weights`, replace the weights.
        """
        mine = dict(zip(self._stage_weights, own if own is not None else self.local_weights(), strict=False))
        for name, tensor in self._state().items():
            if hasattr(tensor, "ds_tensor"):
                yield self._join(mine.get(name, _partition_of(tensor)), self._planned[name][1])
            else:
                average = mine.get(name)
                yield (tensor if average is None else average).detach()

    def moments(self) -> Iterator[Tensor]:
        """The optimizer's moments, each whole, one after the other; every process must exhaust the iterator."""
        from deepspeed.utils import safe_get_local_optimizer_state

        self._make_moments()
        for moment in MOMENTS:
            for name, parameter in self._trained.items():
                if self.stage == 0:
                    yield self._adam.state[parameter][moment]
                elif self.stage == 3:
                    part = safe_get_local_optimizer_state(parameter, moment)
                    assert part is not None
                    yield self._join(part, self._planned[name][1])
                else:
                    yield self._assemble(parameter, moment)

    def load_weights(self, read: Callable[[str], Tensor]) -> None:
        """Load the weights from `read(name)`, one at a time."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        for name, tensor in self._state().items():
            value = read(name).to(self.world.device)
            if hasattr(tensor, "ds_tensor"):
                safe_set_local_fp32_param(tensor, self.part(value))
                _partition_of(tensor).copy_(self.part(value))
                continue
            with torch.no_grad():
                tensor.copy_(value)
            if self.stage > 0 and name in self._trained:
                safe_set_full_fp32_param(tensor, value)

    def training_only(self) -> dict[str, Tensor]:
        """What of the method belongs to training and to no weights file, such as a teacher, by name; equal on all processes."""
        return {name: tensor.detach() for name, tensor in self._state(training_only=True).items()}

    def load_training_only(self, read: Callable[[str], Tensor]) -> None:
        """Load these tensors from `read(name)`."""
        for name, tensor in self.training_only().items():
            tensor.copy_(read(name))

    def load_moments(self, read: Callable[[str], Tensor], updates: int) -> None:
        """Load the optimizer's moments from `read(name)`; `updates` is its count of steps that were not skipped."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        self._updates.fill_(updates)
        self._make_moments()
        for state in self._adam.state.values():
            state["step"].fill_(updates)
        for moment in MOMENTS:
            for name, parameter in self._trained.items():
                value = read(f"{moment}.{name}").to(self.world.device)
                if self.stage == 0:
                    self._adam.state[parameter][moment].copy_(value)
                elif self.stage == 3:
                    safe_set_local_optimizer_state(parameter, self.part(value), moment)
                else:
                    safe_set_full_optimizer_state(parameter, value, moment)

    def load_local_weights(self, own: list[Tensor], read: Callable[[str], Tensor]) -> None:
        """Load an average's tensors from `read(name)`."""
        for name, tensor in zip(self._stage_weights, own, strict=False):
            value = read(name).to(self.world.device)
            tensor.copy_(self.part(value) if self.stage == 3 else value)

    def part(self, value: Tensor) -> Tensor:
        """This process's partition of a whole tensor in stage 3: equal partitions, the last one padded with 0."""
        flat = value.reshape(-1)
        length = -(-flat.numel() // self.world.size)
        mine = flat[length * self.world.rank : length * (self.world.rank + 1)]
        return torch.nn.functional.pad(mine, (0, length - mine.numel()))

    def _build_optimizer(self, settings: Config) -> torch.optim.Optimizer:
        if settings.optimizer != "muon":
            return optimizers.build(self._trained.values(), settings, self.world.device)
        matrices = [self._trained[name] for name in hidden_matrices(self.method, self._trained)]
        return Muon(self._trained.values(), matrices, settings)

    def _locate_matrices(self, muon: Muon) -> None:
        """Show Muon its matrices in the flat partitions of ZeRO stages 1 and 2."""
        (partition,) = self._engine.optimizer.single_partition_of_fp32_groups
        fragments: list[Fragment | None] = []
        for matrix in muon.matrices:
            mapping: Any = getattr(matrix, "_hp_mapping")  # noqa: B009 - DeepSpeed hangs it there
            if mapping is None:
                fragments.append(None)
            else:
                own, inside = mapping.hp_fragment_address, mapping.lp_fragment_address
                fragments.append(Fragment(partition, own.start, inside.start, inside.numel))
        whole = [0 if f is None else int(f.count == m.numel()) for f, m in zip(fragments, muon.matrices, strict=True)]
        muon.locate(fragments, [number == 0 for number in self.all_reduce_sum(*whole)])

    def _state(self, *, training_only: bool = False) -> dict[str, Tensor]:
        """The tensors of the method's weights file, or those that only training needs."""
        heads, frozen = (
            tuple(f"{name}." for name in names) for names in (self.method.TRAINING_ONLY, self.method.PRETRAINED)
        )
        state = self.method.state_dict(keep_vars=True)
        return {
            name: tensor
            for name, tensor in state.items()
            if name.startswith(heads) == training_only and not name.startswith(frozen)
        }

    def _assemble(self, parameter: Tensor, moment: str) -> Tensor:
        """A whole moment in stages 1 and 2, where each process has a range of it or nothing.

        The ranges are summed as integers, which keeps every bit: as floats, -0.0 + 0.0 would be 0.0.
        """
        whole = torch.zeros(parameter.numel(), dtype=torch.float32, device=self.world.device)
        mapping: Any = getattr(parameter, "_hp_mapping")  # noqa: B009 - DeepSpeed hangs it there
        if mapping is not None:
            address = mapping.lp_fragment_address
            whole[address.start : address.start + address.numel] = mapping.get_hp_fragment(moment)
        if self.world.size > 1:
            torch.distributed.all_reduce(whole.view(torch.int32))
        return whole.view(parameter.shape)

    def _join(self, part: Tensor, shape: tuple[int, ...]) -> Tensor:
        part = part.to(self.world.device)  # it is on the CPU if offloaded
        parts = [torch.empty_like(part) for _ in range(self.world.size)]
        torch.distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts)[: torch.Size(shape).numel()].view(shape)

    def _make_moments(self) -> None:
        """Create the optimizer's state before its first step, so that it can be loaded or saved."""
        owners = list(self._trained.values())
        if self.stage in (1, 2):
            owners = self._engine.optimizer.single_partition_of_fp32_groups
        elif self.stage == 3:
            owners = self._engine.optimizer.fp32_partitioned_groups_flat
        for owner in owners:
            if not self._adam.state[owner]:
                self._adam.state[owner] |= optimizers.empty_state(owner, self._adam)
        if self.stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()


@contextmanager
def _replaced_linear(linear: Callable[..., Tensor]) -> Iterator[None]:
    """Inside the block, `torch.nn.functional.linear` is `linear`; after it, what it was before."""
    before = torch.nn.functional.linear
    torch.nn.functional.linear = linear
    try:
        yield
    finally:
        torch.nn.functional.linear = before


def _partition_of(parameter: Tensor) -> Tensor:
    """This process's partition of a weight in stage 3."""
    return getattr(parameter, "ds_tensor").data  # noqa: B009 - DeepSpeed hangs it there


def _initialize(objective: nn.Module, adam: torch.optim.Optimizer, world: World, config: dict[str, Any]) -> Any:
    warnings.filterwarnings("ignore", category=FutureWarning, message=r".*torch\.distributed\..* is deprecated")
    os.environ.setdefault("LOCAL_RANK", str(world.device.index or 0))  # stage 3 reads it in every step
    with temporary_environment({**rank_variables(world), "DS_ACCELERATOR": world.device.type}):
        init_process_group(world)
        deepspeed = _quiet_deepspeed()
        engine, *_ = deepspeed.initialize(model=objective, optimizer=adam, config=config, dist_init_required=False)
    return engine


def _quiet_deepspeed() -> Any:
    """DeepSpeed with its log on stderr, warnings only, and without the operator that takes 40 s to compile."""
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:  # its own, on stdout
            handler.stream = sys.stderr
    return deepspeed


def _deepspeed_config(settings: Config, world: World, num_micro: int, bucket: int) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    return {
        "train_batch_size": settings.batch,
        "train_micro_batch_size_per_gpu": settings.batch // (world.size * num_micro),
        "gradient_accumulation_steps": num_micro,
        "gradient_clipping": 0.0 if _uses_own_clipping(settings) else (settings.clip or 0.0),
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device twice a step
        "zero_allow_untested_optimizer": True,
        # torch's AdamW updates offloaded weights too; DeepSpeed's own would be compiled for a minute, with a compiler.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": settings.zero_stage,
            **({"compute_grad_norm": False} if settings.zero_stage in (1, 2) and _uses_own_clipping(settings) else {}),
            "overlap_comm": _overlaps(settings.zero_stage, world),
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": 0,
            **_offloading(settings, world),
        },
    }


def _uses_own_clipping(settings: Config) -> bool:
    """Whether `Clipping` computes the norm, without a device synchronization; else DeepSpeed does, with one."""
    return settings.zero_stage < 3 and settings.offload_optimizer is None


def _overlaps(stage: int, world: World) -> bool:
    """Whether gradients are reduced during the backward pass.

    In stages 1 and 2 DeepSpeed then synchronizes the device after every backward pass: that pays off only between machines.
    """
    if world.device.type != "cuda" or world.size == 1:
        return False
    return stage == 3 or world.size > torch.cuda.device_count()


def _offloading(settings: Config, world: World) -> dict[str, Any]:
    """What is offloaded to the CPU, in pinned memory if a GPU trains."""
    devices = {"offload_optimizer": settings.offload_optimizer, "offload_param": settings.offload_weights}
    is_pinned = world.device.type == "cuda"
    return {name: {"device": target, "pin_memory": is_pinned} for name, target in devices.items() if target is not None}
