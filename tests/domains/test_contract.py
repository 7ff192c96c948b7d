"""Every domain has what the contract names, and a domain that is one new file is trained, sampled and evaluated."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrflow_core import registry
from inrflow_core.conditioners._contract import conditioner_part
from inrflow_core.domains import _contract
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import metric_specs, report_data
from inrflow_core.evaluation.memorization import MemorizationSet
from inrflow_core.evaluation.results import EvaluatedSamples, Results, SampleScores
from inrflow_core.sample_files import item_selection, readers, writer
from inrflow_core.sampling import sample
from inrflow_core.sampling.request import SampleRequest
from tests import tiny
from tests.domains import signal
from tests.training import small

ROOT = Path(__file__).parents[2]
SMALL: dict[str, dict[str, Any]] = {
    "image": {"resolution": 6},
    "points": {"num_points": 24},
    "protein": {"residues": 6},
    "radiance": {"resolution": 6},
    "video": {"resolution": 6, "frames": 3},
    "shape": {"num_points": 24, "num_queries": 10, "grid": 5},
}
MEMBERS = sorted(set(_contract.Domain.__annotations__) | {n for n in vars(_contract.Domain) if not n.startswith("_")})
SIGNAL = {
    "domain": {"name": "signal", "length": 24},
    "network": {**tiny.POINTS["network"], "pseudo_coordinates": "random"},
    "condition": None,
}


def domain(name: str) -> Any:
    module = registry.find("domains", name)
    return module.Domain(module.Config(**SMALL[name]))


@pytest.fixture
def one_file_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry as it would be with `signal.py` among the domains."""
    find, names = registry.find, registry.names
    monkeypatch.setattr(
        registry, "find", lambda kind, name: signal if (kind, name) == ("domains", "signal") else find(kind, name)
    )
    path = registry.path
    monkeypatch.setattr(
        registry, "path", lambda kind, name: Path(str(signal.__file__)) if name == "signal" else path(kind, name)
    )
    monkeypatch.setattr(registry, "names", lambda kind: sorted([*names(kind), *["signal"] * (kind == "domains")]))


@pytest.mark.parametrize("name", registry.names("domains"))
def test_a_domain_has_every_member_of_the_contract(name: str):
    instance = domain(name)
    assert [member for member in MEMBERS if not hasattr(instance, member)] == []
    assert name == instance.NAME


@pytest.mark.parametrize("name", registry.names("domains"))
def test_its_methods_take_what_the_contract_says(name: str):
    instance = domain(name)
    for member in MEMBERS:
        expected = inspect.getattr_static(_contract.Domain, member, None)
        expected = expected.__func__ if isinstance(expected, staticmethod) else expected
        if inspect.isfunction(expected):
            parameters = [p for p in inspect.signature(expected).parameters if p != "self"]
            assert list(inspect.signature(getattr(instance, member)).parameters) == parameters, member


@pytest.mark.parametrize("name", registry.names("domains"))
def test_what_it_names_is_there(name: str):
    instance = domain(name)
    assert set(instance.FORMATS) <= set(registry.names("formats"))
    metric_specs.parse_metrics([*instance.DEFAULT_METRICS, *instance.METRICS_OF_SEVERAL], name)
    assert set(instance.MESH_FORMATS) <= set(registry.names("formats"))
    assert isinstance(instance, _contract.HasCameras) == instance.HAS_CAMERAS
    assert instance.REFERENCE_SPLITS and (instance.FILES is None) == instance.MAKES_STRUCTURES == (
        instance.GALLERY is None
    )


@pytest.mark.parametrize("name", [name for name in registry.names("domains") if name != "protein"])
def test_samples_have_the_shape_and_the_type_that_it_promises(name: str):
    instance = domain(name)
    sizes = {"--resolution": "4x5", "--points": "9"}
    for size in (None, instance.parse_size(sizes[instance.SIZE_OPTION]), instance.scale_size(2)):
        count = len(instance.queries(size))
        values = instance.decode_values(torch.zeros(2, count, instance.shape.value_size), size)
        spec = instance.output_spec(size)
        assert (values.shape[1:], str(values.dtype)) == (spec.shape, spec.dtype)
        assert instance.FILES.holds(values)
        assert instance.thumbnails(values).ndim in (3, 4) and instance.describe_size(size)


def test_a_domain_without_sizes_refuses_one():
    for refused in (lambda: domain("protein").parse_size("9"), lambda: domain("protein").scale_size(2.0)):
        with pytest.raises(UsageError, match="a protein has the atoms of its sequence"):
            refused()


def waves(folder: Path) -> Path:
    t = np.linspace(0, 3, 24, dtype=np.float32)
    values = np.stack([np.sin(t + phase) for phase in np.linspace(0, 6, 30)])[..., None].astype(np.float32)
    return small._write(folder, "signal", values, np.full(30, -1), ())


@pytest.mark.usefixtures("one_file_more")
def test_a_domain_of_one_file_is_trained_sampled_written_and_read(tmp_path: Path):
    trainer = small.train(waves(tmp_path / "shards"), tmp_path / "run", kind=SIGNAL, until=2)
    assert trainer.counters.step == 2 and list((tmp_path / "run").glob("**/*.safetensors"))
    model = sample.load(tmp_path / "run", device="cpu")
    ((_, samples),) = sample.iter_samples(model, SampleRequest(range(3), size=30))
    assert samples.shape == (3, 30, 1)
    (file,) = writer.write(tmp_path / "out.npz", samples, "signal", origin={"preset": "tiny"})
    with np.load(file) as archive:
        np.testing.assert_array_equal(archive["waves"], samples)
    assert item_selection.read(file).domain == "signal"
    assert sample.preview(model, 2).size[0] > 0


@pytest.mark.usefixtures("one_file_more")
def test_a_domain_of_one_file_is_shown_and_refused_by_metrics_of_others(tmp_path: Path):
    shards = readers.open_collection(waves(tmp_path / "shards"), "train")
    np.savez(tmp_path / "a.npz", waves=shards.read(range(5)).values)
    mine = readers.open_collection(tmp_path / "a.npz")
    assert (mine.domain, mine.count, mine.shape) == ("signal", 5, (24, 1))
    page = report_data.build_report(
        Results(shards, [SampleScores(EvaluatedSamples("mine", mine), [])], {}), MemorizationSet(shards, None)
    )
    assert page.galleries[0].samples.shape == (5, 1, 24, 1) and len(page.histograms) == 2
    assert page.neighbors is not None and page.neighbors.sample_distances.max() == 0
    with pytest.raises(UsageError, match="`fid` evaluates images, and these are waves"):
        metric_specs.parse_metrics(["fid"], "signal")
    with pytest.raises(UsageError, match="no format of the domain `signal` writes `.ply` files"):
        writer.exporter_for(tmp_path / "a.ply", "signal")


@pytest.mark.parametrize(
    "package",
    [
        *(f"inrflow_core/{name}" for name in ("evaluation", "metrics", "report", "sample_files", "sampling")),
        *(f"inrflow_core/{name}" for name in ("training", "runs", "planning", "methods", "networks")),
        "inrflow_cli",
    ],
)
def test_no_branch_names_a_domain_or_a_condition(package: str):
    """A new domain, and a new conditioner, is a new file: the contracts say what these packages must know of it."""
    names = {*registry.names("domains"), *registry.names("conditioners")}
    names |= {name for part in map(conditioner_part, registry.names("conditioners")) for name in part.GIVEN_AS}
    named = [
        f"{path.name}, line {node.lineno}: {text.value}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for branch in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(branch, ast.Compare | ast.match_case)
        for node in [branch if isinstance(branch, ast.Compare) else branch.pattern]
        for text in ast.walk(node)
        if isinstance(text, ast.Constant) and text.value in names
    ]
    assert not named
