"""The tensors of a weights file that another program wrote, by name; nothing in the file is executed."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cfvid.errors import CfvidError, WeightsError
from cfvid.models.file_kinds import SAFETENSORS, TORCH, Kind, folder_kind, kind_of

_WRAPPERS = (
    "classy_state_dict", "base_model", "state_dict", "model_state_dict", "model_state", "model", "net", "network",
)  # fmt: skip
"""Keys under which training programs put the state dict inside a checkpoint; the first two are VISSL's. A file's names
are told without them."""
_CODE = frozenset({
    "builtins", "os", "posix", "nt", "sys", "subprocess", "runpy", "importlib", "shutil", "pty", "socket", "ctypes",
    "code", "types", "pickle", "marshal", "webbrowser",
})  # fmt: skip
"""Modules of which no weights need anything: a file that asks for them is refused, though nothing would be run."""
_PLAIN = frozenset(
    f"builtins.{kind.__name__}" for kind in (bool, bytes, complex, dict, float, int, list, object, set, str, tuple)
)
"""What these modules have that is harmless: types, which settings hold."""
_DEEPEST = 16
_LONGEST_LIST = 1000


@dataclass(frozen=True)
class ForeignFile:
    """What was read."""

    path: Path
    tensors: dict[str, torch.Tensor]
    """All tensors by their dotted names, from the top of the file."""
    roots: dict[str, str]
    """The state dict that each of them lies in, as the beginning of its name: empty, or with a dot at its end."""
    kind: Kind
    left_out: list[str] = field(default_factory=list)
    """Classes of objects besides tensors, none of which was made."""


def read_foreign(path: Path) -> ForeignFile:
    """All tensors of a .safetensors or a file of torch.save, told apart by their bytes, whatever the name says.

    Objects besides tensors and plain values (a Namespace, NumPy's scalars) are left out: something empty stands in
    their place, so that their classes are not needed and nothing of theirs runs.

    Raises:
        WeightsError: when the file is missing, something else, damaged, or would need to execute code.
    """
    kind = readable_kind(path)
    left_out: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is told here; torch's are about its own future
            value = _loaded(path, kind, left_out)
    except CfvidError:
        raise  # a refusal, or a signal
    except Exception as error:  # torch and safetensors raise many kinds on damaged files
        raise WeightsError(
            f"{path} cannot be read as weights.",
            why=f"it is {kind.what}, and damaged or cut short: {_first_line(error)}",
            fix="Fetch or save it again, and compare its size with the published one.",
        ) from error
    found = list(_walk(value))
    tensors = {".".join((*place, key)): tensor for place, key, tensor in found}
    if not tensors:
        raise _without_tensors(path, value, left_out)
    roots = {".".join((*place, key)): _root(place) for place, key, _ in found}
    return ForeignFile(path, tensors, roots, kind, left_out)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, by dotted names from the top of the file.

    Raises:
        WeightsError: as `read_foreign`.
    """
    return read_foreign(path).tensors


def readable_kind(path: Path) -> Kind:
    """What a weights file is, by its first bytes.

    Raises:
        WeightsError: when it is missing, cannot be opened, or is no file of tensors.
    """
    try:
        if path.is_dir():
            kind = folder_kind(path)
        elif not path.exists():
            raise WeightsError(f"The weights {path} do not exist.", fix="Put them there, or correct the path.")
        elif not path.is_file():
            kind = Kind("no file, but a device or a pipe", "Name a weights file.")
        else:
            kind = kind_of(path)
    except OSError as error:
        raise WeightsError(
            f"The weights {path} cannot be read.",
            why=error.strerror or type(error).__name__,
            fix="Make it readable for this user, or name a copy.",
        ) from error
    if not kind.is_readable:
        raise WeightsError(f"{path} cannot be read as weights.", why=f"it is {kind.what}", fix=kind.fix)
    return kind


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# ---------------------------------------------------------------------------------------------- without executing


class _LeftOut:
    """Stands for the objects of every class that is not torch's own; nothing of them is kept."""

    def __init__(self, *_args: object, **_options: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


class _LeftOutDict:
    """Stands for those of dictionaries' classes: the unpickler puts items into plain dictionaries alone."""

    def __new__(cls, *_args: object, **_options: object) -> Any:
        return OrderedDict()


def _loaded(path: Path, kind: Kind, left_out: list[str]) -> Any:
    if kind == SAFETENSORS:
        return safetensors.torch.load_file(path)
    try:
        return _unpickled(path)
    except pickle.UnpicklingError as error:
        first = error
    objects = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) if kind == TORCH else []
    if not objects or any(name.partition(".")[0] in _CODE and name not in _PLAIN for name in objects):
        raise _refused(path, kind, objects, first) from first
    left_out += objects
    stands_for: list[Callable | tuple[Callable, str]] = [
        (_LeftOutDict if name.lower().endswith(("dict", ".cfgnode")) else _LeftOut, name) for name in objects
    ]
    try:
        with torch.serialization.safe_globals(stands_for):
            return _unpickled(path)
    except pickle.UnpicklingError as error:
        raise _refused(path, kind, objects, error) from error


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:  # of a path, torch looks at the suffix
        return torch.load(file, map_location="cpu", weights_only=True)


def _refused(path: Path, kind: Kind, objects: list[str], error: Exception) -> WeightsError:
    named = re.search(r"GLOBAL (\S+) ", str(error))
    needed = objects or ([named[1]] if named else [])
    why = (
        f"it would need {', '.join(needed[:4])}" if needed else f"it is {kind.what}, and damaged: {_first_line(error)}"
    )
    return WeightsError(
        f"{path} holds more than tensors and was not loaded.",
        why=why,
        fix="Nothing in it was executed. If you trust it, save its state dict alone with the program that made it, as "
        "torch.save(model.state_dict(), 'weights.pth') or, better, as .safetensors.",
    )


def _without_tensors(path: Path, value: Any, left_out: list[str]) -> WeightsError:
    if any(name.startswith("torch.nn.") for name in left_out):
        return WeightsError(
            f"{path} holds a whole pickled network, and no state dict.",
            why=f"it is a program's object, and would need {', '.join(left_out[:4])}",
            fix="Open it with the program that made it, if you trust it, and save its tensors alone: "
            "torch.save(model.state_dict(), 'weights.pth').",
        )
    if any(name.startswith("numpy") for name in left_out):
        why = "it holds NumPy arrays"
        fix = "Save tensors: torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, FILE)."
    else:
        why = f"it holds a {type(value).__name__} without tensors"
        why += f", and objects of {', '.join(left_out[:4])}" if left_out else ""
        fix = "Save the network's tensors with the program that made it: torch.save(model.state_dict(), 'weights.pth')."
    return WeightsError(f"{path} holds no state dict.", why=why, fix=fix)


# ---------------------------------------------------------------------------------------------- names


def _walk(value: Any) -> Iterator[tuple[tuple[str, ...], str, torch.Tensor]]:
    """All tensors in nested mappings and lists: the keys that lead there, the last one, and the tensor.

    A mapping that stands in several places (also inside itself) is looked at once.
    """
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        place, here = waiting.pop()
        if id(here) in seen or len(place) > _DEEPEST:
            continue
        seen.add(id(here))
        deeper = []
        for key, item in _items(here):
            if isinstance(item, torch.Tensor):
                yield place, key, item
            elif isinstance(item, Mapping | list | tuple):
                deeper.append(((*place, key), item))
        waiting += reversed(deeper)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, list | tuple) and len(value) <= _LONGEST_LIST:
        yield from ((str(number), item) for number, item in enumerate(value))


def _root(place: tuple[str, ...]) -> str:
    """The beginning of the names in a state dict: up to the last usual wrapper."""
    wrappers = [number for number, key in enumerate(place) if key in _WRAPPERS]
    return "".join(f"{part}." for part in place[: wrappers[-1] + 1]) if wrappers else ""
