"""Protocols that train on a target's samples: linear heads on a frozen trunk, and fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from cfvid import ranks
from cfvid.errors import DataError
from cfvid.evaluation.inference import forward_views
from cfvid.models.heads import LayerHeads
from cfvid.models.zoo import build_network
from cfvid.sections.training import TrainingConfig
from cfvid.seeds import derive
from cfvid.stages.context import Run
from cfvid.stages.evaluations import Evaluation
from cfvid.stages.fit import fit
from cfvid.stages.outcome import Outcome, at_layer, named
from cfvid.training.objective import Objective
from cfvid.training.targets import Repeated, Targets

logger = logging.getLogger(__name__)


def finetune(run: Run, evaluation: Evaluation) -> Outcome:
    """The whole network, with a new head; parts may have rates of their own, or stay frozen."""
    target, candidate, config = evaluation.target, evaluation.candidate, run.config.transfer.finetune
    # The head is drawn from the seed, the same one for every candidate.
    seed = derive(evaluation.seed, "finetune", "head")
    network = build_network(candidate.arch, num_classes=len(target.classes), seed=seed)
    network.trunk.load_state_dict(candidate.load().trunk.state_dict())
    targets = Targets(target.classes, target.train.labels_by_id)
    ids, logits_NVD = _trained(run, evaluation, network, targets, training=config, part_lrs=config.part_lrs)
    return named(run, evaluation, ids, {None: logits_NVD}, {})


def heads(run: Run, evaluation: Evaluation) -> Outcome:
    """A linear head on each of the linear probe's layers, all trained in one pass over augmented views."""
    target, candidate = evaluation.target, evaluation.candidate
    config = run.config.transfer.heads.of_target(target.name)
    layers: list[str | None] = [None, *run.config.transfer.linear.layers]
    num_classes = len(target.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(evaluation.seed, "heads", "weights"))
        network = LayerHeads(
            candidate.load().trunk,
            layers,
            num_classes=num_classes,
            num_values=config.num_values,
            shape=run.modality.example(1).shape,
        )
    targets = Repeated(Targets(target.classes, target.train.labels_by_id), len(layers))
    ids, all_NVD = _trained(run, evaluation, network, targets, training=config)
    by_layer = np.split(all_NVD, len(layers), axis=-1)
    sizes = {at_layer("values", layer): size for layer, size in zip(layers, network.sizes, strict=True)}
    return named(run, evaluation, ids, dict(zip(layers, by_layer, strict=True)), sizes)


def _trained(
    run: Run,
    evaluation: Evaluation,
    network: nn.Module,
    objective: Objective,
    *,
    training: TrainingConfig,
    part_lrs: Mapping[str, float] | None = None,
) -> tuple[list[str], np.ndarray]:
    """Train a network on the target, and give what it says of each validation sample: ids and (N, V, D)."""
    target, config = evaluation.target, run.config
    # Random draws are named by the protocol and the target alone: every candidate sees the same batches.
    stage = f"{evaluation.protocol} on {target.name}"
    logger.info("%s: %s", stage, evaluation.candidate.name)
    fit(
        run,
        network,
        samples=target.train,
        objective=objective,
        training=training,
        folder=evaluation.folder,
        stage=stage,
        seed=evaluation.seed,
        part_lrs=part_lrs,
    )
    own = target.val.ids[ranks.own_part(len(target.val))]
    with run.loader(target.val, stage=stage, ledger_path=evaluation.folder / "val_skips.jsonl") as loader:
        own_parts = list(
            forward_views(
                network,
                loader,
                own,
                look="score",
                batch_size=config.transfer.batch_size,
                modality=run.modality,
                accelerator=run.accelerator,
            )
        )
    parts = [part for several in ranks.everywhere(own_parts) for part in several]
    if not parts:
        raise DataError(f"{stage}: none of the val samples could be read.")
    return [sample_id for some, _ in parts for sample_id in some], np.concatenate([said for _, said in parts])
