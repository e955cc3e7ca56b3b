"""transfer: each network on each target, by several protocols, on frozen features or fine-tuned.

RUN/transfer/TARGET/NETWORK/           NETWORK is n_pre, n_cf, or random-seedS
  features/{train,val}/                feature stores, views kept apart
  PROTOCOL-seedS/                      PROTOCOL is of transfer.protocols; names of further layers end in @LAYER
    scores.json                        {"top1": ..., "top5": ..., "clip_top1": ...} in percent;
                                       {"map": ...} of svm, {"recall1": ...} of retrieval,
                                       {"top1_5shot": ..., "top1_5shot_std": ...} of low_shot
    predictions.parquet                sample_id, label, predicted, probability; and group, where samples have any;
                                       sample_id, decisions, map_part of svm;
                                       sample_id, label, nearest, rank of retrieval
    metrics.jsonl, tensorboard/, skips.jsonl, val_skips.jsonl    of heads and fine-tuning
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cfvid import ranks
from cfvid.artifacts import Record, atomic_file, write_json
from cfvid.config import RunConfig
from cfvid.stages.context import Run
from cfvid.stages.evaluations import Evaluation, evaluations
from cfvid.stages.frozen import store_features
from cfvid.stages.outcome import Outcome
from cfvid.stages.protocols import FROZEN, LAYERED, PROTOCOLS
from cfvid.training.checkpoint import remove_states

logger = logging.getLogger(__name__)

KIND = "transfer-scores"
_FOR_PEOPLE = ("probability", "nearest", "decisions")
"""Columns of predictions that no metric is made of."""


def transfer(run: Run) -> Path:
    """Score every network on every target by every protocol and seed, in RUN/transfer.

    Raises:
        DataError: when a target has no labels, one class, or unseen classes in val; or several labels per sample, and
            the protocol is not for that.
    """
    if not run.config.data.targets:
        logger.info("transfer: no targets are named (data.targets), so that nothing is scored")
    for evaluation in evaluations(run):
        looking = run.for_target(evaluation.target.name)
        with run.claimed(evaluation.folder, _inputs(looking, evaluation), kind=KIND) as done:
            if not done:
                _score(looking, evaluation)
    return run.folder / "transfer"


def claims(run: Run) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of all evaluations, and what they are made from.

    Raises:
        ArtifactError: when a network is not there yet.
        DataError: as `transfer`.
    """
    for evaluation in evaluations(run):
        yield evaluation.folder, _inputs(run.for_target(evaluation.target.name), evaluation)


def _inputs(run: Run, evaluation: Evaluation) -> dict[str, Any]:
    config, frozen = run.config, evaluation.protocol in FROZEN
    return {
        **config.plain("modality"),
        **run.arithmetic,
        "protocol": _settings(config, evaluation),
        **({"any_label": True} if evaluation.target.name in config.transfer.any_label else {}),
        # The others train on samples, not on features as they are stored.
        **({"dtype": config.extract.dtype} if frozen else {}),
        "input": run.input_for("train", "extract", "score"),
        "network": evaluation.candidate.digest,
        "seed": evaluation.seed,
        "train": run.identify(evaluation.target.train),
        "val": run.identify(evaluation.target.val),
    }


def _settings(config: RunConfig, evaluation: Evaluation) -> dict[str, Any]:
    """What a protocol is told; all but fine-tuning look at the layers of the linear probe."""
    transfer, protocol = config.plain("transfer")["transfer"], evaluation.protocol
    own: dict[str, Any] = transfer[protocol]
    if protocol == "heads":
        own = config.transfer.heads.of_target(evaluation.target.name).model_dump(mode="json", exclude={"by_target"})
    if protocol == "low_shot":
        own = {**own, "linear": transfer["linear"]}
    return {**own, "layers": transfer["linear"]["layers"]} if protocol in LAYERED else own


def _score(run: Run, evaluation: Evaluation) -> None:
    outcome = _outcome(run, evaluation)
    if ranks.is_main() and outcome is not None:
        _write(run, evaluation, outcome)


def _outcome(run: Run, evaluation: Evaluation) -> Outcome | None:
    """At least at the main process: all of them extract features and train, one looks at frozen features."""
    protocol = PROTOCOLS[evaluation.protocol]
    if evaluation.protocol not in FROZEN:
        return protocol(run, evaluation)
    if ranks.count() > 1:
        store_features(run, evaluation)
    with ranks.alone() as is_main:
        return protocol(run, evaluation) if is_main else None


def _write(run: Run, evaluation: Evaluation, outcome: Outcome) -> None:
    folder, target, predictions = evaluation.folder, evaluation.target, outcome.predictions
    write_json(folder / "scores.json", outcome.scores)
    groups = target.val.groups(outcome.predictions["sample_id"].to_pylist())
    if groups is not None:
        predictions = predictions.append_column("group", pa.array(groups, pa.string()))
    with atomic_file(folder / "predictions.parquet", check=pyarrow.parquet.read_metadata) as temporary:
        pyarrow.parquet.write_table(predictions, temporary)
    facts = {
        "network": evaluation.candidate.name,
        "target": target.name,
        "protocol": evaluation.protocol,
        "num_scored": len(outcome.ids),
        "num_absent": len(target.val) - len(outcome.ids),
        "num_views": outcome.num_views,
        **outcome.facts,
    }
    files = ["predictions.parquet", "scores.json"]
    Record.write(folder, kind=KIND, inputs=_inputs(run, evaluation), files=files, facts=facts)
    remove_states(folder)
    shown = ", ".join(f"{name} {value:.1f}" for name, value in outcome.scores.items())
    logger.info("%s: %s", folder.relative_to(run.folder), shown)


def read_groups(folder: Path) -> dict[str, str]:
    """The groups of the scored samples of an evaluation, by sample id: of those that have one.

    Raises:
        ArtifactError: when the evaluation is not whole.
    """
    path = folder / "predictions.parquet"
    Record.read(folder, kind=KIND).verify(folder, only=(path.name,))
    if "group" not in pyarrow.parquet.read_schema(path).names:
        return {}
    columns = pyarrow.parquet.read_table(path, columns=["sample_id", "group"]).to_pydict()
    return {i: group for i, group in zip(columns["sample_id"], columns["group"], strict=True) if group is not None}


def read_outcomes(folder: Path) -> dict[str, dict[str, float]]:
    """What each scored sample of an evaluation adds to its scores, by metric and sample id: the metric is 100 times
    the mean.

    1 where a sample was named rightly and 0 where it was not (`top1`), or had none of its class among the nearest
    (`recallK`); a share of the draws (`top1_Nshot`); what a mean average precision hangs on it by (`map`).

    Raises:
        ArtifactError: when the evaluation is not whole.
    """
    record = Record.read(folder, kind=KIND)
    record.verify(folder, only=("predictions.parquet",))
    path = folder / "predictions.parquet"
    # Lists of samples or of decisions take hundreds of bytes a sample.
    names = [name for name in pyarrow.parquet.read_schema(path).names if name.partition("@")[0] not in _FOR_PEOPLE]
    table = pyarrow.parquet.read_table(path, columns=names)
    parts: dict[str, list[np.ndarray]] = {}
    for column in table.column_names:
        name, _, layer = column.partition("@")
        at = f"@{layer}" if layer else ""
        values = table[column].to_pylist()
        if name.startswith("predicted"):
            metric = name.partition("_draw")[0].replace("predicted", "top1") + at
            labels = table["label"].to_pylist()
            right = [
                said in label if isinstance(label, list) else said == label
                for label, said in zip(labels, values, strict=True)
            ]
            parts.setdefault(metric, []).append(np.array(right, dtype=float))
        elif name == "map_part":
            parts["map" + at] = [np.array(values) / 100]
        elif name == "rank":
            for k in record.inputs["protocol"]["at"]:
                parts[f"recall{k}{at}"] = [np.array([rank is not None and rank <= k for rank in values], dtype=float)]
    ids = table["sample_id"].to_pylist()
    return {metric: dict(zip(ids, np.mean(several, axis=0).tolist(), strict=True)) for metric, several in parts.items()}
