"""OpenTelemetry traces: a span for each request, and within it one for each step of its work.

FastAPI makes the span of the request; here are the steps, and where all that goes: by OTLP over HTTP to where
`OTEL_EXPORTER_OTLP_ENDPOINT` says, as its other standard variables want it. Where none is set, neither the SDK is
imported nor a span made.
"""

import importlib.util
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from service.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Attribute = str | int | float | bool

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
EXTRA = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
# How long the end of the service waits for a receiver that does not answer.
CLOSE_SECONDS = 5.0
# For FastAPI, which would else look for providers at every request.
OFF = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)

_tracer: ContextVar[trace.Tracer | None] = ContextVar("tracer", default=None)
_NOTHING = nullcontext()


class Ids(NamedTuple):
    """Of a request's span, in hexadecimal, as they stand in the log."""

    trace: str
    span: str


class Tracing:
    """Where the traces of one application go, in a thread of its own."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("reslens")

    def telemetry(self) -> TelemetryConfig:
        """What FastAPI is to do: trace requests, and nothing else."""
        return OFF | TelemetryConfig(tracing=True, operation_spans=False, tracer_provider=self._provider)

    def enter(self) -> Ids:
        """Let the steps of the request at hand be recorded; the ids of its span."""
        _tracer.set(self._tracer)  # for this request's task alone
        context = trace.get_current_span().get_span_context()
        return Ids(trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id))

    def close(self) -> None:
        """Send what waits, if its receiver takes it within a few seconds."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


def record(name: str, start_ns: int, end_ns: int, **attributes: Attribute) -> None:
    """Add a step of the request that the running code works for, between two readings of `time.perf_counter_ns`.

    An attribute `images` becomes `reslens.images`. Does nothing where no request is traced.
    """
    if (tracer := _tracer.get()) is not None:
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        named = {f"reslens.{attribute}": value for attribute, value in attributes.items()}
        tracer.start_span(name, attributes=named, start_time=epoch_ns + start_ns).end(epoch_ns + end_ns)


def traced() -> bool:
    """Whether steps of the request that the running code works for are recorded."""
    return _tracer.get() is not None


def span(name: str, **attributes: Attribute) -> AbstractContextManager[None]:
    """The same for a block of code."""
    return _NOTHING if _tracer.get() is None else _span(name, **attributes)


@contextmanager
def _span(name: str, **attributes: Attribute) -> Iterator[None]:
    start_ns = time.perf_counter_ns()
    try:
        yield
    finally:
        record(name, start_ns, time.perf_counter_ns(), **attributes)


def tracing_of(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Traces as the `OTEL_*` variables say; None if they name no endpoint, or switch traces off.

    Raises `StartupError` if what they ask for cannot be had.
    """
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    off = off or environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none"
    if off or not any(environment.get(name) for name in ENDPOINTS):
        return None
    for name in PROTOCOLS:
        if (protocol := environment.get(name) or "http/protobuf") != "http/protobuf":
            raise StartupError(f"{name}={protocol} is not possible: traces are sent as http/protobuf alone")
    if missing := [name for name in EXTRA if not _installed(name)]:
        raise StartupError(
            f"{' or '.join(ENDPOINTS)} asks for traces, and {missing[0]} is not installed: "
            "pip install 'reslens[otel]', or unset the variable"
        )
    return Tracing(_provider())


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package that it lies in
        return False


def _provider() -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"process.pid": os.getpid()})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "reslens"}))
    try:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise StartupError(f"traces cannot be sent as the OTEL_* variables say: {error}") from error
    return provider
