"""Traffic for a version that is tried, and what the service says of it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.diagnosis.finding import Diagnosis
from models.manifest import Preprocessing
from models.preprocessing import image_to_pixels
from training.data.folder import SUFFIXES
from training.retraining.outcome import ServiceRefusesError
from training.retraining.reliability import Answering, unreliable
from training.retraining.remote import Remote

BATCH = 32
POLL_SECONDS = 0.1
POLLS = 20
SHARE_POLL_SECONDS = 2.0
AGREEMENT = 0.99
"""Share of images whose class must be that of the published graph: another precision may round otherwise."""


@dataclass(frozen=True)
class Watching:
    """How a canary is watched."""

    watch_images: int = 1000
    """Images that the service must have watched of the canary's traffic before it is judged."""
    watch_seconds: float = 600.0
    """Time in which it must have; then the canary is rolled back."""
    watch_severity: Literal["critical", "warning"] = "critical"
    """Least severity of a finding that rolls it back."""
    traffic: Path | None = None
    """Folder of images, with or without sub-folders, to send to the canary; the held-out ones if not given."""
    watch_failures: float = 0.01
    """Most by which the share of its requests that fail may be shown to be above the champion's, if it has a share."""
    share: float = 0.0
    """Percentage of the requests for the default version that the canary answers while it is watched."""

    def __post_init__(self) -> None:
        if self.watch_images < 1:
            raise ValueError(f"watch_images={self.watch_images} is not allowed: use at least 1")
        if not self.watch_seconds > 0:
            raise ValueError(f"watch_seconds={self.watch_seconds} is not allowed: use a number above 0")
        if not 0 <= self.watch_failures < 1:
            raise ValueError(f"watch_failures={self.watch_failures} is not allowed: use a number from 0 to below 1")
        if not 0 <= self.share <= 100:
            raise ValueError(f"share={self.share} is not allowed: use a percentage from 0 to 100")


@dataclass(frozen=True)
class Watched:
    """What came of it."""

    images: int
    """That the service watched."""
    shared: int
    """Those of them that came by the canary's share of the requests, before anything was sent."""
    answering: Answering
    """What became of the requests of both versions meanwhile."""
    sent: int
    agreement: float | None
    """Share of the images that were sent that were given the class of the published graph."""
    findings: list[str]
    unjudged: list[str]
    """Rules that had too few images."""
    reason: str
    """Why the canary is not good; empty if it is."""


def read_traffic(folder: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """All images below a folder, N×C×H×W; raises `ValueError` where there is none, or one cannot be read."""
    if not (paths := sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)):
        raise ValueError(f"{folder} holds no image: give --traffic a folder of images")
    pixels = []
    for path in paths:
        try:
            with Image.open(path) as image:
                pixels.append(image_to_pixels(image, preprocessing))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image ({error}): mend or remove it") from error
    return np.stack(pixels)


def watch(
    remote: Remote,
    name: str,
    version: int,
    champion: int,
    pixels: NDArray[np.uint8],
    classes: NDArray[np.int64],
    config: Watching,
) -> Watched:
    """Wait for what comes by the share, if there is one, then send `pixels`, over and over: until enough was watched.

    `classes` are what its graph says of them; some are sent in any case, to compare. What is found is asked of the
    service. Raises `ServiceUnreachableError`, or `ServiceRefusesError` for a key.
    """
    sent = agreed = 0
    diagnosis, answering = remote.diagnosis(name, version), Answering()
    if config.share:
        diagnosis, answering = _shared(remote, name, version, champion, config)
    shared = diagnosis.images if config.share else 0
    reason = _grave(diagnosis, config) or unreliable(answering, config.watch_failures)
    end = time.monotonic() + config.watch_seconds
    try:
        for chosen in () if reason else _batches(len(pixels), min(BATCH, remote.max_batch(name, version))):
            answered = remote.infer(name, version, pixels[chosen]).argmax(1)
            sent, agreed = sent + len(chosen), agreed + int((answered == classes[chosen]).sum())
            # Asked seldom: judging takes longer than answering.
            if sent % config.watch_images < len(chosen) or chosen[-1] == len(pixels) - 1:
                diagnosis = _settled(remote, name, version, diagnosis)
            if diagnosis.images >= config.watch_images or time.monotonic() > end:
                break
    except ServiceRefusesError as error:
        if error.forbidden:
            raise
        reason = str(error)
    agreement = agreed / sent if sent else None
    return Watched(
        images=diagnosis.images,
        shared=shared,
        answering=answering,
        sent=sent,
        agreement=agreement,
        findings=[f"{finding.severity}: {finding.cause}" for finding in diagnosis.findings],
        unjudged=[f"{missing.rule}: {missing.reason}" for missing in diagnosis.unjudged],
        reason=reason or _reason(diagnosis, agreement, config),
    )


def _shared(remote: Remote, name: str, version: int, champion: int, config: Watching) -> tuple[Diagnosis, Answering]:
    """What is found in real requests: once there are enough, something is grave, or there is no more time."""

    def counted() -> Answering:
        return Answering(remote.requests(name, version), remote.requests(name, champion))

    end, before = time.monotonic() + config.watch_seconds, counted()
    while True:
        diagnosis, answering = remote.diagnosis(name, version), counted().since(before)
        grave = _grave(diagnosis, config) or unreliable(answering, config.watch_failures)
        left = end - time.monotonic()
        if diagnosis.images >= config.watch_images or grave or left <= 0:
            return diagnosis, answering
        time.sleep(min(SHARE_POLL_SECONDS, left))


def _grave(diagnosis: Diagnosis, config: Watching) -> str:
    """The findings that are reason to roll back; empty if none is."""
    severities = ("critical",) if config.watch_severity == "critical" else ("critical", "warning")
    return "; ".join(finding.cause for finding in diagnosis.findings if finding.severity in severities)


def _reason(diagnosis: Diagnosis, agreement: float | None, config: Watching) -> str:
    """Why the canary is not good; empty if it is."""
    if grave := _grave(diagnosis, config):
        return grave
    if agreement is not None and agreement < AGREEMENT:
        return (
            f"{agreement:.1%} of the images were given the class of the published graph, {AGREEMENT:.0%} are expected"
        )
    if diagnosis.images < config.watch_images:
        return (
            f"the service watched {diagnosis.images} of {config.watch_images} images in {config.watch_seconds:g} s: "
            "raise its RESLENS_STATISTICS_SAMPLE, or --watch-seconds"
        )
    return ""


def _batches(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Indices of one batch after the other, and from the first again, without end."""
    while True:
        for start in range(0, count, size):
            yield np.arange(start, min(start + size, count))


def _settled(remote: Remote, name: str, version: int, before: Diagnosis) -> Diagnosis:
    """The diagnosis, once the service has counted what it was sent: that takes a moment."""
    now = remote.diagnosis(name, version)
    # Where others send to the canary too it never does.
    for _ in range(POLLS):
        if now.images == before.images:
            break
        time.sleep(POLL_SECONDS)
        before, now = now, remote.diagnosis(name, version)
    return now
