"""What the OpenAPI document says of keys: how they are sent, and which operation needs one of which kind."""

from typing import Any

from service.access.gate import Access
from service.access.purpose import purpose_of

HOW = {
    "Bearer": {"type": "http", "scheme": "bearer"},
    "Header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
KINDS = {
    "inference": "A key for inference and reading.",
    "control": "A key for control, and for reading.",
}


def with_keys(document: dict[str, Any], access: Access) -> dict[str, Any]:
    """The same document, with the schemes `inferenceBearer`, `inferenceHeader`, `controlBearer` and `controlHeader`.

    Any one of those that an operation names is enough. Where no key is asked at all, nothing is added.
    """
    if not access.keyed:
        return document
    document.setdefault("components", {})["securitySchemes"] = {
        kind + how: {**scheme, "description": text} for kind, text in KINDS.items() for how, scheme in HOW.items()
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            kinds = access.kinds(purpose_of(method.upper(), path))
            operation["security"] = [{kind + how: []} for kind in kinds for how in HOW]
    return document
