"""A published model → its next version with the catalogue's present bodies, meaning and baseline; weights stay.

For models that were published before a body became faster, or before the manifest told as much of a site.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
import onnx

from models.manifest import ActivationSite, ModelManifest
from models.opset import DOMAIN
from models.overloads import choose_overload
from models.parity import SAMPLE, ParitySample, sample_pixels
from models.preprocessing import pixels_to_tensor
from models.repository import ModelRepository
from training.activations.catalogue import find_activation
from training.activations.entry import Activation, ActivationModule
from training.data.images import DataSet
from training.data.sources import DataConfig, load_data
from training.export.graph import INPUT, OUTPUT, PARITY_BATCHES, PARITY_TOLERANCE, ExportParityError, open_session
from training.export.sites import describe_site
from training.publication.bundle import Publication, agreeing, publish_measured


def refresh(repository: ModelRepository, name: str, config: DataConfig, half: bool = False) -> Publication:
    """Publish the newest version of `name` again as the next one, accuracy and baseline measured on held-out data.

    With `half` it is published in half precision too, and so is a model that was.

    Raises `ValueError` when the data is not of the model's classes and pre-processing, and `ExportParityError` when
    an output of the new graph differs from the old one's by more than 1e-4; nothing is published then.
    """
    bundle = repository.open(name)
    manifest = bundle.manifest
    data = load_data(config)
    _check_data(manifest, data)
    made = manifest.training or manifest.origin
    parameters = made.activation_parameters if made else {}
    entries = [find_activation(site.activation, parameters) for site in manifest.sites]
    modules = [_module(entry, site) for entry, site in zip(entries, manifest.sites, strict=True)]
    sites = tuple(map(_described, manifest.sites, entries, modules))
    draft = manifest.model_copy(
        update={"sites": sites, "created": datetime.now(UTC), "baseline": "baseline.npz", "sample": SAMPLE}
    )
    old = onnx.load_from_string(bundle.graph)
    new = _with_present_bodies(old, modules)
    onnx.checker.check_model(new, full_check=True)
    parity = _check_parity(old, new, manifest)
    sample = _sample(old, manifest)
    return publish_measured(repository, draft, new, sample, data, parity, half or manifest.half is not None)


def _check_data(manifest: ModelManifest, data: DataSet) -> None:
    for what, of_model, of_data in (
        ("class names", manifest.class_names, data.class_names),
        ("pre-processing", manifest.preprocessing, data.preprocessing),
    ):
        if of_model != of_data:
            raise ValueError(
                f"{what} of {data.name} are {of_data}, those of model {manifest.name!r} are {of_model}: "
                "give the data that it was trained on"
            )


def _module(entry: Activation, site: ActivationSite) -> ActivationModule:
    """The activation of a site as the catalogue builds it; what it had learned is in the graph, not here."""
    return entry.build(site.channels * entry.width_before(1) // entry.width_after(1))


def _described(site: ActivationSite, entry: Activation, module: ActivationModule) -> ActivationSite:
    described = describe_site(site.name, site.tensor, site.activation, entry, module)
    if any(True for _ in module.parameters()):
        # What N(0, 1) becomes depends on what was learned.
        described = described.model_copy(update={"normal_mean": None, "normal_variance": None})
    return described


def _with_present_bodies(model: onnx.ModelProto, modules: Iterable[ActivationModule]) -> onnx.ModelProto:
    """A copy in which each function has the catalogue's body of its name, where that takes the same arguments."""
    bodies = (function for module in modules for function in module.node().functions())
    present = {(function.name, function.overload): function for function in bodies}
    published = {function.name: function for function in model.functions if function.domain == DOMAIN}
    fitting = {
        function.name
        for function in present.values()
        if function.name in published and _arguments(function) == _arguments(published[function.name])
    }
    refreshed = onnx.ModelProto()
    refreshed.CopyFrom(model)
    del refreshed.functions[:]
    refreshed.functions.extend(function for function in model.functions if function.name not in fitting)
    refreshed.functions.extend(function for function in present.values() if function.name in fitting)
    return refreshed


def _arguments(function: onnx.FunctionProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(function.input), tuple(sorted(function.attribute))


def _sample(old: onnx.ModelProto, manifest: ModelManifest) -> ParitySample:
    """Its logits are those of the version before, in a stock ONNX Runtime."""
    pixels = sample_pixels(manifest.preprocessing)
    (logits,) = open_session(old).run([OUTPUT], {INPUT: pixels_to_tensor(pixels, manifest.preprocessing)})
    return ParitySample(pixels, logits, agreeing(manifest.sites[0].activation))


def _check_parity(old: onnx.ModelProto, new: onnx.ModelProto, manifest: ModelManifest) -> float:
    """The largest difference of any output on random images, over every overload of the new graph."""
    random = np.random.default_rng()
    batches = [
        random.integers(0, 256, (batch, *manifest.inputs[0].shape[1:])).astype(np.float32) for batch in PARITY_BATCHES
    ]
    names = [output.name for output in manifest.outputs]
    before = open_session(old)
    expected = [before.run(names, {INPUT: pixels}) for pixels in batches]
    worst = 0.0
    for overload in sorted({function.overload for function in new.functions}):
        after = open_session(choose_overload(new, overload))
        for pixels, published in zip(batches, expected, strict=True):
            for name, actual, value in zip(names, after.run(names, {INPUT: pixels}), published, strict=True):
                difference = float(np.abs(actual - value).max())
                if not difference <= PARITY_TOLERANCE:
                    raise ExportParityError(
                        f"{name} with the present bodies differ from the published ones by {difference}; "
                        f"at most {PARITY_TOLERANCE} is allowed: nothing was published"
                    )
                worst = max(worst, difference)
    return worst
