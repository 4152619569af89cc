"""The configuration of a model, as the protocol's clients read it: sizes without the batch, and its limit."""

from typing import Any, Literal

from pydantic import BaseModel

from models.manifest import ModelManifest, TensorSpec
from service.protocol.described import Described
from service.protocol.metadata import PLATFORM


class TensorConfig(BaseModel):
    name: str
    data_type: str
    dims: list[int]
    """Of one image."""


class InstanceGroup(BaseModel):
    name: str
    kind: Literal["KIND_CPU", "KIND_GPU"]
    count: int
    gpus: list[int]


class ParameterValue(BaseModel):
    string_value: str


class ModelConfig(Described):
    """Answer of `GET /v2/models/{name}/config`."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, Any]
    max_batch_size: int
    """Most images in one request."""
    input: list[TensorConfig]
    output: list[TensorConfig]
    instance_group: list[InstanceGroup]
    parameters: dict[str, ParameterValue]


def model_config(manifest: ModelManifest, max_batch: int, provider: str, device: str, precision: str) -> ModelConfig:
    """`device` is `cpu`, or `cuda:0` for the first GPU."""
    gpus = [int(device.removeprefix("cuda:"))] if device.startswith("cuda:") else []
    kind: Literal["KIND_CPU", "KIND_GPU"] = "KIND_GPU" if gpus else "KIND_CPU"
    group = InstanceGroup(name=f"{manifest.name}_0", kind=kind, count=1, gpus=gpus)
    return ModelConfig(
        name=manifest.name,
        platform=PLATFORM,
        backend="onnxruntime",
        version_policy={"latest": {"num_versions": 1}},
        max_batch_size=max_batch,
        input=[_tensor(spec) for spec in manifest.inputs],
        output=[_tensor(spec) for spec in manifest.outputs],
        instance_group=[group],
        parameters={
            "execution_provider": ParameterValue(string_value=provider),
            "precision": ParameterValue(string_value=precision),
        },
    )


def _tensor(spec: TensorSpec) -> TensorConfig:
    return TensorConfig(name=spec.name, data_type=f"TYPE_{spec.datatype}", dims=list(spec.shape[1:]))
