"""What a training step needs at most of memory, by depth: reversible networks, and ordinary ones of as many layers.

Each network has a process of its own, which runs one step so that what stays is there: weights, momentum, what
libraries keep. Then it tells the kernel to forget the peak of resident memory, and runs another. What that adds at its
peak are gradients, as large as the weights in any network, and what is kept for the backward pass or worked with.
"""

import json
import os
import subprocess
import sys

BATCH, SIZE = 64, 32
# The depths at which there is one of each: 6n + 2 layers, and 9n + 1 of i-RevNets.
NETWORKS: dict[str, tuple[int, ...]] = {
    "resnet": (20, 38, 74, 110),
    "revnet": (20, 38, 74, 110),
    "irevnet": (19, 37, 73, 109),
}
# glibc would keep what was freed for later, more of it the longer a process runs: large pieces go back at once.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}

# Prints one JSON object; MiB.
_PROGRAM = """
import json, sys
from pathlib import Path
import torch
import torch.nn.functional as F
from training.resnet.network import NetworkConfig, assemble
from training.resnet.variants import cifar, irevnet, revnet

family, layers, batch, size = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
torch.manual_seed(0)
VARIANTS = {"resnet": cifar, "revnet": lambda n: revnet(n, (16, 32, 64)), "irevnet": irevnet}
model = assemble(VARIANTS[family](layers), NetworkConfig(family, arrangement="full_preactivation")).train()
optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 10

def MiB(field):
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) / 1024

def step():
    F.cross_entropy(model(images), labels).backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)

step()
before = MiB("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
step()
gradients = sum(parameter.nbytes for parameter in model.parameters()) / 2**20
print(json.dumps({"before": before, "peak": MiB("VmHWM"), "gradients": gradients}))
"""


def reversible() -> list[dict[str, str]]:
    """One row a network, in MiB."""
    return [_row(family, layers) for family, depths in NETWORKS.items() for layers in depths]


def _row(family: str, layers: int) -> dict[str, str]:
    found = step_memory(family, layers)
    added = found["peak"] - found["before"]
    return {
        "network": family,
        "layers": str(layers),
        "resident before MiB": f"{found['before']:.0f}",
        "at the peak MiB": f"{found['peak']:.0f}",
        "gradients MiB": f"{found['gradients']:.1f}",
        "all else that the step adds MiB": f"{added - found['gradients']:.0f}",
    }


def step_memory(family: str, layers: int, batch: int = BATCH, size: int = SIZE) -> dict[str, float]:
    """MiB resident `before` a training step and at its `peak`, and those of all `gradients`; a process of its own."""
    command = [sys.executable, "-c", _PROGRAM, family, *map(str, (layers, batch, size))]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | ALLOCATION)
    found: dict[str, float] = json.loads(output.stdout)
    return found
