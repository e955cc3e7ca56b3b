"""What is to be scored: networks, targets, and one evaluation of the one on the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cfvid.artifacts import Record, digest_of
from cfvid.data.manifest import Manifest
from cfvid.errors import DataError
from cfvid.evaluation.svm import IGNORED
from cfvid.models.weights import load_network
from cfvid.models.zoo import Network, build_network
from cfvid.seeds import derive
from cfvid.stages.context import Run

MULTI_LABEL = ("svm",)
"""Protocols for targets whose samples have several labels."""
ANY_LABEL = (*MULTI_LABEL, "linear", "knn", "heads", "finetune")
"""Those that can also count any of a sample's labels as right."""


@dataclass(frozen=True)
class Candidate:
    """One network to score."""

    name: str
    """n_pre, n_cf or random."""
    folder_name: str
    source: Path | None
    """Its network folder; None for random initialisation."""
    digest: str
    arch: str
    seed: int

    def load(self) -> Network:
        """A new copy of the network."""
        if self.source is None:
            return build_network(self.arch, num_classes=1, seed=derive(self.seed, "random", "weights"))
        return load_network(self.source)[0]


@dataclass(frozen=True)
class Target:
    """One data set to transfer to."""

    name: str
    train: Manifest
    val: Manifest

    @property
    def classes(self) -> list[str]:
        """Class names by index: the training split's."""
        return self.train.classes

    @property
    def has_several_labels(self) -> bool:
        """Whether a sample may have several labels, or unsure ones."""
        return any(
            len(split.labels_by_id) < len(split) or bool(split.labels_by_id.with_several())
            for split in (self.train, self.val)
        )

    def labels(self, ids: list[str], split: Manifest) -> np.ndarray:
        """Class indices, int64 (N,), in the order of `ids`: of samples of one label each."""
        return self.label_sets(ids, split)[:, 0]

    def label_sets(self, ids: list[str], split: Manifest) -> np.ndarray:
        """Class indices, int64 (N, L), in the order of `ids`: all labels of a sample, then -1."""
        labels = split.labels_by_id
        return labels.numbers_in(self.classes)[labels.sets(ids)]

    def memberships(self, ids: list[str], split: Manifest) -> np.ndarray:
        """For several labels per sample: int8 (N, C), 1 where a sample has the label, IGNORED where it is unsure."""
        index = {name: i for i, name in enumerate(self.classes)}
        found_NC = np.zeros((len(ids), len(index)), dtype=np.int8)
        for row, sample in enumerate(split.samples(split.ids.rows(ids))):
            found_NC[row, [index[name] for name in sample.unsure_labels if name in index]] = IGNORED
            found_NC[row, [index[name] for name in sample.labels]] = 1
        return found_NC


@dataclass(frozen=True)
class Evaluation:
    """One network on one target by one protocol and seed."""

    target: Target
    candidate: Candidate
    protocol: str
    seed: int
    home: Path
    """Of all evaluations of this network on this target."""

    @property
    def folder(self) -> Path:
        """Of this one."""
        return self.home / f"{self.protocol}-seed{self.seed}"


def evaluations(run: Run) -> Iterator[Evaluation]:
    """Every network on every target by every protocol and seed.

    Raises:
        ArtifactError: when a network is not there yet.
        DataError: as `read_target`.
    """
    config = run.config.transfer
    for name in run.config.data.targets:
        target = read_target(run, name)
        for seed in config.seeds:
            for candidate in _candidates(run, seed):
                home = run.folder / "transfer" / name / candidate.folder_name
                for protocol in config.protocols_of(name):
                    yield Evaluation(target, candidate, protocol, seed, home)


def read_target(run: Run, name: str) -> Target:
    """A target by its name.

    Raises:
        DataError: when it has no labels, one class, or unseen classes in val; or several labels per sample, and a
            protocol asks for one.
    """
    fit = ANY_LABEL if name in run.config.transfer.any_label else MULTI_LABEL
    protocols = run.config.transfer.protocols_of(name)
    unfit = [protocol for protocol in protocols if protocol not in fit]
    # For a machine of each class what shows nothing but unsure labels is still no example of all others.
    or_unsure = all(protocol in MULTI_LABEL for protocol in protocols)
    target = Target(name, *(run.labelled(name, split, or_unsure=or_unsure) for split in ("train", "val")))
    several = [*target.train.labels_by_id.with_several()[:1], *target.val.labels_by_id.with_several()[:1]]
    if several and unfit:
        raise DataError(
            f"{name}: {', '.join(unfit)} needs one label per sample; {several[0]} has several.",
            fix=f"Keep the samples with one label, or set transfer.protocols_by_target.{name} to "
            f"[{', '.join(MULTI_LABEL)}]. Where any label is a right answer, name the target in transfer.any_label; "
            f"{', '.join(ANY_LABEL)} can do that.",
        )
    if len(target.classes) < 2:
        raise DataError(f"{name}: a target needs at least two classes, its training split has one.")
    unseen = sorted(set(target.val.classes) - set(target.classes))
    if unseen:
        raise DataError(f"{name}: the val split has classes that train lacks: {', '.join(unseen[:5])}.")
    return target


def _candidates(run: Run, seed: int) -> Iterator[Candidate]:
    stages = {"n_pre": "pretrain", "n_cf": "retrain"}
    for name in run.config.transfer.networks:
        if name in stages:
            source = run.folder / stages[name] / "network"
            record = Record.read(source, kind="network")
            yield Candidate(name, name, source, record.digest, record.inputs["arch"], seed)
        else:
            arch = run.config.pretrain.arch
            yield Candidate(name, f"random-seed{seed}", None, digest_of(["random", arch, seed]), arch, seed)
