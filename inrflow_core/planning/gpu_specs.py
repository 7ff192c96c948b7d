"""Memory, speed and bandwidth of GPUs by their data sheets, to plan for a GPU that this machine does not have.

Speeds are those of dense products accumulated in fp32, without sparsity, and of the SXM board where there are two.
A gigabyte is 10^9 bytes: a GPU shows a few per cent more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from inrflow_core.errors import UsageError, did_you_mean

ASSUMED_MFU = {"bf16": 0.4, "fp32": 0.6}
"""The part of the peak that a training step is assumed to reach (MFU). Good trainers of transformers reach 0.33 to 0.46 on an
H100 in bf16; fp32 products need less bandwidth for their FLOPs. Not measured with this program."""
SETTINGS = {"memory": 1e9, "bf16": 1e12, "fp32": 1e12, "bandwidth": 1e9, "share": 1.0}
"""Settings of `--plan-for` and the unit of each: GB, TFLOP/s, TFLOP/s, GB/s, a part of 1."""


@dataclass(frozen=True)
class Gpu:
    """The specifications of a GPU that a plan needs."""

    name: str
    memory: float
    """Bytes."""
    bf16: float
    """FLOPs per second."""
    fp32: float
    """FLOPs per second, without TF32."""
    bandwidth: float
    """Bytes per second between the GPU and its memory."""
    share: float | None = None
    """The assumed part of the peak; None for `ASSUMED_MFU`."""

    def choose(self, precision: str) -> str:
        """`bf16` or `fp32`, from a preset's `precision`.

        Raises:
            UsageError: the GPU's speed in it is not known.
        """
        resolved = ("bf16" if self.bf16 else "fp32") if precision == "auto" else precision
        if not self.peak(resolved):
            raise UsageError(
                f"`--plan-for {self.name}` has no speed of the GPU in {resolved}",
                hint=f"give it, as in `--plan-for {self.name},{resolved}=100` (TFLOP/s), or take another `--precision`",
            )
        return resolved

    def rate(self, precision: str) -> float:
        """FLOPs per second that a training step is assumed to reach."""
        return self.peak(precision) * self.assumed_mfu(precision)

    def peak(self, precision: str) -> float:
        """FLOPs per second by the data sheet."""
        return self.bf16 if precision == "bf16" else self.fp32

    def assumed_mfu(self, precision: str) -> float:
        """The assumed part of the peak."""
        return ASSUMED_MFU[precision] if self.share is None else self.share


def _gpu(name: str, memory: float, bf16: float, fp32: float, bandwidth: float) -> Gpu:
    return Gpu(name, memory * 1e9, bf16 * 1e12, fp32 * 1e12, bandwidth * 1e9)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("b200", 180, 2250, 75, 7700),
        _gpu("h200", 141, 989, 67, 4800),
        _gpu("h100", 80, 989, 67, 3350),
        _gpu("h100-pcie", 80, 756, 51, 2000),
        _gpu("a100", 80, 312, 19.5, 2039),
        _gpu("a100-40gb", 40, 312, 19.5, 1555),
        _gpu("mi300x", 192, 1307, 163.4, 5300),
        _gpu("l40s", 48, 362, 91.6, 864),
        _gpu("l4", 24, 121, 30.3, 300),
        _gpu("a10", 24, 125, 31.2, 600),
        _gpu("rtx4090", 24, 165.2, 82.6, 1008),
        _gpu("rtx3090", 24, 71, 35.6, 936),
    )
}


def find(text: str) -> Gpu:
    """The GPU of `--plan-for`: a name, settings after it or alone, as in `h200,share=0.45` or `memory=64,bf16=400`.

    Raises:
        UsageError: an unknown name or setting, an invalid number, or a GPU without memory or speed.
    """
    first, *rest = [word.strip() for word in text.lower().split(",")]
    if "=" in first:
        gpu, rest = Gpu(text, 0, 0, 0, 0), [first, *rest]
    elif first in GPUS:
        gpu = replace(GPUS[first], name=text.lower())
    else:
        raise UsageError(
            f"`--plan-for {text}`: no GPU `{first}` is known",
            hint=f"{did_you_mean(first, GPUS)}; or give its numbers, as in `--plan-for memory=64,bf16=400,bandwidth=3000`",
        )
    for word in rest:
        name, _, number = word.partition("=")
        if name not in SETTINGS:
            raise UsageError(f"`--plan-for {text}`: a GPU has no setting `{name}`", hint=did_you_mean(name, SETTINGS))
        gpu = replace(gpu, **{name: _number(text, number) * SETTINGS[name]})
    if gpu.share is not None and gpu.share > 1:
        raise UsageError(
            f"`--plan-for {text}`: a share of {gpu.share:g} is more than the whole", hint="as in `share=0.45`"
        )
    if gpu.memory <= 0 or max(gpu.bf16, gpu.fp32) <= 0:
        raise UsageError(
            f"`--plan-for {text}` leaves out the {'memory' if gpu.memory <= 0 else 'speed in bf16 or fp32'}",
            hint="as in `--plan-for memory=64,bf16=400,bandwidth=3000`",
        )
    return gpu


def _number(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"`--plan-for {text}`: `{number}` is not a number above 0",
            hint="memory in GB, bf16 and fp32 in TFLOP/s, bandwidth in GB/s, share as a part of 1",
        )
    return value
