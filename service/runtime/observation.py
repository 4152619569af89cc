"""A run whose outputs somebody else sees too."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import ModelFaultError
from service.runtime.model import LoadedModel, Tensors

Observer = Callable[[LoadedModel, Tensors], None]


def run(
    model: LoadedModel, tensor: NDArray[np.float32], outputs: Sequence[str], observer: Observer | None = None
) -> Tensors:
    """As `LoadedModel.run`; an observer is given the logits and all statistics of the batch.

    Observing never makes a request fail: when the instrumented run does, the plain one answers.
    """
    if observer is None:
        return model.run(tensor, outputs)
    try:
        values = model.run(tensor, tuple(dict.fromkeys((*outputs, model.logits_name, *model.statistics_names))))
    except ModelFaultError:
        return model.run(tensor, outputs)
    observer(model, values)
    return values
