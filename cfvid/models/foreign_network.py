"""The one network that is meant in a weights file; where there is none, or there are several, what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cfvid.errors import WeightsError
from cfvid.models.foreign_file import ForeignFile, read_foreign
from cfvid.models.layouts import describe
from cfvid.models.matching import Fit, different, fits, is_averaged, usual_choice
from cfvid.models.zoo import ARCHITECTURES

CHOICE = "pretrain.weights_prefix"
"""The key of the configuration that chooses one of a file's networks."""
_OF_TRAINING = ("optimizer", "optimizers", "optimizer_states", "scheduler", "lr_scheduler")
"""What checkpoints hold besides networks."""


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


def _some(names: Sequence[str], limit: int = 4) -> str:
    return f" ({', '.join(names[:limit])}{', ...' if len(names) > limit else ''})" if names else ""


@dataclass(frozen=True)
class FoundNetwork:
    """A network in a file; keys are named as in its state dict, without usual wrappers (`state_dict`, `model`)."""

    file: ForeignFile
    tensors: dict[str, torch.Tensor]
    """All of the state dict that the network is in."""
    keys: KeyReport
    prefix: str
    """What its keys begin with, from the top of the file."""
    own_prefix: str
    """The same within its state dict."""
    others: list[str]
    """What the keys of further networks of this architecture begin with, from the top of the file."""
    was_chosen: bool
    """Whether the user said which one is meant."""


def find_network(path: Path, arch: str, *, prefix: str | None = None) -> FoundNetwork:
    """Find the network of an architecture in a file.

    Args:
        path: of the file.
        arch: the architecture, by its name in `ARCHITECTURES`.
        prefix: what the keys of the network that is meant begin with; None where the file has one, or has averaged
            weights beside plain ones, which then are taken.

    Raises:
        WeightsError: when the file cannot be read as tensors, has no such network, or several that could be meant.
    """
    file = read_foreign(path)
    found = fits(file.tensors, trunk_of(arch))
    under = found if prefix is None else _chosen(found, prefix)
    whole = different((fit for fit in under if fit.is_whole), file.tensors)
    if not whole:
        raise _misfit(file, arch, found=found, under=under, prefix=prefix)
    plain = [fit for fit in whole if not is_averaged(fit.prefix)]
    meant = plain if len(plain) == 1 else whole
    if len(meant) > 1:
        raise _several(path, arch, [fit.prefix for fit in whole])
    tensors, root = _state_dict(file, meant[0])
    others = different([meant[0], *(fit for fit in found if fit.is_whole)], file.tensors)[1:]
    return FoundNetwork(
        file=file,
        tensors=tensors,
        keys=_report(meant[0], tensors, root),
        prefix=meant[0].prefix,
        own_prefix=meant[0].prefix.removeprefix(root),
        others=[fit.prefix for fit in others],
        was_chosen=prefix is not None,
    )


def trunk_of(arch: str) -> dict[str, torch.Tensor]:
    """Names, shapes and dtypes of a trunk's tensors; nothing is allocated."""
    with torch.device("meta"):
        return dict(ARCHITECTURES[arch].build()[0].state_dict())


def shown(prefixes: Sequence[str]) -> str:
    """Prefixes as the configuration takes them."""
    return ", ".join(prefix.removesuffix(".") or '""' for prefix in prefixes)


def _chosen(found: Sequence[Fit], prefix: str) -> list[Fit]:
    """The places that a prefix names, or else those that it is in: `teacher` is in `state_dict.teacher.backbone`."""
    start = f"{prefix.removesuffix('.')}." if prefix else ""
    exact = [fit for fit in found if fit.prefix == start]
    return exact if exact or not start else [fit for fit in found if f".{start}" in f".{fit.prefix}"]


def _state_dict(file: ForeignFile, fit: Fit) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of the state dict that a network is in, and what it lies under."""
    roots = {file.roots[name] for name in fit.mapped} or {_largest_root(file)}
    root = roots.pop() if len(roots) == 1 else ""
    tensors = {
        name.removeprefix(root): tensor
        for name, tensor in file.tensors.items()
        if file.roots[name] == root or name in fit.mapped
    }
    return tensors, root


def _largest_root(file: ForeignFile) -> str:
    sizes = Counter(root for name, root in file.roots.items() if not name.startswith(_OF_TRAINING))
    return max(sizes, key=lambda root: sizes[root], default="")


def _report(fit: Fit, tensors: Mapping[str, torch.Tensor], root: str) -> KeyReport:
    mapped = {theirs.removeprefix(root): ours for theirs, ours in fit.mapped.items()}
    return KeyReport(mapped, missing=fit.missing, unexpected=sorted(set(tensors) - set(mapped)))


# ---------------------------------------------------------------------------------------------- what is wrong


def _several(path: Path, arch: str, prefixes: list[str]) -> WeightsError:
    usual = usual_choice(prefixes)
    return WeightsError(
        f"{path} holds {len(prefixes)} networks that fit {arch}, with different numbers: {shown(prefixes)}.",
        why=f"{shown([usual[0]])} is usual ({usual[1]})" if usual else "which one is meant, the file does not say",
        fix=f"Choose one: {CHOICE}: {shown([usual[0] if usual else prefixes[0]])}, for example.",
    )


def _misfit(
    file: ForeignFile, arch: str, *, found: Sequence[Fit], under: Sequence[Fit], prefix: str | None
) -> WeightsError:
    """One message that names the cause, and the right architecture where there is one."""
    others = [fit.prefix for fit in found if fit.is_whole]
    if prefix is not None and (others or not under):
        return WeightsError(
            f"{file.path} holds no network that fits {arch} under {prefix!r}.",
            why=f"such networks are under {shown(others)}" if others else _looks(file),
            fix=f"Set {CHOICE} to one of them." if others else f"Correct {CHOICE}, or leave it out.",
        )
    best = under[0]
    what = f"{file.path} does not fit {arch}: {_report(best, *_state_dict(file, best))}."
    fitting = fitting_architectures(file, prefix=prefix)
    if fitting:
        return WeightsError(
            what, why=f"its keys and shapes are those of {fitting[0]}", fix=_how_to_use(fitting[0], arch)
        )
    if best.twice:
        return WeightsError(
            what, why="; ".join(best.twice[:3]), fix="Save the one network that is meant to a file of its own."
        )
    return WeightsError(
        what,
        why=f"{_cause(file, best)}. {_looks(file)}",
        fix="Bring weights of an architecture that `cfvid doctor` lists; these are of none of them.",
    )


def _how_to_use(fitting: str, arch: str) -> str:
    dims = ARCHITECTURES[fitting].dims
    if dims == ARCHITECTURES[arch].dims:
        return f"Set pretrain.arch to {fitting}."
    return f"Set pretrain.arch to {fitting}, and modality to one with {dims}D networks."


def _cause(file: ForeignFile, fit: Fit) -> str:
    if not fit.mapped:
        return f"none of its keys is one of the trunk's; they are like {', '.join(list(file.tensors)[:3])}"
    if fit.wrong:
        return "; ".join(fit.wrong[:3])
    if fit.missing:
        return "keys of the trunk are missing"
    return f"it has more layers than the trunk{_some(fit.deeper)}, which would be left out"


def _looks(file: ForeignFile) -> str:
    """What the largest state dict in the file looks like."""
    root = _largest_root(file)
    told = describe(
        {
            name.removeprefix(root): tensor.shape
            for name, tensor in file.tensors.items()
            if file.roots[name] == root and not name.startswith(_OF_TRAINING)
        }
    )
    return f"{told} Left out were its objects of {', '.join(file.left_out[:3])}." if file.left_out else told


def fitting_architectures(file: ForeignFile, *, prefix: str | None = None) -> list[str]:
    """The architectures that have exactly a file's keys and shapes, whatever the prefix and the head."""
    fitting = []
    for name in ARCHITECTURES:
        found = fits(file.tensors, trunk_of(name))
        if any(fit.is_whole for fit in (found if prefix is None else _chosen(found, prefix))):
            fitting.append(name)
    return fitting
