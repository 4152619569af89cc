"""Descriptions of the server and its models, as the protocol words them."""

from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

from models.manifest import ModelManifest, TensorSpec
from service.protocol.envelope import ModelMetadata, ServerMetadata, TensorMetadata

PLATFORM = "onnxruntime_onnx"


# Of the extensions that the protocol's clients know, those that are here.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
)


def server_metadata() -> ServerMetadata:
    return ServerMetadata(name="reslens", version=service_version(), extensions=list(EXTENSIONS))


def model_metadata(manifest: ModelManifest, versions: Iterable[int]) -> ModelMetadata:
    """Statistics outputs are not listed: a client that fetches every listed output must not pay for them."""
    return ModelMetadata(
        name=manifest.name,
        versions=[str(number) for number in versions],
        platform=PLATFORM,
        inputs=_tensors(manifest.inputs),
        outputs=_tensors(manifest.outputs),
    )


def service_version() -> str:
    try:
        return version("reslens")
    except PackageNotFoundError:  # run from a checkout that nobody installed
        return "0"


def _tensors(specs: Sequence[TensorSpec]) -> list[TensorMetadata]:
    return [TensorMetadata(name=spec.name, datatype=spec.datatype, shape=list(spec.shape)) for spec in specs]
