"""Which execution provider runs the models: decided once, by trying, and never changed silently."""

import contextlib
import io
from typing import Literal

import onnxruntime
from onnx import TensorProto, helper

from models.opset import IR_VERSION, STANDARD_OPSET
from service.errors import StartupError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

FATAL = 4


def choose_provider(asked: Literal["auto", "cpu", "cuda"], device: int = 0) -> str:
    """The provider to run every model with; `device` is the number of the CUDA device.

    A build of ONNX Runtime with CUDA says that CUDA is available on a machine without a GPU too, so a session of one
    node is opened to know. Raises `StartupError` when CUDA was asked for by name and does not work.
    """
    if asked == "cpu":
        return CPU
    reason = _why_cuda_fails(device)
    if reason is None:
        return CUDA
    if asked == "cuda":
        raise StartupError(
            f"CUDA was asked for and does not work here: {reason}. "
            "Install the extra 'cuda' and a driver, or set RESLENS_PROVIDER=cpu"
        )
    return CPU


def _why_cuda_fails(device: int) -> str | None:
    if CUDA not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider"
    complaints = io.StringIO()
    # Both complain on the terminal where CUDA is absent, which is no news to someone who asked for `auto`.
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        with contextlib.redirect_stdout(complaints):
            onnxruntime.preload_dlls()
        providers = [(CUDA, {"device_id": str(device)}), CPU]
        session = onnxruntime.InferenceSession(_one_node(), providers=providers, enable_fallback=0)
    except Exception as error:
        return str(error)
    finally:
        onnxruntime.set_default_logger_severity(2)
    if CUDA in session.get_providers():
        return None
    return (complaints.getvalue().strip().splitlines() or ["the CUDA provider cannot be created: no usable GPU"])[0]


def _one_node() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", STANDARD_OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())
