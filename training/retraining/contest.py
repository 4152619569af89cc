"""Champion and challenger on the same images: their logits, their layers, and how long they run."""

import time
from collections.abc import Collection

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from models.diagnosis.diagnose import Diagnostician
from models.diagnosis.finding import Diagnosis
from models.diagnosis.thresholds import Thresholds
from models.manifest import ModelManifest, Preprocessing
from models.overloads import choose_overload
from models.preprocessing import pixels_to_tensor
from models.statistics.baseline import Baseline
from training.export.graph import INPUT, OUTPUT, open_session

BATCH = 64
ROUNDS = 31
SPEED_BATCH = 8
ENOUGH = 100
"""Images of the rules about layers: what is held out is few, and looked at once, not every five minutes."""
RULES: Collection[str] = (
    "not_finite",
    "half_precision",
    "dead_channels",
    "dormant_channels",
    "dying_layer",
    "saturation",
)
"""About layers that cannot work, whatever the images are."""


def logits(model: onnx.ModelProto, pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """N×K, of pixels N×C×H×W."""
    session = open_session(model)
    batches = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
    return np.concatenate(
        [session.run([OUTPUT], {INPUT: pixels_to_tensor(batch, preprocessing)})[0] for batch in batches]
    )


def diagnose(manifest: ModelManifest, challenger: Baseline, champion: Baseline | None) -> Diagnosis:
    """What is wrong with the challenger's layers on held-out images, beside the champion's on the same ones."""
    thresholds = Thresholds(minimum_images=dict.fromkeys(RULES, ENOUGH))
    return Diagnostician(manifest, champion, thresholds).diagnose(challenger.window, RULES)


def run_time_ratios(
    champion: onnx.ModelProto, challenger: onnx.ModelProto, pixels: NDArray[np.uint8], preprocessing: Preprocessing
) -> list[float]:
    """Run time of the challenger over that of the champion, on one CPU thread, in pairs one after the other.

    Who is first alternates, so that neither has the warmer cache; what else the machine does falls on both.
    """
    feed = {INPUT: pixels_to_tensor(pixels[:SPEED_BATCH], preprocessing)}
    sessions = [_session(model) for model in (champion, challenger)]
    for session in sessions:
        session.run([OUTPUT], feed)
    ratios = []
    for number in range(ROUNDS):
        seconds = [0.0, 0.0]
        for index in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            sessions[index].run([OUTPUT], feed)
            seconds[index] = time.perf_counter() - started
        ratios.append(seconds[1] / seconds[0])
    return ratios


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = choose_overload(model, "cpu").SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
