"""Accuracy of a served model, asked over HTTP: `python -m benchmarks.accuracy URL MODEL FOLDER`.

FOLDER holds <class>/* image files. Every image is sent as the file it is, so that decoding and pre-processing are the
service's own.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

IMAGES_PER_REQUEST = 50


def accuracy(url: str, model: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Yield (correct, asked) after every request; raises `ValueError` when an image could not be classified."""
    files = [(path, path.parent.name) for path in sorted(folder.glob("*/*")) if path.is_file()]
    correct = asked = 0
    with httpx.Client(base_url=url, timeout=60) as client:
        for start in range(0, len(files), IMAGES_PER_REQUEST):
            batch = files[start : start + IMAGES_PER_REQUEST]
            form = [("file", (path.name, path.read_bytes())) for path, _ in batch]
            response = client.post(f"/v1/models/{model}/classify", params={"top_k": 1}, files=form)
            response.raise_for_status()
            for (path, label), image in zip(batch, response.json()["images"], strict=True):
                if "error" in image:
                    raise ValueError(f"{path}: {image['error']}")
                correct += image["classes"][0]["label"] == label
            asked += len(batch)
            yield correct, asked


def main() -> None:
    """Run as a program."""
    url, model, folder = sys.argv[1:]
    correct = asked = 0
    for correct, asked in accuracy(url, model, Path(folder)):
        print(f"\r{asked} images, {correct / asked:.2%} correct", end="", flush=True)
    print(f"\n{model}: {correct} of {asked} images classified correctly over HTTP, {correct / asked:.2%}")


if __name__ == "__main__":
    main()
