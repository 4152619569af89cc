"""Tables and text as Markdown."""

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[str]]) -> str:
    """The first row is the head."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join([_line(head), _line(["---"] * len(head)), *map(_line, body), ""])


def text(plain: str) -> str:
    """What Markdown would read as emphasis stays as it is, outside of `code`."""
    pieces = plain.split("`")
    pieces[::2] = [piece.replace("_", "\\_").replace("*", "\\*") for piece in pieces[::2]]
    return "`".join(pieces)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
