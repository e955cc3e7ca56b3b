"""export: one of a run's networks -> a format of other programs (see cfvid.models.export)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cfvid.artifacts import Record, is_complete, read_json
from cfvid.errors import WeightsError
from cfvid.modalities import MODALITIES
from cfvid.models.card import Facts, model_card
from cfvid.models.export import TORCHVISION, Export, check, has_head, write
from cfvid.models.weights import NetworkConfig, load_network
from cfvid.stages.cluster import KIND as CLUSTER_KIND
from cfvid.stages.pretrain import KIND as PRETRAIN_KIND
from cfvid.stages.retrain import KIND as RETRAIN_KIND
from cfvid.stages.transfer import KIND as TRANSFER_KIND

STAGE_OF = {"n_cf": RETRAIN_KIND, "n_pre": PRETRAIN_KIND}
"""Whose folder holds a network; the stages' names are the kinds of their records."""


def export(run_folder: Path, out: Path, *, network: str, format: str) -> str:
    """Write a network of a run for other programs. The run folder is only read.

    Args:
        run_folder: with the complete stage that made the network.
        out: a file, or for `hub` a new folder.
        network: `n_cf` or `n_pre`.
        format: a name in `cfvid.models.export.FORMATS`.

    Returns:
        What was written, for people.

    Raises:
        ArtifactError: when the network is not there, or damaged.
        ConfigError: when `out` is not fit for the format.
        MissingPackage: when the format needs a package that is not installed.
    """
    check(format, out)
    folder = run_folder / STAGE_OF[network] / "network"
    loaded, config = load_network(folder)
    loaded.eval()
    facts = Facts(
        is_n_cf=network == "n_cf",
        feature_dim=loaded.feature_dim,
        num_parameters=sum(p.numel() for p in loaded.trunk.parameters()),
        counts=_counts(run_folder, network),
        scores=_scores(run_folder, network, Record.read(folder, kind="network").digest),
        constructor=TORCHVISION.get(config.arch),
        has_head=has_head(config),
    )
    return write(Export(loaded, config, _example(config), model_card(config, facts)), format, out)


def _example(config: NetworkConfig) -> torch.Tensor:
    if config.modality not in MODALITIES:
        raise WeightsError(f"The network is for {config.modality!r}, which this version does not know.")
    kind = MODALITIES[config.modality]
    modality = kind(kind.Input.model_validate(config.input))
    example: torch.Tensor = modality.normalize(modality.example(2))
    return example


def _counts(run_folder: Path, network: str) -> dict[str, int]:
    """How much data made the network, as far as it is recorded."""
    record = Record.read(run_folder / STAGE_OF[network], kind=STAGE_OF[network])
    counts = {"training samples": record.facts.get("num_samples"), "samples seen": record.facts.get("samples_seen")}
    if network == "n_cf" and is_complete(run_folder / "cluster"):
        clusters = Record.read(run_folder / "cluster", kind=CLUSTER_KIND)
        if clusters.digest == record.inputs.get("pseudo_labels"):
            counts["clustered samples"] = clusters.facts["num_samples"]
            counts["clusters"] = clusters.facts["num_clusters"]
    return {name: int(count) for name, count in counts.items() if count is not None}


def _scores(run_folder: Path, network: str, digest: str) -> list[Mapping[str, Any]]:
    """Of the run's transfer of this very network, where there are some."""
    scores: list[Mapping[str, Any]] = []
    for path in sorted(run_folder.glob(f"transfer/*/{network}/*/record.json")):
        record = Record.read(path.parent, kind=TRANSFER_KIND)
        if record.inputs["network"] == digest:
            record.verify(path.parent, only=("scores.json",))
            named = {"target": record.facts["target"], "protocol": record.facts["protocol"]}
            scores.append({**named, "seed": record.inputs["seed"], **read_json(path.parent / "scores.json")})
    return scores
