"""A run folder -> plain data: what report.json holds and the page shows.

A run need not be whole. What is there is shown, what is not is listed in `missing`, and what cannot be read or does
not belong together is told in `problems`: a report is also the way to look at a run that went wrong.
"""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.parquet

from cfvid import __version__
from cfvid.artifacts import INPUTS_NAME, Record, contained, differences, is_complete, read_json
from cfvid.clustering.health import counts_of, symptoms_of
from cfvid.data.manifest import Manifest
from cfvid.errors import ConfigError
from cfvid.features import KIND as FEATURES_KIND
from cfvid.report.comparison import cautions_of, gains_of, headline, taught_answers
from cfvid.report.confusion import Confusions
from cfvid.report.problems import recorded_digest, tolerant
from cfvid.report.scores import add_means_over_folds, leaks_of, scores_of
from cfvid.report.skips import skips_of
from cfvid.stages.cluster import KIND as CLUSTER_KIND
from cfvid.stages.cluster import recorded_settings
from cfvid.stages.context import Run
from cfvid.stages.pretrain import KIND as PRETRAIN_KIND
from cfvid.stages.pretrain import NEVER_TRAINED
from cfvid.stages.pretrain import recorded_settings as recorded_pretraining
from cfvid.stages.retrain import KIND as RETRAIN_KIND
from cfvid.training.metrics import METRICS_NAME, read_metrics

_KINDS = {"pretrain": PRETRAIN_KIND, "extract": FEATURES_KIND, "cluster": CLUSTER_KIND, "retrain": RETRAIN_KIND}
_PACKAGES = ("torch", "torchvision", "pytorchvideo", "decord", "av", "faiss", "accelerate", "numpy")
_FAISS_NAMES = ("faiss-gpu", "faiss-cpu", "faiss-gpu-cu12", "faiss-gpu-cu11")
_CURVE_KEYS = ("epoch", "loss", "accuracy")


def collect(run: Run) -> dict[str, Any]:
    """Everything that is known about a run, as JSON values without NaN.

    Keys: `cfvid`, `modality`, `seed`, `headline`, `cautions`, `scores`, `gains`, `targets`, `stages`, `missing`,
    `confusions`, `problems`, `pretrain`, `retrain`, `clusters`, `skips`, `costs`, `config`, `versions`.
    """
    problems: list[str] = []
    records = _records(run, problems)
    problems += _inconsistencies(run, records)
    confusions = Confusions()
    scores, num_scored, hits, groups = scores_of(run, confusions, problems)
    targets = {name: _target(run, name, problems) | {"num_scored": n} for name, n in num_scored.items()}
    add_means_over_folds(run.config.transfer.folds, scores, targets, hits, groups)
    gains = gains_of(scores, hits, {name: t["num_classes"] for name, t in targets.items() if t["num_classes"]}, groups)
    stages = _stages(run, scores)
    missing = [f"{stage['name']} ({stage['note']})" for stage in stages if stage["state"] in ("begun", "missing")]
    archs = (run.config.pretrain.arch, run.config.retrain_arch)
    report = {
        "cfvid": __version__,
        "modality": run.config.modality,
        "seed": run.config.seed,
        "headline": (
            headline(gains, folds=run.config.transfer.folds) if run.config.data.targets else _without_targets(run)
        ),
        "cautions": [
            *cautions_of(gains, num_scored=num_scored, archs=archs),
            *leaks_of(run, scores, hits, problems),
            *taught_answers({name: t["classes"] for name, t in targets.items()}, _pretraining_classes(run, problems)),
        ],
        "scores": scores,
        "gains": gains,
        "targets": targets,
        "confusions": confusions.plain(),
        "stages": stages,
        "missing": missing,
        "problems": problems,
        "pretrain": _training(run, "pretrain", records, problems),
        "retrain": _training(run, "retrain", records, problems),
        "clusters": _quality(run, problems),
        "skips": skips_of(run, records, problems),
        "costs": _costs(run, problems),
        "config": run.config.plain(),
        "versions": _versions(run),
    }
    plain: dict[str, Any] = _json_value(report)
    return plain


def _json_value(value: Any) -> Any:
    """The value with keys as text, NaN and infinities as None, and nothing that UTF-8 cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


# ---------------------------------------------------------------------------------------------- stages


def _records(run: Run, problems: list[str]) -> dict[str, Record]:
    """The records of the stages that are complete."""
    records = {}
    for name, kind in _KINDS.items():
        if is_complete(run.folder / name):
            with tolerant(problems, name):
                records[name] = Record.read(run.folder / name, kind=kind)
    return records


def _stages(run: Run, scores: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each stage's `name`, `state` (done, begun, missing or idle) and a `note`."""
    stages = []
    for name in _KINDS:
        if is_complete(run.folder / name):
            stages.append({"name": name, "state": "done", "note": "done"})
        elif (run.folder / name / INPUTS_NAME).is_file():
            stages.append({"name": name, "state": "begun", "note": "begun, not finished"})
        else:
            stages.append({"name": name, "state": "missing", "note": "not begun"})
    if not run.config.data.targets:
        return [*stages, {"name": "transfer", "state": "idle", "note": "no targets are named"}]
    config = run.config.transfer
    asked = {
        (target, protocol, network, seed)
        for target in run.config.data.targets
        for protocol in config.protocols_of(target)
        for network in config.networks
        for seed in config.seeds
    }
    done = {(s["target"], s["protocol"], s["network"], s["seed"]) for s in scores}
    num_done = len(asked & done)
    state = "done" if num_done == len(asked) else "begun" if num_done else "missing"
    stages.append({"name": "transfer", "state": state, "note": f"{num_done} of {len(asked)} evaluations"})
    return stages


def _without_targets(run: Run) -> dict[str, Any]:
    """The headline of a run that has nothing to be scored on: where its results lie."""
    if not is_complete(run.folder / "retrain" / "network"):
        return {"answer": "N_cf is not trained yet, and no targets are named to score it on.", "details": []}
    return {
        "answer": "N_cf is trained. No targets are named, so that nothing was scored.",
        "details": [
            f"N_cf is in {run.folder / 'retrain' / 'network'}; cfvid export writes it for other programs.",
            f"The pseudo-labels are in {run.folder / 'cluster' / 'pseudo_labels.parquet'}.",
            "To learn whether it transfers better than N_pre, name a labelled data set in data.targets and run again.",
        ],
    }


def _inconsistencies(run: Run, records: Mapping[str, Record]) -> list[str]:
    """Stages that were made from something else than what the run folder and its configuration hold now."""
    found = []
    made_from = [
        ("extract", "network", "pretrain/network", "network", "N_pre"),
        ("cluster", "features", "extract", FEATURES_KIND, "features"),
        ("retrain", "pseudo_labels", "cluster", CLUSTER_KIND, "pseudo-labels"),
    ]
    for stage, key, source, kind, noun in made_from:
        now = recorded_digest(run.folder / source, kind)
        if stage in records and now is not None and records[stage].inputs.get(key) != now:
            found.append(f"{stage} was made from other {noun} than those in {source}: run it again.")
    config = run.config.plain()
    config["cluster"] = recorded_settings(run.config)
    config["pretrain"] = recorded_pretraining(run.config)
    if "pretrain" in records and records["pretrain"].facts.get("never_trained"):
        found.append(NEVER_TRAINED.format(what=config["pretrain"]["weights"]))
    for stage, record in records.items():
        for key, then in record.inputs.items():
            # `input` is recorded in part, weights that were brought by their digest, `auto` as what it came to.
            brought = key == "pretrain" and run.config.pretrain.weights is not None
            resolved = key == "precision" and config[key] == "auto"
            if key in config and key != "input" and not brought and not resolved:
                lines = differences({key: then}, {key: config[key]})
                found += [f"{stage} was made with another setting than the configuration's: {line}" for line in lines]
    return found


# ---------------------------------------------------------------------------------------------- targets


def _target(run: Run, name: str, problems: list[str]) -> dict[str, Any]:
    """A target's classes and number of training samples, by the manifest that was used; None where unknown."""
    with tolerant(problems, f"the samples of {name}"):
        path = contained(run.folder / "data", f"{name}.parquet")
        if path.is_file():
            train = Manifest(pyarrow.parquet.read_table(path)).split("train")
            return {"num_classes": len(train.classes), "num_train": len(train.labels_by_id), "classes": train.classes}
    return {"num_classes": None, "num_train": None, "classes": []}


def _pretraining_classes(run: Run, problems: list[str]) -> list[str]:
    """The labels that N_pre was trained on here; none for a task without labels, or weights that were brought."""
    path = run.folder / "pretrain" / "network" / "config.json"
    with tolerant(problems, "pretrain/network"):
        if path.is_file() and run.config.pretrain.task == "labels":
            return list(read_json(path)["classes"])
    return []


# ---------------------------------------------------------------------------------------------- training


def _training(run: Run, stage: str, records: Mapping[str, Record], problems: list[str]) -> dict[str, Any]:
    """A training stage's facts (held-out accuracy) and its `curve`: epoch, loss, accuracy, by epoch."""
    facts = dict(records[stage].facts) if stage in records else {}
    curve: list[dict[str, Any]] = []
    with tolerant(problems, f"{stage}/{METRICS_NAME}"):
        lines = [line for line in read_metrics(run.folder / stage) if isinstance(line, dict)]
        curve += [{key: line[key] for key in _CURVE_KEYS} for line in lines if line.get("event") == "epoch"]
    arch = run.config.pretrain.arch if stage == "pretrain" else run.config.retrain_arch
    return {"arch": arch, **facts, "curve": curve}


def _quality(run: Run, problems: list[str]) -> dict[str, Any] | None:
    """The figures of quality.json, and by the thresholds of `health` what they mean."""
    folder, health = run.folder / "cluster", run.config.health
    if not (folder / "quality.json").is_file():
        return None
    with tolerant(problems, "cluster/quality.json"):
        if is_complete(folder):
            Record.read(folder, kind=CLUSTER_KIND).verify(folder, only=("quality.json",))
        quality = read_json(folder / "quality.json")
        warnings = [symptom.text for symptom in symptoms_of(quality, health)]
        return {**quality, **counts_of(quality, health), "warnings": warnings}
    return None


# ---------------------------------------------------------------------------------------------- costs, versions


def _costs(run: Run, problems: list[str]) -> dict[str, Any]:
    """Wall-clock seconds by stage, those of transfer also by protocol, and their total."""

    def seconds(path: Path) -> float:
        with tolerant(problems, str(path.relative_to(run.folder))):
            return float(read_json(path)["seconds"])
        return 0.0

    costs: dict[str, Any] = {}
    for stage in _KINDS:
        path = run.folder / stage / "cost.json"
        if path.is_file():
            costs[stage] = seconds(path)
    # An evaluation's cost includes the features that it extracted, so the feature stores' own are not added.
    by_protocol: dict[str, float] = {}
    for path in sorted((run.folder / "transfer").glob("*/*/*/cost.json")):
        protocol = path.parent.name.rpartition("-seed")[0]
        by_protocol[protocol] = by_protocol.get(protocol, 0.0) + seconds(path)
    if by_protocol:
        costs["transfer"] = sum(by_protocol.values())
    total = sum(costs.values())
    return {"stages": costs, "transfer_by_protocol": by_protocol, "total": total}


def _versions(run: Run) -> dict[str, str | None]:
    """Of what computes, decodes and clusters, and the device, all as of this report; None where not installed."""
    versions: dict[str, str | None] = {"cfvid": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        candidates = _FAISS_NAMES if name == "faiss" else (name,)
        versions[name] = next((v for v in map(_version, candidates) if v is not None), None)
    with contextlib.suppress(ConfigError):  # a GPU that was asked for and is not here
        versions["device"] = run.device_name
    return versions


def _version(package: str) -> str | None:
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    return f"{version} ({package})" if package.startswith("faiss") else version
