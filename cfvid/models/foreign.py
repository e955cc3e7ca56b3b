"""Weights of other programs: read without executing anything, matched by name, verified by shape and by number."""

from __future__ import annotations

import logging
import pickle
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cfvid.artifacts import digest_file
from cfvid.errors import WeightsError
from cfvid.models.known_sources import Source, recognise
from cfvid.models.references import SelfTest, self_test
from cfvid.models.zoo import ARCHITECTURES, Network

logger = logging.getLogger(__name__)

_WRAPPERS = (
    "classy_state_dict", "base_model", "state_dict", "model_state_dict", "model_state", "model", "net", "network",
)  # fmt: skip
"""Keys under which training programs put the state dict inside a checkpoint; the first two are VISSL's."""
_PREFIXES = (
    "module.", "model.", "backbone.", "encoder.", "encoder_q.", "trunk.", "_orig_mod.",
    "classy_state_dict.", "base_model.", "_feature_blocks.",
)  # fmt: skip
_HEADS = ("fc.", "head.", "heads.", "classifier.", "projection.", "blocks.5.")
"""What a trunk's last layer is called; the last one is pytorchvideo's."""
_OUTPUTS = ("fc.weight", "head.weight", "classifier.weight", "blocks.5.proj.weight")
_COUNTER = "num_batches_tracked"
Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class KeyReport:
    """What became of each key of a foreign state dict."""

    mapped: dict[str, str]
    """Foreign key -> ours."""
    missing: list[str]
    """Ours that the file does not have."""
    unexpected: list[str]
    """The file's that the trunk does not have, heads included."""

    def __str__(self) -> str:
        return (
            f"{len(self.mapped)} keys mapped, {len(self.missing)} missing{_some(self.missing)}, "
            f"{len(self.unexpected)} unexpected{_some(self.unexpected)}"
        )


def _some(names: list[str], limit: int = 4) -> str:
    return f" ({', '.join(names[:limit])}{', ...' if len(names) > limit else ''})" if names else ""


@dataclass(frozen=True)
class Imported:
    """What an import found out."""

    keys: KeyReport
    source: Source
    self_test: SelfTest


def load_foreign(path: Path, network: Network) -> Imported:
    """Load a foreign state dict into a network's trunk, in place; its head is left as it is.

    Names are matched after removing the wrappers and prefixes that training programs add. BatchNorm counters
    (`num_batches_tracked`) may be missing. Afterwards the trunk's outputs are compared with those of a reference
    implementation (see `cfvid.models.references`).

    Args:
        path: .safetensors, or a torch file, which is read as plain tensors (`weights_only`), never executed.
        network: of the architecture that the file is for.

    Raises:
        WeightsError: when the file cannot be read as tensors, is for another architecture, or does not compute what
            the reference does.
    """
    foreign = read_state_dict(path)
    shapes = {name: tensor.shape for name, tensor in foreign.items()}
    fit = _match(shapes, _shapes(network.trunk))
    if not fit.is_whole:
        raise _misfit(path, network.arch, shapes, fit)
    ours = {name: foreign[theirs] for theirs, name in fit.keys.mapped.items()}
    network.trunk.load_state_dict(ours, strict=False)
    source = recognise(
        arch=network.arch, digest=digest_file(path), layout=_layout(foreign), num_outputs=_num_outputs(shapes, ours)
    )
    tested = self_test(network, foreign, fit.keys.mapped, path=path)
    heads = sum(_strip(name, ours).startswith(_HEADS) for name in fit.keys.unexpected)
    logger.info("%s: %s (%d of them belong to its head)", path, fit.keys, heads)
    logger.info("%s: keys of %s; it is %s; %s", path, source.layout, source.name or "no file that is known", tested)
    return Imported(fit.keys, source, tested)


# ---------------------------------------------------------------------------------------------- reading


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, by name, unwrapped.

    Raises:
        WeightsError: when the file is missing, damaged, or would need to execute code.
    """
    if not path.is_file():
        raise WeightsError(f"The weights file {path} does not exist.", fix="Put it there, or correct the path.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors and was not loaded.",
            why=_objects_in(path) or str(error).splitlines()[0],
            fix="Save its tensors alone, best as .safetensors, with the program that made it. If you trust the file, "
            f"do it yourself: value = torch.load({path.name!r}, weights_only=False), which executes what is in it; "
            "then torch.save(value['state_dict'], 'weights.pth'), or of VISSL's checkpoints "
            "torch.save(value['classy_state_dict']['base_model']['model'], 'weights.pth').",
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds on damaged files
        raise WeightsError(f"{path} cannot be read as weights.", why=str(error).splitlines()[0]) from error
    return _unwrap(value, path)


def _objects_in(path: Path) -> str | None:
    """What a refused file holds besides tensors, found without executing it."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # files that are no archives, or damaged ones; the first error says more
        return None
    return f"it would need {', '.join(sorted(names)[:4])}" if names else None


def _unwrap(value: Any, path: Path) -> dict[str, torch.Tensor]:
    while isinstance(value, Mapping):
        inner = next((value[key] for key in _WRAPPERS if isinstance(value.get(key), Mapping)), None)
        if inner is None:
            break
        value = inner
    tensors = dict(_tensors(value)) if isinstance(value, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path} holds no state dict.", why=f"it holds a {type(value).__name__} without tensors")
    return tensors


def _tensors(value: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, torch.Tensor]]:
    """All tensors of nested mappings, by dotted names: VISSL keeps a trunk and its heads side by side."""
    for key, item in value.items():
        if isinstance(item, torch.Tensor):
            yield f"{prefix}{key}", item
        elif isinstance(item, Mapping):
            yield from _tensors(item, f"{prefix}{key}.")


# ---------------------------------------------------------------------------------------------- matching


@dataclass(frozen=True)
class _Fit:
    """How well a file's keys are those of a trunk."""

    keys: KeyReport
    wrong: list[str]
    """Keys of other shapes, in words."""
    deeper: list[str]
    """The file's that lie inside the trunk's layers, but that the trunk does not have: a deeper network's, often."""
    twice: list[str]
    """Ours that several keys of the file could be."""

    @property
    def is_whole(self) -> bool:
        return not (self.wrong or self.keys.missing or self.deeper or self.twice)


def _match(foreign: Shapes, ours: Shapes) -> _Fit:
    found = defaultdict(list)
    for theirs in foreign:
        found[_strip(theirs, ours)].append(theirs)
    mapped = {found[name][0]: name for name in ours if name in found}
    layers = {name.partition(".")[0] for name in ours}
    unknown = [name for name in found if name not in ours]
    return _Fit(
        keys=KeyReport(
            mapped,
            missing=[name for name in ours if name not in found and not name.endswith(_COUNTER)],
            unexpected=sorted(set(foreign) - set(mapped)),
        ),
        wrong=[
            f"{theirs} is {tuple(foreign[theirs])}, the network has {tuple(ours[name])}"
            for theirs, name in mapped.items()
            if foreign[theirs] != ours[name]
        ],
        deeper=[name for name in unknown if name.partition(".")[0] in layers and not name.startswith(_HEADS)],
        twice=[f"{name} could be {' or '.join(found[name])}" for name in ours if len(found.get(name, [])) > 1],
    )


def _shapes(trunk: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in trunk.state_dict().items()}


def _strip(name: str, ours: Iterable[str]) -> str:
    """A foreign name without the prefixes that training programs add."""
    while name not in ours:
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name


def _layout(names: Iterable[str]) -> str:
    if any("_feature_blocks." in name for name in names):
        return "VISSL"
    return "pytorchvideo" if any(re.search(r"(^|\.)blocks\.\d", name) for name in names) else "torchvision"


def _num_outputs(foreign: Shapes, ours: Iterable[str]) -> int | None:
    return next((shape[0] for name, shape in foreign.items() if _strip(name, ours) in _OUTPUTS and shape), None)


# ---------------------------------------------------------------------------------------------- what is wrong


def _misfit(path: Path, arch: str, shapes: Shapes, fit: _Fit) -> WeightsError:
    """One message that names the cause, and the right architecture where there is one."""
    what = f"{path} does not fit {arch}: {fit.keys}."
    fitting = fitting_architectures(shapes)
    if fit.twice:
        return WeightsError(
            what, why="; ".join(fit.twice[:3]), fix="Save the one network that is meant to a file of its own."
        )
    if fitting:
        return WeightsError(
            what, why=f"its keys and shapes are those of {fitting[0]}", fix=_how_to_use(fitting[0], arch)
        )
    return WeightsError(
        what, why=_cause(shapes, fit), fix="Bring weights of an architecture that `cfvid doctor` lists."
    )


def _how_to_use(fitting: str, arch: str) -> str:
    dims = ARCHITECTURES[fitting].dims
    if dims == ARCHITECTURES[arch].dims:
        return f"Set pretrain.arch to {fitting}."
    return f"Set pretrain.arch to {fitting}, and modality to one with {dims}D networks."


def _cause(shapes: Shapes, fit: _Fit) -> str:
    if not fit.keys.mapped:
        return f"none of its keys is one of the trunk's; they are like {', '.join(list(shapes)[:3])}"
    if any(re.search(r"(^|\.)conv1\.0\.weight$", name) for name in shapes) and "conv1.weight" in fit.keys.missing:
        return "its stem is several convolutions (conv1.0, ...), as of timm's resnet50d, which cfvid does not have"
    if fit.wrong:
        return "; ".join(fit.wrong[:3])
    if fit.keys.missing:
        return "keys of the trunk are missing"
    return f"it has more layers than the trunk{_some(fit.deeper)}, which would be left out"


def fitting_architectures(foreign: Shapes) -> list[str]:
    """The architectures that have exactly these keys and shapes, whatever the head."""
    fitting = []
    for name, architecture in ARCHITECTURES.items():
        with torch.device("meta"):
            trunk, _ = architecture.build()
        if _match(foreign, _shapes(trunk)).is_whole:
            fitting.append(name)
    return fitting
