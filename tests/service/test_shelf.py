import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from models.repository import Bundle, ModelRepository, UnknownModelError, UnknownVersionError
from service.control.control import Control
from service.errors import ModelFaultError, ModelUnavailableError
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU
from service.runtime.shelf import Failure, ModelShelf
from tests import bundles
from tests.service.conftest import serving

Loader = Callable[[Bundle], LoadedModel]


class CountingLoader:
    """Loads for real, and remembers what; slowly enough for others to come while it does."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def __call__(self, bundle: Bundle) -> LoadedModel:
        self.loaded.append(bundle.manifest.version)
        time.sleep(0.05)
        return LoadedModel(bundle, CPU, threads=1)


@pytest.fixture
def loader() -> CountingLoader:
    return CountingLoader()


class Shelf:
    """A shelf with a control that has no other replica, asked as routes ask."""

    def __init__(self, root: Path, load: Loader, max_named: int = 2) -> None:
        repository = ModelRepository(root)
        self.shelf = ModelShelf(repository, load)
        self.control = Control(repository, max_named=max_named)
        self.joined = False

    async def join(self) -> None:
        if not self.joined:
            self.joined = True
            await self.control.join(self.shelf)

    async def start(self) -> None:
        await self.join()
        await self.control.start()

    async def get(self, name: str, version: int | None = None) -> LoadedModel:
        await self.join()
        if self.shelf.find(name, version) is None:
            await self.control.demand(name, version)
        model = self.shelf.find(name, version)
        assert model is not None
        return model

    async def ready(self) -> set[int]:
        return {state.version for state in await self.control.states() if state.state == "READY"}

    @property
    def failures(self) -> list[Failure]:
        return self.shelf.failures


@pytest.fixture
def shelf(tmp_path: Path, loader: CountingLoader) -> Shelf:
    for seed in range(4):
        bundles.publish(tmp_path, "tiny", bundles.Tiny.random(seed))
    return Shelf(tmp_path, loader)


def test_only_the_newest_version_is_loaded_at_start(shelf: Shelf, loader: CountingLoader) -> None:
    async def scenario() -> None:
        await shelf.start()
        assert [model.manifest.version for model in shelf.shelf.served()] == [4]
        assert (await shelf.get("tiny")) is (await shelf.get("tiny", 4))

    anyio.run(scenario)
    assert loader.loaded == [4]


def test_many_requests_for_one_version_load_it_once(shelf: Shelf, loader: CountingLoader) -> None:
    got: list[LoadedModel] = []

    async def ask() -> None:
        got.append(await shelf.get("tiny", 2))

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(ask)

    anyio.run(scenario)
    assert loader.loaded == [2]
    assert len(got) == 20
    assert len(set(map(id, got))) == 1


def test_a_caller_that_goes_away_does_not_take_the_load_along(shelf: Shelf, loader: CountingLoader) -> None:
    async def scenario() -> None:
        with anyio.move_on_after(0.01):
            await shelf.get("tiny", 1)
        await shelf.get("tiny", 1)

    anyio.run(scenario)
    assert loader.loaded == [1]


def test_the_version_that_was_loaded_first_makes_room(shelf: Shelf, loader: CountingLoader) -> None:
    async def scenario() -> None:
        await shelf.start()
        for version in (1, 2, 1, 3, 2, 1):
            assert (await shelf.get("tiny", version)).manifest.version == version
        assert await shelf.ready() == {1, 3, 4}

    anyio.run(scenario)
    assert loader.loaded == [4, 1, 2, 3, 1]


def test_a_version_published_later_is_loaded_when_it_is_named(shelf: Shelf, tmp_path: Path) -> None:
    async def scenario() -> None:
        await shelf.start()
        bundles.publish(tmp_path, "tiny")
        bundles.publish(tmp_path, "new")
        assert (await shelf.get("tiny", 5)).manifest.version == 5
        assert (await shelf.get("tiny")).manifest.version == 4
        assert (await shelf.get("new")).manifest.version == 1

    anyio.run(scenario)


def test_a_failed_version_is_not_tried_again(shelf: Shelf, loader: CountingLoader, tmp_path: Path) -> None:
    bundles.publish(tmp_path, "tiny", graph=b"broken")

    async def scenario() -> None:
        for _ in range(3):
            with pytest.raises(
                ModelUnavailableError, match="version 5 cannot be served: the graph is not an ONNX model"
            ):
                await shelf.get("tiny", 5)
        assert (await shelf.get("tiny")).manifest.version == 4
        (failure,) = shelf.failures
        assert failure[:2] == ("tiny", 5)

    anyio.run(scenario)
    assert loader.loaded == [5, 4]


def test_a_failed_version_is_tried_again_by_a_load_alone(shelf: Shelf, loader: CountingLoader, tmp_path: Path) -> None:
    bundles.publish(tmp_path, "tiny", graph=b"broken")

    async def scenario() -> None:
        await shelf.start()
        for _ in range(2):
            with pytest.raises(ModelUnavailableError):
                await shelf.control.load("tiny")
            for _ in range(2):
                with pytest.raises(ModelUnavailableError):
                    await shelf.get("tiny", 5)
        assert (await shelf.get("tiny")).manifest.version == 4

    anyio.run(scenario)
    assert loader.loaded == [5, 4, 5, 5]


@pytest.mark.parametrize("error", [OSError("no space left"), MemoryError()])
def test_what_the_system_refused_is_tried_again(tmp_path: Path, error: Exception) -> None:
    bundles.publish(tmp_path)
    attempts = iter([error, None])

    def load(bundle: Bundle) -> LoadedModel:
        if problem := next(attempts):
            raise problem
        return LoadedModel(bundle, CPU, threads=1)

    shelf = Shelf(tmp_path, load)

    async def scenario() -> None:
        await shelf.start()
        (failure,) = shelf.failures
        assert failure.reason in ("no space left", "MemoryError()")
        assert (await shelf.get("tiny")).manifest.version == 1
        assert shelf.failures == []

    anyio.run(scenario)


def test_what_is_replaced_is_let_go_with_the_last_request_that_has_it(shelf: Shelf, tmp_path: Path) -> None:
    async def scenario() -> None:
        await shelf.start()
        held: LoadedModel | None = await shelf.get("tiny")
        gone = weakref.ref(held)
        bundles.publish(tmp_path, "tiny")
        await shelf.control.load("tiny")
        gc.collect()
        assert gone() is not None
        del held
        gc.collect()
        assert gone() is None

    anyio.run(scenario)


def test_what_is_being_loaded_is_said(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def load(bundle: Bundle) -> LoadedModel:
        begun.set()
        assert go_on.wait(10)
        return LoadedModel(bundle, CPU, threads=1)

    shelf = Shelf(tmp_path, load)

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(shelf.start)
            await anyio.to_thread.run_sync(begun.wait, 10)
            (state,) = await shelf.control.states()
            assert (state.version, state.state, state.reason) == (1, "LOADING", "")
            go_on.set()
        assert await shelf.ready() == {1}

    anyio.run(scenario)


def test_models_are_served_where_no_file_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles.publish(tmp_path)
    bundle = ModelRepository(tmp_path).open("tiny")
    images = bundles.np.full((1, 3, 8, 8), 7, bundles.np.float32)
    outputs = ("logits", "statistics.mean")
    expected = LoadedModel(bundle, CPU, threads=1).run(images, outputs)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    values = LoadedModel(bundle, CPU, threads=1).run(images, outputs)
    for output in outputs:
        bundles.np.testing.assert_allclose(values[output], expected[output], rtol=1e-5)


def test_unknown_names_and_versions_are_no_failures(shelf: Shelf) -> None:
    async def scenario() -> None:
        with pytest.raises(UnknownModelError):
            await shelf.get("absent")
        with pytest.raises(UnknownModelError):
            await shelf.get("absent", 1)
        with pytest.raises(UnknownVersionError):
            await shelf.get("tiny", 9)

    anyio.run(scenario)
    assert shelf.failures == []


def test_the_instrumented_session_holds_no_weights_of_its_own(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    memory = LoadedModel(ModelRepository(tmp_path).open("tiny"), CPU, threads=1).memory
    # The convolutions' are the tensors worth sharing.
    assert memory.weights == bundles.CHANNELS * (3 + bundles.CHANNELS) * 9 * 4
    assert memory.statistics == 0


def test_plain_requests_never_run_the_instrumented_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles.publish(tmp_path)
    model = LoadedModel(ModelRepository(tmp_path).open("tiny"), CPU, threads=1)
    images = bundles.np.zeros((1, 3, 8, 8), bundles.np.float32)
    monkeypatch.delattr(model, "_instrumented")
    assert list(model.run(images, ("logits",))) == ["logits"]
    with pytest.raises(ModelFaultError, match="_instrumented"):
        model.run(images, ("logits", "statistics.mean"))


def test_versions_load_while_others_answer(tmp_path: Path) -> None:
    for seed in range(6):
        bundles.publish(tmp_path, "tiny", bundles.Tiny.random(seed))
    stop = threading.Event()
    with serving(tmp_path) as client, ThreadPoolExecutor(4) as pool:

        def answer_meanwhile() -> list[int]:
            codes = []
            while not stop.is_set():
                codes.append(client.get("/v2/models/tiny/ready").status_code)
            return codes

        meanwhile = pool.submit(answer_meanwhile)
        try:
            for version in (1, 2, 3, 4, 5, 1):
                assert client.get(f"/v2/models/tiny/versions/{version}/ready").status_code == 200
        finally:
            stop.set()
        assert set(meanwhile.result()) == {200}
