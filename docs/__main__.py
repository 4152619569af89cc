"""`python -m docs` writes the generated part of the documentation."""

from docs.generated import PLOTS, generated


def main() -> None:
    """Run as a program."""
    files = generated()
    PLOTS.mkdir(exist_ok=True)
    for gone in set(PLOTS.glob("*.svg")) - files.keys():
        gone.unlink()
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
