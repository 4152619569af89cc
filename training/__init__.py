"""Everything that needs PyTorch: networks, activations, training, export and publication."""

import os

# Before ONNX Runtime is imported: its official builds send usage data, hashes of models included, unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
