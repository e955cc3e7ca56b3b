"""Weights of other programs: read without executing anything, matched by name, verified by shape and by number."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cfvid.artifacts import digest_file
from cfvid.models.file_kinds import SAFETENSORS
from cfvid.models.foreign_file import read_state_dict as read_state_dict
from cfvid.models.foreign_network import CHOICE, FoundNetwork, KeyReport, find_network, shown
from cfvid.models.known_sources import Source, recognise
from cfvid.models.matching import HEADS, OUTPUTS, never_trained, plain_name, starts_of
from cfvid.models.references import SelfTest, self_test
from cfvid.models.zoo import Network

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """What an import found out."""

    keys: KeyReport
    source: Source
    self_test: SelfTest
    file_kind: str
    """What the file is by its bytes, whatever its name says."""
    prefix: str
    """What the network's keys begin with, from the top of the file."""
    other_networks: list[str]
    """The same of further networks of this architecture in the file."""
    left_out: list[str]
    """Classes of the file's objects that are no tensors."""
    never_trained: bool
    """Whether batch normalisation has never seen a batch."""


def load_foreign(path: Path, network: Network, *, prefix: str | None = None) -> Imported:
    """Load a foreign state dict into a network's trunk, in place; its head is left as it is.

    The trunk is found by names and shapes, whatever stands before the names (see `cfvid.models.matching`). BatchNorm
    counters (`num_batches_tracked`) may be missing. Afterwards the trunk's outputs are compared with those of a
    reference implementation (see `cfvid.models.references`).

    Args:
        path: .safetensors, or a torch file, which is read as plain tensors (`weights_only`), never executed.
        network: of the architecture that the file is for.
        prefix: what the keys of the network that is meant begin with, where the file has several.

    Raises:
        WeightsError: when the file cannot be read as tensors, is for another architecture, has several networks that
            could be meant, or does not compute what the reference does.
    """
    found = find_network(path, network.arch, prefix=prefix)
    trunk = {ours: found.tensors[theirs] for theirs, ours in found.keys.mapped.items()}
    network.trunk.load_state_dict(trunk, strict=False)
    source = recognise(
        arch=network.arch,
        digest=digest_file(path),
        layout=_layout(found.tensors),
        num_outputs=_num_outputs(found),
    )
    tested = self_test(network, found.tensors, found.keys.mapped, path=path)
    _tell(path, found, source, tested)
    return Imported(
        keys=found.keys,
        source=source,
        self_test=tested,
        file_kind=found.file.kind.what,
        prefix=found.prefix,
        other_networks=found.others,
        left_out=found.file.left_out,
        never_trained=never_trained(trunk),
    )


def _tell(path: Path, found: FoundNetwork, source: Source, tested: SelfTest) -> None:
    kind, left_out = found.file.kind, found.file.left_out
    if (path.suffix == ".safetensors") != (kind == SAFETENSORS):
        logger.info("%s is %s, whatever its name says, and was read as such", path, kind.what)
    if left_out:
        logger.info("%s: objects besides tensors were left out (%s)", path, ", ".join(left_out))
    heads = sum(any(own.startswith(HEADS) for own in _own_names(name, found)) for name in found.keys.unexpected)
    logger.info("%s: %s (%d of them belong to its head)", path, found.keys, heads)
    logger.info("%s: keys of %s; it is %s; %s", path, source.layout, source.name or "no file that is known", tested)
    if found.prefix:
        logger.info("%s: the network's keys begin with %s", path, found.prefix)
    if found.others and found.was_chosen:
        logger.info("%s also has networks of this architecture under %s", path, shown(found.others))
    elif found.others:
        text = "%s also has averaged weights of this network (EMA) under %s; the plain ones were taken. %s takes others"
        logger.warning(text, path, shown(found.others), CHOICE)


def _own_names(name: str, found: FoundNetwork) -> list[str]:
    """What a key could be called in the network whose trunk was found: less the prefix, or a beginning of it."""
    return [plain_name(name.removeprefix(start)) for start in starts_of(found.own_prefix) if name.startswith(start)]


def _layout(names: Iterable[str]) -> str:
    if any("_feature_blocks." in name for name in names):
        return "VISSL"
    return "pytorchvideo" if any(re.search(r"(^|\.)blocks\.\d", name) for name in names) else "torchvision"


def _num_outputs(found: FoundNetwork) -> int | None:
    """The number of outputs of the head; where several have the name of one, of the nearest to the trunk."""
    for start in starts_of(found.own_prefix):
        for name, tensor in found.tensors.items():
            if name.startswith(start) and plain_name(name.removeprefix(start)) in OUTPUTS and tensor.ndim:
                return int(tensor.shape[0])
    return None
