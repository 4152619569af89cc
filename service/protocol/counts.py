"""What models have done, as the protocol's statistics extension words it."""

from pydantic import BaseModel, ConfigDict

from service.protocol.described import Described


class Duration(BaseModel):
    """How often something was done, and how many nanoseconds that took in all."""

    count: int = 0
    ns: int = 0


class Computation(BaseModel):
    compute_input: Duration = Duration()
    """Reading the request, decoding images."""
    compute_infer: Duration = Duration()
    """Running the model."""
    compute_output: Duration = Duration()
    """Writing the answer."""


class BatchStatistics(Computation):
    """Of the requests that were one run of so many images."""

    batch_size: int


class InferenceStatistics(Computation):
    success: Duration = Duration()
    """Requests that were answered, from the end of their body to their answer."""
    fail: Duration = Duration()
    queue: Duration = Duration()
    """Waiting for a thread."""
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()


class ModelStatistics(Described):
    """Of one version, since this process loaded it first."""

    name: str
    version: str
    last_inference: int = 0
    """Milliseconds since 1970; 0 for never."""
    inference_count: int = 0
    """Images."""
    execution_count: int = 0
    """Runs of the model."""
    inference_stats: InferenceStatistics = InferenceStatistics()
    batch_stats: list[BatchStatistics] = []  # noqa: RUF012 - pydantic copies it
    """By number of images, smallest first."""


class RequestCounts(BaseModel):
    """Answer of `GET /v2/models/stats` and of those below a model."""

    model_config = ConfigDict(protected_namespaces=())

    model_stats: list[ModelStatistics]
