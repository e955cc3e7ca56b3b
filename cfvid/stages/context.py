"""What all stages share: the configuration, the modality, the run folder, the device.

    RUN/
      config.yaml          the resolved configuration of the last command
      data/*.parquet       the manifests that were used
      pretrain/            network/ (N_pre), labels.parquet, metrics.jsonl, tensorboard/, skips.jsonl
      extract/             a feature store (see cfvid.features)
      cluster/             pseudo_labels.parquet, centroids.npy, projection.safetensors, quality.json
      retrain/             network/ (N_cf), metrics.jsonl, tensorboard/, skips.jsonl
      transfer/TARGET/NETWORK/
        features/{train,val}/   feature stores
        PROTOCOL-seedS/         scores.json, predictions.parquet
      report/              report.json, report.html
      cfvid.log

Every stage's folder also holds inputs.json, record.json (see cfvid.artifacts) and cost.json.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from cfvid.artifacts import write_json
from cfvid.config import RunConfig
from cfvid.data.loader import Look, SampleLoader, open_pool
from cfvid.data.manifest import Manifest
from cfvid.data.readers import read_sources
from cfvid.data.skips import SkipLedger
from cfvid.errors import DataError
from cfvid.modalities import build_modality
from cfvid.training.device import build_accelerator

logger = logging.getLogger(__name__)


class Run:
    """One run folder and what it is to hold.

    Args:
        config: the resolved configuration.
        folder: the run folder.
        fresh: discard stages that were made from other inputs, instead of refusing.
    """

    def __init__(self, config: RunConfig, folder: Path, *, fresh: bool = False) -> None:
        self.config, self.folder, self.fresh = config, Path(folder), fresh
        self.modality = build_modality(config)
        self._manifests: dict[str, Manifest] = {}

    @functools.cached_property
    def accelerator(self) -> Accelerator:
        """Device and precision; made when first needed."""
        return build_accelerator(self.config)

    @property
    def precision(self) -> str:
        """What `auto` came to on this device: `fp32`, `bf16` or `fp16`."""
        mixed = str(self.accelerator.mixed_precision)
        return "fp32" if mixed == "no" else mixed

    # ------------------------------------------------------------------------------------------ data

    def manifest(self, name: str) -> Manifest:
        """`pretrain`, `clusterfit` or a target's name -> its samples; a snapshot goes to RUN/data/.

        Raises:
            DataError: when a source cannot be read.
        """
        if name not in self._manifests:
            data = self.config.data
            sources = {"pretrain": data.pretrain, "clusterfit": data.clusterfit or data.pretrain}
            manifest = read_sources(
                sources.get(name) or data.targets[name],
                data=data,
                suffixes=self.modality.suffixes,
                cache=cache_folder(self.config.runtime.cache),
            )
            manifest.write(self.folder / "data" / f"{name}.parquet")
            self._manifests[name] = manifest
        return self._manifests[name]

    def labelled(self, name: str, split: str) -> Manifest:
        """The labelled samples of one split.

        Raises:
            DataError: when there are none; samples without a label are left out, and counted in the log.
        """
        manifest = self.manifest(name).split(split)
        labels = manifest.labels_by_id
        if not labels:
            raise DataError(
                f"{name}: the split {split!r} has no labelled samples.",
                fix="Check the source, its splits (train_split, val_split) and its labels.",
            )
        if len(labels) < len(manifest):
            logger.info("%s: %d samples of %s have no label", name, len(manifest) - len(labels), split)
        return manifest.select(list(labels))

    @contextlib.contextmanager
    def loader(self, manifest: Manifest, *, stage: str) -> Iterator[SampleLoader]:
        """A loader of these samples with its own decoding processes and ledger."""
        ledger = SkipLedger(num_samples=len(manifest), budget=self.config.data.skip_budget, stage=stage)
        decoders = self.modality.decoders
        with open_pool(self.modality.load, attempts=decoders, runtime=self.config.runtime) as pool:
            yield SampleLoader(manifest, pool=pool, ledger=ledger, first_decoder=decoders[0])

    def input_for(self, *looks: Look) -> dict[str, Any]:
        """The input options that matter for these looks: keys named for another look are left out."""
        others = tuple(f"{look}_" for look in ("extract", "score") if look not in looks)
        options = self.config.plain("input")["input"]
        return {key: value for key, value in options.items() if not key.startswith(others)}


def cache_folder(chosen: str | None = None) -> Path:
    """Where embedded data sets are generated: the folder chosen, $CFVID_CACHE, or the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    chosen = chosen or os.environ.get("CFVID_CACHE") or f"{home}/cfvid"
    return Path(chosen).expanduser()


@contextlib.contextmanager
def costed(folder: Path) -> Iterator[None]:
    """Add the wall-clock seconds spent inside to FOLDER/cost.json, over all resumed attempts."""
    start = time.monotonic()
    path = folder / "cost.json"
    before = json.loads(path.read_text())["seconds"] if path.is_file() else 0.0
    try:
        yield
    finally:
        if folder.is_dir():
            write_json(path, {"seconds": round(before + time.monotonic() - start, 2)})
