"""The names of `import inrflow`: `__init__.py` imports each from its module when it is first used."""

from inrflow_core import __version__
from inrflow_core.conditioners.image import ImageInput
from inrflow_core.conditioners.text import TextInput
from inrflow_core.config.preset import Preset
from inrflow_core.config.preset import load as load_preset
from inrflow_core.errors import (
    Diverged,
    InrflowError,
    IntegrityError,
    Interrupted,
    MissingError,
    OutOfMemory,
    UsageError,
)
from inrflow_core.evaluation.evaluator import Evaluator
from inrflow_core.evaluation.gather import EvaluationSettings
from inrflow_core.evaluation.job import EvaluationJob, run_evaluation
from inrflow_core.evaluation.job import check_job as check_evaluation
from inrflow_core.evaluation.metric_specs import parse_metrics
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.fields import Camera, Field
from inrflow_core.geometry.cameras import orbit as orbit_camera
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.models import build as build_model
from inrflow_core.proteins.structure import Structure
from inrflow_core.runs.shipped import names as shipped_models
from inrflow_core.runs.shipped import weights_file as shipped_weights
from inrflow_core.runtime.progress import Reporter
from inrflow_core.sample_files.readers import open_collection
from inrflow_core.sample_files.writer import write as write_values
from inrflow_core.sampling.condition_inputs import condition_from_input, condition_of_seeds
from inrflow_core.sampling.invert import invert, read_input, reconstruction_error
from inrflow_core.sampling.labels import resolve_labels
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.sampling.sample import evaluate, iter_samples, load, load_field, sample_fields, save_field
from inrflow_core.sampling.sample_to_files import InputCondition, OutputSettings, sample_to_files
from inrflow_core.sampling.sharded import SampleJob
from inrflow_core.sampling.write_samples import write_field
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training.setup import TrainJob, train

__all__ = [
    "Camera",
    "Diverged",
    "EvaluatedSamples",
    "EvaluationJob",
    "EvaluationSettings",
    "Evaluator",
    "Field",
    "ImageInput",
    "InputCondition",
    "InrflowError",
    "IntegrityError",
    "Interrupted",
    "MissingError",
    "Model",
    "OutOfMemory",
    "OutputSettings",
    "Preset",
    "Reporter",
    "SampleJob",
    "SampleRequest",
    "SamplingOptions",
    "ShardDataset",
    "Structure",
    "TextInput",
    "TrainJob",
    "UsageError",
    "__version__",
    "build_model",
    "check_evaluation",
    "condition_from_input",
    "condition_of_seeds",
    "evaluate",
    "invert",
    "iter_samples",
    "load",
    "load_field",
    "load_preset",
    "open_collection",
    "orbit_camera",
    "parse_metrics",
    "read_input",
    "reconstruction_error",
    "resolve_labels",
    "run_evaluation",
    "sample_fields",
    "sample_to_files",
    "sampling_options",
    "save_field",
    "shipped_models",
    "shipped_weights",
    "train",
    "write_field",
    "write_values",
]
