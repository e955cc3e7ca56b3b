"""A run folder -> plain data: what report.json holds and the page shows.

A run need not be whole. What is there is shown, what is not is listed in `missing`, and what cannot be read or does
not belong together is told in `problems`: a report is also the way to look at a run that went wrong.
"""

from __future__ import annotations

import contextlib
import math
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.parquet

from cfvid import __version__
from cfvid.artifacts import INPUTS_NAME, Record, contained, differences, digest_of, is_complete, read_json
from cfvid.clustering.health import counts_of, symptoms_of
from cfvid.data.leaks import read_leaked
from cfvid.data.manifest import Manifest
from cfvid.data.skips import LEDGER_NAME, Skip, read_skips
from cfvid.errors import ArtifactError, ConfigError, DataError, Interrupted
from cfvid.evaluation.folds import Folds, joined_values, mean_scores
from cfvid.features import KIND as FEATURES_KIND
from cfvid.report.comparison import (
    PROTOCOL_NAMES,
    Cell,
    Hits,
    cautions_of,
    gains_of,
    headline,
    leak_caution,
    metric_order,
    primary_metric,
    taught_answers,
)
from cfvid.report.confusion import Confusions
from cfvid.stages.cluster import KIND as CLUSTER_KIND
from cfvid.stages.cluster import recorded_settings
from cfvid.stages.context import Run
from cfvid.stages.pretrain import KIND as PRETRAIN_KIND
from cfvid.stages.retrain import KIND as RETRAIN_KIND
from cfvid.stages.transfer import KIND as TRANSFER_KIND
from cfvid.stages.transfer import read_outcomes
from cfvid.training.metrics import METRICS_NAME, read_metrics

_KINDS = {"pretrain": PRETRAIN_KIND, "extract": FEATURES_KIND, "cluster": CLUSTER_KIND, "retrain": RETRAIN_KIND}
_NETWORK_HOMES = {"n_pre": "pretrain/network", "n_cf": "retrain/network"}
_PACKAGES = ("torch", "torchvision", "pytorchvideo", "decord", "av", "faiss", "accelerate", "numpy")
_FAISS_NAMES = ("faiss-gpu", "faiss-cpu", "faiss-gpu-cu12", "faiss-gpu-cu11")
_CURVE_KEYS = ("epoch", "loss", "accuracy")
_MOST_REASONS = 8
_MOST_EXAMPLES = 5


def collect(run: Run) -> dict[str, Any]:
    """Everything that is known about a run, as JSON values without NaN.

    Keys: `cfvid`, `modality`, `seed`, `headline`, `cautions`, `scores`, `gains`, `targets`, `stages`, `missing`,
    `confusions`, `problems`, `pretrain`, `retrain`, `clusters`, `skips`, `costs`, `config`, `versions`.
    """
    problems: list[str] = []
    records = _records(run, problems)
    problems += _inconsistencies(run, records)
    confusions = Confusions()
    scores, num_scored, hits = _scores(run, confusions, problems)
    targets = {name: _target(run, name, problems) | {"num_scored": n} for name, n in num_scored.items()}
    _add_means_over_folds(run.config.transfer.folds, scores, targets, hits)
    gains = gains_of(scores, hits, {name: t["num_classes"] for name, t in targets.items() if t["num_classes"]})
    stages = _stages(run, scores)
    missing = [f"{stage['name']} ({stage['note']})" for stage in stages if stage["state"] != "done"]
    archs = (run.config.pretrain.arch, run.config.retrain_arch)
    report = {
        "cfvid": __version__,
        "modality": run.config.modality,
        "seed": run.config.seed,
        "headline": headline(gains, folds=run.config.transfer.folds),
        "cautions": [
            *cautions_of(gains, num_scored=num_scored, archs=archs),
            *_leaks(run, scores, hits, problems),
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
        "skips": _skips(run, records, problems),
        "costs": _costs(run, problems),
        "config": run.config.plain(),
        "versions": _versions(run),
    }
    plain: dict[str, Any] = _json_value(report)
    return plain


@contextlib.contextmanager
def tolerant(problems: list[str], what: str) -> Iterator[None]:
    """Turn the failure to read an artifact or a sample into a line of `problems`."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:  # whatever a damaged or foreign file leads to; it is told, not hidden
        lines = str(error).splitlines()
        problems.append(f"{what}: {lines[0] if lines else type(error).__name__}")


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
    """Each stage's `name`, `state` (done, begun or missing) and a `note`."""
    stages = []
    for name in _KINDS:
        if is_complete(run.folder / name):
            stages.append({"name": name, "state": "done", "note": "done"})
        elif (run.folder / name / INPUTS_NAME).is_file():
            stages.append({"name": name, "state": "begun", "note": "begun, not finished"})
        else:
            stages.append({"name": name, "state": "missing", "note": "not begun"})
    config = run.config.transfer
    asked = {
        (target, protocol, network, seed)
        for target in run.config.data.targets
        for protocol in config.protocols
        for network in config.networks
        for seed in config.seeds
    }
    done = {(s["target"], s["protocol"], s["network"], s["seed"]) for s in scores}
    num_done = len(asked & done)
    state = "done" if num_done == len(asked) else "begun" if num_done else "missing"
    stages.append({"name": "transfer", "state": state, "note": f"{num_done} of {len(asked)} evaluations"})
    return stages


def _inconsistencies(run: Run, records: Mapping[str, Record]) -> list[str]:
    """Stages that were made from something else than what the run folder and its configuration hold now."""
    found = []
    made_from = [
        ("extract", "network", "pretrain/network", "network", "N_pre"),
        ("cluster", "features", "extract", FEATURES_KIND, "features"),
        ("retrain", "pseudo_labels", "cluster", CLUSTER_KIND, "pseudo-labels"),
    ]
    for stage, key, source, kind, noun in made_from:
        now = _digest(run.folder / source, kind)
        if stage in records and now is not None and records[stage].inputs.get(key) != now:
            found.append(f"{stage} was made from other {noun} than those in {source}: run it again.")
    config = run.config.plain()
    config["cluster"] = recorded_settings(run.config)
    config["pretrain"].pop("input")  # recorded as part of `input`
    for stage, record in records.items():
        for key, then in record.inputs.items():
            # `input` is recorded in part, weights that were brought by their digest, `auto` as what it came to.
            brought = key == "pretrain" and run.config.pretrain.weights is not None
            resolved = key == "precision" and config[key] == "auto"
            if key in config and key != "input" and not brought and not resolved:
                lines = differences({key: then}, {key: config[key]})
                found += [f"{stage} was made with another setting than the configuration's: {line}" for line in lines]
    return found


def _digest(folder: Path, kind: str) -> str | None:
    try:
        return Record.read(folder, kind=kind).digest
    except (ArtifactError, OSError, LookupError, AttributeError):
        return None


# ---------------------------------------------------------------------------------------------- scores


def _scores(
    run: Run, confusions: Confusions, problems: list[str]
) -> tuple[list[dict[str, Any]], dict[str, int], dict[Cell, Hits]]:
    """All scores of the run's own networks, the number of scored samples by target, and who was right on what."""
    digests = {name: _digest(run.folder / home, "network") for name, home in _NETWORK_HOMES.items()}
    scores: list[dict[str, Any]] = []
    num_scored: dict[str, int] = {}
    hits: dict[Cell, Hits] = {}
    settings: dict[tuple[str, str], set[str]] = {}
    for path in sorted((run.folder / "transfer").glob("*/*/*/record.json")):
        what = str(path.parent.relative_to(run.folder))
        with tolerant(problems, what):
            record = Record.read(path.parent, kind=TRANSFER_KIND)
            record.verify(path.parent)
            facts, seed = record.facts, record.inputs["seed"]
            target, protocol, network = (str(facts[key]) for key in ("target", "protocol", "network"))
            if digests.get(network) not in (None, record.inputs["network"]):
                problems.append(f"{what} scores another {network} than the run now has and is left out: run it again.")
                continue
            values = read_json(path.parent / "scores.json")
            entry = {"network": network, "target": target, "protocol": protocol}
            scores += [{**entry, "metric": metric, "value": v, "seed": seed} for metric, v in values.items()]
            num_scored[target] = max(num_scored.get(target, 0), int(facts["num_scored"]))
            shared = {key: value for key, value in record.inputs.items() if key not in ("network", "seed")}
            settings.setdefault((target, protocol), set()).add(digest_of(shared))
            confusions.add((target, protocol, network), path.parent / "predictions.parquet")
            outcomes = read_outcomes(path.parent)
            hits[target, protocol, network, seed] = outcomes[primary_metric(outcomes)] if outcomes else {}
    for (target, protocol), kinds in settings.items():
        if len(kinds) > 1:
            problems.append(f"{target}, {protocol}: the networks were scored with different settings or samples.")
    return sorted(scores, key=_order), num_scored, hits


def _add_means_over_folds(
    folds: Folds, scores: list[dict[str, Any]], targets: dict[str, Any], hits: dict[Cell, Hits]
) -> None:
    """Add each data set whose splits are all scored as a target of its own."""
    scores += mean_scores(scores, folds)
    scores.sort(key=_order)
    for name in {score["target"] for score in scores} & set(folds):
        parts = [targets[fold] for fold in folds[name]]
        targets[name] = parts[0] | {"num_scored": sum(part["num_scored"] for part in parts)}
        for _, protocol, network, seed in [cell for cell in hits if cell[0] == folds[name][0]]:
            of_folds = {fold: hits.get((fold, protocol, network, seed)) for fold in folds[name]}
            if all(of_folds.values()):
                hits[name, protocol, network, seed] = joined_values({f: rights or {} for f, rights in of_folds.items()})


def _leaks(run: Run, scores: Sequence[Mapping[str, Any]], hits: Mapping[Cell, Hits], problems: list[str]) -> list[str]:
    """A caution for each target of which it is known what a pool has in common with it."""
    found = []
    for target, path in run.config.report.leaks.items():
        with tolerant(problems, f"report.leaks.{target}"):
            leaked = read_leaked(Path(path))
            kept = {
                cell: {sample_id: value for sample_id, value in values.items() if sample_id not in leaked}
                for cell, values in hits.items()
                if cell[0] == target
            }
            scored = {sample_id for cell, values in hits.items() if cell[0] == target for sample_id in values}
            if leaked and leaked.isdisjoint(run.manifest(target).split("val").ids):
                raise DataError(f"none of its samples is one of {target}'s val split")
            own = [score for score in scores if score["target"] == target]
            found.append(
                leak_caution(target, num_leaked=len(leaked & scored), num_scored=len(scored), hits=kept, scores=own)
            )
    return found


def _order(score: Mapping[str, Any]) -> tuple[Any, ...]:
    """Frozen features before fine-tuning, samples before single views, networks in reading order."""
    protocols, networks = tuple(PROTOCOL_NAMES), ("n_pre", "n_cf", "random")
    protocol, metric, network = score["protocol"], score["metric"], score["network"]
    return (
        score["target"],
        protocols.index(protocol) if protocol in protocols else len(protocols),
        protocol,
        metric_order(metric),
        networks.index(network) if network in networks else len(networks),
        score["seed"],
    )


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


# ---------------------------------------------------------------------------------------------- skips


def _skips(run: Run, records: Mapping[str, Record], problems: list[str]) -> dict[str, Any]:
    """By stage (and by target and split): samples, skips, reasons with their counts, examples, decoder fallbacks."""
    found = {}
    samples = {"pretrain": _num_rows(run.folder / "pretrain" / "labels.parquet")}
    if "pretrain" in records:
        samples["pretrain"] = records["pretrain"].facts.get("num_samples", samples["pretrain"])
    if "cluster" in records:
        samples["retrain"] = records["cluster"].facts.get("num_samples")
    for stage in ("pretrain", "extract", "retrain"):
        ledger = run.folder / stage / LEDGER_NAME
        if ledger.is_file():
            with tolerant(problems, f"{stage}/{LEDGER_NAME}"):
                if stage in records:
                    records[stage].verify(run.folder / stage, only=(LEDGER_NAME,))
                facts = records[stage].facts if stage in records else {}
                found[stage] = _ledger(read_skips(ledger), facts, samples.get(stage))
    stores: dict[str, list[Path]] = {}
    for path in sorted((run.folder / "transfer").glob(f"*/*/features/*/{LEDGER_NAME}")):
        target, split = path.relative_to(run.folder / "transfer").parts[0], path.parent.name
        stores.setdefault(f"transfer, {target} {split}", []).append(path.parent)
    for name, folders in stores.items():
        with tolerant(problems, name):
            # Every network reads the same files: count each sample once.
            skips = {skip.sample_id: skip for folder in folders for skip in read_skips(folder / LEDGER_NAME)}
            facts = Record.read(folders[0], kind=FEATURES_KIND).facts
            found[name] = _ledger(list(skips.values()), facts, None)
    return found


def _num_rows(path: Path) -> int | None:
    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (OSError, ValueError):
        return None


def _ledger(skips: list[Skip], facts: Mapping[str, Any], num_samples: int | None) -> dict[str, Any]:
    """One ledger; the number of samples and the fallbacks come from a feature store's facts where there are any."""
    reasons = Counter(_reason(skip) for skip in skips).most_common()
    by_reason = dict(reasons[:_MOST_REASONS])
    if len(reasons) > _MOST_REASONS:
        by_reason["other reasons"] = sum(count for _, count in reasons[_MOST_REASONS:])
    if "num_skipped" in facts:
        num_samples = facts["num_samples"] + facts["num_skipped"]
    return {
        "num_samples": num_samples,
        "num_skipped": len(skips),
        "by_reason": by_reason,
        "fallbacks": facts.get("fallbacks"),
        "examples": [
            {"sample_id": skip.sample_id, "path": skip.path, "reasons": list(skip.reasons)}
            for skip in skips[:_MOST_EXAMPLES]
        ],
    }


def _reason(skip: Skip) -> str:
    """What the last decoder said, without the file's own name, so that equal reasons count together."""
    reason = skip.reasons[-1] if skip.reasons else "unknown"
    for name in (skip.path, Path(skip.path).name):
        reason = reason.replace(name, "(file)")
    return reason


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
