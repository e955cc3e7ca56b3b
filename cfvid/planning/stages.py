"""What each stage of a run is going to do. Nothing is decoded or computed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from cfvid.artifacts import Record, is_complete
from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.data.manifest import Manifest
from cfvid.features import KIND as FEATURES_KIND
from cfvid.modalities.base import Modality
from cfvid.models.heads import LayerHeads
from cfvid.models.zoo import LayerFeatures, Network, build_network, feature_dims
from cfvid.planning.arithmetic import (
    cluster_bytes,
    cluster_memory,
    comparisons,
    mapped_soft_bytes,
    probe_memory,
    store_bytes,
)
from cfvid.planning.work import Looks, Pass, Search, Training, Work, state_bytes, weight_bytes
from cfvid.stages.context import Run
from cfvid.stages.evaluations import Target, read_target
from cfvid.stages.pool import WITH_K, engine_name, expected_labels, pool_ids, store_dims
from cfvid.stages.pretrain import make_task
from cfvid.stages.protocols import FROZEN, TRAINED
from cfvid.tasks.statistics import samples_for_statistics
from cfvid.training.objective import Objective
from cfvid.training.targets import PseudoTargets, Repeated, Targets


def works_of(run: Run, stages: Collection[str]) -> list[Work]:
    """What these stages are going to do, in order. What lies in the run folder is taken to be made from equal inputs.

    Raises:
        CfvidError: when samples cannot be listed, or do not suffice.
    """
    makers = {"pretrain": _pretrain, "extract": _extract, "cluster": _cluster, "retrain": _retrain}
    works = [
        Work(name, "", is_done=True) if is_complete(run.folder / name) else make(run)
        for name, make in makers.items()
        if name in stages
    ]
    if "transfer" in stages:
        works += [_transfer(run.for_target(name), read_target(run, name)) for name in run.config.data.targets]
    return works


# ---------------------------------------------------------------------------------------------- stages


def _pretrain(run: Run) -> Work:
    config = run.config
    if config.pretrain.weights is not None:
        arch = config.pretrain.arch
        return Work("pretrain", "weights that are brought", kept_bytes=weight_bytes(_shape_of(arch)))
    task, training = make_task(run), config.pretrain.training
    modality = run.looking({**config.pretrain_input.model_dump(), **task.input_changes}).modality
    trained = Pass(
        Looks(task.samples, modality, "train"),
        lambda: task.build()[0],
        min(training.batch_size, len(task.samples)),
        # The networks of questions have other inputs than those of labels, which all further training has.
        _kind(modality, "labels" if config.pretrain.task == "labels" else config.pretrain.task, config.pretrain.arch),
        times=training.epochs,
        objective=lambda: task.objective,
        training=Training(training),
    )
    passes = [trained]
    if len(task.held_out):
        asks = config.pretrain.task != "labels"
        looks = Looks(task.held_out, modality, "train" if asks else "extract")
        kind = ("held-out", *trained.kind)
        objective = trained.objective if asks else None
        passes.append(Pass(looks, trained.build, config.extract.batch_size, kind, objective=objective))
    if task.learns_from_pieces:
        looks = Looks(samples_for_statistics(task.samples, seed=config.seed), run.modality, "extract")
        passes.append(_features_pass(run, config.pretrain.arch, looks, (None,)))
    return Work(
        "pretrain",
        _trained_text(trained),
        passes=tuple(passes),
        kept_bytes=weight_bytes(lambda: task.build()[1]),
        scratch_bytes=state_bytes(trained),
    )


def _extract(run: Run) -> Work:
    config, pool = run.config, run.manifest("clusterfit").split("train")
    layers = (config.extract.layer,)
    looked = _features_pass(run, config.pretrain.arch, Looks(pool, run.modality, "extract"), layers)
    return Work(
        "extract",
        f"{len(pool)} samples",
        passes=(looked,),
        kept_bytes=_store_bytes(run, looked, sum(_dims(run, config.pretrain.arch, layers)), keeps_views=False),
    )


def _cluster(run: Run) -> Work:
    config, ids = run.config.cluster, pool_ids(run)
    num = len(ids)
    num_clusters = _num_classes(run, num)
    [own_dim] = _dims(run, run.config.pretrain.arch, (run.config.extract.layer,))
    dim = own_dim + sum(store_dims(run.config))
    points_dim = config.pca_dim or dim
    facts = {"num_samples": num, "shape": [own_dim]}
    engine = engine_name(run.config, store=Record(FEATURES_KIND, {}, {}, facts))
    is_streamed = engine == StreamingEngine.name
    soft_top = _soft_top(run, num_clusters)
    return Work(
        "cluster",
        f"{num} samples",
        search=_search(run, num, num_clusters, points_dim),
        kept_bytes=cluster_bytes(
            ids,
            num_clusters=num_clusters,
            dim=points_dim,
            projected_from=dim if config.pca_dim else None,
            soft_top=soft_top,
        ),
        # The points, and the centroids after the last iteration of each restart.
        scratch_bytes=4 * points_dim * (num + num_clusters * config.restarts) if is_streamed else 0,
        memory_bytes=cluster_memory(
            num,
            dim=dim,
            points_dim=points_dim,
            num_clusters=num_clusters,
            is_streamed=is_streamed,
            soft_top=soft_top,
        ),
    )


def _search(run: Run, num: int, num_clusters: int, dim: int) -> Search:
    config, iterations, compared = run.config.cluster, run.config.cluster.iterations, num_clusters
    if config.method not in WITH_K:
        iterations = 0  # centroids are not looked for, only compared with
    fitted = min(num, config.minibatch or num_clusters * (config.max_points_per_centroid or num))
    count = comparisons(
        num,
        num_clusters,
        iterations=iterations,
        restarts=config.restarts,
        num_fitted=fitted,
        hierarchical=config.hierarchical,
    )
    if config.method == "per_label":
        # Within a label there are as many times fewer clusters as there are labels.
        labels = max(1, len(set(expected_labels(run).values())))
        count -= num_clusters * fitted * iterations * config.restarts * (1 - 1 / labels)
        compared = max(1, num_clusters // labels)
    return Search(count, round(math.sqrt(compared)) if config.hierarchical else compared, dim)


def _retrain(run: Run) -> Work:
    config = run.config
    pool, arch, training = run.manifest("clusterfit").split("train"), config.retrain_arch, config.retrain.training
    num = max(2, round(config.retrain.keep_nearest * len(pool)))
    samples = pool if num >= len(pool) else pool.select(pool.ids[:num])
    num_classes = _num_classes(run, len(pool))
    trained = Pass(
        Looks(samples, run.modality, "train"),
        lambda: build_network(arch, num_classes=num_classes, seed=0),
        min(training.batch_size, len(samples)),
        _kind(run.modality, "labels", arch),
        times=training.epochs,
        objective=lambda: _any_targets(samples, num_classes),
        training=Training(training),
    )
    return Work(
        "retrain",
        _trained_text(trained),
        passes=(trained,),
        kept_bytes=weight_bytes(trained.build),
        scratch_bytes=state_bytes(trained) + _soft_bytes(run, len(samples), num_classes),
    )


def _num_classes(run: Run, num_samples: int) -> int:
    """How many clusters there will be, at most; for methods without a K, one for each label."""
    method = run.config.cluster.method
    num_labels = 0 if method == "kmeans" else len(set(expected_labels(run).values()))
    if method in WITH_K:
        return run.config.cluster.clusters_of(num_samples, num_labels=num_labels)
    return max(2, num_labels)


def _soft_bytes(run: Run, num_samples: int, num_classes: int) -> int:
    size, is_distilled = _soft_top(run, num_classes), run.config.cluster.method == "distillation"
    return mapped_soft_bytes(num_samples, size=size, all_alike=is_distilled) if size else 0


def _soft_top(run: Run, num_clusters: int) -> int:
    """Classes of a sample's soft label; 0 where labels are hard."""
    config = run.config.cluster
    return num_clusters if config.method == "distillation" else min(config.soft_top or 0, num_clusters)


def _any_targets(samples: Manifest, num_classes: int) -> PseudoTargets:
    """Some pseudo-labels: which ones makes no difference to what a step costs."""
    return PseudoTargets(samples.ids, np.arange(len(samples)) % num_classes)


# ---------------------------------------------------------------------------------------------- transfer


def _transfer(run: Run, target: Target) -> Work:
    config = run.config.transfer
    passes: list[Pass] = []
    states: dict[tuple[str, str], int] = {}
    extracted: set[Path] = set()
    kept, memory, todo = [], 0, 0
    for seed, name in itertools.product(config.seeds, config.networks):
        arch = run.config.retrain_arch if name == "n_cf" else run.config.pretrain.arch
        home = run.folder / "transfer" / target.name / (f"random-seed{seed}" if name == "random" else name)
        left = [p for p in config.protocols_of(target.name) if not is_complete(home / f"{p}-seed{seed}")]
        todo += len(left)
        for protocol in left:
            if protocol in TRAINED:
                own = list(_trained_passes(run, target, protocol, arch))
                passes += own
                if (protocol, arch) not in states:
                    states[protocol, arch] = state_bytes(own[0])
        if any(p in FROZEN for p in left) and home not in extracted:
            extracted.add(home)
            layers = (None, *config.linear.layers)
            dims = _dims(run, arch, layers)
            frozen = list(_frozen_passes(run, target, arch, layers))
            missing = [own for split, own in frozen if not is_complete(home / "features" / split)]
            passes += missing
            kept += [_store_bytes(run, own, sum(dims), keeps_views=True) for own in missing]
            train, val = (own.looks.num_views * len(own.looks.samples) for _, own in frozen)
            num_classes = len(target.classes)
            memory = max(memory, probe_memory(train, val, dim=max(dims), num_classes=num_classes))
    return Work(
        f"transfer {target.name}",
        f"{len(target.train)} + {len(target.val)} samples, {todo} evaluations",
        is_done=not todo,
        passes=tuple(passes),
        kept_bytes=sum(kept),
        scratch_bytes=max(states.values(), default=0),
        memory_bytes=memory,
    )


def _frozen_passes(run: Run, target: Target, arch: str, layers: Sequence[str | None]) -> Iterator[tuple[str, Pass]]:
    yield "train", _features_pass(run, arch, Looks(target.train, run.modality, "extract"), layers)
    yield "val", _features_pass(run, arch, Looks(target.val, run.modality, "score"), layers)


def _trained_passes(run: Run, target: Target, protocol: str, arch: str) -> Iterator[Pass]:
    """The training on a target, then the scoring."""
    config, num_classes = run.config.transfer, len(target.classes)
    training = Training(config.finetune, config.finetune.part_lrs)
    kind = _kind(run.modality, "labels", arch)

    def build() -> nn.Module:
        return build_network(arch, num_classes=num_classes, seed=0)

    def objective() -> Objective:
        return Targets(target.classes, target.train.labels_by_id)

    if protocol == "heads":
        layers, heads = [None, *config.linear.layers], config.heads.of_target(target.name)
        training, kind = Training(heads), _kind(run.modality, "heads", arch, tuple(layers))

        def build() -> nn.Module:
            trunk, shape = build_network(arch, num_classes=1, seed=0).trunk, run.modality.example(1).shape
            return LayerHeads(trunk, layers, num_classes=num_classes, num_values=heads.num_values, shape=shape)

        def objective() -> Objective:
            return Repeated(Targets(target.classes, target.train.labels_by_id), len(layers))

    yield Pass(
        Looks(target.train, run.modality, "train"),
        build,
        min(training.config.batch_size, len(target.train)),
        kind,
        times=training.config.epochs,
        objective=objective,
        training=training,
    )
    yield Pass(Looks(target.val, run.modality, "score"), build, config.batch_size, ("scored", *kind))


# ---------------------------------------------------------------------------------------------- parts


def _features_pass(run: Run, arch: str, looks: Looks, layers: Sequence[str | None]) -> Pass:
    return Pass(
        looks,
        lambda: LayerFeatures(build_network(arch, num_classes=1, seed=0).trunk, layers),
        run.config.extract.batch_size,
        _kind(run.modality, "features", arch),
    )


def _kind(modality: Modality, *what: Hashable) -> tuple[Hashable, ...]:
    """What steps have to have in common to take equally long: targets may be looked at in another size."""
    return (*what, tuple(modality.example(1).shape))


def _trained_text(trained: Pass) -> str:
    return f"{len(trained.looks.samples)} samples x {trained.times} epochs"


def _dims(run: Run, arch: str, layers: Sequence[str | None]) -> list[int]:
    return feature_dims(arch, layers, run.modality.example(1).shape)


def _store_bytes(run: Run, looked: Pass, dim: int, *, keeps_views: bool) -> int:
    return store_bytes(
        looked.looks.samples.ids,
        num_views=looked.looks.num_views if keeps_views else 1,
        dim=dim,
        value_bytes=2 if run.config.extract.dtype == "fp16" else 4,
        shard_size=run.config.extract.shard_size,
    )


def _shape_of(arch: str) -> Callable[[], nn.Module]:
    return lambda: Network(arch, num_classes=1)
