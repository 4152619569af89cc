"""Two processes, as `torchrun` starts them, against one: the same weights, and what happens when one is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.run
from torch import nn

from tests.training.conftest import ROOT
from tests.training.small import SilentBar
from tests.training.two_processes import CPU, DIES_AFTER, DROPPING, KINDS, LONG, NETWORK, WAYS, data, trained
from training.loop.batches import Batches
from training.loop.checkpoint import load_checkpoint, previous
from training.loop.synchronised import synchronise
from training.loop.trainer import Trainer
from training.loop.world import World
from training.recipes.recipe import Recipe

# Of the norm of a tensor. Sums are added up in another order, in float64 but for Muon, whose matrices are bfloat16;
# images are augmented and mixed in single precision, which does not round a share of them as it does the whole.
TOLERANCES = {"sgd": 1e-11, "adamw": 1e-7, "muon": 2e-2}
SINGLE = 1e-4


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind, the second of which died in the end."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.training.two_processes", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0, "the job must not end well"
    assert (folder / "error").exists(), done.stderr
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_reach_the_weights_of_one(way: str, together: Path, tmp_path: Path) -> None:
    both = load_checkpoint(together / f"{way}.pt")
    alone = trained(WAYS[way], tmp_path, kind=KINDS[way])
    for part, model in (("state", alone.model), ("averaged", alone.averaged)):
        for name, value in model.state_dict().items():
            error = (both[part][name].double() - value.double()).norm() / value.double().norm().clamp(min=1e-3)
            assert error < TOLERANCES[way], f"{part} {name}"
    for ours, theirs in zip(alone.history, both["history"], strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-3)
        # Each of the 21 images counts once: accuracies are multiples of 1/21.
        assert theirs["held_out_accuracy"] * 21 == pytest.approx(round(theirs["held_out_accuracy"] * 21))
        assert theirs["held_out_loss"] == pytest.approx(ours["held_out_loss"], rel=2e-2)


def test_a_lost_process_ends_the_job_and_says_how_to_go_on(together: Path) -> None:
    message = (together / "error").read_text()
    assert message.startswith("process 0 of 2 lost another one (")
    assert message.endswith("): start the job again with --resume")


def test_after_a_loss_another_number_of_processes_goes_on(together: Path, tmp_path: Path) -> None:
    stored = load_checkpoint(together / "lost.pt")
    # The third step is the last of its epoch, which is saved as a whole.
    assert (stored["epoch"], stored["within"]["done"]) == (1, DIES_AFTER - 3)
    assert previous(together / "lost.pt").exists()
    run = Trainer(NETWORK, LONG, data(), CPU)
    run.restore(together / "lost.pt")
    run.train(tmp_path / "rest.pt", SilentBar())
    for name, value in trained(LONG, tmp_path).model.state_dict().items():
        error = (run.model.state_dict()[name].double() - value.double()).norm() / value.double().norm().clamp(min=1e-3)
        assert error < SINGLE, name


def test_random_draws_of_the_network_are_not_resumed_by_other_processes(together: Path) -> None:
    path = previous(together / "dropping.pt")
    assert load_checkpoint(path)["within"]["done"] == 2
    with pytest.raises(ValueError, match=r"within an epoch by 2 processes, each of which drew .*not with 1"):
        Trainer(DROPPING, LONG, data(), CPU).restore(path)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_image_of_a_batch_belongs_to_one_process(size: int) -> None:
    recipe = Recipe(batch_size=13, accumulation=2)
    shares = [Batches(data(), recipe, CPU, World(rank, size)).shares(0) for rank in range(size)]
    seen = [place for each in shares for share in each for place in range(share.start, share.stop)]
    assert sorted(seen) == list(range(13))


def test_batches_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match=r"batch 3 of 8 images is too small for 9 processes .*another --batch-size"):
        Batches(data(), Recipe(batch_size=16), CPU, World(0, 9))


def test_the_parts_of_all_processes_hold_all_held_out_images_once() -> None:
    parts = [World(rank, 4).part(21) for rank in range(4)]
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(21))


def test_synchronised_normalisation_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    """In one process, which is a world of its own, against PyTorch's: outputs, gradients and running statistics."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        generator = torch.Generator().manual_seed(0)
        ours = nn.Sequential(nn.BatchNorm2d(5))
        theirs = nn.Sequential(nn.BatchNorm2d(5))
        synchronise(ours, CPU)
        # Far from 0, where E[x²] − μ² would lose its digits.
        x = 300 + torch.randn(6, 5, 3, 4, generator=generator)
        weights = torch.randn(6, 5, 3, 4, generator=generator)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [norm(each) for norm, each in zip((ours, theirs), inputs, strict=True)]
        for output in outputs:
            (output * weights).sum().backward()
        torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
        for precision in (torch.bfloat16, torch.float16):
            # 343 is no number of bfloat16, and the sum of such x none of float16.
            x = (300 + torch.randn(7, 5, 7, 7, generator=generator)).to(precision)
            outputs = [norm.train()(x) for norm in (ours, theirs)]
            assert outputs[0].dtype == outputs[1].dtype == precision
            torch.testing.assert_close(*outputs, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-4)
    finally:
        torch.distributed.destroy_process_group()


def test_processes_that_go_on_from_unlike_places_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not see the folder of the run begins anew, and would train something else."""
    monkeypatch.setattr(World, "gather", lambda _, own: [torch.tensor([3, 2]), own])
    World(1, 2).check_alike([3, 2], CPU)
    with pytest.raises(ValueError, match=r"unlike places .*\[\[3, 2\], \[0, 0\]\]\): every node must see the run's"):
        World(1, 2).check_alike([0, 0], CPU)


def test_the_documented_command_is_one_that_torchrun_takes() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    command = next(line for line in page.splitlines() if line.startswith("torchrun "))
    found = torch.distributed.run.parse_args(command.split()[1:])  # type: ignore[no-untyped-call]
    assert (found.module, found.nproc_per_node, found.training_script) == (True, "2", "training")
    assert found.training_script_args == ["train", "--run", "runs/two", "--resume"]
