"""Settings of the service, each readable from the environment as `RESLENS_<NAME>`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.shelf import SHIPPED_MODELS


class Settings(BaseSettings):
    """How the service runs. An unknown value is an error at start-up."""

    model_config = SettingsConfigDict(
        env_prefix="RESLENS_",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    host: Annotated[str, Field(validation_alias=AliasChoices("RESLENS_HOST", "HOST"))] = "127.0.0.1"
    """Address to listen on; `0.0.0.0` for every interface. `HOST` is read too."""

    port: Annotated[int, Field(ge=0, le=65535, validation_alias=AliasChoices("RESLENS_PORT", "PORT"))] = 8000
    """Port to listen on; 0 takes a free one. `PORT` is read too."""

    model_repository: Path = SHIPPED_MODELS
    """Directory of the models: `<name>/<version>/{model.onnx, manifest.json, baseline.npz}`."""

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run. `auto` takes CUDA if it works, else the CPU; `cuda` is an error where CUDA does not work."""

    threads: Annotated[int | None, Field(ge=1)] = None
    """Threads of one inference on the CPU. Default: the CPUs that this process may use, cgroup quota included."""

    concurrency: Annotated[int | None, Field(ge=1)] = None
    """Requests that are decoded and inferred at the same time; others wait. Default: the CPUs, and at least 2."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    """Longest request body; a longer one is refused with 413 while it arrives."""

    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = 50_000_000
    """Most pixels of all images of one request together, before and after they are resized; checked before decoding."""

    max_images: Annotated[int, Field(ge=1)] = 64
    """Most images in one classify request."""

    max_batch: Annotated[int, Field(ge=1)] = 32
    """Most images in one run of a model: V2 requests with more are refused, classify requests are split."""

    max_versions: Annotated[int, Field(ge=1)] = 4
    """Versions kept loaded because a request named them, beside the one of each model that is served by default."""

    access_log: bool = False
    """Whether to log a line for every request."""
