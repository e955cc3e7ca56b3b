"""What a file or folder that was named as weights is, by its first bytes and its members; nothing in it is executed."""

from __future__ import annotations

import json
import re
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEAD_BYTES = 4096
_MOST_EXPANSION = 50
"""Times its own size to which an archive may expand: torch.save does not compress, and weights hardly can be."""
_AGAIN = "Fetch it again, and compare its size with the published one."
_EXPORT = "save its tensors under PyTorch's names with safetensors.torch.save_file"
_UNPACK = "Unpack it, and name the weights file that is in it."
_STATE_DICT = "torch.save(model.state_dict(), 'weights.pth')"


@dataclass(frozen=True)
class Kind:
    """What a file is."""

    what: str
    """The end of a sentence that begins with `It is`."""
    fix: str = ""
    """What to do about it; empty where it can be read."""

    @property
    def is_readable(self) -> bool:
        return self in (SAFETENSORS, TORCH, LEGACY_TORCH)


SAFETENSORS = Kind("a safetensors file")
TORCH = Kind("a file of torch.save")
LEGACY_TORCH = Kind("a file of torch.save before PyTorch 1.6")

_SIGNATURES: Sequence[tuple[int, bytes, Kind]] = (
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file, as Keras writes them (.h5)", f"Open it with Keras, and {_EXPORT}.")),
    (0, b"\x93NUMPY", Kind("one NumPy array (.npy)", f"Give its tensors names, and {_EXPORT}.")),
    (0, b"\x1f\x8b", Kind("packed by gzip", _UNPACK)),
    (0, b"BZh", Kind("packed by bzip2", _UNPACK)),
    (0, b"\xfd7zXZ\x00", Kind("packed by xz", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("packed by zstd", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", Kind("a RAR archive", _UNPACK)),
    (0, b"GGUF", Kind("a GGUF file, as llama.cpp reads them", "Take the same network's .safetensors.")),
    (4, b"TFL3", Kind("a TensorFlow Lite model", "Take the same network's weights for PyTorch.")),
)
_ONNX = Kind(
    "an ONNX model, which is a graph whose tensors need not have the network's names",
    "Take the weights that it was exported from (.pth, .safetensors).",
)
_TENSORFLOW = "Take the same network's weights for PyTorch, or convert them with the library that wrote them."
_SCRIPT = Kind(
    "a TorchScript archive: a program, and not the tensors alone",
    "Where you trust it, torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth') takes the tensors out.",
)
_EXPORTED = Kind(
    "a program of torch.export (.pt2)",
    "Where you trust it, torch.save(dict(torch.export.load(FILE).state_dict), 'weights.pth') takes the tensors out.",
)
_POINTER = re.compile(rb"version https://(git-lfs\.github\.com|hawser\.github\.com)/spec/")
_ZIP_MAGIC = b"PK\x03\x04"
_MAGIC_OF_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled number with which torch.save began its files before they were zip archives."""


def kind_of(path: Path) -> Kind:
    """What a file is, whatever its name says.

    Raises:
        OSError: when it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return Kind("empty", _AGAIN)
    for start, magic, kind in _SIGNATURES:
        if head.startswith(magic, start):
            return kind
    for look in (_safetensors, _zip, _pickle, _tar, _text, _protobuf):
        found = look(path, head, size)
        if found is not None:
            return found
    if not any(head):
        return Kind("zeros from its first byte on, as an interrupted download leaves it", _AGAIN)
    first = " ".join(f"{byte:02x}" for byte in head[:8])
    return Kind(
        f"of a kind that is not known here: {size:,} bytes, the first are {first}",
        "Name a file of torch.save (.pth, .pt, .bin) or a .safetensors.",
    )


def _safetensors(_path: Path, head: bytes, size: int) -> Kind | None:
    if len(head) < 9 or head[8:9] != b"{":
        return None
    length = struct.unpack("<Q", head[:8])[0]
    if 8 + length > size:
        return Kind(
            f"a safetensors file, damaged or cut short: its header has {length:,} bytes, the whole file {size:,}",
            _AGAIN,
        )
    return SAFETENSORS


def _zip(path: Path, head: bytes, size: int) -> Kind | None:
    if not head.startswith(_ZIP_MAGIC):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names, expanded = archive.namelist(), sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return Kind(
            f"a zip archive without its end (torch.save writes such archives): {size:,} bytes of it are here", _AGAIN
        )
    if expanded > _MOST_EXPANSION * size:
        return Kind(f"a zip archive of {size:,} bytes that would expand to {expanded:,}", _AGAIN)
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        return _SCRIPT
    if "data.pkl" in inner:
        return TORCH
    if {"archive_format", "serialized_exported_program.json"} & (inner | set(names)):
        return _EXPORTED
    if "model.weights.h5" in names:
        return Kind("a Keras model (.keras)", f"Open it with Keras, and {_EXPORT}.")
    if names and all(name.endswith(".npy") for name in names):
        return Kind(f"{len(names)} NumPy arrays (.npz)", f"Make tensors of them, and {_EXPORT}.")
    return Kind(f"a zip archive that holds {_some(names)}", _UNPACK)


def _pickle(_path: Path, head: bytes, _size: int) -> Kind | None:
    if _MAGIC_OF_TORCH in head[:20]:
        return LEGACY_TORCH
    if head[0] != 0x80 or head[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return None
    arrays = " of NumPy arrays" if b"numpy" in head else ""
    return Kind(
        f"a pickle{arrays} that torch.save did not write (Detectron's and Caffe2's .pkl, or pickle.dump)",
        f"A pickle executes what is in it, and is not opened. Where you trust it, open it yourself, and {_EXPORT}.",
    )


def _tar(path: Path, head: bytes, _size: int) -> Kind | None:
    if head[257:262] != b"ustar":
        return None
    try:
        with tarfile.open(path) as archive:
            names = [member.name for member, _ in zip(archive, range(20), strict=False)]
    except tarfile.TarError:
        return Kind("a tar archive, damaged or cut short", _AGAIN)
    if {"sys_info", "storages"} <= set(names):
        return Kind("a file of torch.save before PyTorch 0.1.10", f"Open it with PyTorch, then {_STATE_DICT}.")
    return Kind(f"a tar archive that holds {_some(names)}", _UNPACK)


def _text(path: Path, head: bytes, size: int) -> Kind | None:
    try:
        text = head.decode("utf-8-sig", "ignore" if size > len(head) else "strict").strip()
    except UnicodeDecodeError:
        return None
    if not text or any(ord(c) < 32 and c not in "\t\n\r\f" for c in text) or b"\x00" in head:
        return None
    start = text[:200].lower()
    if _POINTER.match(head):
        held = re.search(r"\nsize (\d+)", text)
        of = f" to a file of {int(held[1]):,} bytes" if held else ""
        return Kind(
            f"a git-lfs pointer{of}, and not the file itself",
            "Run `git lfs pull` in its repository, or fetch the file from the repository's page.",
        )
    if "/annex/objects/" in text[:1000]:
        return Kind("a git-annex pointer, and not the file itself", "Run `git annex get` in its repository.")
    if start.startswith(("<!doctype html", "<html", "<head", "<body")) or ("<html" in start and start[0] == "<"):
        return Kind(
            f"an HTML page{_titled(text)}: a page about the file, of an error or to sign in, and not the file itself",
            "Open its address in a browser to see what is asked for, and fetch the file behind the link.",
        )
    if start.startswith("<?xml") or start.startswith("<error"):
        return Kind(f"an XML message, as storage servers send instead of a file: {_shown(text)}", _AGAIN)
    if start[0] in "{[":
        return _json(path, text, size)
    if start.startswith("model_checkpoint_path:"):
        return Kind("the list of a folder of TensorFlow checkpoints", _TENSORFLOW)
    return Kind(f"a text, which begins with: {_shown(text)}", "Name a file of torch.save or a .safetensors.")


def _json(path: Path, text: str, size: int) -> Kind:
    value: Any = None
    if size <= 64 << 20:
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError):  # cut, or no JSON after all
            value = None
    parts = value.get("weight_map") if isinstance(value, dict) else None
    if isinstance(parts, dict):
        files = sorted({str(name) for name in parts.values()})
        return Kind(f"the index of weights in {len(files)} files ({_some(files)})", _join(path.parent, files))
    return Kind(f"JSON, and no weights: {_shown(text)}", "Name the weights file that lies beside it.")


def _join(folder: Path, files: Sequence[str]) -> str:
    if files and all(name.endswith(".safetensors") for name in files):
        how = "safetensors.torch.load_file(part)"
    else:
        how = "torch.load(part, map_location='cpu', weights_only=True)"
    return (
        f"Join the files of {folder} into one: for each part tensors.update({how}), then "
        "safetensors.torch.save_file(tensors, 'weights.safetensors')."
    )


def _protobuf(path: Path, head: bytes, _size: int) -> Kind | None:
    if path.name == "saved_model.pb" or (head.startswith(b"\x08\x01\x12") and b"serve" in head):
        return Kind("a TensorFlow SavedModel", _TENSORFLOW)
    if path.suffix == ".onnx":
        return _ONNX
    # ONNX: the field ir_version, a small number, and then one of the fields that follow it.
    if re.match(rb"\x08[\x03-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]", head):
        return _ONNX
    if ".data-0" in path.name or path.name.endswith(".index") or ".ckpt-" in path.name:
        return Kind("a part of a TensorFlow checkpoint", _TENSORFLOW)
    return None


def _titled(text: str) -> str:
    title = re.search(r"<title[^>]*>([^<]{1,200})", text, re.IGNORECASE)
    return f" ({_shown(title[1])})" if title and title[1].strip() else ""


def _shown(text: str, limit: int = 80) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(map(_shown, names[:limit])) + (", ..." if len(names) > limit else "") if names else "nothing"


# ---------------------------------------------------------------------------------------------- folders

_IN_A_FOLDER: Sequence[tuple[str, str, str]] = (
    ("pretrain/network/record.json", "a run folder", "Name a network in it: {folder}/pretrain/network."),
    ("retrain/network/record.json", "a run folder", "Name a network in it: {folder}/retrain/network."),
    ("network/record.json", "the folder of a stage", "Name its network: {folder}/network."),
    (
        "zero_to_fp32.py",
        "a DeepSpeed checkpoint, whose tensors are in many parts",
        "Join them with the script that lies in it: python zero_to_fp32.py . OUT, and name what it writes.",
    ),
    (
        ".metadata",
        "a checkpoint of torch.distributed (FSDP), whose tensors are in many parts",
        "Join them: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth",
    ),
    ("saved_model.pb", "a TensorFlow SavedModel", _TENSORFLOW),
    ("*.ckpt*.index", "a TensorFlow checkpoint", _TENSORFLOW),
    ("checkpoint", "a folder of TensorFlow checkpoints", _TENSORFLOW),
    ("data.pkl", "an unpacked file of torch.save", "Pack it again without compression (zip -0 -r), or fetch the file."),
    (
        "*/data.pkl",
        "an unpacked file of torch.save",
        "Pack it again without compression (zip -0 -r), or fetch the file.",
    ),
)
"""What lies in a folder, what the folder then is, and what to do."""
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".th", ".tar", ".ckpt", ".torch")
"""Names under which weights are published; what a file is, its bytes tell."""


def folder_kind(folder: Path) -> Kind:
    """What a folder is that is named as weights, but is no network of cfvid."""
    for pattern, what, fix in _IN_A_FOLDER:
        if next(folder.glob(pattern), None) is not None:
            return Kind(what, fix.format(folder=folder))
    index = next(folder.glob("*.index.json"), None)
    if index is not None:
        return kind_of(index)
    names = [path.name for path in folder.iterdir() if path.is_file() and path.suffix in WEIGHTS_SUFFIXES]
    if names:
        names.sort(key=lambda name: ("model" not in name, name))  # before optimizer.pt, training_args.bin
        return Kind(
            f"a folder that holds {_some(names)}, and no network of cfvid", f"Name the file: {folder / names[0]}."
        )
    if not any(folder.iterdir()):
        return Kind("an empty folder", "Name a weights file, or the network folder of a run (RUN/pretrain/network).")
    return Kind(
        "a folder without weights",
        "Name a weights file, or the network folder of a run (RUN/pretrain/network, RUN/retrain/network).",
    )
