"""A broken version is reported with its reason and never served; everything beside it is."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.manifest import ActivationSite, Saturation, TensorSpec
from service.app import create_app
from service.errors import StartupError
from service.settings import Settings
from tests import bundles
from tests.service.conftest import png, serving


def edited(edit: Callable[[onnx.ModelProto], object]) -> bytes:
    model = bundles.Tiny.random().graph()
    edit(model)
    return model.SerializeToString()


def external(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    onnx.external_data_helper.set_external_data(tensor, location="secret.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL


def external_constant(model: onnx.ModelProto) -> None:
    """The same, hidden in a node that nothing needs."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
    onnx.external_data_helper.set_external_data(tensor, location="secret.bin")
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.node.append(helper.make_node("Constant", [], ["hidden"], value=tensor))


def infinite(model: onnx.ModelProto) -> None:
    next(tensor for tensor in model.graph.initializer if tensor.name == "w2").CopyFrom(
        numpy_helper.from_array(np.full((16, 16, 3, 3), np.nan, np.float32), "w2")
    )


def frozen_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


SITE = ActivationSite(
    name="act1", activation="relu", tensor="nowhere", channels=16, signed=False, saturation=Saturation(below=0.0)
)
SPEC = TensorSpec(name="images", datatype="FP32", shape=(-1, 3, 8, 8))

# What is published instead of a good version, and what the reason must say.
PUBLISHED: dict[str, tuple[dict[str, object], str]] = {
    "not ONNX": ({"graph": b"not a graph"}, "not an ONNX model"),
    "empty graph": ({"graph": b""}, ""),
    "unknown operator": (
        {"graph": edited(lambda model: setattr(model.graph.node[0], "op_type", "Imaginary"))},
        "Imaginary",
    ),
    "missing weights": ({"graph": edited(lambda model: model.graph.ClearField("initializer"))}, ""),
    "weights elsewhere": ({"graph": edited(external)}, "in another file"),
    "constants elsewhere": ({"graph": edited(external_constant)}, "in another file"),
    "not a number": ({"graph": edited(infinite)}, "NaN or infinity"),
    "batch of one": ({"graph": edited(frozen_batch)}, "inputs are"),
    "other input": ({"inputs": (SPEC.model_copy(update={"name": "pictures"}),)}, "inputs are"),
    "other size": ({"inputs": (SPEC.model_copy(update={"shape": (-1, 3, 9, 9)}),)}, "its pre-processing makes"),
    "other datatype": ({"inputs": (SPEC.model_copy(update={"datatype": "FP16"}),)}, "this service runs FP32"),
    "other classes": ({"class_names": ("one", "two")}, "2 class names"),
    "site that is not there": ({"sites": (SITE,)}, "nowhere"),
    "too few channels": (
        {"sites": (SITE.model_copy(update={"tensor": "a1", "channels": 3}),)},
        "site 'act1' has 3 channels",
    ),
    "swapped channels": (
        {"sites": tuple(SITE.model_copy(update={"name": tensor, "tensor": tensor, "channels": channels})
                        for tensor, channels in (("a1", 15), ("a2", 17)))},
        "site 'a1' has 15 channels",
    ),
}  # fmt: skip


def spoil_missing_graph(version: Path) -> str:
    (version / "model.onnx").unlink()
    return "model.onnx is missing"


def spoil_missing_manifest(version: Path) -> str:
    (version / "manifest.json").unlink()
    return "manifest.json is missing"


def spoil_everything(version: Path) -> str:
    spoil_missing_graph(version)
    return spoil_missing_manifest(version)


def spoil_digest(version: Path) -> str:
    graph = version / "model.onnx"
    graph.write_bytes(bytes([graph.read_bytes()[0] ^ 1]) + graph.read_bytes()[1:])
    return "its manifest says"


def spoil_truncated_graph(version: Path) -> str:
    graph = version / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    return "SHA-256"


def spoil_schema(version: Path) -> str:
    manifest = version / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": 99}))
    return "schema version 99; this program reads version 1"


def spoil_name(version: Path) -> str:
    manifest = version / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": "other"}))
    return "its manifest is of model 'other'"


SPOILED = (
    spoil_missing_graph,
    spoil_missing_manifest,
    spoil_everything,
    spoil_digest,
    spoil_truncated_graph,
    spoil_schema,
    spoil_name,
)


def slug(name: str) -> str:
    return name.replace(" ", "-")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Every way to be broken, one model each, beside a good one; and what must be said about each."""
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "good")
    complaints = {}
    for name, (changes, complaint) in PUBLISHED.items():
        bundles.publish(root, slug(name), **changes)
        complaints[slug(name)] = complaint
    for spoil in SPOILED:
        bundles.publish(root, spoil.__name__)
        complaints[spoil.__name__] = spoil(root / spoil.__name__ / "1")
    return root, complaints


def test_each_is_reported_and_never_served(shelf: tuple[Path, dict[str, str]]) -> None:
    root, complaints = shelf
    image = png(np.zeros((3, 8, 8), np.uint8))
    with serving(root) as client:
        index = {entry["name"]: entry for entry in client.post("/v2/repository/index").json()}
        listing = client.get("/v1/models").json()
        assert [model["name"] for model in listing["models"]] == ["good"]
        assert {failure["name"] for failure in listing["failed"]} == set(complaints)
        for name, complaint in complaints.items():
            entry = index.pop(name)
            assert entry["state"] == "UNAVAILABLE"
            assert entry["reason"], name
            assert complaint in entry["reason"], name
            for response in every_use(client, name, image):
                assert response.status_code == 503, name
                assert response.json()["error"].endswith(entry["reason"])
        assert index == {"good": {"name": "good", "version": "1", "state": "READY", "reason": ""}}
        for response in every_use(client, "good", image):
            assert response.status_code in (200, 400)
        assert client.get("/v2/health/ready").status_code == 200
        assert f"reslens_models_failed {float(len(complaints))}" in client.get("/metrics").text


def every_use(client: httpx.Client, name: str, image: bytes) -> list[httpx.Response]:
    return [
        client.post(f"/v1/models/{name}/classify", content=image),
        client.post(f"/v1/models/{name}/classify", content=image, params={"version": 1}),
        client.post(f"/v2/models/{name}/infer", content=b"{}"),
        client.get(f"/v2/models/{name}/ready"),
        client.get(f"/v2/models/{name}/versions/1"),
        client.get(f"/v1/models/{name}"),
    ]


def test_an_older_version_stands_in_for_a_broken_newest(tmp_path: Path) -> None:
    for _ in range(3):
        bundles.publish(tmp_path)
    spoil_digest(tmp_path / "tiny" / "3")
    with serving(tmp_path) as client:
        assert client.get("/v1/models/tiny").json()["version"] == 2
        assert client.get("/v2/models/tiny").json()["versions"] == ["1", "2"]
        assert client.get("/v2/models/tiny/versions/3/ready").status_code == 503
        states = {entry["version"]: entry["state"] for entry in client.post("/v2/repository/index").json()}
        assert states == {"1": "UNAVAILABLE", "2": "READY", "3": "UNAVAILABLE"}


@pytest.mark.parametrize("broken", [True, False])
def test_a_shelf_with_nothing_to_serve_is_alive_and_not_ready(tmp_path: Path, broken: bool) -> None:
    if broken:
        bundles.publish(tmp_path, graph=b"broken")
    with serving(tmp_path) as client:
        live, ready = client.get("/v2/health/live"), client.get("/v2/health/ready")
        assert (live.status_code, ready.status_code) == (200, 503)
        assert live.json() == ready.json() == {"ready": False, "live": True}
        assert client.get("/v1/models").json()["models"] == []
        assert "the repository is empty" in client.get("/v1/models/absent").text or broken


def test_files_that_vanish_after_loading_do_not_matter(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with serving(tmp_path) as client:
        spoil_everything(tmp_path / "tiny" / "1")
        response = client.post("/v1/models/tiny/classify", content=png(np.zeros((3, 8, 8), np.uint8)))
        assert response.status_code == 200


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A shelf with a good model and one whose directory may not be listed, seen without the rights of root."""
    user = os.geteuid()
    # Not pytest's own, which only its owner may enter.
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        bundles.publish(root, "good")
        bundles.publish(root, "secret")
        (root / "secret").chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield root
        finally:
            os.seteuid(user)
            (root / "secret").chmod(0o755)


def test_a_directory_that_may_not_be_listed_hides_no_other(forbidden: Path) -> None:
    with serving(forbidden) as client:
        assert client.get("/v2/models/good/ready").status_code == 200
        (failed,) = client.get("/v1/models").json()["failed"]
        assert (failed["name"], failed["version"]) == ("secret", None)
        assert "Permission denied" in failed["reason"]
        index = {entry["name"]: entry["state"] for entry in client.post("/v2/repository/index").json()}
        assert index == {"good": "READY", "secret": "UNAVAILABLE"}
        for path in ("/v2/models/secret/ready", "/v2/models/secret/versions/1/ready"):
            response = client.get(path)
            assert response.status_code == 503
            assert "cannot be listed" in response.json()["error"]
        assert client.get("/v1/models/absent").status_code == 404


def test_a_repository_that_may_not_be_listed_is_said_at_once(forbidden: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read"):
        create_app(Settings(model_repository=forbidden / "secret", provider="cpu"))
