"""A file of weights that others published → its tensors by name; nothing in it is ever executed."""

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

# ResNet-1202 has 80 MB, Wide ResNet-101-2 with its optimiser and an average 2 GB.
MAX_BYTES = 4 << 30

# Where programs that train keep the weights among other things, averaged ones first: those are what they evaluate.
ENTRIES = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "averaged",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
)
MOST_NESTED = 4
# What wraps a network while it is trained puts its own name before all others.
PREFIXES = ("module.", "_orig_mod.", "network.", "model.")
# Of such wrappers: the count of an average, and the normalisation that stands before a network of ours.
BESIDE = {"n_averaged", "mean", "scale"}


@dataclass(frozen=True)
class Weights:
    """What a file holds: tensors by name, without the names of wrappers."""

    path: Path
    """Of the file."""
    tensors: Mapping[str, Tensor]
    digest: str
    """SHA-256 of the file."""
    entry: str
    """Keys that lead to the tensors inside the file, joined by dots; empty where it holds nothing else."""


def read_weights(path: Path) -> Weights:
    """Read a file of weights, on the CPU.

    Raises `ValueError` when it is missing, larger than 4 GiB, not of a known kind, damaged, wants to execute code, or
    holds no tensors by name.
    """
    read = READERS.get(path.suffix.lower())
    if not path.is_file():
        raise ValueError(f"no file of weights at {path}: give a state dictionary ({', '.join(READERS)})")
    if read is None:
        raise ValueError(f"{path} is of no known kind: give a state dictionary ({', '.join(READERS)})")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, at most {MAX_BYTES:,} are read: keep the weights alone in it")
    content = path.read_bytes()
    entry, tensors = _unwrapped(read(content, path), path)
    return Weights(path, _without_prefixes(tensors), hashlib.sha256(content).hexdigest(), entry)


def _read_pickled(content: bytes, path: Path) -> Any:
    """What `torch.save` wrote; numbers, strings, containers and tensors alone are allowed in it."""
    try:
        _check_archive(content)
        with warnings.catch_warnings():
            # Archives of TorchScript are told of twice.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # torch.load raises many types for what is none of its files; for the user they are one.
    except Exception as error:
        if (wanted := _wanted_code(error)) is not None:
            raise ValueError(
                f"{path} wants to run code{wanted}, which is never done: where you trust it, save the weights alone, "
                "torch.save(model.state_dict(), FILE)"
            ) from error
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is no checkpoint of PyTorch, or damaged"
        ) from error


def _check_archive(content: bytes) -> None:
    """torch.load ignores the check sums that torch.save wrote, and unpacks what is compressed, however large."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return  # as PyTorch wrote them before 1.6
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if (size := sum(entry.file_size for entry in archive.infolist())) > MAX_BYTES:
            raise ValueError(f"unpacked it has {size:,} bytes")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")


def _wanted_code(error: Exception) -> str | None:
    """What a file wants to run beside weights, in brackets; None where that is not why it was refused."""
    if "TorchScript" in str(error):
        return " (TorchScript)"
    # As PyTorch names a function or class that is not on its list.
    found = re.search(r"GLOBAL (\S+) was not|class (\S+) was not|Trying to \w+ unsupported GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and found:
        return f" ({next(name for name in found.groups() if name)})"
    return None


def _read_safetensors(content: bytes, path: Path) -> Any:
    try:
        return safetensors.torch.load(content)
    # Of the format's own, and of PyTorch for types of numbers that it has not.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}): it is of another kind, or damaged"
        ) from error


READERS: dict[str, Callable[[bytes, Path], Any]] = {
    ".pth": _read_pickled,
    ".pt": _read_pickled,
    ".th": _read_pickled,
    ".tar": _read_pickled,
    ".bin": _read_pickled,
    ".ckpt": _read_pickled,
    ".safetensors": _read_safetensors,
}


def _unwrapped(stored: Any, path: Path) -> tuple[str, dict[str, Tensor]]:
    """The keys that lead to the innermost dictionary of tensors, and that."""
    keys: list[str] = []
    while isinstance(stored, Mapping) and len(keys) < MOST_NESTED:
        inner = next((entry for entry in ENTRIES if isinstance(stored.get(entry), Mapping)), None)
        if inner is None:
            break
        stored = stored[inner]
        keys.append(inner)
    found = stored.items() if isinstance(stored, Mapping) else ()
    tensors = {key: value for key, value in found if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        where = f"its entry {'.'.join(keys)!r}" if keys else f"a {type(stored).__name__}"
        raise ValueError(
            f"{path} holds no tensors by name ({where} has none): give a state dictionary, alone or as one of "
            f"{', '.join(ENTRIES)}"
        )
    return ".".join(keys), tensors


def _without_prefixes(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    while True:
        inner = [name for name in tensors if name not in BESIDE]
        prefix = next((prefix for prefix in PREFIXES if inner and all(name.startswith(prefix) for name in inner)), None)
        if prefix is None:
            return tensors
        tensors = {name.removeprefix(prefix): tensors[name] for name in inner}
