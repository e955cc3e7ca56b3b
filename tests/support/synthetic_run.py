"""A finished run folder without the training: small files with known contents, written by the real writers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cfvid.artifacts import Record, digest_of, write_json
from cfvid.clustering.quality import agreement, size_figures
from cfvid.config import RunConfig
from cfvid.data.manifest import LABEL_COLUMNS
from cfvid.data.sample_ids import SampleIds
from cfvid.data.skips import Skip, write_skips
from cfvid.stages import Run
from cfvid.stages.cluster import claims, write_pseudo_labels
from cfvid.stages.pretrain import recorded_settings as recorded_pretraining

ALL_STAGES = ("pretrain", "extract", "cluster", "retrain", "transfer")
NUM_RIGHT = {"n_pre": 6, "n_cf": 9, "random": 4}
"""How many validation samples each network names rightly: the first ones by id."""
SECONDS = {"pretrain": 40.0, "extract": 2.0, "cluster": 0.5, "retrain": 50.0, "linear": 3.0, "finetune": 10.0}


def write_run(
    config: RunConfig,
    folder: Path,
    *,
    stages: Collection[str] = ALL_STAGES,
    num_right: Mapping[str, int] = NUM_RIGHT,
    skips: Collection[Skip] = (),
    fallbacks: Mapping[str, int] | None = None,
) -> Run:
    """Write a run folder; its samples are the configuration's own, which must be there.

    Args:
        config: its pool, targets, protocols and seeds decide what is written.
        folder: the run folder.
        stages: which stages are complete.
        num_right: see `NUM_RIGHT`; one more with every seed.
        skips: in the ledgers of extraction and of the targets' features.
        fallbacks: decoder fallbacks of the extraction.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(config, folder)
    if "pretrain" in stages:
        facts = {"held_out_accuracy": 0.75, "num_held_out": 12}
        inputs = config.plain("modality", "seed") | {"pretrain": recorded_pretraining(config)}
        _trained(run, "pretrain", kind="pretrain", inputs=inputs, facts=facts)
    if "extract" in stages:
        network = _digest(folder / "pretrain" / "network", "network")
        _store(folder / "extract", {"network": network}, skips=skips, fallbacks=fallbacks or {})
        write_json(folder / "extract" / "cost.json", {"seconds": SECONDS["extract"]})
    if "cluster" in stages:
        _clustered(run)
    if "retrain" in stages:
        labels = _digest(folder / "cluster", "pseudo-labels")
        inputs = {**config.plain("modality", "seed", "retrain"), "pseudo_labels": labels}
        _trained(run, "retrain", kind="retrain", inputs=inputs, facts={})
    if "transfer" in stages:
        for seed in config.transfer.seeds:
            for target in config.data.targets:
                for network in config.transfer.networks:
                    _transferred(run, target, network, seed, num_right[network] + seed, skips)
    run.write_snapshots()
    return run


def _digest(folder: Path, kind: str) -> str:
    return Record.read(folder, kind=kind).digest


def _trained(run: Run, stage: str, *, kind: str, inputs: dict[str, Any], facts: dict[str, Any]) -> None:
    folder = run.folder / stage
    write_json(folder / "inputs.json", inputs)
    Record.write(folder / "network", kind="network", inputs={"arch": "resnet10_small", "of": stage}, files=[])
    lines = [
        {"step": step, "event": event, "epoch": step / 2, "loss": 2.0 / step, "accuracy": step / 10}
        for step, event in ((1, "step"), (2, "epoch"), (3, "step"), (4, "epoch"), (6, "epoch"))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_skips(folder / "skips.jsonl", [])
    write_json(folder / "cost.json", {"seconds": SECONDS[stage]})
    Record.write(folder, kind=kind, inputs=inputs, files=["skips.jsonl"], facts=facts)


def _store(
    folder: Path, inputs: dict[str, Any], *, skips: Collection[Skip], fallbacks: Mapping[str, int], num: int = 24
) -> None:
    write_json(folder / "inputs.json", inputs)
    write_skips(folder / "skips.jsonl", skips)
    facts = {"num_samples": num - len(skips), "num_skipped": len(skips), "shape": [8], "num_shards": 0}
    Record.write(
        folder, kind="features", inputs=inputs, files=["skips.jsonl"], facts=facts | {"fallbacks": dict(fallbacks)}
    )


def _clustered(run: Run) -> None:
    folder, config = run.folder / "cluster", run.config.cluster
    pool = run.manifest("clusterfit").split("train")
    ids = sorted(pool.ids)
    # Sizes 1, 2, 3, ...: the k-th cluster has k + 1 samples, the last one all the rest.
    clusters = np.repeat(np.arange(len(ids)), np.arange(1, len(ids) + 1))[: len(ids)]
    clusters = np.minimum(clusters, config.num_clusters - 1)
    distances = np.linspace(0.9, 0.1, len(ids)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    write_pseudo_labels(folder / "pseudo_labels.parquet", SampleIds(ids), clusters, distances)
    figures = size_figures(clusters, num_asked=config.num_clusters)
    quality = figures | {"num_samples": len(ids), "objective": [9.0, 4.0, 3.5]}
    quality |= {
        "labels": agreement(SampleIds(ids), clusters, pool.blocks(LABEL_COLUMNS)),
        "noisy_labels": None,
    }
    write_json(folder / "quality.json", quality)
    write_json(folder / "cost.json", {"seconds": SECONDS["cluster"]})
    [(_, inputs)] = claims(run)
    write_json(folder / "inputs.json", inputs)
    facts = {"num_samples": len(ids), "num_clusters": len(set(clusters.tolist()))}
    Record.write(
        folder, kind="pseudo-labels", inputs=inputs, files=["pseudo_labels.parquet", "quality.json"], facts=facts
    )


def _transferred(run: Run, target: str, network: str, seed: int, num_right: int, skips: Collection[Skip]) -> None:
    homes = {"n_pre": "pretrain/network", "n_cf": "retrain/network"}
    val = run.labelled(target, "val")
    digest = _digest(run.folder / homes[network], "network") if network in homes else digest_of(["random", seed])
    home = run.folder / "transfer" / target / (network if network in homes else f"random-seed{seed}")
    for split in ("train", "val"):
        _store(home / "features" / split, {"network": digest}, skips=skips, fallbacks={}, num=12)
        write_json(home / "features" / split / "cost.json", {"seconds": 1.0})
    for protocol in run.config.transfer.protocols:
        folder = home / f"{protocol}-seed{seed}"
        folder.mkdir(parents=True)
        ids = sorted(val.ids)
        labels = [val.labels_by_id[i][0] for i in ids]
        others = {label: next(other for other in val.classes if other != label) for label in val.classes}
        predicted = [label if row < num_right else others[label] for row, label in enumerate(labels)]
        table = {"sample_id": ids, "label": labels, "predicted": predicted, "probability": [0.5] * len(ids)}
        pyarrow.parquet.write_table(pa.table(table), folder / "predictions.parquet")
        scores = {"top1": 100 * num_right / len(ids), "crop_top1": 100 * (num_right - 1) / len(ids)}
        write_json(folder / "scores.json", scores)
        write_json(folder / "cost.json", {"seconds": SECONDS[protocol]})
        facts = {"network": network, "target": target, "protocol": protocol, "num_scored": len(ids), "num_absent": 0}
        inputs = {"network": digest, "seed": seed, "val": val.digest}
        Record.write(
            folder, kind="transfer-scores", inputs=inputs, files=["predictions.parquet", "scores.json"], facts=facts
        )
