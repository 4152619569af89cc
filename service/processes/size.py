"""How many workers there are, and what each of them may use."""

import importlib.util
import os
import re
from pathlib import Path

from service.settings import Settings

DEVICES = Path("/dev")
CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"


def gpus(devices: Path = DEVICES) -> int:
    """The NVIDIA devices that this process may use: asked of the system, because CUDA cannot be used before a fork."""
    if not _has_cuda():
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len([file for file in devices.iterdir() if re.fullmatch(r"nvidia[0-9]+", file.name)])


def _has_cuda() -> bool:
    """Whether the installed ONNX Runtime has a CUDA provider, without importing it."""
    package = importlib.util.find_spec("onnxruntime")
    folders = package.submodule_search_locations if package else None
    return any(Path(folder, "capi", CUDA_PROVIDER).exists() for folder in folders or ())


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
    device = (settings.device + number) % gpus if gpus else settings.device
    return settings.model_copy(update={"threads": threads, "device": device})
