"""pretrain: N_pre, from labels (optionally with synthetic noise) or from weights that the user brings.

RUN/pretrain/
  network/             N_pre
  labels.parquet       sample_id, labels, noisy_labels, flipped   (when trained here)
  import.json          which keys of a foreign file were used     (when brought)
  metrics.jsonl, tensorboard/, skips.jsonl, held_out_skips.jsonl
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from cfvid.artifacts import atomic_file, digest_file, write_json
from cfvid.data.manifest import Manifest
from cfvid.data.skips import LEDGER_NAME
from cfvid.errors import ConfigError, DataError, WeightsError
from cfvid.evaluation.inference import forward_views
from cfvid.models.weights import load_foreign, load_network
from cfvid.models.zoo import Network, build_network
from cfvid.seeds import derive, stream
from cfvid.stages.context import Run
from cfvid.stages.fit import complete, fit
from cfvid.training.targets import Targets

logger = logging.getLogger(__name__)

KIND = "pretrain"


def pretrain(run: Run) -> Path:
    """Make N_pre in RUN/pretrain; returns its network folder.

    Raises:
        InputsChanged: when RUN/pretrain was made from other inputs.
    """
    [(folder, inputs)] = claims(run)
    weights = run.config.pretrain.weights
    with run.claimed(folder, inputs, kind=KIND) as done:
        if not done and weights is not None:
            _bring(run, folder, Path(weights).expanduser(), inputs)
        elif not done:
            _train(run, folder, inputs)
    return folder / "network"


def claims(run: Run) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder that `pretrain` writes, and what it is made from.

    Raises:
        WeightsError: when the weights to bring do not exist.
    """
    yield run.folder / "pretrain", _inputs(run)


def _inputs(run: Run) -> dict[str, Any]:
    config = run.config
    if config.pretrain.weights is not None:
        path = Path(config.pretrain.weights).expanduser()
        file = path / "model.safetensors" if path.is_dir() else path
        if not file.is_file():
            raise WeightsError(f"The weights {file} do not exist.", fix="Put them there, or set pretrain.weights.")
        chosen = {"arch": config.pretrain.arch, "weights": digest_file(file)}
        return {**config.plain("modality", "seed"), "pretrain": chosen, "input": run.input_for("train")}
    return {
        **config.plain("modality", "seed", "pretrain"),
        "precision": run.precision,
        "input": run.input_for("train", "extract"),
        "manifest": run.manifest("pretrain").digest,
    }


# ---------------------------------------------------------------------------------------------- trained here


def _train(run: Run, folder: Path, inputs: dict[str, Any]) -> None:
    config = run.config
    samples = labelled_samples(run)
    noisy = _noisy_labels(samples, config.pretrain.label_noise, config.seed)
    _write_labels(folder / "labels.parquet", samples, noisy)
    targets = Targets(samples.classes, noisy)
    logger.info("pretrain: %d samples, %d classes", len(samples), len(targets.classes))
    network = build_network(
        config.pretrain.arch, num_classes=len(targets.classes), seed=derive(config.seed, "pretrain", "weights")
    )
    fit(
        run,
        network,
        samples=samples,
        objective=targets,
        training=config.pretrain.training,
        folder=folder,
        stage=KIND,
        seed=config.seed,
    )
    complete(
        run,
        network,
        folder=folder,
        stage=KIND,
        inputs=inputs,
        classes=targets.classes,
        files=["labels.parquet", LEDGER_NAME],
        facts=_held_out_accuracy(run, network, targets, folder / "held_out_skips.jsonl"),
    )


def labelled_samples(run: Run) -> Manifest:
    """What N_pre is trained on.

    Raises:
        DataError: when there are no labels, or only one.
    """
    samples = run.labelled("pretrain", "train")
    if len(samples.classes) < 2:
        raise DataError(
            f"pretrain: the samples have only one label, {samples.classes[0]!r}.",
            fix="N_pre needs at least two classes; or bring weights with pretrain.weights.",
        )
    return samples


def _noisy_labels(samples: Manifest, share: float, seed: int) -> dict[str, tuple[str, ...]]:
    """Labels of which a share p was replaced by another class, drawn uniformly from all others.

    Each sample draws from its own stream, so that the flips of two values of p are nested.
    """
    classes = samples.classes
    noisy = {}
    for sample_id, labels in samples.labels_by_id.items():
        rng = stream(seed, "label-noise", sample_id)
        flipped = []
        for label in labels:
            draw, other = rng.random(), int(rng.integers(len(classes) - 1))
            others = [name for name in (classes[other], classes[-1]) if name != label]
            flipped.append(others[0] if draw < share else label)
        noisy[sample_id] = tuple(dict.fromkeys(flipped))
    return noisy


def _write_labels(path: Path, samples: Manifest, noisy: dict[str, tuple[str, ...]]) -> None:
    clean = samples.labels_by_id
    table = pa.table(
        {
            "sample_id": samples.ids,
            "labels": [list(clean[i]) for i in samples.ids],
            "noisy_labels": [list(noisy[i]) for i in samples.ids],
            "flipped": [clean[i] != noisy[i] for i in samples.ids],
        }
    )
    with atomic_file(path, check=pyarrow.parquet.read_metadata) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def read_noisy_labels(folder: Path) -> dict[str, tuple[str, ...]]:
    """The labels that N_pre was trained on, by sample id; none when its weights were brought along."""
    path = folder / "labels.parquet"
    if not path.is_file():
        return {}
    table = pyarrow.parquet.read_table(path, columns=["sample_id", "noisy_labels"])
    pairs = zip(table["sample_id"].to_pylist(), table["noisy_labels"].to_pylist(), strict=True)
    return {sample_id: tuple(labels) for sample_id, labels in pairs}


def _held_out_accuracy(run: Run, network: Network, targets: Targets, ledger_path: Path) -> dict[str, Any]:
    """Top-1 (any of a sample's labels counts) on the val split, where there is a labelled one."""
    known = set(targets.classes)
    val = run.manifest("pretrain").split("val")
    labels = {i: names for i, names in val.labels_by_id.items() if known.intersection(names)}
    if not labels:
        return {"held_out_accuracy": None}
    val, hits, count = val.select(list(labels)), 0, 0
    with run.loader(val, stage="pretrain, held-out samples", ledger_path=ledger_path) as loader:
        for ids, logits_NVC in forward_views(
            network,
            loader,
            val.ids,
            look="extract",
            batch_size=run.config.extract.batch_size,
            modality=run.modality,
            accelerator=run.accelerator,
        ):
            said = logits_NVC.mean(axis=1).argmax(axis=1)
            hits += sum(targets.classes[c] in labels[i] for i, c in zip(ids, said, strict=True))
            count += len(ids)
    accuracy = hits / count if count else None
    logger.info("pretrain: held-out accuracy %s over %d samples", f"{accuracy:.3f}" if count else "unknown", count)
    return {"held_out_accuracy": accuracy, "num_held_out": count}


# ---------------------------------------------------------------------------------------------- brought along


def _bring(run: Run, folder: Path, path: Path, inputs: dict[str, Any]) -> None:
    arch = run.config.pretrain.arch
    files: list[str] = []
    classes: list[str] = []
    if path.is_dir():
        network, saved = load_network(path)
        if saved.arch != arch:
            raise ConfigError(
                f"{path} is a {saved.arch} network, pretrain.arch is {arch}.", fix=f"Set pretrain.arch to {saved.arch}."
            )
        classes = saved.classes
    else:
        network = build_network(arch, num_classes=1, seed=0)
        report = load_foreign(path, network)
        write_json(folder / "import.json", {"file": path.name, **asdict(report)})
        files.append("import.json")
    facts = {"held_out_accuracy": None}
    complete(run, network, folder=folder, stage=KIND, inputs=inputs, classes=classes, files=files, facts=facts)
