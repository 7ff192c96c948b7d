"""Export a run: its weights as one .safetensors file, or its networks as ONNX files.

Those need neither torch nor inrflow; onnx_graphs.py says what they compute.
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

from inrflow_core import models
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.models import Model
from inrflow_core.runs import onnx_graphs, run
from inrflow_core.runs.onnx_graphs import Graph
from inrflow_core.storage import atomic_write, safetensors_file

TOLERANCE = 1e-3
"""The largest accepted difference between ONNX Runtime and torch, over the rms of the output."""
OPSET = 20
MOST_INSIDE = 1_900_000_000
"""Bytes of weights that fit into one ONNX file (its limit is 2 GiB); more are written to NAME.onnx.data beside it."""
EXAMPLE, CHECK = (2, 48), (3, 31)
"""Sets and queries that a graph is traced with, and others that it is checked with."""


def output_paths(model: Model, path: Path) -> list[Path]:
    """The files of a model: `out.onnx`, or of several networks `out-hypernetwork.onnx` and `out-readout.onnx`.

    Raises:
        UsageError: the model has no ONNX form.
    """
    return [_path_of(graph, path) for graph in onnx_graphs.graphs(model)]


def export_onnx(model: Model, path: Path, *, origin: Mapping[str, str]) -> dict[Path, float]:
    """Write the files of `output_paths` and check each against torch with other sizes.

    Returns:
        The largest difference between ONNX Runtime and torch over the rms of the output, for each file.

    Raises:
        MissingError: the packages of the extra `onnx` are not installed.
        UsageError: the model has no ONNX form.
        IntegrityError: ONNX Runtime and torch differ; nothing is written.
    """
    graphs = onnx_graphs.graphs(model)
    for package in ("onnx", "onnxruntime", "onnxscript"):
        _package(package)
    differences: dict[Path, float] = {}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as name:
        folder, written = Path(name), []
        for graph in graphs:
            target = _path_of(graph, path)
            proto = _with_origin(_trace(graph, model).model_proto, {**origin, **graph.metadata})
            written += _save(proto, folder / target.name, graph)
            differences[target] = _check(graph, folder / target.name)
        for file in written:
            with atomic_write.atomic_write(path.with_name(file.name)) as target:
                file.replace(target)
    return differences


def _path_of(graph: Graph, path: Path) -> Path:
    return path.with_name(f"{path.stem}-{graph.name}{path.suffix}") if graph.name else path


def _save(proto: Any, path: Path, graph: Graph) -> list[Path]:
    """Write a graph; its files, the one of the weights first if they do not fit inside."""
    is_large = sum(weight.nbytes for weight in graph.module.state_dict().values()) > MOST_INSIDE
    beside = f"{path.name}.data" if is_large else None
    _package("onnx").save_model(proto, path, save_as_external_data=is_large, location=beside)
    return [path] if beside is None else [path.with_name(beside), path]


def _trace(graph: Graph, model: Model) -> Any:
    inputs = graph.example(*EXAMPLE)
    dimensions = {name: torch.export.Dim(name) for name in (onnx_graphs.SETS, onnx_graphs.QUERIES)}
    shapes = {name: {axis: dimensions[size] for axis, size in graph.axes[name].items()} for name in inputs}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module.eval(),
                kwargs=inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=shapes,
                output_names=[graph.output],
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
    proto.producer_name, proto.producer_version, proto.doc_string = "inrflow", "", onnx_graphs.__doc__ or ""
    del proto.metadata_props[:]
    for key, text in sorted(origin.items()):
        proto.metadata_props.add(key=key, value=text)
    return proto


def _reason(error: BaseException) -> str:
    """The line of a chain of errors that says what could not be converted."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def _check(graph: Graph, path: Path) -> float:
    """The largest difference over the rms of the output; raises IntegrityError if it is above the tolerance."""
    session = _package("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = graph.example(*CHECK)
    with torch.no_grad():
        expected = graph.module(**inputs).numpy()
    (result,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    scale = float(np.sqrt(np.mean(expected.astype(np.float64) ** 2))) or 1.0
    difference = float(np.abs(result - expected).max()) / scale
    if not difference <= TOLERANCE:
        raise IntegrityError(
            f"ONNX Runtime differs from torch by {difference:.1e} of the rms of `{graph.output}`, more than {TOLERANCE:.0e}",
            hint="report it with the preset's name; `.safetensors` holds the same weights exactly",
        )
    return difference


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
