"""pretrain: N_pre, from a task (labels, or what needs none) or from weights that the user brings.

RUN/pretrain/
  network/             N_pre
  labels.parquet       sample_id, labels, noisy_labels, flipped   (when trained on labels)
  import.json          of a foreign file: what was recognised, which network of the file was taken and which others
                       it has, which keys were used, whether it was ever trained, the numeric self-test
  metrics.jsonl, tensorboard/, skips.jsonl, held_out_skips.jsonl, statistics_skips.jsonl
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from cfvid import ranks
from cfvid.artifacts import digest_file, write_json
from cfvid.config import RunConfig
from cfvid.data.skips import LEDGER_NAME
from cfvid.errors import ConfigError, DataError
from cfvid.models.foreign import Imported, load_foreign
from cfvid.models.foreign_file import readable_kind
from cfvid.models.foreign_network import CHOICE, find_network
from cfvid.models.hub import is_on_hub, locate
from cfvid.models.known_sources import input_differences
from cfvid.models.matching import never_trained
from cfvid.models.weights import WEIGHTS_NAME, is_network, load_network, network_config
from cfvid.models.zoo import Network, build_network
from cfvid.stages.context import Run, cache_folder
from cfvid.stages.fit import complete, fit
from cfvid.tasks import TASKS
from cfvid.tasks.base import Task
from cfvid.tasks.labels import read_noisy_labels as read_noisy_labels
from cfvid.tasks.measure import Device
from cfvid.tasks.statistics import samples_for_statistics, take_statistics

logger = logging.getLogger(__name__)

KIND = "pretrain"
NEVER_TRAINED = (
    "{what} was never trained: its batch normalisation has means of 0, variances of 1 and has seen no batch. "
    "N_pre is a random network."
)
_SEEN_BY_THE_NETWORK = ("mean", "std", "num_frames", "frame_rate_hz")
"""Keys of `input` that weights expect to be as they were; crops of another size are usual."""


def pretrain(run: Run) -> Path:
    """Make N_pre in RUN/pretrain; returns its network folder.

    Raises:
        InputsChanged: when RUN/pretrain was made from other inputs.
    """
    [(folder, inputs)] = claims(run)
    weights = run.config.pretrain.weights
    with run.claimed(folder, inputs, kind=KIND) as done:
        if not done and weights is not None:
            with ranks.alone() as is_main:
                if is_main:
                    _bring(run, folder, weights, inputs)
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
        chosen = {"arch": config.pretrain.arch, "weights": digest_file(_weights_file(run, config.pretrain.weights))}
        if config.pretrain.weights_prefix is not None:
            chosen["weights_prefix"] = config.pretrain.weights_prefix
        return {**config.plain("modality", "seed"), "pretrain": chosen, "input": run.input_for("train")}
    # Named where it matters, so that other tasks' networks are those they were before there was such a step.
    pieces = {"statistics": "of whole samples"} if TASKS[config.pretrain.task].learns_from_pieces else {}
    return {
        **config.plain("modality", "seed"),
        "pretrain": recorded_settings(config),
        **run.arithmetic,
        **pieces,
        "input": run.looking(config.pretrain_input.model_dump()).input_for("train", "extract"),
        "manifest": run.identify(run.manifest("pretrain")),
    }


def recorded_settings(config: RunConfig) -> dict[str, Any]:
    """Settings of `pretrain` as the record of a trained N_pre names them: `input` is part of another entry of it, and
    `weights_prefix` is a setting of weights alone.
    """
    settings: dict[str, Any] = config.plain("pretrain")["pretrain"]
    return {key: value for key, value in settings.items() if key not in ("input", "weights_prefix")}


# ---------------------------------------------------------------------------------------------- trained here


def _train(run: Run, folder: Path, inputs: dict[str, Any]) -> None:
    config = run.config
    task = make_task(run)
    logger.info("pretrain: %s of %d samples", config.pretrain.task, len(task.samples))
    files = task.write(folder) if ranks.is_main() else []
    trained, network = task.build()
    looking = run.looking({**config.pretrain_input.model_dump(), **task.input_changes})
    compute = fit(
        looking,
        trained,
        samples=task.samples,
        objective=task.objective,
        training=config.pretrain.training,
        folder=folder,
        stage=KIND,
        seed=config.seed,
    )
    measured = _held_out_accuracy(looking, task, trained, folder / "held_out_skips.jsonl")
    facts = {
        "task": config.pretrain.task,
        **measured,
        **(_whole_statistics(run, task, network, folder / "statistics_skips.jsonl") if task.learns_from_pieces else {}),
        "chance": task.chance,
        "num_samples": len(task.samples),
        "num_left_out": len(run.manifest("pretrain").split("train")) - len(task.samples),
        **compute,
    }
    names = [*files, LEDGER_NAME]
    complete(run, network, folder=folder, stage=KIND, inputs=inputs, classes=task.classes, files=names, facts=facts)


def make_task(run: Run) -> Task:
    """What N_pre is trained on here.

    Raises:
        ConfigError: when the task is not for this modality.
        DataError: when there are too few samples, or labels.
    """
    name, dims = run.config.pretrain.task, run.modality.network_dims
    if dims not in TASKS[name].dims:
        fitting = [name for name, task in TASKS.items() if dims in task.dims]
        raise ConfigError(
            f"pretrain.task is {name}, which is not for the {dims}D networks of the modality {run.modality.name}.",
            fix=f"Set it to one of {', '.join(fitting)}.",
        )
    manifest = run.manifest("pretrain")
    samples = run.labelled("pretrain", "train") if TASKS[name].needs_labels else manifest.split("train")
    if len(samples) < 2:
        raise DataError(
            f"pretrain: {len(samples)} sample(s) in the split 'train'; at least 2 are needed.",
            fix="Check data.pretrain and its train_split.",
        )
    return TASKS[name](run.config, samples=samples, held_out=manifest.split("val"))


def _held_out_accuracy(run: Run, task: Task, network: nn.Module, ledger_path: Path) -> dict[str, Any]:
    """On the val split, where it has what the task needs."""
    if not len(task.held_out):
        return {"held_out_accuracy": None}
    device = Device(run.modality, run.accelerator, batch_size=run.config.extract.batch_size)
    stage = "pretrain, held-out samples"
    with run.loader(task.held_out, stage=stage, ledger_path=ledger_path, in_step=True) as loader:
        found = task.measure(network, loader, device)
    logger.info(
        "pretrain: held-out accuracy %s over %d samples (chance is %.3f)",
        "unknown" if found.accuracy is None else f"{found.accuracy:.3f}",
        found.num_samples,
        task.chance,
    )
    return {"held_out_accuracy": found.accuracy, "num_held_out": found.num_samples}


def _whole_statistics(run: Run, task: Task, network: Network, ledger_path: Path) -> dict[str, Any]:
    """Give N_pre the statistics of whole samples, which its features will be taken of; the main process' work."""
    samples = samples_for_statistics(task.samples, seed=run.config.seed)
    device, num = Device(run.modality, run.accelerator, batch_size=run.config.extract.batch_size), 0
    with ranks.alone() as is_main:
        if is_main:
            with run.loader(samples, stage="pretrain, statistics", ledger_path=ledger_path) as loader:
                num = take_statistics(network.trunk, loader, device, seed=run.config.seed)
            logger.info(
                "pretrain: N_pre has learnt from pieces of samples; its batch normalisation has the statistics of %d "
                "whole ones, which features are taken of",
                num,
            )
    return {"num_statistics": num}


# ---------------------------------------------------------------------------------------------- brought along


def _located(run: Run, weights: str) -> Path:
    return locate(weights, cache=cache_folder(run.config.runtime.cache))


def _weights_file(run: Run, weights: str) -> Path:
    """The file that holds the tensors.

    Raises:
        WeightsError: when there is none, or it is something else.
    """
    path = _located(run, weights)
    if is_network(path):
        return path / WEIGHTS_NAME
    readable_kind(path)
    return path


def check_weights(run: Run, weights: str) -> None:
    """Look whether weights are of the configured architecture, without computing anything with them.

    Raises:
        ConfigError: when they are a network of cfvid of another architecture.
        WeightsError: when they cannot be read, or do not fit.
    """
    config, path = run.config.pretrain, _located(run, weights)
    if not is_network(path):
        find_network(path, config.arch, prefix=config.weights_prefix)
        return
    saved = network_config(path)
    if saved.arch != config.arch:
        raise ConfigError(
            f"{path} is a {saved.arch} network, pretrain.arch is {config.arch}.",
            fix=f"Set pretrain.arch to {saved.arch}.",
        )
    if config.weights_prefix is not None:
        raise ConfigError(
            f"{CHOICE} is {config.weights_prefix!r}, but {path} is a network of cfvid, whose keys have no prefix.",
            fix=f"Leave {CHOICE} out.",
        )


def _bring(run: Run, folder: Path, weights: str, inputs: dict[str, Any]) -> None:
    path = _located(run, weights)
    if is_on_hub(weights):
        logger.info("pretrain: %s is %s", weights, path)
    files: list[str] = []
    classes: list[str] = []
    if is_network(path):
        check_weights(run, weights)
        network, saved = load_network(path)
        classes = saved.classes
        source = saved.made_by.get("source") or {}
        is_random = never_trained(network.trunk.state_dict())
        _warn_of_other_input(run, weights, saved.input)
    else:
        network = build_network(run.config.pretrain.arch, num_classes=1, seed=0)
        found = load_foreign(path, network, prefix=run.config.pretrain.weights_prefix)
        source = {"file": weights if is_on_hub(weights) else path.name, **asdict(found.source)}
        is_random = found.never_trained
        write_json(folder / "import.json", _told(found, file=source["file"]))
        files.append("import.json")
        known = f"{weights} ({found.source.name}, by its {found.source.known_by})"
        _warn_of_other_input(run, known, found.source.trained_with)
    facts: dict[str, Any] = {"held_out_accuracy": None}
    if is_random:
        facts["never_trained"] = True
        logger.warning("pretrain: %s", NEVER_TRAINED.format(what=weights))
    complete(
        run,
        network,
        folder=folder,
        stage=KIND,
        inputs=inputs,
        classes=classes,
        files=files,
        facts=facts,
        source=source,
    )


def _told(found: Imported, *, file: str) -> dict[str, Any]:
    """What import.json says."""
    return {
        "file": file,
        "file_kind": found.file_kind,
        "prefix": found.prefix,
        "other_networks": found.other_networks,
        "left_out": found.left_out,
        "never_trained": found.never_trained,
        "source": asdict(found.source),
        "self_test": asdict(found.self_test),
        **asdict(found.keys),
    }


def _warn_of_other_input(run: Run, what: str, trained_with: Mapping[str, Any]) -> None:
    """Nothing is changed: a run may well be meant to look at other clips."""
    looked_at = {key: value for key, value in trained_with.items() if key in _SEEN_BY_THE_NETWORK}
    for line in input_differences(looked_at, run.config.plain("input")["input"]):
        logger.warning("%s: %s", what, line)
