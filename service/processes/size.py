"""How many workers there are, and what each of them may use."""

import os
import re
from pathlib import Path

from service.settings import Settings

DEVICES = Path("/dev")


def gpus(devices: Path = DEVICES) -> int:
    """The NVIDIA devices that this process may see: asked of the system, because CUDA cannot be used before a fork."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len([file for file in devices.iterdir() if re.fullmatch(r"nvidia[0-9]+", file.name)])


def workers_of(settings: Settings, cpus: int, gpus: int) -> int:
    """The workers that were asked for; else one for each GPU, or for as many CPUs as one inference has threads."""
    if settings.workers is not None:
        return settings.workers
    if gpus and settings.provider != "cpu":
        return gpus
    return max(1, cpus // (settings.threads or 1))


def share_of(settings: Settings, number: int, workers: int, cpus: int, gpus: int) -> Settings:
    """The settings of one of the workers: its share of the CPUs, and its GPU."""
    threads = settings.threads or max(1, cpus // workers)
    return settings.model_copy(update={"threads": threads, "device": number % max(1, gpus)})
