"""Messages whose fields are described where they are written, for the OpenAPI document."""

import ast
import functools
import inspect
import textwrap
from itertools import pairwise

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Described(BaseModel):
    """A model whose JSON schema describes each field by the string below it.

    As with pydantic's `use_attribute_docstrings`, but the source is read when a schema is asked for: reading it for
    every class at its import is a good part of the time that a start takes.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _descriptions(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
        return schema


@functools.cache
def _descriptions(model: type[BaseModel]) -> dict[str, str]:
    """By field, those of the classes that it inherits from among them."""
    described = [kind for kind in reversed(model.__mro__) if issubclass(kind, Described) and kind is not Described]
    return {name: text for kind in described for name, text in _own_descriptions(kind).items()}


def _own_descriptions(model: type[BaseModel]) -> dict[str, str]:
    (written,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(written, ast.ClassDef), model
    return {
        field.target.id: inspect.cleandoc(str(below.value.value))
        for field, below in pairwise(written.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }
