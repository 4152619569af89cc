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
