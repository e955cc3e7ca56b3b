"""extract: the features of D_cf by N_pre, each sample exactly once, into RUN/extract (see cfvid.features)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cfvid import ranks
from cfvid.artifacts import Record
from cfvid.data.loader import Look, SampleLoader
from cfvid.data.manifest import Manifest
from cfvid.data.skips import LEDGER_NAME, Skip
from cfvid.errors import TrainingError
from cfvid.evaluation.inference import forward_views
from cfvid.features import KIND, FeatureStore, FeatureWriter, narrowed
from cfvid.models.weights import load_network
from cfvid.models.zoo import LayerFeatures, Network
from cfvid.progress import progress_bar
from cfvid.stages.context import Run
from cfvid.training import interrupts

logger = logging.getLogger(__name__)

_LARGEST = 1e17
"""The largest feature: squared distances over thousands of such dimensions still fit float32."""


def extract(run: Run) -> Path:
    """Extract the features of D_cf's training split into RUN/extract; returns that folder.

    Raises:
        InputsChanged: when the folder was made from another checkpoint, manifest or transform.
        TrainingError: when a feature is not finite, naming the samples.
    """
    folder = run.folder / "extract"
    network, _ = load_network(run.folder / "pretrain" / "network")
    extract_into(run, folder, network=network, **_what(run))
    return folder


def claims(run: Run) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder that `extract` writes, and what it is made from.

    Raises:
        ArtifactError: when N_pre is not there yet.
    """
    yield run.folder / "extract", store_inputs(run, **_what(run))


def _what(run: Run) -> dict[str, Any]:
    return {
        "network_digest": Record.read(run.folder / "pretrain" / "network", kind="network").digest,
        "manifest": run.manifest("clusterfit").split("train"),
        "look": "extract",
        "average_views": True,
        "layers": (run.config.extract.layer,),
    }


def extract_into(
    run: Run,
    folder: Path,
    *,
    network: Network,
    network_digest: str,
    manifest: Manifest,
    look: Look,
    average_views: bool,
    layers: Sequence[str | None] = (None,),
) -> FeatureStore:
    """Extract the features of a manifest into a store, continuing where a killed run stopped.

    Args:
        run: configuration, modality, device.
        folder: the store.
        network: whose trunk gives the features.
        network_digest: identifies it in the store's inputs.
        manifest: the samples.
        look: `extract` or `score`.
        average_views: store (D,) means over the views instead of (V, D).
        layers: of the trunk, side by side in the features; None is its output.
    """
    inputs = store_inputs(
        run,
        network_digest=network_digest,
        manifest=manifest,
        look=look,
        average_views=average_views,
        layers=layers,
    )
    with run.claimed(folder, inputs, kind=KIND) as done:
        if not done:
            module = run.compiled(LayerFeatures(network.trunk, layers))
            _extract_shards(run, module, folder, manifest, look=look, average_views=average_views)
    return FeatureStore(folder, verify=False)


def store_inputs(
    run: Run,
    *,
    network_digest: str,
    manifest: Manifest,
    look: Look,
    average_views: bool,
    layers: Sequence[str | None],
) -> dict[str, Any]:
    """What the features of `extract_into` are made from, for the store's record."""
    return {
        **run.config.plain("modality"),
        **{key: getattr(run.config.extract, key) for key in ("dtype", "shard_size", "batch_size")},
        **run.arithmetic,
        "input": run.input_for(look),
        "look": look,
        "average_views": average_views,
        "layers": list(layers),
        "network": network_digest,
        "manifest": run.identify(manifest),
    }


def _extract_shards(
    run: Run, module: LayerFeatures, folder: Path, manifest: Manifest, *, look: Look, average_views: bool
) -> None:
    """Write the shards that are not there yet, then the record that completes the store.

    Several processes take turns at the shards, so that these are the same whatever the number of processes; after each
    turn they tell each other what could not be read.
    """
    writer = FeatureWriter(folder, manifest.ids, shard_size=run.config.extract.shard_size)
    name = str(folder.relative_to(run.folder))
    ledger_path = folder / LEDGER_NAME
    with run.loader(manifest, stage="extract", ledger_path=ledger_path) as loader, interrupts.graceful():
        with loader.ledger.joined():
            missing = _missing(writer, loader) if ranks.is_main() else []
        missing = ranks.from_main(missing)
        if 0 < len(missing) < ranks.count():
            logger.info(
                "%s: %d shards for %d processes: fewer than could share the work", name, len(missing), ranks.count()
            )
        own = missing[ranks.rank() :: ranks.count()]
        with progress_bar(total=sum(len(writer.ids_of(shard)) for shard in own), desc=name, unit="sample") as bar:
            for turn in range(-(-len(missing) // ranks.count())):
                with loader.ledger.joined():
                    for shard in own[turn : turn + 1]:
                        ids = writer.ids_of(shard)
                        _extract_shard(run, module, loader, writer, shard, ids, look=look, average_views=average_views)
                        bar.update(len(ids))
    if ranks.is_main():
        facts = writer.finish().facts
        num, shape, num_skipped = (facts[key] for key in ("num_samples", "shape", "num_skipped"))
        logger.info("%s: %d features of shape %s, %d skipped", name, num, shape, num_skipped)
        _tell_overflow(name, facts)


def _tell_overflow(name: str, facts: Mapping[str, Any]) -> None:
    overflowing = facts.get("overflowing_shards", ())
    if overflowing:
        logger.warning(
            "%s: %d of %d shards are kept in fp32, which takes twice the disk: some of their features are larger than "
            "what fp16 holds (65504)",
            name,
            len(overflowing),
            facts["num_shards"],
        )


def _missing(writer: FeatureWriter, loader: SampleLoader) -> list[int]:
    """The shards that are not there yet; the skips of the others are noted."""
    missing = []
    for shard in range(writer.num_shards):
        before = writer.written(shard)
        if before is None:
            missing.append(shard)
        else:
            loader.ledger.extend(Skip(s["sample_id"], s["path"], tuple(s["reasons"])) for s in before["skips"])
    return missing


def _extract_shard(
    run: Run,
    module: LayerFeatures,
    loader: SampleLoader,
    writer: FeatureWriter,
    shard: int,
    ids: Sequence[str],
    *,
    look: Look,
    average_views: bool,
) -> None:
    loader.ledger.fallbacks = Counter()
    done: list[str] = []
    parts: list[np.ndarray] = []
    num_views = 0
    for batch_ids, features_NVD in forward_views(
        module,
        loader,
        ids,
        look=look,
        batch_size=run.config.extract.batch_size,
        modality=run.modality,
        accelerator=run.accelerator,
    ):
        features = features_NVD.mean(axis=1) if average_views else features_NVD
        _check_finite(features, batch_ids)
        done += batch_ids
        num_views = features_NVD.shape[1]
        parts.append(features)
    skips = loader.ledger.of(set(ids) - set(done))
    features, overflow = narrowed(parts, np.dtype(np.float16 if run.config.extract.dtype == "fp16" else np.float32))
    fallbacks = loader.ledger.fallbacks
    writer.write(
        shard, ids=done, features=features, skips=skips, fallbacks=fallbacks, num_views=num_views, overflow=overflow
    )


def _check_finite(features: np.ndarray, ids: Sequence[str]) -> None:
    axes = tuple(range(1, features.ndim))
    # NaN is not smaller than anything.
    broken = [i for i, fine in zip(ids, (np.abs(features) < _LARGEST).all(axis=axes), strict=True) if not fine]
    if broken:
        finite = bool(np.isfinite(features).all())
        raise TrainingError(
            f"extract: the features of {len(broken)} samples are not finite, first: {', '.join(broken[:5])}.",
            why=f"they are larger than {_LARGEST:g}, and so are no distances between them"
            if finite
            else "the network gives NaN or infinity for them",
            fix="Look at the checkpoint; at most this shard was lost.",
        )
