"""Settings of the service, each readable from the environment as `RESLENS_<NAME>`."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.policy import VersionPolicy
from models.shelf import SHIPPED_MODELS


def _path_or_url(place: object) -> object:
    """A URL stays as it is: a path would make one slash of two."""
    return Path(place) if isinstance(place, str) and "://" not in place else place


def own_repository(settings: "Settings") -> Path:
    """The repository, where it is a directory of this machine; raises `ValueError` where it is elsewhere."""
    if isinstance(settings.model_repository, str):
        raise ValueError(f"{settings.model_repository} is not on this machine: name a directory with --repository")
    return settings.model_repository


class Settings(BaseSettings):
    """How the service runs. An unknown value is an error at start-up."""

    model_config = SettingsConfigDict(
        env_prefix="RESLENS_",
        frozen=True,
        populate_by_name=True,
        protected_namespaces=(),
    )

    host: Annotated[str, Field(validation_alias=AliasChoices("RESLENS_HOST", "HOST"))] = "127.0.0.1"
    """Address to listen on; `0.0.0.0` for every interface. `HOST` is read too."""

    port: Annotated[int, Field(ge=0, le=65535, validation_alias=AliasChoices("RESLENS_PORT", "PORT"))] = 8000
    """Port to listen on; 0 takes a free one. `PORT` is read too."""

    model_repository: Annotated[Path | str, BeforeValidator(_path_or_url)] = SHIPPED_MODELS
    """Directory of the models: `<name>/<version>/{model.onnx, manifest.json, baseline.npz}`; or its URL, `s3://bucket/models`."""

    cache_directory: Path | None = None
    """Where the models of a URL are kept. Default: `models` in the data directory."""

    cache_megabytes: Annotated[int, Field(ge=1)] = 8192
    """Most megabytes of models that are kept there; beyond it those that were not served for longest are dropped."""

    remote_seconds: Annotated[float, Field(gt=0)] = 20.0
    """Time that listing the models of a URL may take, and each part of a file; then what is kept here is served."""

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run. `auto` takes CUDA if it works, else the CPU; `cuda` is an error where CUDA does not work."""

    precision: Literal["auto", "fp32", "fp16"] = "auto"
    """Graph that runs on CUDA: `auto` takes one in half precision where there is one, `fp16` serves no other."""

    device: Annotated[int, Field(ge=0)] = 0
    """Number of the CUDA device. With several workers each has its own."""

    gpu_memory_megabytes: Annotated[int | None, Field(ge=1)] = None
    """Most device memory of one session; each model has two, with and without statistics. Default: all there is."""

    gpu_arena: Literal["double", "exact"] = "double"
    """How much device memory is taken at once: `double` what is there, or `exact`, what is needed."""

    gpu_arena_shrink: bool = False
    """Whether a run gives its device memory back when it is over: slower, and without CUDA graphs."""

    tf32: bool = False
    """Whether convolutions on CUDA may use TF32: faster, and logits are not quite those that were published."""

    cudnn_search: Literal["heuristic", "exhaustive", "default"] = "heuristic"
    """How cuDNN chooses algorithms; an `exhaustive` search is all done at load, which takes longer."""

    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """Whether runs on CUDA are captured and replayed as one: `auto` where a model can be, `on` serves no other."""

    workers: Annotated[int | None, Field(ge=0, le=1024)] = None
    """Processes that serve, on one port. Default: one for each CPU, or GPU; 0: one process alone, the least memory."""

    stall_seconds: Annotated[float, Field(ge=1)] = 60.0
    """Time after which a worker that does nothing any more, not even answer its supervisor, is killed and replaced."""

    threads: Annotated[int | None, Field(ge=1)] = None
    """Threads of one inference on the CPU. Default: the CPUs, cgroup quota included, divided among the workers."""

    concurrency: Annotated[int | None, Field(ge=1)] = None
    """Runs at the same time in one process, each in a thread, beside short ones. Default: 1, on CUDA 2."""

    batching: Literal["auto", "on", "off"] = "auto"
    """Whether images of several requests that wait share a run: `auto` where that was measured to help, CUDA always."""

    queue_images: Annotated[int, Field(ge=1)] = 256
    """Most images that wait for a run in one process, and requests that wait to be decoded; more get a 429."""

    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    """What a request that names no timeout waits at most; then it gets a 504, and is not computed."""

    max_timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest timeout that a request may name; a longer one is cut."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    """Longest request body; a longer one is refused with 413 while it arrives."""

    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = 50_000_000
    """Most pixels of all images of one request together, before and after they are resized; checked before decoding."""

    max_images: Annotated[int, Field(ge=1)] = 64
    """Most images in one classify request."""

    max_batch: Annotated[int, Field(ge=1)] = 32
    """Most images in one run of a model, of one request or several; V2 requests with more are refused."""

    max_versions: Annotated[int, Field(ge=0)] = 4
    """Versions of a model kept loaded because requests named them, beside those of its policy and labels."""

    version_policies: dict[str, VersionPolicy] = {}
    """Which versions of a model, or of all others, `*`, to keep loaded: `{"*": {"latest": 2}}`. Default: the newest."""

    model_control: Literal["none", "explicit", "poll"] = "explicit"
    """How what is served changes: `explicit`, by request; `poll`, also when the repository does; `none`, not at all."""

    poll_seconds: Annotated[float, Field(ge=0.1)] = 15.0
    """Time between two looks at the repository where it is polled."""

    inference_keys_file: Path | None = None
    """File of the keys for inference and reading, each a line that `python -m service key` makes. Default: no key."""

    inference_keys: str | None = None
    """The same lines, separated by commas, instead of a file or beside it."""

    control_keys_file: Path | None = None
    """File of the keys for control: to load and unload models. Default: no key, if none is needed for inference."""

    control_keys: str | None = None
    """The same lines, separated by commas, instead of a file or beside it."""

    tls_certificate: Path | None = None
    """PEM file of the certificate and its chain, to serve https. Read again when it changes."""

    tls_key: Path | None = None
    """PEM file of its key, not encrypted. Default: it is in the same file."""

    cors_origins: str = ""
    """Origins whose pages may ask, `https://a.example,https://b.example`, or `*`. Default: none."""

    max_header_bytes: Annotated[int, Field(ge=1024)] = 32768
    """Longest head of a request: its path and headers."""

    header_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Time that the head of a request may take to arrive; then the connection is closed."""

    body_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Time after which a body is cut off with 408 if it has stopped, or brought less than 1,000 bytes a second."""

    announce_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Time after SIGTERM in which all is served as before, but `/v2/health/ready` says no. Then none is let in."""

    drain_seconds: Annotated[int, Field(ge=1)] = 30
    """Time that requests have to end after that; then they are cut off."""

    open_health: bool = True
    """Whether `/v2/health/…` answers without a key."""

    open_metrics: bool = False
    """Whether `/metrics` answers without a key where others need one."""

    rate_limit: Annotated[float | None, Field(gt=0)] = None
    """Requests a second of one key, or of one address where no key is needed. Default: any number."""

    rate_burst: Annotated[int | None, Field(ge=1)] = None
    """Requests that may come at once within that. Default: those of one second, and at least 1."""

    access_log: bool = False
    """Whether to log a line for every request."""

    log_format: Literal["text", "json"] = "text"
    """Lines of the log: `text` on stderr, or `json`, one object a line, on stdout."""

    statistics_sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests whose layers are watched, whether or not they ask for statistics; 0 watches none."""

    data_directory: Path = Path("~/.local/share/reslens")
    """Directory of what the service itself writes: the history, unless it is elsewhere."""

    history_url: SecretStr | None = None
    """Database URL, `sqlite:///…` or `postgresql://…`. Default: a file in the data directory; empty for no history."""

    history_days: Annotated[float, Field(gt=0)] = 30.0
    """Days that the history is kept; minutes are merged into hours after one."""

    history_megabytes: Annotated[int, Field(ge=1)] = 4096
    """Most megabytes of windows in the history; beyond it the oldest are dropped."""

    diagnosis_minutes: Annotated[int, Field(ge=1, le=60)] = 5
    """Length of the windows that are judged, each once, when it is over."""

    false_alarm_hours: Annotated[float, Field(gt=0)] = 720.0
    """Expected hours between two false alarms of one model: the higher, the stronger the evidence that is needed."""

    webhook_url: str | None = None
    """Where new findings are posted; needs the secret too."""

    webhook_secret: SecretStr | None = None
    """Key of the HMAC-SHA256 with which the messages of the webhook are signed."""

    webhook_severity: Literal["critical", "warning", "info"] = "critical"
    """Least severity of the findings that the webhook tells: drift is a `warning`."""

    @model_validator(mode="after")
    def _keeps_captured_memory(self) -> Self:
        if self.gpu_arena_shrink and self.cuda_graphs == "on":
            raise ValueError("RESLENS_GPU_ARENA_SHRINK takes the memory that RESLENS_CUDA_GRAPHS=on keeps: choose one")
        return self

    @model_validator(mode="after")
    def _has_a_certificate(self) -> Self:
        if self.tls_key and not self.tls_certificate:
            raise ValueError("RESLENS_TLS_KEY needs RESLENS_TLS_CERTIFICATE too")
        return self

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: str) -> str:
        for origin in filter(None, (part.strip() for part in origins.split(","))):
            scheme, _, host = origin.partition("://")
            if origin != "*" and (scheme not in ("http", "https") or not host or "/" in host or "*" in host):
                raise ValueError(f"{origin!r} is no origin: use https://host, https://host:port, or *")
        return origins

    @property
    def model_directory(self) -> Path:
        """Where the models are on this machine: the repository, or what is kept of one that is elsewhere."""
        if isinstance(self.model_repository, Path):
            return self.model_repository
        name = hashlib.sha256(self.model_repository.encode()).hexdigest()[:16]
        return (self.cache_directory or self._data() / "models").expanduser() / name

    @property
    def origins(self) -> list[str]:
        """Those of `cors_origins`."""
        return [part.strip() for part in self.cors_origins.split(",") if part.strip()]

    @model_validator(mode="after")
    def _signs_messages(self) -> Self:
        if self.webhook_url and not (self.webhook_secret and self.webhook_secret.get_secret_value()):
            raise ValueError("RESLENS_WEBHOOK_URL needs RESLENS_WEBHOOK_SECRET too: messages are signed with it")
        if self.webhook_url and not self.webhook_url.startswith(("http://", "https://")):
            raise ValueError("RESLENS_WEBHOOK_URL is no address: use http://… or https://…")
        return self

    @property
    def history_address(self) -> str:
        """The URL of the history; empty when there is to be none."""
        if self.history_url is not None:
            return self.history_url.get_secret_value()
        return f"sqlite:///{(self._data() / 'history.sqlite3').absolute()}"

    def _data(self) -> Path:
        try:
            return self.data_directory.expanduser()
        except RuntimeError:  # a user without a home
            return Path("reslens")
