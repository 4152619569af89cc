"""The small files in JSON that lie in a model's folder, beside its versions."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

Note = TypeVar("Note", bound=BaseModel)


def parse_note(kind: type[Note], file: str, content: bytes) -> Note:
    """Raises `ValueError`, which names the file and its first problem, where the content is none of that kind."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or file
        raise ValueError(f"{file} is not valid: {where}: {problem['msg']}") from error
