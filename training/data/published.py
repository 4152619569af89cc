"""The catalogue of published data sets: where their files are, what they must be, and what their classes are called."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.download import RemoteFile
from training.data.listing import Listing, Sample
from training.data.raw import Cifar, Idx, Part, Svhn
from training.data.reading import Advance

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class PublishedSet:
    """One data set with a split of its own."""

    title: str
    page: str
    files: Cifar | Idx | Svhn
    images: tuple[int, int]
    """To train on, and held out."""
    mirrored: bool
    class_names: tuple[str, ...] | None = None
    """None where the files say them."""


def list_published(published: PublishedSet, folder: Path | None, advance: Advance) -> Listing:
    """What `folder` has of the data set; downloaded into it, or into the cache if None, where it is not there.

    Raises `ValueError` when the files cannot be had, or are not what the catalogue says.
    """
    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one with the files of {published.title}, or an empty one")
    parts = published.files.read(folder, advance)
    training, held_out = parts.training, parts.held_out
    names = published.class_names or parts.class_names
    assert names is not None
    labels = np.concatenate([training.labels, held_out.labels])
    found = (len(training.labels), len(held_out.labels))
    if found != published.images or (len(training.images), len(held_out.images)) != published.images:
        raise ValueError(
            f"{published.title} has {published.images[0]:,} images to train on and {published.images[1]:,} held out, "
            f"these files have {found[0]:,} and {found[1]:,}: download them again"
        )
    if not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(f"{published.title} has {len(names)} classes, these files have the label {labels.max()}")
    return Listing(
        name=published.title,
        source=f"{published.title}, {published.page}",
        root=folder or Path(published.title),
        samples=_samples(training, held_out),
        labels=labels,
        held_out=np.arange(len(labels)) >= len(training.labels),
        class_names=names,
        mirrored=published.mirrored,
        channels=1 if training.images.ndim == 3 else 3,
        side=min(training.images.shape[1:3]),
    )


def _samples(*parts: Part) -> Iterator[Sample]:
    for part in parts:
        for index, image in enumerate(part.images):
            yield Sample(f"image {index}", image)


def _idx(base: str, sizes_and_digests: tuple[tuple[int, str], ...]) -> Idx:
    """The four files below `base`, in the order of the fields of `Idx`."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = zip(names, sizes_and_digests, strict=True)
    return Idx(*(RemoteFile(f"{base}{name}-ubyte.gz", size, digest) for name, (size, digest) in files))


CIFAR = "https://www.cs.toronto.edu/~kriz/"
MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
KMNIST = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
SVHN = "http://ufldl.stanford.edu/housenumbers/"

PUBLISHED: dict[str, PublishedSet] = {
    "cifar10": PublishedSet(
        "CIFAR-10",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        Cifar(
            RemoteFile(
                f"{CIFAR}cifar-10-binary.tar.gz",
                170052171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
            "cifar-10-batches-bin",
            tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test_batch.bin",
            "batches.meta.txt",
            pickled=("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1"),
        ),
        (50_000, 10_000),
        mirrored=True,
    ),
    "cifar100": PublishedSet(
        "CIFAR-100",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        Cifar(
            RemoteFile(
                f"{CIFAR}cifar-100-binary.tar.gz",
                168513733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
            "cifar-100-binary",
            ("train.bin",),
            "test.bin",
            "fine_label_names.txt",
            labels=2,
            pickled=("cifar-100-python.tar.gz", "cifar-100-python"),
        ),
        (50_000, 10_000),
        mirrored=True,
    ),
    "mnist": PublishedSet(
        "MNIST",
        "http://yann.lecun.com/exdb/mnist/",
        _idx(
            MNIST,
            (
                (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
                (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            ),
        ),
        (60_000, 10_000),
        mirrored=False,
        class_names=DIGITS,
    ),
    "fashion_mnist": PublishedSet(
        "Fashion-MNIST",
        "https://github.com/zalandoresearch/fashion-mnist",
        _idx(
            FASHION_MNIST,
            (
                (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
                (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            ),
        ),
        (60_000, 10_000),
        mirrored=True,
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    "kmnist": PublishedSet(
        "Kuzushiji-MNIST",
        "https://github.com/rois-codh/kmnist",
        _idx(
            KMNIST,
            (
                (18165135, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"),
                (29497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"),
                (3041136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"),
                (5120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
            ),
        ),
        (60_000, 10_000),
        mirrored=False,
        class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "svhn": PublishedSet(
        "SVHN (cropped digits)",
        "http://ufldl.stanford.edu/housenumbers/",
        Svhn(
            RemoteFile(
                f"{SVHN}train_32x32.mat",
                182040794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            ),
            RemoteFile(
                f"{SVHN}test_32x32.mat", 64275384, "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"
            ),
        ),
        (73_257, 26_032),
        mirrored=False,
        class_names=DIGITS,
    ),
}
