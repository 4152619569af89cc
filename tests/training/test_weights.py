"""Files of weights: what is none is refused, and nothing in one is ever executed."""

import argparse
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from tests.training.layouts import CifarLayout
from training.weights import file as weights
from training.weights.file import read_weights

# Of 8 layers.
STATE = CifarLayout(1).state_dict()


class RanError(Exception):
    """Raised where a file runs code."""


def run() -> None:
    raise RanError


class Malicious:
    def __reduce__(self) -> Any:
        return run, ()


class TestWhatIsNoCheckpoint:
    @pytest.mark.parametrize(
        "stored",
        [
            pytest.param({"state_dict": {}, "x": Malicious()}, id="a function"),
            pytest.param({"state_dict": {}, "args": argparse.Namespace(lr=0.1)}, id="arguments"),
            pytest.param(CifarLayout(1), id="a whole module"),
        ],
    )
    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_never_run(self, stored: Any, zipped: bool, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save(stored, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            ValueError, match=r"wants to run code \(\S+\), which is never done: where you trust it, save"
        ):
            read_weights(path)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_torchscript(self, tmp_path: Path) -> None:
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "weights.pt"))
        with pytest.raises(ValueError, match=r"wants to run code \(TorchScript\)"):
            read_weights(tmp_path / "weights.pt")

    @pytest.mark.parametrize(
        ("content", "suffix"),
        [
            (b"", ".pth"),
            (b"<html>not found</html>", ".pth"),
            (pickle.dumps([1, 2]), ".pth"),
            (b"PK\x05\x06" + bytes(18), ".pth"),
            (b"", ".safetensors"),
            (b"<html>not found</html>", ".safetensors"),
            (struct.pack("<Q", 1 << 60) + b"{}", ".safetensors"),
            (struct.pack("<Q", 2) + b"[]", ".safetensors"),
        ],
    )
    def test_other_files(self, content: bytes, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read as (weights|safetensors) \(.*or damaged"):
            read_weights(path)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_cut_off_and_damaged(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"weights{suffix}"
        (torch.save if suffix == ".pth" else safetensors.torch.save_file)(STATE, path)
        content = path.read_bytes()
        path.write_bytes(content[:-1000])
        with pytest.raises(ValueError, match="or damaged"):
            read_weights(path)
        if suffix == ".pth":
            path.write_bytes(content.replace(content[50000:50020], bytes(20)))
            with pytest.raises(ValueError, match="or damaged"):
                read_weights(path)

    def test_archives_that_unpack_to_more_than_is_allowed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "MAX_BYTES", 1 << 20)
        torch.save(STATE, tmp_path / "weights.pth")
        with (
            zipfile.ZipFile(tmp_path / "weights.pth") as given,
            zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
        ):
            for entry in given.namelist():
                bomb.writestr(entry, given.read(entry))
            bomb.writestr("more", bytes(2 << 20))
        assert (tmp_path / "bomb.pth").stat().st_size < 1 << 20
        with pytest.raises(ValueError, match="cannot be read as weights"):
            read_weights(tmp_path / "bomb.pth")

    def test_files_too_large(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        with path.open("wb") as file:
            file.truncate(weights.MAX_BYTES + 1)  # sparse: takes no room
        with pytest.raises(ValueError, match=r"has 4,294,967,297 bytes, at most 4,294,967,296 are read"):
            read_weights(path)

    def test_missing_files_and_unknown_kinds(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=re.escape(f"no file of weights at {tmp_path}: give a state dictionary")):
            read_weights(tmp_path)
        (tmp_path / "weights.h5").touch()
        with pytest.raises(ValueError, match="is of no known kind: give a state dictionary"):
            read_weights(tmp_path / "weights.h5")

    def test_no_tensors(self, tmp_path: Path) -> None:
        loop: dict[str, Any] = {}
        loop["model"] = loop
        path = tmp_path / "weights.pth"
        for stored, where in (([1, 2], "a list has none"), ({"state_dict": {}}, "its entry 'state_dict'"), (loop, "")):
            torch.save(stored, path)
            with pytest.raises(ValueError, match=re.escape(f"holds no tensors by name ({where}")):
                read_weights(path)
