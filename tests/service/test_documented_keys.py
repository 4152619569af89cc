"""What the OpenAPI document says of keys is what the service asks for."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.access.keys import new_key
from tests import bundles
from tests.service.conftest import serving

KEYS = {kind: new_key(kind) for kind in ("inference", "control")}
LINES: dict[str, object] = {f"{kind}_keys": key.line() for kind, (_, key) in KEYS.items()}
REFUSED = (401, 403)
# How a key of each scheme is sent.
SENT: dict[tuple[str, str], Callable[[str], dict[str, str]]] = {
    ("http", "bearer"): lambda secret: {"Authorization": f"Bearer {secret}"},
    ("apiKey", "header"): lambda secret: {"X-API-Key": secret},
}


def header(scheme: dict[str, Any], secret: str) -> dict[str, str]:
    return SENT[scheme["type"], scheme.get("scheme") or scheme["in"]](secret)


@pytest.mark.parametrize(
    "settings",
    [
        LINES,
        {"inference_keys": LINES["inference_keys"]},
        {"control_keys": LINES["control_keys"]},
        LINES | {"open_health": False, "open_metrics": True},
    ],
    ids=["both", "inference", "control", "health closed and metrics open"],
)
def test_every_operation_needs_the_keys_that_it_names(tmp_path: Path, settings: dict[str, object]) -> None:
    bundles.publish(tmp_path)
    with serving(tmp_path, **settings) as client:
        document = client.get("/openapi.json").json()
        schemes = document["components"]["securitySchemes"]
        assert set(schemes) == {"inferenceBearer", "inferenceHeader", "controlBearer", "controlHeader"}
        needed = set()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                address = re.sub("{.*?}", "1", path)  # of nothing that there is
                named = {name for alternative in operation["security"] for name in alternative}
                without = client.request(method, address)
                assert (without.status_code == 401) == bool(named), (method, path)
                for name, scheme in schemes.items():
                    kind = name.removesuffix("Bearer").removesuffix("Header")
                    if named and f"{kind}_keys" in settings:
                        answer = client.request(method, address, headers=header(scheme, KEYS[kind][0]))
                        assert (answer.status_code not in REFUSED) == (name in named), (method, path, name)
                needed.add(frozenset(named))
        assert len(needed) > 1


def test_where_no_key_is_asked_none_is_named(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with serving(tmp_path, rate_limit=1000) as client:
        document = client.get("/openapi.json").json()
    assert "securitySchemes" not in document["components"]
    assert not [path for path, operations in document["paths"].items() if "security" in str(operations)]
