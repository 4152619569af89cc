"""`python -m service add`: publish an ONNX file that was not made here."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from models.foreign.reading import ImageInput, image_input, read_graph
from models.manifest import HostNormalisation, Preprocessing, plain_name
from models.preprocessing import RESAMPLING
from models.repository import ModelRepository
from service.commands.adoption import Adopted, adopt
from service.errors import explain
from service.settings import Settings, own_repository

MAX_TEXT_BYTES = 4 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", type=Path, help="the ONNX file; weights in files beside it are read in")
    parser.add_argument("--name", required=True, help="name of the model; one that is there gets another version")
    parser.add_argument("--labels", type=Path, required=True, help="file of class names: one a line, or a JSON list")
    parser.add_argument("--baseline-images", type=Path, metavar="DIR", help="images not trained on, flat or <class>/*")
    parser.add_argument("--repository", type=Path, help="where to publish; the one that the service reads if not given")
    parser.add_argument("--output", help="the tensor of the logits, where the graph has several outputs")
    parser.add_argument("--description", default="", help="what the model is")
    group = parser.add_argument_group("pre-processing", "either a file, or the other options")
    group.add_argument("--preprocessing", type=Path, metavar="FILE", help="JSON as in a manifest's `preprocessing`")
    group.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="of the crop: side, or height and width")
    group.add_argument("--resize", type=int, help="shorter side before the crop; the crop's longer side if not given")
    group.add_argument("--interpolation", choices=sorted(RESAMPLING), help="bilinear if not given")
    group.add_argument("--mean", type=float, nargs="+", help="of pixels/255, one or one a channel")
    group.add_argument("--std", type=float, nargs="+", help="of pixels/255, one or one a channel")
    group.add_argument("--raw-pixels", action="store_true", help="the graph takes pixels 0…255 and normalises itself")


def run(arguments: argparse.Namespace) -> None:
    """Publish what the arguments say; raises `ValueError` for whatever is wrong with it."""
    plain_name(arguments.name)
    labels = read_labels(arguments.labels)
    given = read_graph(arguments.file)
    preprocessing = _preprocessing(arguments, image_input(given))
    root = arguments.repository or own_repository(Settings())
    if root.exists() and not root.is_dir():
        raise ValueError(f"repository {root} is not a directory: name one, or a place where one can be made")
    done = adopt(
        given,
        ModelRepository(root),
        arguments.name,
        labels,
        preprocessing,
        arguments.baseline_images,
        arguments.output,
        arguments.description,
    )
    print(report(done, root))


def report(done: Adopted, root: Path) -> str:
    """What was published, for a person."""
    kinds = ", ".join(dict.fromkeys(site.activation for site in done.sites))
    lines = [
        f"published {done.name} version {done.version} in {root.resolve()}",
        f"{len(done.sites)} activations ({kinds}) and {len(done.blocks)} residual blocks are watched",
    ]
    if done.before_softmax:
        lines.append("the final softmax was taken off: the service computes probabilities itself")
    if done.metrics:
        lines.append(f"accuracy {done.metrics.accuracy:.2%} on {done.metrics.images} images ({done.metrics.data})")
    if done.images:
        lines.append(f"the baseline is of {done.images} images")
    else:
        lines.append("no baseline: give --baseline-images to have live traffic compared with one")
    lines += [f"not used: {path}: {reason}" for path, reason in done.unusable.items()]
    return "\n".join(lines)


def read_labels(path: Path) -> list[str]:
    """Class names in their order, one a line or a JSON list; raises `ValueError` for anything else."""
    text = _read_text(path, "file of labels")
    if text.lstrip().startswith(("[", "{")):
        labels = _parse_json(text, path)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"{path} is not a JSON list of strings: give the class names in the order of the outputs")
    else:
        labels = [line.strip() for line in text.rstrip().splitlines()]
    if len(labels) < 2 or not all(labels):
        raise ValueError(f"{path} has {len(labels)} labels, some of them empty or too few: a classifier has 2 or more")
    return labels


def _preprocessing(arguments: argparse.Namespace, images: ImageInput) -> Preprocessing:
    if arguments.preprocessing is not None:
        single = ("size", "resize", "interpolation", "mean", "std")
        both = [f"--{name}" for name in single if getattr(arguments, name) is not None]
        if both or arguments.raw_pixels:
            raise ValueError(
                f"--preprocessing and {', '.join([*both, '--raw-pixels'][:1])} exclude each other: leave one"
            )
        fields = _parse_json(_read_text(arguments.preprocessing, "pre-processing file"), arguments.preprocessing)
        return _validated(fields, str(arguments.preprocessing))
    channels = images.channels or 3
    height, width = _size(arguments.size, images)
    fields = {
        "channels": channels,
        "height": height,
        "width": width,
        "resize": arguments.resize if arguments.resize is not None else max(height, width),
        "interpolation": arguments.interpolation or "bilinear",
        "normalisation": _normalisation(arguments, channels),
    }
    return _validated(fields, "pre-processing")


def _size(size: Sequence[int] | None, images: ImageInput) -> tuple[int, int]:
    if size is None:
        if not (images.height and images.width):
            raise ValueError(f"input {images.name!r} leaves its size open: say it with --size")
        return images.height, images.width
    if len(size) > 2:
        raise ValueError(
            f"--size {' '.join(map(str, size))} has {len(size)} numbers: give the side, or height and width"
        )
    return size[0], size[-1]


def _normalisation(arguments: argparse.Namespace, channels: int) -> HostNormalisation | None:
    mean, std = arguments.mean, arguments.std
    if arguments.raw_pixels == bool(mean or std) or bool(mean) != bool(std):
        raise ValueError(
            "say what the graph takes: --raw-pixels for pixels 0…255, or --mean and --std of (pixels/255 − mean)/std, "
            "--mean 0 --std 1 for 0…1"
        )
    if not mean:
        return None
    try:
        return HostNormalisation(
            mean=mean * channels if len(mean) == 1 else mean, std=std * channels if len(std) == 1 else std
        )
    except ValidationError as error:
        raise ValueError(f"--mean and --std: {explain(error)}") from error


def _validated(fields: object, where: str) -> Preprocessing:
    try:
        return Preprocessing.model_validate(fields)
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error)}") from error


def _read_text(path: Path, what: str) -> str:
    if not path.is_file():
        raise ValueError(f"{what} {path} does not exist")
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"{what} {path} has {path.stat().st_size:,} bytes: at most {MAX_TEXT_BYTES:,} were expected")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {path} is not UTF-8 text ({error}): save it as such") from error


def _parse_json(text: str, path: Path) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
