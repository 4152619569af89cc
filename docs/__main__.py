"""`python -m docs` writes the generated part of the documentation."""

from docs.generated import BLOCKS, PLOTS, generated


def main() -> None:
    """Run as a program."""
    files = generated()
    for folder in (PLOTS, BLOCKS):
        folder.mkdir(exist_ok=True)
        for gone in set(folder.glob("*.svg")) - files.keys():
            gone.unlink()
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
