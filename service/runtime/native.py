"""Machine code that numba made once, found again without numba: importing it and its own cache take a second."""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import stat
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from llvmlite import binding as llvm

DIGEST_BYTES = hashlib.sha256().digest_size


class NativeCode:
    """One object file, loaded; owns the memory of its functions."""

    def __init__(self, content: bytes, machine: llvm.TargetMachine, file: Path | None) -> None:
        self.file = file
        """Where the next start finds it; None where nothing can be written."""
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(content))
        self._engine.finalize_object()

    @classmethod
    def of(cls, module: str, *sources: str) -> "NativeCode":
        """What `compiled` of a module makes for this processor; kept, and made anew when it or a source changes."""
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        name = f"{module.rpartition('.')[2]}-{_key(module, *sources)}.o"
        for directory in _directories():
            if content := _read(directory / name):
                return cls(content, _machine(), directory / name)
        content = importlib.import_module(module).compiled(_machine())
        return cls(content, _machine(), _keep(content, name))

    def address(self, function: str) -> int:
        address: int = self._engine.get_function_address(function)
        assert address, f"there is no {function} in the compiled code"
        return address


def _machine() -> llvm.TargetMachine:
    """This processor, as numba compiles for it."""
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="jitdefault",
        jit=True,
    )


def _key(*modules: str) -> str:
    """Of all that the machine code depends on."""
    parts = [version("numba"), version("llvmlite"), llvm.get_process_triple()]
    parts += [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    key = hashlib.sha256("\n".join(parts).encode())
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None, module
        key.update(Path(spec.origin).read_bytes())
    return key.hexdigest()[:16]


def _directories() -> Iterator[Path]:
    """Where numba would keep it: where it is told to, beside the code, or with the user."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(chosen)
        return
    yield Path(__file__).with_name("__pycache__")
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "reslens"


def _read(file: Path) -> bytes | None:
    """Nothing where it is missing, was not written to its end, or may have been written by another user."""
    try:
        if not (_is_own(file.parent) and _is_own(file)):
            return None
        stored = file.read_bytes()
    except OSError:
        return None
    digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def _is_own(path: Path) -> bool:
    """Whether only this user and the administrator may have put there what is there: it is going to be executed."""
    status = path.lstat()
    foreign = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISLNK(status.st_mode)
    return not foreign and (not hasattr(os, "geteuid") or status.st_uid in (0, os.geteuid()))


def _keep(content: bytes, name: str) -> Path | None:
    for directory in _directories():
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_own(directory):
                return _write(hashlib.sha256(content).digest() + content, directory / name)
    return None


def _write(content: bytes, path: Path) -> Path:
    """All of it or nothing: others may read it meanwhile."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            return Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink()
            raise
