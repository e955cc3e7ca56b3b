"""What all stages share: the configuration, the modality, the run folder, the device.

    RUN/
      config.yaml          the resolved configuration of the last command
      data/*.parquet       the manifests that were used
      pretrain/            network/ (N_pre), labels.parquet, metrics.jsonl, tensorboard/, [held_out_]skips.jsonl
      extract/             a feature store (see cfvid.features)
      cluster/             {pseudo,soft}_labels.parquet, centroids.npy, projection.safetensors, quality.json
      retrain/             network/ (N_cf), metrics.jsonl, tensorboard/, skips.jsonl
      transfer/TARGET/NETWORK/
        features/{train,val}/   feature stores
        PROTOCOL-seedS/         scores.json, predictions.parquet; of fine-tuning also skips.jsonl, val_skips.jsonl
      report/              report.json, report.html
      cfvid.log

Every stage's folder also holds inputs.json, record.json (see cfvid.artifacts) and cost.json (seconds, device).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
import yaml
from accelerate import Accelerator
from torch import nn

from cfvid import __version__, ranks
from cfvid.artifacts import Record, claim, digest_of, read_json, user_path, write_json, write_text
from cfvid.config import RunConfig
from cfvid.data.loader import Look, SampleLoader, open_pool
from cfvid.data.manifest import Manifest, read_snapshot
from cfvid.data.mapped import read_mapped, write_mapped
from cfvid.data.readers import read_sources
from cfvid.data.skips import Skip, SkipLedger
from cfvid.data.subsets import keep_samples
from cfvid.errors import DataError
from cfvid.folder_lock import own_folder
from cfvid.media.clip_cache import ClipCache
from cfvid.media.source import is_url
from cfvid.modalities import build_modality
from cfvid.sections.stages import RuntimeConfig
from cfvid.training.device import build_accelerator

Module = TypeVar("Module", bound=nn.Module)
logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
MAPPED_NAME = ".manifests"
"""Of a folder that is there while several processes work."""
_UNUSED = {"cache_short_side": None, "augment_on": "worker", "eval_shape": "crop"}
"""Of input options."""


class Run:
    """One run folder and what it is to hold.

    Args:
        config: the resolved configuration.
        folder: the run folder.
        fresh: discard stages that were made from other inputs, instead of refusing.
        shared: keep the work of all stages in this folder, by the digest of their inputs, and only links to it in the
            run folder: runs that ask for the same work share it, also at the same time.
    """

    def __init__(self, config: RunConfig, folder: Path, *, fresh: bool = False, shared: Path | None = None) -> None:
        self.config, self.folder, self.fresh, self.shared = config, Path(folder), fresh, shared
        self.modality = build_modality(config)
        self._manifests: dict[str, Manifest] = {}
        self._written: set[str] = set()
        """The manifests whose snapshots are written."""
        self._unreadable: dict[tuple[str, str], Skip] = {}
        """What could not be read by looks that are the same whenever they are made, by look and sample id."""
        self._told: set[str] = set()
        """What is said once."""

    @functools.cached_property
    def accelerator(self) -> Accelerator:
        """Device and precision; made when first needed."""
        return build_accelerator(self.config)

    @property
    def precision(self) -> str:
        """What `auto` came to on this device: `fp32`, `bf16` or `fp16`."""
        mixed = str(self.accelerator.mixed_precision)
        return "fp32" if mixed == "no" else mixed

    @property
    def arithmetic(self) -> dict[str, Any]:
        """What rounding depends on, for the inputs of stages."""
        return {"precision": self.precision} | ({"compile": True} if self.config.compile else {})

    def compiled(self, module: Module) -> Module:
        """The module, compiled in place where that is asked for: names and states stay what they are."""
        if self.config.compile:
            module.compile()
        return module

    @property
    def device_name(self) -> str:
        """What the run computes on, for people."""
        device = self.accelerator.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"

    # ------------------------------------------------------------------------------------------ stages

    @contextlib.contextmanager
    def claimed(self, folder: Path, inputs: Mapping[str, Any], *, kind: str) -> Iterator[bool]:
        """Claim a folder of the run for these inputs; gives whether its work was done before, its files verified.

        Otherwise the wall-clock time spent inside is added to its cost.json, over all resumed attempts. Only a
        claim that was granted writes the configuration and the manifests into the run folder.

        Of several processes the main one claims for all, and none leaves before all have done their share.

        Raises:
            InputsChanged: when the folder was made from other inputs.
            DamagedArtifact: when what was done before has been altered since.
        """
        if not ranks.is_main():
            done = ranks.from_main(False)
            yield done
        else:
            with self._linked(folder, inputs):
                done = ranks.from_main(self._claim(folder, inputs, kind=kind))
                with contextlib.nullcontext() if done else self._timed(folder):
                    yield done
        if not done:
            ranks.barrier()

    def _claim(self, folder: Path, inputs: Mapping[str, Any], *, kind: str) -> bool:
        done = claim(folder, inputs, fresh=self.fresh)
        self.write_snapshots()
        if done:
            logger.info("%s: done before", folder.relative_to(self.folder))
            Record.read(folder, kind=kind).verify(folder)
        return done

    @contextlib.contextmanager
    def _timed(self, folder: Path) -> Iterator[None]:
        start, path = time.monotonic(), folder / "cost.json"
        before = read_json(path)["seconds"] if path.is_file() else 0.0
        try:
            yield
        finally:
            if folder.is_dir():
                seconds = round(before + time.monotonic() - start, 2)
                write_json(path, {"seconds": seconds, "device": self.device_name})

    @contextlib.contextmanager
    def _linked(self, folder: Path, inputs: Mapping[str, Any]) -> Iterator[None]:
        """With `shared`: make `folder` a link to where this work is kept, and hold that for this process."""
        if self.shared is None:
            yield
            return
        stage = folder.relative_to(self.folder).parts[0]
        home = self.shared / stage / digest_of(inputs)[:16]
        with own_folder(home, wait=True):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # A folder can lie below another one of the run, which is a link itself.
            link = folder.parent.resolve() / folder.name
            if not link.is_symlink() or link.resolve() != home.resolve():
                link.unlink(missing_ok=True)
                link.symlink_to(os.path.relpath(home.resolve(), link.parent))
            yield

    def write_snapshots(self) -> None:
        """Write the configuration and the manifests read so far into the run folder, as they were used."""
        text, path = dump_config(self.config), self.folder / CONFIG_NAME
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        for name in self._manifests.keys() - self._written:
            self._manifests[name].write(self._snapshot_path(name))
            self._written.add(name)

    def _snapshot_path(self, name: str) -> Path:
        return self.folder / "data" / f"{name}.parquet"

    # ------------------------------------------------------------------------------------------ data

    def manifest(self, name: str) -> Manifest:
        """`pretrain`, `clusterfit` or a target's name -> its samples.

        Raises:
            DataError: when a source cannot be read.
        """
        if name not in self._manifests:
            data = self.config.data
            sources = {"pretrain": data.pretrain, "clusterfit": data.clusterfit}
            if name == "clusterfit" and data.clusterfit is None:
                manifest = self.manifest("pretrain")
            else:
                manifest = read_sources(
                    sources.get(name) or data.targets[name],
                    data=data,
                    suffixes=self.modality.suffixes,
                    cache=cache_folder(self.config.runtime.cache),
                )
            if name == "clusterfit" and (data.max_clusterfit is not None or data.clusterfit_share < 1):
                num = max(1, round(data.clusterfit_share * len(manifest.split("train"))))
                manifest = keep_samples(manifest, min(num, data.max_clusterfit or num), split="train")
                logger.info("clusterfit: limited to %d samples", len(manifest.split("train")))
            self._manifests[name] = manifest
        return self._manifests[name]

    @contextlib.contextmanager
    def shared_manifests(self) -> Iterator[None]:
        """Meanwhile all processes have the manifests that the main one has read.

        Each source is read once, and where files come and go all have the same samples. Those of one machine hold
        them once, in files that they map into memory; these lie below the run folder and are removed in the end.
        """
        folder = self.folder / MAPPED_NAME
        try:
            if ranks.count() > 1:
                self._share_manifests(folder)
            yield
        finally:
            if ranks.is_main():
                shutil.rmtree(folder, ignore_errors=True)

    def _share_manifests(self, folder: Path) -> None:
        names_of: dict[Manifest, list[str]] = {}
        for name, manifest in self._manifests.items():
            names_of.setdefault(manifest, []).append(name)
        if ranks.is_main():
            for manifest, names in names_of.items():
                write_mapped(manifest, folder / f"{names[0]}.arrow")
        for names in ranks.from_main([*names_of.values()]):
            manifest = read_mapped(folder / f"{names[0]}.arrow")
            # On another machine an embedded set may have to be drawn first, into that one's cache.
            if _are_there(manifest.roots):
                self._manifests |= dict.fromkeys(names, manifest)

    def blocks(self, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of a manifest, a number of rows at a time.

        One that has not been read is not read for them as long as there is a snapshot of it: large pools need not be
        held in memory by stages that look at features alone. Where media have moved since, it is.
        """
        path = self._snapshot_path(name)
        if name not in self._manifests and path.is_file() and _are_there(_roots(read_snapshot(path, ["root"]))):
            return read_snapshot(path, columns)
        return self.manifest(name).blocks(columns)

    def identify(self, manifest: Manifest) -> str:
        """What stands for a manifest in the inputs of a stage.

        A run folder may move with its media, so that their root does not count; but shared work lies side by side
        with that of other roots, whose files may have the same names.
        """
        if self.shared is None:
            return manifest.digest
        return digest_of([manifest.digest, manifest.roots])

    def labelled(self, name: str, split: str, *, or_unsure: bool = False) -> Manifest:
        """The labelled samples of one split.

        Args:
            name: as of `manifest`.
            split: `train` or `val`.
            or_unsure: whether samples are kept whose labels are all unsure.

        Raises:
            DataError: when there are none; samples without a label are left out, and counted in the log.
        """
        manifest = self.manifest(name).split(split)
        is_labelled, is_unsure = manifest.has_any("labels"), manifest.has_any("unsure_labels")
        if not is_labelled.any():
            raise DataError(
                f"{name}: the split {split!r} has no labelled samples.",
                fix="Check the source, its splits (train_split, val_split) and its labels.",
            )
        kept = np.flatnonzero(is_labelled | (is_unsure & or_unsure))
        if len(kept) < len(manifest):
            logger.info("%s: %d samples of %s have no label", name, len(manifest) - len(kept), split)
        return manifest.take(kept)

    @contextlib.contextmanager
    def loader(
        self, manifest: Manifest, *, stage: str, ledger_path: Path | None = None, in_step: bool = False
    ) -> Iterator[SampleLoader]:
        """A loader of these samples with its own decoding processes and its skip ledger, in a file if one is named.

        Of several processes each has its own; in the end all ledgers have the skips of all.

        Args:
            manifest: the samples.
            stage: for messages.
            ledger_path: the ledger's file.
            in_step: whether processes wait for each other while they look, so that none may stop by itself.

        Raises:
            SkipBudgetExceeded: at the beginning, when too much of what an earlier attempt could not read is still so;
                at the end, when all processes together met too much. In all of them.
        """
        ledger = SkipLedger(
            num_samples=len(manifest),
            budget=self.config.data.skip_budget,
            stage=stage,
            path=ledger_path if ranks.is_main() else None,
            in_step=in_step,
            fresh=self.fresh,
            memory=self._unreadable,
        )
        runtime = self.config.runtime
        how = [__version__, runtime.model_dump(mode="json"), self.modality.options.model_dump(mode="json")]
        with (
            open_pool(self.modality.load, attempts=self.modality.decoders, runtime=runtime) as pool,
            self._clip_cache() as cache,
        ):
            pin = self.accelerator.device.type == "cuda"
            loader = SampleLoader(manifest, pool=pool, ledger=ledger, cache=cache, how=how, pin=pin)
            ledger.recall(loader.is_same)
            with ledger.joined():
                yield loader
        ledger.close()

    @contextlib.contextmanager
    def _clip_cache(self) -> Iterator[ClipCache | None]:
        """The cache of small frames, where there is one; at the end it is told, once, when nothing fitted any more."""
        cache = clip_cache_of(self.config.runtime)
        if cache is not None:
            cache.begin()
        yield cache
        reason = cache.is_full() if cache is not None and ranks.is_main() else None
        if reason is not None and reason not in self._told:
            self._told.add(reason)
            logger.warning("nothing more is kept in runtime.clip_cache: %s; what is not there is decoded", reason)

    def looking(self, input_changes: Mapping[str, Any]) -> Run:
        """The same run, whose modality has some other input options; the configuration stays as it is."""
        options = self.config.input.model_copy(update=dict(input_changes))
        other = copy.copy(self)
        other.modality = build_modality(self.config.model_copy(update={"input": options}))
        return other

    def for_target(self, name: str) -> Run:
        """The same run, which looks at samples as is asked for this target."""
        return self.looking(self.config.input_of(name).model_dump())

    def input_for(self, *looks: Look) -> dict[str, Any]:
        """The input options that matter for these looks: keys named for another look are left out, and so are options
        that came later and are not used."""
        others = tuple(f"{look}_" for look in ("extract", "score") if look not in looks)
        options = self.modality.options.model_dump(mode="json")
        unused = [key for key, value in _UNUSED.items() if options.get(key) == value]
        return {key: value for key, value in options.items() if not key.startswith(others) and key not in unused}


def _roots(blocks: Iterator[pa.RecordBatch]) -> set[str]:
    return {root for block in blocks for root in block["root"].unique().to_pylist()}


def _are_there(roots: Iterable[str]) -> bool:
    """Whether all root folders of samples exist; of URLs that is not looked at."""
    return all(is_url(root) or Path(root).is_dir() for root in roots)


def clip_cache_of(runtime: RuntimeConfig) -> ClipCache | None:
    """The cache of small frames that these settings name."""
    if runtime.clip_cache is None:
        return None
    folder = str(user_path(runtime.clip_cache).absolute())
    return ClipCache(folder, int(runtime.clip_cache_gb * 1e9), runtime.decode_deadline_s / 4)


def cache_folder(chosen: str | None = None) -> Path:
    """Where embedded data sets are generated: the folder chosen, $CFVID_CACHE, or the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    chosen = chosen or os.environ.get("CFVID_CACHE") or f"{home}/cfvid"
    return user_path(chosen)


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True)
