"""Requests made from the OpenAPI document, good and bad: every answer is one that it documents, and none a 5xx."""

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests import bundles
from tests.service.operated import operated

schemathesis = pytest.importorskip("schemathesis", reason="has no wheel for this platform")


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two workers"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "tiny")
    log = tmp_path_factory.mktemp("log") / "log"
    with operated(root, log, WORKERS=request.param, MAX_BODY_BYTES=1 << 20, MAX_PIXELS=200_000) as service:
        yield service.client
        assert "Traceback" not in log.read_text()


CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
BOUNDED = settings(
    max_examples=15,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_every_operation_answers_as_documented(service: httpx.Client) -> None:
    schema = schemathesis.openapi.from_dict(service.get("/openapi.json").json())
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)
    statuses = Counter()

    def ask(case: schemathesis.Case) -> None:
        # Else most requests would be for models that are not there. This one would be the end of all that follow.
        if "name" in case.path_parameters and not case.path.endswith("/unload"):
            case.path_parameters["name"] = "tiny"
        # What is shorter than a decoding ends in a 504, as it should.
        (case.query or {}).pop("timeout_ms", None)
        response = case.call_and_validate(base_url=str(service.base_url), checks=checks)
        statuses[response.status_code] += 1

    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        BOUNDED(given(operation.as_strategy())(ask))()
    # Not all were refused.
    assert statuses[200] > len(operations)
