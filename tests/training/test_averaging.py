"""The exponential average, against PyTorch's own and a loop over the weights."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.loop.averaging import Averaging
from training.resnet.network import NetworkConfig, build_network

STEPS = 7.0


def moved(model: nn.Module) -> None:
    """Another step: parameters by noise, statistics by a batch, which counts itself."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
        model.train()(torch.randn(4, 3, 8, 8))


def test_the_average_is_pytorchs_bit_for_bit_and_counts_are_the_last() -> None:
    torch.manual_seed(0)
    model = build_network(NetworkConfig("resnet8", "prelu"))
    decay = torch.tensor(-1 / STEPS, dtype=torch.float64).exp().item()
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    ours = Averaging(model, "ema", STEPS, 0.0)
    for _ in range(5):
        moved(model)
        theirs.update_parameters(model)
        ours.after_step(model)
    expected, found = theirs.state_dict(), ours.average.state_dict()
    assert expected.keys() == found.keys()
    counts = {name for name, value in model.state_dict().items() if not value.is_floating_point()}
    assert counts
    for name, value in found.items():
        inside = name.removeprefix("module.")
        assert torch.equal(value, model.state_dict()[inside] if inside in counts else expected[name]), name
    assert found["n_averaged"] == 5


def test_an_average_that_is_taken_up_goes_on_as_it_would_have() -> None:
    torch.manual_seed(0)
    model = build_network(NetworkConfig("resnet8"))
    whole = Averaging(model, "ema", STEPS, 0.0)
    moved(model)
    whole.after_step(model)
    resumed = Averaging(model, "ema", STEPS, 0.0)
    resumed.average.load_state_dict(copy.deepcopy(whole.average.state_dict()))
    moved(model)
    for each in (whole, resumed):
        each.after_step(model)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    weight = next(resumed.average.module.parameters())
    assert not torch.equal(weight, next(model.parameters()))
