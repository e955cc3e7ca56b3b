"""Files and folders that are no weights (point 16 of the faults of everybody's files): what is said of each of them.

Each refusal names what the file is and what to do, never tells to execute it, and comes without warnings of libraries.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cfvid.errors import WeightsError
from cfvid.models.file_kinds import LEGACY_TORCH, SAFETENSORS, TORCH, folder_kind, kind_of
from cfvid.models.foreign_file import read_foreign

TENSORS = {"conv1.weight": torch.arange(6.0).reshape(2, 3)}


def refusal(path: Path) -> WeightsError:
    """The refusal of a file, which has all three lines, and before which nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError) as caught:
            read_foreign(path)
    error = caught.value
    assert error.why
    assert error.fix
    assert "weights_only=False" not in str(error)
    return error


# ---------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin", "w"])
def test_safetensors_are_known_by_their_bytes(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / name)
    assert kind_of(tmp_path / name) == SAFETENSORS
    file = read_foreign(tmp_path / name)
    torch.testing.assert_close(file.tensors, TENSORS)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.th", "checkpoint.pth.tar", "w.onnx", "w"])
@pytest.mark.parametrize(("is_new", "kind"), [(True, TORCH), (False, LEGACY_TORCH)])
def test_files_of_torch_are_known_by_their_bytes(tmp_path: Path, name: str, is_new: bool, kind: object) -> None:
    torch.save(TENSORS, tmp_path / name, _use_new_zipfile_serialization=is_new)
    assert kind_of(tmp_path / name) == kind
    file = read_foreign(tmp_path / name)
    torch.testing.assert_close(file.tensors, TENSORS)


# ---------------------------------------------------------------------------------------------- what is not


def onnx(producer: bytes = b"pytorch") -> bytes:
    return b"\x08\x08\x12" + bytes([len(producer)]) + producer + b"\x3a\x04abcd"


def zipped(names: list[str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


def tarred(names: list[str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def numpy_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


def cut_torch() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, stream)
    return stream.getvalue()[:2000]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 46827520\n" % 0
INDEX = json.dumps({"metadata": {}, "weight_map": {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors"}}).encode()


@pytest.mark.parametrize(
    ("content", "what", "do"),
    [
        (b"", "empty", "Fetch it again"),
        (bytes(9000), "zeros from its first byte on", "Fetch it again"),
        (POINTER, "a git-lfs pointer to a file of 46,827,520 bytes", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--0.pth\n", "a git-annex pointer", "git annex get"),
        (b"\n<!DOCTYPE html><html><head><title>Sign in</title>", "an HTML page (Sign in)", "in a browser"),
        (b"<html>404", "an HTML page", "in a browser"),
        (b"\xef\xbb\xbf<HTML><body>", "an HTML page", "in a browser"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "AccessDenied", "Fetch it again"),
        (b'{"error": "Invalid credentials"}', "JSON, and no weights", "beside it"),
        (b'{"cut', "JSON, and no weights", "beside it"),
        (INDEX, "the index of weights in 2 files (m-1-of-2.safetensors, m-2-of-2.safetensors)", "load_file(part)"),
        (b"import torch\nprint(1)\n", "a text, which begins with: import torch print(1)", "torch.save"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file, as Keras writes", "Keras"),
        (onnx(), "an ONNX model", "exported from"),
        (b"\x08\x01\x12\x50\x0a\x07\x12\x05serve" + bytes(50), "a TensorFlow SavedModel", "for PyTorch"),
        (b"model_checkpoint_path: 'ckpt-1'\n", "a folder of TensorFlow checkpoints", "for PyTorch"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(20), "a TensorFlow Lite model", "for PyTorch"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file", ".safetensors"),
        (numpy_file(), "one NumPy array", "names"),
        (zipped(["a.npy", "b.npy"]), "2 NumPy arrays", "tensors"),
        (zipped(["config.json", "model.weights.h5"]), "a Keras model", "Keras"),
        (zipped(["weights/best.pth", "readme.txt"]), "a zip archive that holds weights/best.pth, readme.txt", "Unpack"),
        (zipped(["m/archive_format", "m/models/model.json"]), "torch.export", "torch.export.load"),
        (cut_torch(), "a zip archive without its end", "Fetch it again"),
        (gzip.compress(b"x"), "packed by gzip", "Unpack"),
        (tarred(["best.pth"]), "a tar archive that holds best.pth", "Unpack"),
        (tarred(["sys_info", "pickle", "storages", "tensors"]), "torch.save before PyTorch 0.1.10", "state_dict"),
        (pickle.dumps({"a": np.zeros(3)}), "a pickle of NumPy arrays that torch.save did not write", "not opened"),
        (struct.pack("<Q", 2**60) + b"{}", "its header has 1,152,921,504,606,846,976 bytes", "Fetch it again"),
        (b"\x00\x01\x02\x03binary", "the first are 00 01 02 03 62 69 6e 61", "Name a file of torch.save"),
        (b"\xff", "of a kind that is not known here", "Name a file of torch.save"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_what_is_no_weights_file_is_named(tmp_path: Path, name: str, content: bytes, what: str, do: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert what in str(error.why)
    assert do in str(error.fix)


def test_a_torchscript_archive_is_named_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    error = refusal(tmp_path / "script.pt")
    assert "a TorchScript archive" in str(error.why)
    assert "torch.jit.load" in str(error.fix)


def test_a_program_of_torch_export_is_named(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "program.pt2")
    assert "a program of torch.export" in str(refusal(tmp_path / "program.pt2").why)


@pytest.mark.parametrize("keep", [9, 200, -10])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_cut_file_of_torch_is_to_be_fetched_again(tmp_path: Path, keep: int, is_new: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(500)}, path, _use_new_zipfile_serialization=is_new)
    path.write_bytes(path.read_bytes()[:keep])
    if keep == 9 and not is_new:
        refusal(path)  # too little to know it by
    else:
        assert "etch" in str(refusal(path).fix) or "damaged" in str(refusal(path).why)


@pytest.mark.parametrize("keep", [12, 60, -4])
def test_a_cut_safetensors_is_to_be_fetched_again(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    error = refusal(path)
    assert "a safetensors file" in str(error.why)
    assert "damaged or cut short" in str(error.why)


def test_an_archive_that_would_fill_the_memory_is_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert "would expand to 50,000,000" in str(refusal(tmp_path / "bomb.pth").why)
    torch.save(TENSORS, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    torch.testing.assert_close(read_foreign(tmp_path / "packed.pth").tensors, TENSORS)


# ---------------------------------------------------------------------------------------------- objects


def test_a_whole_pickled_network_is_named(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "module.pth")
    error = refusal(tmp_path / "module.pth")
    assert "holds a whole pickled network" in error.what
    assert "torch.save(model.state_dict()" in str(error.fix)
    torch.save(nn.Linear(2, 2), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "torch.nn.modules.linear.Linear" in str(refusal(tmp_path / "old.pth").why)


def test_numpy_arrays_are_named(tmp_path: Path) -> None:
    torch.save({"conv1.weight": np.zeros(3)}, tmp_path / "arrays.pth")
    error = refusal(tmp_path / "arrays.pth")
    assert "NumPy arrays" in str(error.why)
    assert "torch.from_numpy" in str(error.fix)


@pytest.mark.parametrize("value", [{}, [1, 2], {"epoch": 3}, "text", None, 5])
def test_a_file_without_tensors_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "weights.pth")
    assert "without tensors" in str(refusal(tmp_path / "weights.pth").why)


class Caller:
    """Calls something when unpickled."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def make_marker(path: str) -> None:
    """What a hostile file could ask for besides functions of the system."""
    Path(path).touch()


@pytest.mark.parametrize("function", [make_marker, os.mkdir, eval, exec, getattr])
@pytest.mark.parametrize("is_new", [True, False])
def test_nothing_that_a_file_asks_for_is_called(tmp_path: Path, function: Callable, is_new: bool) -> None:
    """Objects are left out by standing something empty in their place; what makes them is never called."""
    marker, path = tmp_path / "called", tmp_path / "weights.pth"
    text = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    arguments = {eval: (text,), exec: (text,), getattr: (Path(marker), "touch")}.get(function, (str(marker),))
    torch.save({**TENSORS, "x": Caller(function, *arguments)}, path, _use_new_zipfile_serialization=is_new)
    if function is make_marker and is_new:
        file = read_foreign(path)
        assert file.left_out == [f"{__name__}.make_marker"]
        torch.testing.assert_close(file.tensors, TENSORS)
    else:
        assert "holds more than tensors" in refusal(path).what
    assert not marker.exists()
    make_marker(str(marker))
    assert marker.exists()


def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    value: dict = {"state_dict": TENSORS, "again": TENSORS}
    value["self"] = value
    torch.save(value, tmp_path / "weights.pth")
    assert list(read_foreign(tmp_path / "weights.pth").tensors) == ["state_dict.conv1.weight"]


# ---------------------------------------------------------------------------------------------- places


def folder_with(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "what", "do"),
    [
        ([], "an empty folder", "RUN/pretrain/network"),
        (["readme.txt"], "a folder without weights", "RUN/pretrain/network"),
        (["pretrain/network/record.json"], "a run folder", "folder/pretrain/network"),
        (["network/record.json", "record.json"], "the folder of a stage", "folder/network"),
        (["zero_to_fp32.py", "global_step1/mp_rank_00_model_states.pt"], "DeepSpeed", "zero_to_fp32.py . OUT"),
        ([".metadata", "__0_0.distcp"], "torch.distributed (FSDP)", "dcp_to_torch"),
        (["saved_model.pb", "variables/variables.index"], "a TensorFlow SavedModel", "for PyTorch"),
        (["model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001"], "a TensorFlow checkpoint", "for PyTorch"),
        (["data.pkl", "version", "data/0"], "an unpacked file of torch.save", "zip -0 -r"),
        (["archive/data.pkl", "archive/data/0"], "an unpacked file of torch.save", "zip -0 -r"),
        (["config.json", "optimizer.pt", "model.safetensors"], "no network of cfvid", "folder/model.safetensors."),
    ],
)
def test_a_folder_is_named(tmp_path: Path, names: list[str], what: str, do: str) -> None:
    folder = folder_with(tmp_path, *names)
    error = refusal(folder)
    assert what in str(error.why)
    assert do in str(error.fix)


def test_a_folder_of_shards_is_named_by_its_index(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "m-1-of-2.safetensors", "m-2-of-2.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(INDEX)
    kind = folder_kind(folder)
    assert "the index of weights in 2 files" in kind.what
    assert str(folder) in kind.fix


def test_places_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"nothing\.pth do not exist"):
        read_foreign(tmp_path / "nothing.pth")
    os.mkfifo(tmp_path / "pipe")
    assert "a device or a pipe" in str(refusal(tmp_path / "pipe").why)
    assert "too long" in str(refusal(tmp_path / ("x" * 300)).why)
    torch.save(TENSORS, tmp_path / "mine.pth")

    def denied(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    error = refusal(tmp_path / "mine.pth")
    assert error.why == "Permission denied"
    assert "readable for this user" in str(error.fix)
