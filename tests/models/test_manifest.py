import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from models.manifest import ModelManifest, PlainName, Preprocessing
from tests import bundles

plain_names: TypeAdapter[str] = TypeAdapter(PlainName)


@pytest.fixture
def manifest() -> ModelManifest:
    return bundles.manifest("tiny", 1, {"model.onnx": "0" * 64})


def test_survives_json(manifest: ModelManifest) -> None:
    assert ModelManifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_a_manifest_from_before_the_activations_told_more_is_read(manifest: ModelManifest) -> None:
    written = json.loads(manifest.model_dump_json())
    for site in written["sites"]:
        for field in ("output_range", "zero_is_dead", "normal_mean", "normal_variance"):
            del site[field]
    read = ModelManifest.model_validate_json(json.dumps(written))
    assert read == manifest
    for site in read.sites:
        assert site.output_range is site.zero_is_dead is site.normal_mean is site.normal_variance is None
        assert site.expected_mean_shift is None


@pytest.mark.parametrize(
    ("mean", "variance", "expected"),
    [
        (0.0, 1.0, 0.0),
        (2.0, 0.0, 1.0),
        (3.0, 1.0, 0.9),
        # A function that is zero everywhere is shifted nowhere.
        (0.0, 0.0, None),
        (1.0, None, None),
        (None, 1.0, None),
    ],
)
def test_expected_mean_shift(
    manifest: ModelManifest, mean: float | None, variance: float | None, expected: float | None
) -> None:
    site = manifest.sites[0].model_copy(update={"normal_mean": mean, "normal_variance": variance})
    assert site.expected_mean_shift == expected


def test_is_immutable(manifest: ModelManifest) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        manifest.version = 2


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 2},
        {"version": 0},
        {"name": "../tiny"},
        {"class_names": ("one",)},
        {"inputs": ()},
        {"graph": "../model.onnx"},
        {"digests": {}},
        {"digests": {"model.onnx": "0" * 63}},
        {"digests": {"model.onnx": "0" * 64, "extra": "0" * 64}},
        {"baseline": "baseline.npz"},
        {"unknown": 1},
        {"sites": ()},
        {"sites": bundles.manifest("tiny", 1, {"model.onnx": "0" * 64}).sites[:1] * 2},
        {"blocks": bundles.manifest("tiny", 1, {"model.onnx": "0" * 64}).blocks * 2},
    ],
)
def test_what_contradicts_the_contract_is_refused(manifest: ModelManifest, changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelManifest.model_validate(manifest.model_dump() | changes)


def test_a_crop_must_fit_into_the_resized_image() -> None:
    with pytest.raises(ValidationError, match="smaller than the crop"):
        Preprocessing(channels=3, height=32, width=48, resize=40)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), (0.5,)), ((0.5,) * 3, (0.5,)), ((0.5,) * 3, (0.5, 0.0, 0.5)), ((float("nan"),) * 3, (0.5,) * 3)],
)
def test_normalisation_needs_a_mean_and_a_positive_std_for_each_channel(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    fields = {"channels": 3, "height": 8, "width": 8, "resize": 8}
    Preprocessing.model_validate(fields | {"normalisation": {"mean": (0.5,) * 3, "std": (0.5,) * 3}})
    with pytest.raises(ValidationError, match="normalisation"):
        Preprocessing.model_validate(fields | {"normalisation": {"mean": mean, "std": std}})


@settings(deadline=None)
@given(st.text())
def test_a_plain_name_is_always_one_harmless_path_component(name: str) -> None:
    try:
        plain_names.validate_python(name)
    except ValidationError:
        return
    assert name.isascii()
    assert 0 < len(name) <= 128
    assert name[0] not in ".-_"
    assert not set(name) & set("/\\\0: \n\t%")


@pytest.mark.parametrize("name", ["digits", "cifar10-resnet20-relu", "a", "9.1_b"])
def test_ordinary_names_are_plain(name: str) -> None:
    assert plain_names.validate_python(name) == name
