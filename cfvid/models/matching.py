"""Where in a file a trunk's tensors are: found by names and shapes, whatever stands before the names.

Training programs put networks under prefixes (`module.`, `student.backbone.`), number the parts of an nn.Sequential,
and wrap modules anywhere. So every place of a file is looked at that has the trunk's first tensor, and fits when it has
all others, in their shapes, and nothing else inside the trunk's layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

Tensors = Mapping[str, torch.Tensor]
HEADS = ("fc.", "head.", "heads.", "classifier.", "projection.", "blocks.5.")
"""What a trunk's last layer is called; the last one is pytorchvideo's."""
OUTPUTS = ("fc.weight", "head.weight", "classifier.weight", "blocks.5.proj.weight")
_COUNTER = "num_batches_tracked"
_TRANSPARENT = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)
"""Parts of names that stand for nothing: of DataParallel, torch.compile, FSDP, activation checkpoints, Fabric."""
_OTHER_NAMES = {"shortcut": "downsample"}
"""What public ResNets call a layer that torchvision has under another name; it computes the same."""


@dataclass(frozen=True)
class Fit:
    """How well the tensors under one prefix are those of a trunk."""

    prefix: str
    """What all names begin with, from the top of the file: empty, or with a dot at its end."""
    mapped: dict[str, str]
    """The file's name -> the trunk's."""
    missing: list[str]
    """The trunk's that are not there; counters of batch normalisation may be."""
    wrong: list[str]
    """Tensors of other shapes, or without numbers that a network computes with, in words."""
    deeper: list[str]
    """The file's, less the prefix, that lie inside the trunk's layers unused: a deeper network's, often."""
    twice: list[str]
    """The trunk's that several of the file's could be, in words."""

    @property
    def is_whole(self) -> bool:
        return not (self.wrong or self.missing or self.deeper or self.twice)


def fits(tensors: Tensors, trunk: Tensors) -> list[Fit]:
    """Every place of a file that could be a trunk, the best one first.

    Args:
        tensors: the file's, by dotted names.
        trunk: all parameters and buffers of a trunk, by its names; only shapes and dtypes are looked at.
    """
    names = [name for name in trunk if not name.endswith(_COUNTER)]
    # By the last one too: where the first is missing, that is still the place to speak of.
    plain = dict.fromkeys([*_prefixes(tensors, names[0]), *_prefixes(tensors, names[-1])]) or [""]
    found = [_fit(prefix, names, tensors, trunk) for prefix, names in _grouped(tensors, plain, numbers=None)]
    layers = _layers(trunk)
    numbered = _numbered_prefixes(tensors, trunk)
    found += [_fit(prefix, names, tensors, trunk) for prefix, names in _grouped(tensors, numbered, numbers=layers)]
    return sorted(found, key=lambda fit: (not fit.is_whole, -len(fit.mapped)))


def starts_of(prefix: str) -> list[str]:
    """A prefix and its own beginnings, the longest first: the head of a trunk stands beside or above it."""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:number]) for number in range(len(parts), -1, -1)]


def plain_name(name: str) -> str:
    """A name without the parts that wrappers add anywhere, in torchvision's words."""
    return ".".join(_OTHER_NAMES.get(part, part) for part in name.split(".") if part not in _TRANSPARENT)


def _layers(trunk: Tensors) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in trunk))


def _prefixes(tensors: Tensors, wanted: str) -> list[str]:
    """What stands before a trunk's name, wherever it is."""
    num_parts, last = len(wanted.split(".")), wanted.rpartition(".")[2]
    prefixes: dict[str, None] = {}
    for name in tensors:
        parts = name.split(".")
        if parts[-1] != last:
            continue
        at = len(parts)
        for _ in range(num_parts):  # parts that wrappers add are no part of the trunk's name
            at -= 1
            while at > 0 and parts[at] in _TRANSPARENT:
                at -= 1
        if at >= 0 and plain_name(".".join(parts[at:])) == wanted:
            prefixes["".join(f"{part}." for part in parts[:at])] = None
    return list(prefixes)


def _numbered_prefixes(tensors: Tensors, trunk: Tensors) -> list[str]:
    """What stands before `0.weight` and the like, where such a tensor has the shape of a trunk's first one."""
    first = next(iter(trunk))
    tail = re.escape(first.partition(".")[2])
    pattern = re.compile(rf"(?P<prefix>(.*\.)?)\d+\.(({'|'.join(_TRANSPARENT)})\.)*{tail}")
    shape = trunk[first].shape
    matches = (pattern.fullmatch(name) for name, tensor in tensors.items() if tensor.shape == shape)
    return list(dict.fromkeys(match["prefix"] for match in matches if match))


def _grouped(
    tensors: Tensors, prefixes: Iterable[str], *, numbers: list[str] | None
) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Group the file's names by prefix, and under each by the name that the trunk would have for them.

    Args:
        tensors: the file's.
        prefixes: to look under.
        numbers: names of the layers that numbers stand for, in order; None where layers have names.
    """
    for prefix in prefixes:
        under = [name for name in tensors if name.startswith(prefix)]
        names: dict[str, list[str]] = {}
        words = {} if numbers is None else _words(under, prefix, numbers)
        for name in under:
            own = plain_name(name.removeprefix(prefix))
            layer, dot, rest = own.partition(".")
            names.setdefault(words.get(layer, layer) + dot + rest, []).append(name)
        yield prefix, names


def _words(under: Iterable[str], prefix: str, layers: list[str]) -> dict[str, str]:
    """The numbers of an nn.Sequential -> the layers that they stand for; layers without tensors left gaps."""
    firsts = {plain_name(name.removeprefix(prefix)).partition(".")[0] for name in under}
    numbers = sorted((first for first in firsts if first.isdecimal()), key=int)
    return dict(zip(numbers, layers, strict=False))


def _fit(prefix: str, names: Mapping[str, list[str]], tensors: Tensors, trunk: Tensors) -> Fit:
    layers = set(_layers(trunk))
    mapped = {names[name][0]: name for name in trunk if name in names}
    return Fit(
        prefix=prefix,
        mapped=mapped,
        missing=[name for name in trunk if name not in names and not name.endswith(_COUNTER)],
        wrong=[
            fault
            for theirs, name in mapped.items()
            if (fault := _fault(theirs, tensors[theirs], trunk[name])) is not None
        ],
        deeper=[
            name
            for name in names
            if name not in trunk and name.partition(".")[0] in layers and not name.startswith(HEADS)
        ],
        twice=[f"{name} could be {' or '.join(names[name])}" for name in trunk if len(names.get(name, [])) > 1],
    )


def _fault(name: str, theirs: torch.Tensor, ours: torch.Tensor) -> str | None:
    if theirs.shape != ours.shape:
        return f"{name} is {tuple(theirs.shape)}, the network has {tuple(ours.shape)}"
    if ours.is_floating_point() and not theirs.is_floating_point():
        return f"{name} holds {str(theirs.dtype).removeprefix('torch.')}: the weights are quantised"
    return f"{name} holds no numbers (it was saved on the device `meta`)" if theirs.is_meta else None


# ---------------------------------------------------------------------------------------------- several networks

_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|averager|encoder_k)([._]|$)")
"""Names of moving averages of a network whose plain weights its publishers use by default."""
_USUAL = {
    "teacher": "DINO's authors evaluate the teacher",
    "base_encoder": "MoCo v3's authors evaluate the base_encoder",
    "online_encoder": "BYOL's authors evaluate the online network",
    "online_network": "BYOL's authors evaluate the online network",
    "encoder_q": "MoCo's authors evaluate encoder_q",
}


def is_averaged(prefix: str) -> bool:
    """Whether a prefix speaks of an exponential moving average (EMA) of other weights, or of their mean (SWA)."""
    return _AVERAGED.search(prefix) is not None


def usual_choice(prefixes: Iterable[str]) -> tuple[str, str] | None:
    """Which of several networks publishers use, and in words why, where the names are known ones."""
    for prefix in prefixes:
        for part in prefix.split("."):
            if part in _USUAL:
                return prefix, _USUAL[part]
    return None


def different(found: Iterable[Fit], tensors: Tensors) -> list[Fit]:
    """Keep, of several places that fit, those with numbers of their own; a network that is saved twice counts once."""
    kept: list[Fit] = []
    for fit in found:
        if not any(_equal(fit, other, tensors) for other in kept):
            kept.append(fit)
    return kept


def _equal(one: Fit, other: Fit, tensors: Tensors) -> bool:
    theirs = {ours: name for name, ours in other.mapped.items()}
    return one.mapped.keys() == other.mapped.keys() or (
        set(one.mapped.values()) == set(theirs)
        and all(torch.equal(tensors[name], tensors[theirs[ours]]) for name, ours in one.mapped.items())
    )


def never_trained(state: Tensors) -> bool:
    """Whether batch normalisation has never seen a batch: means of 0, variances of 1 and counters of 0 throughout.

    Networks without such statistics cannot tell.
    """
    means = [tensor for name, tensor in state.items() if name.endswith("running_mean")]
    variances = [tensor for name, tensor in state.items() if name.endswith("running_var")]
    counters = [tensor for name, tensor in state.items() if name.endswith(_COUNTER)]
    return bool(means) and not (
        any(bool(mean.any()) for mean in means)
        or any(bool((variance != 1).any()) for variance in variances)
        or any(bool(counter.any()) for counter in counters)
    )
