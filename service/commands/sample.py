"""`python -m service sample`: publish the newest version of a model again, with images and the logits they must give.

For models that were published before there were such samples; all other files stay as they are.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from models.manifest import ModelManifest
from models.parity import SAMPLE, ParitySample, sample_pixels
from models.repository import Bundle, ModelRepository
from service.commands.repository import repository_of
from service.runtime.cpus import available_cpus
from service.runtime.model import LoadedModel
from service.runtime.parity import logits_of
from service.runtime.provider import CPU


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", help="name of the model")
    parser.add_argument("--repository", type=Path, help="the one that the service reads if not given")


def run(arguments: argparse.Namespace) -> None:
    """Publish the next version; raises `ValueError` where there is a sample already, or the model does not load."""
    repository = repository_of(arguments.repository)
    version = add_sample(repository, arguments.model)
    print(f"published {arguments.model} version {version} in {repository.root.resolve()}")


def add_sample(repository: ModelRepository, name: str) -> int:
    """The number of the version that is published; its logits are those that this machine's CPU computes."""
    bundle = repository.open(name)
    if bundle.sample is not None:
        raise ValueError(f"model {name!r} version {bundle.manifest.version} has a parity sample already")
    try:
        model = LoadedModel(bundle, CPU, available_cpus())
    # Whatever keeps the service from serving it, here or in ONNX Runtime.
    except Exception as error:
        raise ValueError(f"the service cannot run model {name!r}: {error}") from error
    pixels = sample_pixels(bundle.manifest.preprocessing)
    files = {**_files(bundle), SAMPLE: ParitySample(pixels, logits_of(model, pixels)).to_bytes()}

    def describe(version: int, digests: dict[str, str]) -> ModelManifest:
        changes = {"version": version, "digests": digests, "sample": SAMPLE, "created": datetime.now(UTC)}
        return bundle.manifest.model_copy(update=changes)

    return repository.publish(name, files, describe)


def _files(bundle: Bundle) -> dict[str, bytes]:
    manifest = bundle.manifest
    half = manifest.half.graph if manifest.half else ""
    files = {manifest.graph: bundle.graph, manifest.baseline or "": bundle.baseline, half: bundle.half}
    return {file: content for file, content in files.items() if content is not None}
