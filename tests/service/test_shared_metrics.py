"""The metrics of a service that is several processes: every one of them tells the counts of all."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
# Counts one request for each line that it reads, says so, and prints what it would be scraped for at the end of input.
PROCESS = """
import sys
from service.monitor.meters import MODEL, Meters
from service.monitor.tally import Answered
meters = Meters()
meters.came()
for line in sys.stdin:
    meters.came()
    meters.answered({"method": "POST", MODEL: "m"}, 200, float(line))
    meters.counted("m", 1, Answered(images=3, batches=(3,), total=0, input=0, queue=0, infer=0, output=0))
    meters.tick(5)
    print("counted", flush=True)
print(meters.exposition([], failed=2).decode())
"""


@contextmanager
def counting(directory: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    command = [sys.executable, "-c", PROCESS]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def count(process: subprocess.Popen[str], seconds: float) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "counted\n"


def scraped(process: subprocess.Popen[str]) -> dict[tuple[str, str], float]:
    """Values by name and upper bound of the bucket, if it is one."""
    text, _ = process.communicate(timeout=20)
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    with ExitStack() as stack:
        yield [stack.enter_context(counting(tmp_path)) for _ in range(3)]


def test_the_counts_of_all_processes_are_one(processes: list[subprocess.Popen[str]]) -> None:
    for process, seconds in zip(processes, ((0.0004, 0.3), (0.3,), (4,)), strict=True):
        for value in seconds:
            count(process, value)
    values = scraped(processes[1])
    assert values["reslens_requests_total", ""] == 4
    assert values["reslens_request_seconds_count", ""] == 4
    assert values["reslens_request_seconds_sum", ""] == pytest.approx(4.6004)
    assert values["reslens_request_seconds_bucket", "0.0005"] == 1
    assert values["reslens_request_seconds_bucket", "0.5"] == 3
    assert values["reslens_batch_images_sum", ""] == 12
    # Each has one that is not answered, and five that wait.
    assert values["reslens_requests_in_flight", ""] == 3
    assert values["reslens_queue_depth", ""] == 15
    assert values["reslens_models_failed", ""] == 2
    # Of three interpreters.
    assert values["process_resident_memory_bytes", ""] > 3 * 10e6


def test_a_file_that_is_just_being_made_is_passed_over(processes: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    count(processes[0], 0.1)
    for kind in ("counter", "histogram", "gauge_livesum"):
        (tmp_path / f"{kind}_{processes[1].pid}.db").touch()
    assert scraped(processes[0])["reslens_requests_total", ""] == 1


def test_what_a_dead_process_counted_stays_and_what_it_had_in_flight_does_not(
    processes: list[subprocess.Popen[str]],
) -> None:
    killed, other, last = processes
    for process in processes:
        count(process, 0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=20)
    values = scraped(other)
    assert values["reslens_requests_total", ""] == 3
    assert values["reslens_requests_in_flight", ""] == 2
    assert values["reslens_queue_depth", ""] == 10
    # The one that was just asked has ended, too.
    assert scraped(last)["reslens_requests_in_flight", ""] == 1
