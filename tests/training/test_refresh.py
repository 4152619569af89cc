"""A model published before a body became faster is published again: same weights, same answers, present bodies."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.manifest import ActivationSite, ModelManifest
from models.opset import DOMAIN, STANDARD_OPSET
from models.repository import Bundle, ModelRepository
from service.runtime.model import LoadedModel
from service.runtime.parity import check_sample
from service.runtime.provider import CPU
from tests.models import graphs
from tests.training.conftest import command
from training.data.sources import DataConfig
from training.export.graph import ExportParityError
from training.publication.refresh import refresh

NEW_FIELDS = ("output_range", "zero_is_dead", "normal_mean", "normal_variance")


def bundle(shelf: Path) -> Bundle:
    return ModelRepository(shelf).open("digits")


def publish(repository: ModelRepository, like: Bundle, graph: onnx.ModelProto, **changes: object) -> None:
    """Publish `graph` as the first version of `old`, as an earlier release would have."""
    assert like.baseline is not None
    sites = [site.model_dump(exclude=set(NEW_FIELDS)) for site in like.manifest.sites]
    update = {"name": "old", "sample": None, "sites": tuple(ActivationSite(**site) for site in sites)} | changes

    def describe(version: int, digests: dict[str, str]) -> ModelManifest:
        return like.manifest.model_copy(update=update | {"version": version, "digests": digests})

    repository.publish("old", {"model.onnx": graph.SerializeToString(), "baseline.npz": like.baseline}, describe)


def with_body(model: onnx.ModelProto, operators: tuple[str, ...]) -> onnx.ModelProto:
    """The graph with a chain of operators in place of its one activation function."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (function,) = changed.functions
    names = ["x", *(f"v{index}" for index in range(len(operators) - 1)), "y"]
    nodes = [helper.make_node(op, [names[i]], [names[i + 1]]) for i, op in enumerate(operators)]
    del changed.functions[:]
    changed.functions.append(
        helper.make_function(DOMAIN, function.name, ["x"], ["y"], nodes, [helper.make_opsetid("", STANDARD_OPSET)])
    )
    return changed


@pytest.fixture
def repository(tmp_path: Path, shelf: Path) -> ModelRepository:
    """A shelf with `old`: the default run, its ReLU written in two steps, its sites without their meaning."""
    found = ModelRepository(tmp_path / "shelf")
    given = bundle(shelf)
    publish(found, given, with_body(onnx.load_from_string(given.graph), ("Relu", "Relu")))
    return found


def test_bodies_and_meaning_are_the_present_ones_and_answers_stay(repository: ModelRepository, shelf: Path) -> None:
    done = refresh(repository, "old", DataConfig())
    assert (done.name, done.version) == ("old", 2)
    before, after = repository.open("old", 1), repository.open("old", 2)
    old, new = onnx.load_from_string(before.graph), onnx.load_from_string(after.graph)
    assert [node.op_type for node in old.functions[0].node] == ["Relu", "Relu"]
    assert [node.op_type for node in new.functions[0].node] == ["Relu"]
    assert new.graph == old.graph
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(graphs.run(new, pixels)["logits"], graphs.run(old, pixels)["logits"], atol=1e-6)
    assert after.manifest.sites == bundle(shelf).manifest.sites
    assert all(site.zero_is_dead is None for site in before.manifest.sites)
    assert after.manifest.metrics == done.metrics == bundle(shelf).manifest.metrics
    assert after.manifest.training == before.manifest.training
    assert after.baseline is not None


def test_what_was_learned_is_not_described_by_its_start(repository: ModelRepository, shelf: Path) -> None:
    """The slopes of a PReLU are in the graph: what N(0, 1) becomes is not known, and other bodies are left alone."""
    given = bundle(shelf)
    sites = tuple(site.model_copy(update={"activation": "prelu"}) for site in given.manifest.sites)
    publish(repository, given, onnx.load_from_string(given.graph), sites=sites)
    refresh(repository, "old", DataConfig())
    refreshed = repository.open("old", 3)
    assert all(site.normal_mean is None and site.signed for site in refreshed.manifest.sites)
    assert onnx.load_from_string(refreshed.graph).functions == onnx.load_from_string(given.graph).functions


def test_another_answer_is_not_published(repository: ModelRepository, shelf: Path) -> None:
    """The graph's function has the name of a body that computes something else."""
    given = bundle(shelf)
    publish(repository, given, with_body(onnx.load_from_string(given.graph), ("Abs",)))
    with pytest.raises(ExportParityError, match="differ from the published ones"):
        refresh(repository, "old", DataConfig())
    assert repository.versions("old") == [1, 2]


def test_logits_that_are_no_numbers_are_not_published(repository: ModelRepository, shelf: Path) -> None:
    """A difference that is not a number is not a small one."""
    given = bundle(shelf)
    graph = onnx.load_from_string(given.graph)
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "linear.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(bias.dims, np.nan, np.float32), bias.name))
    publish(repository, given, graph)
    with pytest.raises(ExportParityError, match="differ from the published ones by nan"):
        refresh(repository, "old", DataConfig())
    assert repository.versions("old") == [1, 2]


def test_other_data_is_refused(repository: ModelRepository, shelf: Path) -> None:
    given = bundle(shelf)
    publish(repository, given, onnx.load_from_string(given.graph), class_names=tuple("abcdefghij"))
    with pytest.raises(ValueError, match=r"class names of .*'0'.*, those of model 'old' are .*'a'"):
        refresh(repository, "old", DataConfig())
    assert repository.versions("old") == [1, 2]


def test_command_line(repository: ModelRepository, tmp_path: Path) -> None:
    done = command("refresh", "old", "--repository", str(tmp_path / "shelf"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "published old version 2" in done.stdout
    assert repository.versions("old") == [1, 2]


def test_unknown_model(tmp_path: Path) -> None:
    done = command("refresh", "nothing", "--repository", str(tmp_path), folder=tmp_path)
    assert done.returncode == 2
    assert "nothing" in done.stderr


def test_half_precision_is_published_beside_it_and_stays(
    repository: ModelRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command("refresh", "old", "--repository", str(repository.root), "--precision", "both", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "half precision: accuracy 9" in done.stdout
    assert refresh(repository, "old", DataConfig()).version == 3
    for version in (2, 3):
        given = repository.open("old", version)
        half, metrics = given.manifest.half, given.manifest.metrics
        assert half is not None
        assert metrics is not None
        assert 0 < half.difference < half.tolerance
        assert half.metrics.accuracy >= metrics.accuracy - 0.005
        assert given.half is not None
        assert len(given.half) < 0.6 * len(given.graph)
        assert LoadedModel(given, CPU, threads=1).precision == "fp32"

    single = LoadedModel(given, CPU, threads=1)
    monkeypatch.setattr("service.runtime.model.choose_precision", lambda *_: "fp16")
    served = LoadedModel(given, CPU, threads=1)
    assert served.precision == "fp16"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8)).astype(np.float32)
    names = (*single.output_names, *single.statistics_names)
    expected, actual = (model.run(pixels, names) for model in (single, served))
    logits = expected["logits"]
    assert 0 < np.abs(actual["logits"] - logits).max() < half.tolerance * np.abs(logits).max()
    for name in single.statistics_names:
        assert np.abs(actual[name] - expected[name]).mean() < 0.01 * (1 + np.abs(expected[name]).max()), name
    check_sample(given, served)
