"""transfer: each network on each target, by frozen features (linear probe, nearest neighbours) and by full fine-tuning.

RUN/transfer/TARGET/NETWORK/           NETWORK is n_pre, n_cf, or random-seedS
  features/{train,val}/                feature stores, views kept apart
  PROTOCOL-seedS/                      PROTOCOL is linear, knn or finetune; names of further layers end in @LAYER
    scores.json                        {"top1": ..., "top5": ..., "clip_top1": ...} in percent
    predictions.parquet                sample_id, label, predicted, probability
    metrics.jsonl, tensorboard/, skips.jsonl, val_skips.jsonl    of fine-tuning
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cfvid.artifacts import Record, atomic_file, digest_of, write_json
from cfvid.data.manifest import Manifest
from cfvid.errors import DataError
from cfvid.evaluation.inference import forward_views
from cfvid.evaluation.linear import LinearProbe
from cfvid.evaluation.nearest import NearestNeighbours
from cfvid.evaluation.scoring import sample_probabilities, score
from cfvid.models.weights import load_network
from cfvid.models.zoo import Network, build_network, feature_dims
from cfvid.seeds import derive
from cfvid.stages.context import Run
from cfvid.stages.extract import extract_into
from cfvid.stages.fit import fit
from cfvid.training.checkpoint import remove_states
from cfvid.training.targets import Targets

logger = logging.getLogger(__name__)

KIND = "transfer-scores"
Scored = tuple[list[str], dict[str | None, np.ndarray], dict[str, Any]]
"""Sample ids, their logits (N, V, C) by layer (None: the trunk's output), and facts for the record."""


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

    def labels(self, ids: list[str], split: Manifest) -> np.ndarray:
        """Class indices, int64 (N,), in the order of `ids`."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index[split.labels_by_id[sample_id][0]] for sample_id in ids], dtype=np.int64)


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


def transfer(run: Run) -> Path:
    """Score every network on every target by every protocol and seed, in RUN/transfer.

    Raises:
        DataError: when a target has no labels, one class, several labels per sample, or unseen classes in val.
    """
    for evaluation in _evaluations(run):
        with run.claimed(evaluation.folder, _inputs(run, evaluation), kind=KIND) as done:
            if not done:
                _score(run, evaluation)
    return run.folder / "transfer"


def claims(run: Run) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of all evaluations, and what they are made from.

    Raises:
        ArtifactError: when a network is not there yet.
        DataError: as `transfer`.
    """
    for evaluation in _evaluations(run):
        yield evaluation.folder, _inputs(run, evaluation)


def _evaluations(run: Run) -> Iterator[Evaluation]:
    config = run.config.transfer
    for name in run.config.data.targets:
        target = read_target(run, name)
        for seed in config.seeds:
            for candidate in _candidates(run, seed):
                home = run.folder / "transfer" / name / candidate.folder_name
                for protocol in config.protocols:
                    yield Evaluation(target, candidate, protocol, seed, home)


def read_target(run: Run, name: str) -> Target:
    """A target by its name.

    Raises:
        DataError: when it has no labels, one class, several labels per sample, or unseen classes in val.
    """
    target = Target(name, run.labelled(name, "train"), run.labelled(name, "val"))
    labels = {**target.train.labels_by_id, **target.val.labels_by_id}
    several = [sample_id for sample_id, names in labels.items() if len(names) > 1]
    if several:
        raise DataError(f"{name}: a target needs one label per sample; {several[0]} has several.")
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


def _inputs(run: Run, evaluation: Evaluation) -> dict[str, Any]:
    config, frozen = run.config, evaluation.protocol in FROZEN
    return {
        **config.plain("modality"),
        "precision": run.precision,
        "protocol": config.plain("transfer")["transfer"][evaluation.protocol],
        # Fine-tuning looks at whole networks; the others at features as they are stored.
        **({"dtype": config.extract.dtype} if frozen else {}),
        "input": run.input_for("train", "extract", "score"),
        "network": evaluation.candidate.digest,
        "seed": evaluation.seed,
        "train": run.identify(evaluation.target.train),
        "val": run.identify(evaluation.target.val),
    }


def _score(run: Run, evaluation: Evaluation) -> None:
    folder, target = evaluation.folder, evaluation.target
    ids, logits_by_layer, facts = (_frozen if evaluation.protocol in FROZEN else _finetune)(run, evaluation)
    labels, logits_NVC = target.labels(ids, target.val), logits_by_layer[None]
    scores = {
        name + (f"@{layer}" if layer else ""): value
        for layer, logits in logits_by_layer.items()
        for name, value in score(logits, labels, view_noun=run.modality.view_noun).items()
    }
    write_json(folder / "scores.json", scores)
    _write_predictions(folder / "predictions.parquet", ids, labels, logits_by_layer, target.classes)
    facts |= {"network": evaluation.candidate.name, "target": target.name, "protocol": evaluation.protocol}
    facts |= {"num_scored": len(ids), "num_absent": len(target.val) - len(ids), "num_views": logits_NVC.shape[1]}
    files = ["predictions.parquet", "scores.json"]
    Record.write(folder, kind=KIND, inputs=_inputs(run, evaluation), files=files, facts=facts)
    remove_states(folder)
    shown = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
    logger.info("%s: %s", folder.relative_to(run.folder), shown)


def _linear(run: Run, evaluation: Evaluation) -> LinearProbe:
    return LinearProbe(run.config.transfer.linear, seed=derive(evaluation.seed, "linear", evaluation.target.name))


def _knn(run: Run, _evaluation: Evaluation) -> NearestNeighbours:
    return NearestNeighbours(run.config.transfer.knn)


FROZEN: dict[str, Callable[[Run, Evaluation], LinearProbe | NearestNeighbours]] = {"linear": _linear, "knn": _knn}
"""The protocols that look at frozen features, which are extracted once for all of them."""


def _frozen(run: Run, evaluation: Evaluation) -> Scored:
    target, candidate = evaluation.target, evaluation.candidate
    network = candidate.load()
    layers: list[str | None] = [None, *run.config.transfer.linear.layers]

    def features(split: str, manifest: Manifest) -> tuple[list[str], np.ndarray]:
        store = extract_into(
            run,
            evaluation.home / "features" / split,
            network=network,
            network_digest=candidate.digest,
            manifest=manifest,
            look="extract" if split == "train" else "score",
            average_views=False,
            layers=layers,
        )
        return store.ids, store.gather(store.ids)

    train_ids, train_NVD = features("train", target.train)
    val_ids, val_NVD = features("val", target.val)
    labels = target.labels(train_ids, target.train)
    logits: dict[str | None, np.ndarray] = {}
    facts: dict[str, Any] = {}
    ends = np.cumsum(feature_dims(candidate.arch, layers, run.modality.example(1).shape))
    for layer, last, dim in zip(layers, ends, np.diff(ends, prepend=0), strict=True):
        columns = slice(last - dim, last)
        probe = FROZEN[evaluation.protocol](run, evaluation)
        probe.fit(train_NVD[..., columns], labels, num_classes=len(target.classes))
        logits[layer] = probe.logits(val_NVD[..., columns])
        facts |= {name + (f"@{layer}" if layer else ""): value for name, value in probe.facts.items()}
    return val_ids, logits, facts


def _finetune(run: Run, evaluation: Evaluation) -> Scored:
    target, candidate, seed = evaluation.target, evaluation.candidate, evaluation.seed
    trunk = candidate.load().trunk
    # The head is drawn from the seed, the same one for every candidate.
    network = build_network(candidate.arch, num_classes=len(target.classes), seed=derive(seed, "finetune", "head"))
    network.trunk.load_state_dict(trunk.state_dict())
    targets = Targets(target.classes, target.train.labels_by_id)
    # Random draws are named by the target alone: every candidate sees the same batches.
    stage = f"finetune on {target.name}"
    logger.info("%s: %s", stage, candidate.name)
    fit(
        run,
        network,
        samples=target.train,
        objective=targets,
        training=run.config.transfer.finetune,
        folder=evaluation.folder,
        stage=stage,
        seed=seed,
    )
    with run.loader(target.val, stage=stage, ledger_path=evaluation.folder / "val_skips.jsonl") as loader:
        parts = list(
            forward_views(
                network,
                loader,
                target.val.ids,
                look="score",
                batch_size=run.config.transfer.batch_size,
                modality=run.modality,
                accelerator=run.accelerator,
            )
        )
    if not parts:
        raise DataError(f"{stage}: none of the val samples could be read.")
    return [i for ids, _ in parts for i in ids], {None: np.concatenate([logits for _, logits in parts])}, {}


def _write_predictions(
    path: Path, ids: list[str], labels: np.ndarray, logits_by_layer: dict[str | None, np.ndarray], classes: list[str]
) -> None:
    columns: dict[str, Any] = {"sample_id": ids, "label": [classes[i] for i in labels]}
    for layer, logits_NVC in logits_by_layer.items():
        probabilities, end = sample_probabilities(logits_NVC), f"@{layer}" if layer else ""
        said = probabilities.argmax(axis=1)
        columns[f"predicted{end}"] = [classes[i] for i in said]
        columns[f"probability{end}"] = probabilities[np.arange(len(said)), said]
    with atomic_file(path, check=pyarrow.parquet.read_metadata) as temporary:
        pyarrow.parquet.write_table(pa.table(columns), temporary)


def read_hits(folder: Path) -> dict[str, dict[str, bool]]:
    """Whether each scored sample of an evaluation was named rightly, by `top1` (or `top1@LAYER`) and sample id."""
    Record.read(folder, kind=KIND).verify(folder, only=("predictions.parquet",))
    table = pyarrow.parquet.read_table(folder / "predictions.parquet")
    ids, labels = table["sample_id"].to_pylist(), table["label"].to_pylist()
    return {
        name.replace("predicted", "top1"): {
            sample_id: label == said
            for sample_id, label, said in zip(ids, labels, table[name].to_pylist(), strict=True)
        }
        for name in table.column_names
        if name.startswith("predicted")
    }
