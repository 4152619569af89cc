"""The activation maps of one layer for one image: a session of its own for each layer that somebody looks at."""

from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.manifest import ActivationSite
from models.repository import BrokenBundleError, ModelRepository
from service.errors import ModelUnavailableError, NotFoundError
from service.runtime.device_thread import device_thread
from service.runtime.direct import DirectSession
from service.runtime.failures import fault
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU
from service.runtime.sessions import Sessions

# Each has the weights of its model, up to the layer, once more.
MAX_SESSIONS = 4
OUTPUT = "map"

# The digest of a graph, and a layer.
_Key = tuple[str, str]


class _Open(NamedTuple):
    session: DirectSession
    weights: Sessions
    """Owns what the session runs with."""


class LayerMaps:
    """Opens a session that ends at a layer when it is asked for, and keeps the last few. Safe to share."""

    def __init__(self, repository: ModelRepository, threads: int) -> None:
        self._repository = repository
        self._threads = threads
        self._sessions: OrderedDict[_Key, _Open] = OrderedDict()
        self._lock = Lock()

    def map(self, model: LoadedModel, layer: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """What leaves the layer for a batch of one: channels × height × width.

        Raises `NotFoundError` that lists the layers, `ModelUnavailableError` when the graph cannot be read any more.
        """
        site = find_site(model, layer)
        key = (model.manifest.digests[model.manifest.graph], layer)
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = self._open(model, site)
            self._sessions.move_to_end(key)
            opened = self._sessions[key]
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        try:
            (values,) = opened.session.run([OUTPUT], tensor)
        # ONNX Runtime's exceptions have no base of their own.
        except Exception as error:
            raise fault(f"{model.manifest.name} to {layer}", len(tensor), error) from error
        activation: NDArray[np.float32] = values[0]
        return activation.reshape(*activation.shape, *(1,) * (3 - activation.ndim))

    def _open(self, model: LoadedModel, site: ActivationSite) -> _Open:
        manifest = model.manifest
        try:
            bundle = self._repository.open(manifest.name, manifest.version)
        except BrokenBundleError as error:
            raise ModelUnavailableError(f"the maps of {manifest.name!r} cannot be computed: {error.reason}") from error
        sessions = Sessions(model.provider, self._threads, model.cuda)
        session = sessions.open(ending_at(model.graph_of(bundle), site.tensor).SerializeToString())
        thread = None if model.provider == CPU else device_thread()
        return _Open(DirectSession(session, thread), sessions)


def find_site(model: LoadedModel, layer: str) -> ActivationSite:
    """The activation site of this name; raises `NotFoundError` that lists all."""
    for site in model.manifest.sites:
        if site.name == layer:
            return site
    names = ", ".join(site.name for site in model.manifest.sites)
    raise NotFoundError(f"model {model.manifest.name!r} has no layer {layer!r}; choose from {names}")


def ending_at(graph: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """A copy whose only output is `tensor`, in single precision; ONNX Runtime leaves out what it does not need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    copy.graph.node.append(helper.make_node("Cast", [tensor], [OUTPUT], to=TensorProto.FLOAT))
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None))
    return copy
