"""Protocols that train on a target's samples: linear heads on a frozen trunk, and fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cfvid import ranks
from cfvid.errors import DataError
from cfvid.evaluation.inference import forward_views
from cfvid.evaluation.scoring import Said, Tally
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
    return _trained(run, evaluation, network, targets, training=config, part_lrs=config.part_lrs)


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
    sizes = {at_layer("values", layer): size for layer, size in zip(layers, network.sizes, strict=True)}
    return _trained(run, evaluation, network, targets, training=config, layers=layers, facts=sizes)


def _trained(
    run: Run,
    evaluation: Evaluation,
    network: nn.Module,
    objective: Objective,
    *,
    training: TrainingConfig,
    part_lrs: Mapping[str, float] | None = None,
    layers: Sequence[str | None] = (None,),
    facts: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train a network on the target, and score what it says of the validation samples, layer beside layer."""
    target = evaluation.target
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
    parts = ranks.everywhere(_scored(run, evaluation, network, layers, stage=stage))
    ids = target.val.ids.take(np.concatenate([part.rows_N for part in parts]))
    if not len(ids):
        raise DataError(f"{stage}: none of the val samples could be read.")
    said = {layer: Said.joined([part.said[place] for part in parts]) for place, layer in enumerate(layers)}
    num_views = max(part.num_views for part in parts)
    return named(run, evaluation, [*ids], said, dict(facts or {}), num_views=num_views)


@dataclass(frozen=True)
class _Scored:
    """What is kept of a process' share of the validation samples."""

    rows_N: np.ndarray
    """int64: those that could be read, as rows of the manifest."""
    num_views: int
    """The number of views of each sample; 0 where no sample could be read."""
    said: list[Said]
    """What the network said, for each layer."""


def _scored(
    run: Run, evaluation: Evaluation, network: nn.Module, layers: Sequence[str | None], *, stage: str
) -> _Scored:
    """Score this process' share: no more than one batch's logits are there."""
    target = evaluation.target
    own = target.val.ids[ranks.own_part(len(target.val))]
    tallies = [Tally(len(own)) for _ in layers]
    rows_N, num, num_views = np.empty(len(own), dtype=np.int64), 0, 0
    with run.loader(target.val, stage=stage, ledger_path=evaluation.folder / "val_skips.jsonl") as loader:
        for ids, logits_NVD in forward_views(
            network,
            loader,
            own,
            look="score",
            batch_size=run.config.transfer.batch_size,
            modality=run.modality,
            accelerator=run.accelerator,
        ):
            labels_NL = target.label_sets(ids, target.val)
            for tally, logits_NVC in zip(tallies, np.split(logits_NVD, len(layers), axis=-1), strict=True):
                tally.add(logits_NVC, labels_NL)
            rows_N[num : num + len(ids)] = target.val.ids.rows(ids)
            num, num_views = num + len(ids), logits_NVD.shape[1]
    return _Scored(rows_N[:num], num_views, [tally.said for tally in tallies])
