"""All that can be known to be wrong before any work: looked at together, told in one message."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from cfvid import launch
from cfvid.artifacts import Record, changes, is_complete, refuse_changes
from cfvid.config import RunConfig
from cfvid.data.cards import not_mirrored
from cfvid.errors import ArtifactError, CfvidError, ConfigError, DamagedArtifact, DataError
from cfvid.features import KIND as FEATURES_KIND
from cfvid.media.video import attempts_with
from cfvid.models.zoo import Network, feature_dims
from cfvid.sections.training import TrainingConfig
from cfvid.stages.cluster import claims as of_cluster
from cfvid.stages.context import Run, cache_folder, clip_cache_of
from cfvid.stages.estimate import claims as of_estimate
from cfvid.stages.evaluations import read_target
from cfvid.stages.extract import claims as of_extract
from cfvid.stages.pool import WITH_LABELS, check_counts, check_distillation, expected_labels, store_dims
from cfvid.stages.pretrain import check_weights, make_task
from cfvid.stages.pretrain import claims as of_pretrain
from cfvid.stages.retrain import check_confidence
from cfvid.stages.retrain import claims as of_retrain
from cfvid.stages.transfer import claims as of_transfer
from cfvid.training.batches import check_batches
from cfvid.training.device import check_compiler
from cfvid.training.optim import parts_of

logger = logging.getLogger(__name__)

_CLAIMS: Mapping[str, Callable[[Run], Iterator[tuple[Path, dict[str, Any]]]]] = {
    "pretrain": of_pretrain,
    "extract": of_extract,
    "cluster": of_cluster,
    "estimate": of_estimate,
    "retrain": of_retrain,
    "transfer": of_transfer,
}


def check(run: Run, stages: Collection[str]) -> None:
    """Look at everything that these stages need and that is there already, without writing anything.

    Looked at: the device, the chosen decoder, sources and labels, the task against the modality, weights to bring, the
    layer and dimensions of the features against the settings of the clustering, targets, batch sizes against the number
    of processes, and whether finished or begun stages were made from other inputs.

    Raises:
        CfvidError: the one fault that there is, or a `ConfigError` that lists them all.
    """
    faults = Faults()
    with faults.collected():
        if run.accelerator and run.config.compile:
            check_compiler(run.accelerator.device)
    with faults.collected():
        check_caches(run)
    with faults.collected():
        attempts_with(run.config.runtime.video_decoder, run.modality.decoders)
    if "pretrain" in stages:
        with faults.collected():
            _check_pretrain(run)
    if not {"extract", "cluster", "retrain"}.isdisjoint(stages):
        with faults.collected():
            _check_pool(run, _pool_size(run, stages), stages, faults)
    if not {"transfer", "estimate"}.isdisjoint(stages):
        with faults.collected():
            for arch in {run.config.pretrain.arch, run.config.retrain_arch}:
                feature_dims(arch, run.config.transfer.linear.layers, run.modality.example(1).shape)
                with torch.device("meta"):
                    parts_of(Network(arch, num_classes=1), run.config.transfer.finetune.part_lrs)
        _tell_idle_names(run)
        for name in run.config.data.targets:
            with faults.collected():
                read_target(run, name)
    _tell_mirrored(run)
    _check_batches(run, stages, faults)
    if not faults.found and not run.fresh and run.shared is None:  # shared work is never changed, only added to
        _check_claims(run, stages, faults)
    faults.raise_all()


def _check_batches(run: Run, stages: Collection[str], faults: Faults) -> None:
    """Whether every training's batches can be divided among the processes that were started."""
    if launch.num_processes() == 1:
        return
    for what, training, source in _trainings(run.config, stages):
        # Sources that cannot be read are told of by their own check.
        with contextlib.suppress(CfvidError):
            num_samples = len(run.manifest(source).split("train"))
            with faults.collected():
                size = min(training.batch_size, num_samples)
                # Here the main process looks for all: no other one counts for it.
                check_batches(what, size, num_processes=launch.num_processes())


def _trainings(config: RunConfig, stages: Collection[str]) -> Iterator[tuple[str, TrainingConfig, str]]:
    """What is trained, how, and on which source's samples."""
    if "pretrain" in stages and config.pretrain.weights is None:
        yield "pretrain", config.pretrain.training, "pretrain"
    if "retrain" in stages:
        yield "retrain", config.retrain.training, "clusterfit"
    for name in config.data.targets if "transfer" in stages else ():
        if "heads" in config.transfer.protocols_of(name):
            yield f"heads on {name}", config.transfer.heads.of_target(name), name
        if "finetune" in config.transfer.protocols_of(name):
            yield f"finetune on {name}", config.transfer.finetune, name


def _tell_idle_names(run: Run) -> None:
    """Settings that speak of targets which are not there: no fault, since settings are shared, but maybe misspelt."""
    transfer = run.config.transfer
    named: dict[str, Iterable[str]] = {
        "transfer.any_label": transfer.any_label,
        "transfer.protocols_by_target": transfer.protocols_by_target,
        "transfer.input.by_target": transfer.input.by_target,
        "transfer.heads.by_target": transfer.heads.by_target,
    }
    for key, names in named.items():
        idle = [name for name in names if name not in run.config.data.targets]
        if idle:
            logger.warning("%s: data.targets has no %s", key, ", ".join(idle))


def _tell_mirrored(run: Run) -> None:
    """Data sets whose classes differ by left and right, and that a training of this run would mirror."""
    data, config = run.config.data, run.config
    uses = [("input", "clusterfit", data.clusterfit or data.pretrain, config.input)]
    if config.pretrain.weights is None:
        uses.append(("pretrain.input", "pretrain", data.pretrain, config.pretrain_input))
    uses += [
        (f"transfer.input.by_target.{name}", name, sources, config.input_of(name))
        for name, sources in data.targets.items()
    ]
    for key, name, sources, options in uses:
        card = not_mirrored([name, *(Path(source.path).stem for source in sources)])
        if card is not None and getattr(options, "flip", False):
            logger.warning(
                "%s: the card of %s says that its samples are not mirrored, and %s mirrors them: set flip to false",
                name,
                card,
                key,
            )


def _unusable(what: str, why: str | None) -> DataError:
    return DataError(f"{what} cannot be used.", why=why, fix="Look at the paths in the configuration.")


class Faults:
    """Collects errors, to raise them together."""

    def __init__(self) -> None:
        self.found: list[CfvidError] = []

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Keep an error meant for users, and what the system says of a path that it cannot use.

        Each is kept once, since several checks can meet the same one.
        """
        try:
            yield
        except CfvidError as error:
            self._keep(error)
        except OSError as error:
            if error.filename is None:
                raise
            self._keep(_unusable(str(error.filename), error.strerror))
        except RuntimeError as error:
            # Path.resolve() has no kind of its own for this.
            if not str(error).startswith("Symlink loop"):
                raise
            self._keep(_unusable("A path of the configuration", str(error)))

    def _keep(self, error: CfvidError) -> None:
        if str(error) not in map(str, self.found):
            self.found.append(error)

    def raise_all(self) -> None:
        """Raise what was found, if anything.

        Raises:
            CfvidError: the only one found, as it is; several as one of their common kind, else as a `ConfigError`.
        """
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            kinds = {type(error) for error in self.found}
            kind = kinds.pop() if len(kinds) == 1 else ConfigError
            texts = ("  - " + str(error).replace("\n", "\n    ") for error in self.found)
            raise kind(f"{len(self.found)} things stand in the way:\n" + "\n".join(texts))


def check_caches(run: Run) -> None:
    """Look at the folders of the caches that the configuration names, which need not exist yet.

    Raises:
        ConfigError: when one cannot be written.
    """
    runtime = run.config.runtime
    # One that others have filled need not be writable.
    if runtime.cache is not None and not cache_folder(runtime.cache).is_dir():
        _check_folder("runtime.cache", cache_folder(runtime.cache))
    cache = clip_cache_of(runtime)
    if cache is None:
        return
    _check_folder("runtime.clip_cache", Path(cache.folder))
    if getattr(run.config.input, "cache_short_side", None) is None:
        logger.warning("runtime.clip_cache does nothing: input.cache_short_side is not set")


def _check_folder(key: str, folder: Path) -> None:
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{key}: {folder} cannot be written.",
            why=f"{existing} is {'no folder' if not existing.is_dir() else 'not writable'}",
            fix=f"Name another folder, or leave {key} out.",
        )


def _check_pretrain(run: Run) -> None:
    weights = run.config.pretrain.weights
    if weights is None:
        make_task(run)
    else:
        [(folder, inputs)] = of_pretrain(run)  # digests the weights, which must be there
        if not is_complete(folder) or changes(folder, inputs):
            check_weights(run, weights)


def _pool_size(run: Run, stages: Collection[str]) -> int:
    """Samples of the pool; of one that is only clustered those that were extracted, without a look at the source."""
    folder = run.folder / "extract"
    if {"extract", "retrain"}.isdisjoint(stages) and is_complete(folder):
        return int(Record.read(folder, kind=FEATURES_KIND).facts["num_samples"])
    return len(run.manifest("clusterfit").split("train"))


def _check_pool(run: Run, pool_size: int, stages: Collection[str], faults: Faults) -> None:
    needed = 2 if "retrain" in stages else 1
    if pool_size < needed:
        raise DataError(
            f"clusterfit: {pool_size} sample(s) in the split 'train'; at least {needed} are needed.",
            fix="Check data.clusterfit and its train_split.",
        )
    with faults.collected():
        [dim] = feature_dims(run.config.pretrain.arch, [run.config.extract.layer], run.modality.example(1).shape)
        dim += sum(store_dims(run.config))
        if "cluster" in stages and (run.config.cluster.pca_dim or 0) > min(dim, pool_size):
            raise ConfigError(
                f"cluster.pca_dim is {run.config.cluster.pca_dim}, more than the {dim} dimensions "
                f"or the {pool_size} samples of the features.",
                fix="Lower cluster.pca_dim.",
            )
    if "cluster" in stages:
        with faults.collected():
            needs_labels = run.config.cluster.method in WITH_LABELS
            if run.config.cluster.num_clusters is None and run.config.cluster.method == "kmeans":
                num = run.config.cluster.clusters_of(pool_size)
                logger.info(
                    "cluster: K = %d for a pool of %d samples (cluster.num_clusters is not set)", num, pool_size
                )
            check_counts(run.config, num_samples=pool_size, labels=expected_labels(run) if needs_labels else {})
        if run.config.cluster.method == "distillation":
            with faults.collected():
                check_distillation(run.config)
    if "retrain" in stages:
        with faults.collected():
            check_confidence(run.config)


def _check_claims(run: Run, stages: Collection[str], faults: Faults) -> None:
    for name, claims_of in _CLAIMS.items():
        if name not in stages:
            continue
        try:
            claims = list(claims_of(run))
        except DamagedArtifact:
            raise
        except ArtifactError:
            return  # made of what an earlier stage has yet to write
        for folder, inputs in claims:
            with faults.collected():
                refuse_changes(folder, inputs)
