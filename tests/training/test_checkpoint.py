"""A checkpoint is whole or it is the one before, and a damaged one is refused."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.loop.checkpoint import any_checkpoint, load_checkpoint, load_newest, previous, save_checkpoint

# Dies by SIGKILL in the middle of writing the second checkpoint.
DYING_WRITER = """
import io, os, signal, sys
from pathlib import Path
import torch
from training.loop.checkpoint import save_checkpoint

path = Path(sys.argv[1])
save_checkpoint(path, {"step": 1, "weights": torch.full((1000,), 1.0)})
whole = torch.save

def half(state, file):
    buffer = io.BytesIO()
    whole(state, buffer)
    file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
save_checkpoint(path, {"step": 2, "weights": torch.full((1000,), 2.0)})
"""


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    state = {
        "weights": {"a": torch.randn(3, 4), "b": torch.arange(5)},
        "epoch": 3,
        "seconds": 1.5,
        "history": [{"epoch": 1.0, "loss": 0.25}],
        "name": "résumé",
    }
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    loaded = load_checkpoint(tmp_path / "checkpoint.pt")
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded["weights"][name], value) for name, value in state["weights"].items())
    assert all(loaded[name] == state[name] for name in ("epoch", "seconds", "history", "name"))


def test_a_crash_while_saving_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    writer = subprocess.run([sys.executable, "-c", DYING_WRITER, str(path)], check=False, timeout=120)
    assert writer.returncode == -signal.SIGKILL
    loaded = load_checkpoint(path)
    assert loaded["step"] == 1
    assert torch.equal(loaded["weights"], torch.full((1000,), 1.0))
    # What the dead writer left behind does not disturb the next one.
    save_checkpoint(path, {"step": 3})
    assert load_checkpoint(path) == {"step": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_one_before_is_found_where_the_newest_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    assert not any_checkpoint(path)
    for step in (1, 2):
        save_checkpoint(path, {"step": step}, keep=True)
    path.unlink()
    assert any_checkpoint(path)
    state, note = load_newest(path)
    assert state == {"step": 1}
    assert "going on from checkpoint.previous.pt" in note


def test_where_files_have_one_name_alone_the_one_before_is_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on network shares and FAT, whose system says so."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "checkpoint.pt"
    for step in (1, 2, 3):
        save_checkpoint(path, {"step": step}, keep=True)
    assert load_checkpoint(path) == {"step": 3}
    assert load_checkpoint(previous(path)) == {"step": 2}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint at .*nowhere\.pt"):
        load_checkpoint(tmp_path / "nowhere.pt")


def whole(path: Path) -> bytes:
    save_checkpoint(path, {"weights": torch.randn(500), "epoch": 3})
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "text", "half", "last byte", "hole"])
def test_a_damaged_checkpoint(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.pt"
    content = whole(path)
    middle = len(content) // 2
    damaged = {
        "empty": b"",
        "text": b"this is no checkpoint",
        "half": content[:middle],
        "last byte": content[:-1],
        "hole": content[: middle - 400] + b"\0" * 800 + content[middle + 400 :],
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"checkpoint .* cannot be read"):
        load_checkpoint(path)


class Payload:
    """Runs code when it is unpickled the ordinary way."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 1, "payload": Payload()}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(path)
