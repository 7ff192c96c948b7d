"""Export a run: its weights as one .safetensors file, or one evaluation of its network as an ONNX file.

The ONNX file maps noisy pairs to velocities and needs neither torch nor inrflow. Inputs: `values` (B, N, C) of the
context, `t` (B), `labels` (B) where the model has classes (-1 is none), `query_values` (B, M, C), and for images
`query_coordinates` (M, D). Output: `velocity` (B, M, C). Images have the training grid as their context; its
coordinates are inside. The solver stays outside: y follows dy/dt = velocity from t = 1 (noise) to t = 0 (data).
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from inrflow_core import models
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.models import Model
from inrflow_core.numerics import noise_field
from inrflow_core.runs import run
from inrflow_core.sets import Queries
from inrflow_core.storage import atomic_write, safetensors_file

TOLERANCE = 1e-3
"""The largest accepted difference between ONNX Runtime and torch, over the velocity's rms."""
OPSET = 20
MOST_INSIDE = 1_900_000_000
"""Bytes of weights that fit into one ONNX file (its limit is 2 GiB); more are written to NAME.onnx.data beside it."""
EXAMPLE, CHECK = (2, 48), (3, 31)
"""Sets and queries that the graph is traced with, and others that it is checked with."""


class Evaluation(nn.Module):
    """The network and its condition as one function of plain tensors."""

    coordinates: Tensor | None
    noise_keys: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.method = model.method
        context = model.domain.queries()
        self.register_buffer("coordinates", context.coordinates, persistent=False)
        self.register_buffer("noise_keys", context.noise_keys, persistent=False)

    def forward(
        self,
        values: Float[Tensor, "B N C"],
        t: Float[Tensor, " B"],
        query_values: Float[Tensor, "B M C"],
        labels: Int64[Tensor, " B"] | None = None,
        query_coordinates: Float[Tensor, "M D"] | None = None,
    ) -> Float[Tensor, "B M C"]:
        """The velocities of the queries."""
        condition = {} if labels is None else {"label": labels}
        embedding = self.method.embed_condition(condition)
        context = Queries(self.coordinates, self.noise_keys)
        # An evaluation does not use the noise: any keys in the right number serve.
        noise_keys = torch.arange(query_values.shape[1]) if query_coordinates is None else query_coordinates
        queries = Queries(query_coordinates, noise_keys)
        return self.method.network(context, values, t, embedding, queries, query_values)


def export_onnx(model: Model, path: Path, *, origin: Mapping[str, str]) -> float:
    """Write the file and check it against torch with other sizes; the largest difference over the velocity's rms.

    Raises:
        MissingError: the packages of the extra `onnx` are not installed.
        UsageError: the network has no ONNX form.
        IntegrityError: ONNX Runtime and torch differ; nothing is written.
    """
    part = model.preset.condition
    if part is not None and part.module.GIVEN_AS:  # it has inputs beside a label
        raise UsageError(
            f"`{model.preset.name}` draws from a {part.name}, and the graph takes no more than a class beside the set",
            hint="export its weights as .safetensors",
        )
    if list(model.method.networks()) != ["network"]:
        raise UsageError(
            f"the method `{model.preset.method.name}` has no ONNX form: a graph holds the one network of a flow",
            hint="export its weights as .safetensors",
        )
    onnx, runtime = _package("onnx"), _package("onnxruntime")
    _package("onnxscript")
    evaluation = Evaluation(model).eval()
    proto = _with_origin(_trace(evaluation, model).model_proto, origin)
    is_large = sum(weight.nbytes for weight in model.method.state_dict().values()) > MOST_INSIDE
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        whole = Path(folder) / path.name
        beside = [f"{path.name}.data"] if is_large else []
        onnx.save_model(proto, whole, save_as_external_data=is_large, location=beside[0] if beside else None)
        session = runtime.InferenceSession(str(whole), providers=["CPUExecutionProvider"])
        difference = _difference(evaluation, session, model)
        if not difference <= TOLERANCE:
            raise IntegrityError(
                f"ONNX Runtime differs from torch by {difference:.1e} of the velocity's rms, more than {TOLERANCE:.0e}",
                hint="report it with the preset's name; `.safetensors` holds the same weights exactly",
            )
        for name in (*beside, path.name):
            with atomic_write.atomic_write(path.with_name(name)) as target:
                (Path(folder) / name).replace(target)
    return difference


def example(model: Model, batch: int, count: int) -> dict[str, Tensor]:
    """Inputs of an evaluation: noise as values, times and classes spread out, queries anywhere."""
    shape = model.domain.shape
    seeds = torch.arange(batch)
    values = noise_field.normal(seeds, torch.arange(shape.num_queries), purpose="noise", channels=shape.value_size)
    query_values = noise_field.normal(seeds, torch.arange(count), purpose="query", channels=shape.value_size)
    inputs = {"values": values, "t": torch.linspace(0.1, 0.9, batch), "query_values": query_values}
    if model.preset.condition is not None:
        inputs["labels"] = torch.arange(batch) % model.preset.condition.config.classes - 1
    if shape.layout.has_coordinates:
        inputs["query_coordinates"] = torch.linspace(-1, 1, count)[:, None].repeat(1, shape.coordinate_size)
    return inputs


def _trace(evaluation: Evaluation, model: Model) -> Any:
    inputs = example(model, *EXAMPLE)
    sets, queries = torch.export.Dim("B"), torch.export.Dim("M")
    shapes = {
        "values": {0: sets},
        "t": {0: sets},
        "query_values": {0: sets, 1: queries},
        "labels": {0: sets},
        "query_coordinates": {0: queries},
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                evaluation,
                kwargs=inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={name: shapes[name] for name in inputs},
                output_names=["velocity"],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UsageError(
            f"the network of `{model.preset.name}` has no ONNX form: {_reason(error)}",
            hint="export it as `.safetensors`; of the encoders, groups that change with the points are not to be had",
        ) from error
    assert program is not None
    return program


def _with_origin(proto: Any, origin: Mapping[str, str]) -> Any:
    """The model with its origin as metadata, and without the source locations that tracing adds to every node."""
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        del graph.metadata_props[:]
        for node in graph.node:
            del node.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    proto.producer_name, proto.producer_version, proto.doc_string = "inrflow", "", __doc__ or ""
    del proto.metadata_props[:]
    for key, text in sorted(origin.items()):
        proto.metadata_props.add(key=key, value=text)
    return proto


def _reason(error: BaseException) -> str:
    """The line of a chain of errors that says what could not be converted."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def _difference(evaluation: Evaluation, session: Any, model: Model) -> float:
    inputs = example(model, *CHECK)
    with torch.no_grad():
        expected = evaluation(**inputs).numpy()
    (result,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    scale = float(np.sqrt(np.mean(expected.astype(np.float64) ** 2))) or 1.0
    return float(np.abs(result - expected).max()) / scale


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(f"ONNX files need the package `{name}`", hint="`pip install inrflow[onnx]`") from error


def copy_weights(source: Path, out: Path, *, ema: float | None = None, step: run.Step = None) -> dict[str, Any]:
    """Write the weights of a run (or checkpoint, or file) as one file with preset and metadata; returns the metadata.

    Raises:
        MissingError: there are no weights.
        IntegrityError: they are damaged.
    """
    weights = run.resolve_weights(source, ema=ema, step=step)
    preset, info = models.read_metadata(weights)
    with safetensors_file.open_tensors(weights) as file:
        names = list(file.keys())  # in alphabetical order
        layout = {name: _layout(file.get_slice(name)) for name in names}
        metadata = {name: text for name, text in sorted(file.metadata().items()) if name != safetensors_file.DIGEST_KEY}
        with atomic_write.atomic_write(out, safetensors_file.size(layout, metadata)) as beside:
            safetensors_file.write_with_digest(beside, layout, lambda: map(file.get_tensor, names), metadata)
            safetensors_file.check_digest(beside)
    return {"preset": preset.name, **info}


def _layout(tensor: Any) -> tuple[torch.dtype, tuple[int, ...]]:
    types = {name: dtype for dtype, name in safetensors_file.NAMES.items()}
    return types[tensor.get_dtype()], tuple(tensor.get_shape())
