"""The command `python -m service`, as a process."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.repository import ModelRepository
from service.app import create_app
from service.errors import StartupError
from service.runtime.cpus import available_cpus
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU, CUDA, choose_provider
from service.settings import Settings
from tests import bundles


@contextlib.contextmanager
def service(root: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    base = {"RESLENS_PROVIDER": "cpu", "RESLENS_PORT": "0", "RESLENS_WORKERS": "0"}
    variables = {"RESLENS_MODEL_REPOSITORY": str(root), **base, **environment}
    with subprocess.Popen(
        [sys.executable, "-m", "service"],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def greeting(process: subprocess.Popen[str]) -> list[str]:
    """The lines printed at start-up, the last of which says what to try."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith(("  try:", "  no model")):
            return lines
    raise AssertionError(f"ended before it listened: {lines} {process.communicate()}")


def test_says_where_to_look_and_what_failed(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    bundles.publish(tmp_path, "broken", graph=b"broken")
    with service(tmp_path) as process:
        _, where, good, broken, example = greeting(process)
        url = where.split()[3]
        assert f"{url}/docs" in where
        assert good.startswith("serving tiny version 1 on CPUExecutionProvider: ")
        assert broken.startswith("NOT serving broken version 1: the graph is not an ONNX model")
        assert f"curl -F file=@photo.jpg '{url}/v1/models/tiny/classify?statistics=layers'" in example
        assert httpx.get(f"{url}/v2/health/ready").json() == {"ready": True, "live": True}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_cleanly_when_asked(tmp_path: Path, number: signal.Signals) -> None:
    bundles.publish(tmp_path)
    with service(tmp_path) as process:
        greeting(process)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=20)
        assert process.returncode in (0, -number)
        assert complaints == ""


def test_host_and_port_can_come_from_plain_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "1234")
    assert (Settings().host, Settings().port) == ("0.0.0.0", 1234)
    monkeypatch.setenv("RESLENS_HOST", "::1")
    monkeypatch.setenv("RESLENS_PORT", "4321")
    assert (Settings().host, Settings().port) == ("::1", 4321)


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"RESLENS_MODEL_REPOSITORY": "/nowhere"}, "/nowhere is not a directory: create it, or set"),
        ({"RESLENS_PROVIDER": "tpu"}, "provider: input should be 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ({"RESLENS_PORT": "http"}, "got 'http'"),
        ({"RESLENS_THREADS": "0"}, "threads: input should be greater than or equal to 1"),
    ],
)
def test_wrong_settings_end_it_with_one_line(tmp_path: Path, variables: dict[str, str], complaint: str) -> None:
    with service(tmp_path, **variables) as process:
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 2
    assert complaints.startswith("error: ")
    assert complaint in complaints
    assert complaints.count("\n") == 1


def test_a_taken_port_is_said_and_ends_it(tmp_path: Path) -> None:
    with service(tmp_path) as first:
        port = greeting(first)[1].split()[3].rpartition(":")[2]
        with service(tmp_path, RESLENS_PORT=port) as second:
            _, complaints = second.communicate(timeout=60)
    assert second.returncode != 0
    assert "address already in use" in complaints


# Providers


def cuda_works() -> bool:
    try:
        return choose_provider("cuda") == CUDA
    except StartupError:
        return False


@pytest.mark.skipif(cuda_works(), reason="CUDA works here")
def test_cuda_that_is_missing_is_an_error_for_the_service_and_for_each_model(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with pytest.raises(StartupError, match=r"does not work here: .*RESLENS_PROVIDER=cpu"):
        create_app(Settings(model_repository=tmp_path, provider="cuda"))
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider was asked for"):
        LoadedModel(ModelRepository(tmp_path).open("tiny"), CUDA, threads=1)
    assert choose_provider("auto") == CPU


@pytest.mark.gpu
def test_cuda_is_taken_where_it_works(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    assert choose_provider("auto") == choose_provider("cuda") == CUDA
    assert LoadedModel(ModelRepository(tmp_path).open("tiny"), CUDA, threads=1).provider == CUDA


# CPUs


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 10**6),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 10**6),
        ({}, 10**6),
    ],
)
def test_threads_follow_the_quota(tmp_path: Path, files: dict[str, str], quota: int) -> None:
    for name, content in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content + "\n")
    assert available_cpus(tmp_path) == min(quota, available_cpus(tmp_path / "no cgroup"))


# What the service must never load


def test_the_service_never_imports_what_only_training_needs() -> None:
    program = (
        "import sys, pkgutil, importlib, models, service.app, service.__main__\n"
        "for module in pkgutil.walk_packages(models.__path__, 'models.'): importlib.import_module(module.name)\n"
        "for module in pkgutil.walk_packages(service.__path__, 'service.'): importlib.import_module(module.name)\n"
        "print(*{'torch', 'onnxscript', 'tyro', 'sklearn', 'training'} & set(sys.modules))\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == ""


def test_models_never_imports_what_only_the_service_needs() -> None:
    program = (
        "import sys, pkgutil, importlib, models\n"
        "for module in pkgutil.walk_packages(models.__path__, 'models.'): importlib.import_module(module.name)\n"
        "print(*{'torch', 'fastapi', 'onnxruntime', 'service'} & set(sys.modules))\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == ""


# What a start must not wait for


def imported(program: str, *heavy: str) -> str:
    """Which of these modules a program imports, and the threads that it has then."""
    ends = f"import sys, os; print(*sorted({{*{heavy}}} & set(sys.modules)), len(os.listdir('/proc/self/task')))"
    output = subprocess.run(
        [sys.executable, "-c", f"{program}\n{ends}"],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return output.stdout.strip()


def test_the_supervisor_imports_nothing_that_serves() -> None:
    program = "import service.__main__, service.processes.supervisor"
    assert imported(program, "fastapi", "uvicorn", "numpy", "onnx", "onnxruntime", "llvmlite", "sqlalchemy") == "1"


def test_what_others_are_forked_off_has_one_thread_and_imports_what_workers_need_alone() -> None:
    program = "import service.processes.seed"
    unwanted = ("numba", "scipy", "sqlalchemy", "alembic", "httpx", "rich")
    assert imported(program, *unwanted, "fastapi", "onnxruntime") == "fastapi onnxruntime 1"


def test_a_process_alone_compiles_nothing_again_and_reads_no_migrations_before_it_is_ready(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    program = (
        "import asyncio\n"
        "from service.app import create_app\n"
        "from service.settings import Settings\n"
        f"app = create_app(Settings(model_repository={str(tmp_path)!r}, provider='cpu', history_url=''))\n"
        "async def start():\n"
        "    async with app.router.lifespan_context(app): pass\n"
        "asyncio.run(start())\n"
    )
    imported(program)  # where nobody has compiled before
    assert imported(program, "numba", "alembic", "httpx", "onnxruntime").startswith("onnxruntime ")
