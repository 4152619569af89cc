"""Names for what was found: the module that a node was traced in, where the exporter says it, else the node's own."""

import ast
from collections.abc import Iterable

from onnx import NodeProto

from models.manifest import plain_name

SCOPES = "pkg.torch.onnx.name_scopes"
LONGEST = 100
"""Room is left for a number behind it."""


def module_path(node: NodeProto) -> str:
    """Path of the innermost module that a node belongs to, `layer1.0.act1`; empty if it is the network itself.

    From the metadata of PyTorch's exporter; else from the node's name, whose last component is the operation:
    `/layer1/layer1.0/act1/Relu` of PyTorch's older exporter, `layer1.0.add` of this project's.
    """
    for entry in node.metadata_props:
        if entry.key == SCOPES and (scopes := _strings(entry.value)):
            return scopes[-2] if len(scopes) > 1 else ""
    if "/" in node.name:
        return _joined([part for part in node.name.split("/") if part][:-1])
    path, _, last = node.name.rpartition(".")
    return path if last.lower() == node.op_type.lower() else ""


def own_name(node: NodeProto) -> str:
    """The node's name, or the name of what it puts out."""
    return node.name or node.output[0]


def distinct(names: Iterable[str]) -> list[str]:
    """Plain names, none twice: `act`, `act.2`."""
    taken: set[str] = set()
    chosen = []
    for base in map(_plain, names):
        name, number = base, 2
        while name in taken:
            name, number = f"{base}.{number}", number + 1
        taken.add(name)
        chosen.append(name)
    return chosen


def _joined(parts: list[str]) -> str:
    """`layer1/layer1.0/act1` is `layer1.0.act1`: a part that repeats the one before it takes its place."""
    path: list[str] = []
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)


def _strings(text: str) -> list[str]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [str(part) for part in value] if isinstance(value, list) else []


def _plain(name: str) -> str:
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name).strip("._-")
    return plain_name(safe[-LONGEST:].lstrip("._-") or "unnamed")
