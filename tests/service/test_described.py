"""What a schema says of fields, against pydantic's own reading of the strings below them."""

import ast
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from service.app import create_app
from service.protocol.described import Described
from service.settings import Settings


class Own(Described):
    count: int = 0
    """How many there are,
    in all."""
    bare: str = ""
    other: "Own | None" = None
    """Another one."""

    @property
    def twice(self) -> int:
        """No field."""
        return 2 * self.count


class OwnMore(Own):
    more: list[Own] = []  # noqa: RUF012 - pydantic copies it
    """Some more."""


class Read(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    count: int = 0
    """How many there are,
    in all."""
    bare: str = ""
    other: "Read | None" = None
    """Another one."""


class ReadMore(Read):
    more: list[Read] = []
    """Some more."""


def schema(model: type[BaseModel]) -> Any:
    text = str(TypeAdapter(dict[str, model]).json_schema())  # type: ignore[valid-type]
    return ast.literal_eval(text.replace("OwnMore", "ReadMore").replace("Own", "Read"))


def test_a_schema_describes_fields_as_pydantic_does() -> None:
    assert schema(Own) == schema(Read)
    assert schema(OwnMore) == schema(ReadMore)
    assert "Some more." in str(schema(OwnMore))


def test_the_document_describes_what_is_sent_and_answered() -> None:
    document = create_app(Settings(history_url="", provider="cpu")).openapi()
    fields = document["components"]["schemas"]["ModelStatistics"]["properties"]
    assert fields["inference_count"]["description"] == "Images."
    operation = document["paths"]["/v1/models/{name}/classify"]["post"]
    asked = {parameter["name"]: parameter.get("description") for parameter in operation["parameters"]}
    assert asked["label"] == "Label of a version, instead of it."
    assert all(asked[name] for name in asked if name != "name"), asked
