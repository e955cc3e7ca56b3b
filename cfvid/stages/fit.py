"""What pretraining, retraining and fine-tuning share: samples, an objective and a network into the one loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cfvid import ranks
from cfvid.artifacts import Record
from cfvid.data.manifest import Manifest
from cfvid.data.skips import LEDGER_NAME
from cfvid.models.weights import NETWORK_FILES, NetworkConfig, save_network
from cfvid.models.zoo import Network
from cfvid.sections.training import TrainingConfig
from cfvid.stages.context import Run
from cfvid.training.batches import TrainingData
from cfvid.training.checkpoint import remove_states
from cfvid.training.compute import training_compute
from cfvid.training.loop import train
from cfvid.training.objective import Objective


def fit(
    run: Run,
    network: nn.Module,
    *,
    samples: Manifest,
    objective: Objective,
    training: TrainingConfig,
    folder: Path,
    stage: str,
    seed: int,
    groups_N: np.ndarray | None = None,
    part_lrs: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Train a network in place; a run that was cut short continues. The skip ledger goes to the folder.

    Args:
        run: modality, device, runtime settings.
        network: gives what the objective asks for.
        samples: what to train on.
        objective: what to learn from them.
        training: optimiser, schedule, length.
        folder: takes states, metrics and the ledger.
        stage: names the random draws, and the work in messages.
        seed: of the random draws.
        groups_N: of each sample, where groups are to be drawn equally often; None for every sample once per epoch.
        part_lrs: peak learning rates of parts of the network, as `build_optimizer` takes them; 0 freezes a part.

    Returns:
        For the record: `samples_seen` (samples times epochs) and `train_flops`.
    """
    with run.loader(samples, stage=stage, ledger_path=folder / LEDGER_NAME, in_step=True) as loader:
        data = TrainingData(
            loader=loader,
            objective=objective,
            modality=run.modality,
            ids=samples.ids,
            seed=seed,
            stage=stage,
            batch_size=min(training.batch_size, len(samples)),
            groups_N=groups_N,
        )
        compute = training_compute(network, objective, run.modality, data.ids, epochs=training.epochs)
        train(
            run.compiled(network),
            data,
            config=training,
            folder=folder,
            accelerator=run.accelerator,
            runtime=run.config.runtime,
            part_lrs=part_lrs,
        )
    return asdict(compute)


def complete(
    run: Run,
    network: Network,
    *,
    folder: Path,
    stage: str,
    inputs: Mapping[str, Any],
    classes: Sequence[str] = (),
    files: Sequence[str] = (LEDGER_NAME,),
    facts: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Save a stage's network and the record that completes the stage's folder.

    Args:
        run: whose modality and input options the network is for.
        network: what was made.
        folder: the stage's.
        stage: its name.
        inputs: what the stage was asked to do.
        classes: names of the head's outputs, where they have some.
        files: that the record covers besides the network's.
        facts: what the stage found out.
        source: of weights that were brought, what is known of them.
    """
    if not ranks.is_main():
        return
    config = NetworkConfig(
        arch=network.arch,
        modality=run.config.modality,
        num_classes=network.num_classes,
        classes=list(classes),
        input=run.config.plain("input")["input"],
        made_by={"stage": stage, "inputs": inputs} | ({"source": source} if source else {}),
    )
    save_network(folder / "network", network, config)
    names = [*files, *(f"network/{name}" for name in NETWORK_FILES)]
    Record.write(folder, kind=stage, inputs=inputs, files=names, facts=facts)
    remove_states(folder)
