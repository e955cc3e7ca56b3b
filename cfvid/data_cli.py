"""`cfvid data`: manifests of data sets in their official layouts, and what is in the files; thin, as `cli`.

cfvid data list
cfvid data prepare hmdb51 --root /data/hmdb51 --out hmdb51.parquet --fold 2
cfvid data check hmdb51.parquet --modality video --out hmdb51.check.parquet
cfvid data stats hmdb51.check.parquet
cfvid data leaks pool.check.parquet hmdb51.check.parquet
cfvid data shard hmdb51.parquet --modality video --out shards --shard-size-mb 500
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cfvid.errors import ConfigError
from cfvid.option_names import in_options, named_by_options, section_of

if TYPE_CHECKING:
    from cfvid.data.leaks import Leak
    from cfvid.data.manifest import Manifest

_NUM_NAMED = 5
"""So many of the files that no annotation lists are named."""
_OPTIONS = ("fold", "classes", "media")
"""Flags that are options of readers."""


def add_data_arguments(parser: argparse.ArgumentParser, *, parser_class: type[argparse.ArgumentParser]) -> None:
    """The sub-commands and flags of `cfvid data`.

    Args:
        parser: of `cfvid data`.
        parser_class: of the sub-commands.
    """
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=parser_class)
    actions.add_parser("list", help="the data sets that have a card", allow_abbrev=False)
    prepare = actions.add_parser(
        "prepare",
        help="make a manifest of a data set in its official layout",
        description="Reads a data set as its publishers lay it out, and compares its size with what was published.",
        allow_abbrev=False,
    )
    prepare.add_argument("name", metavar="NAME", help="a data set with a card; `cfvid data list` lists them")
    prepare.add_argument("--root", type=Path, required=True, metavar="DIR", help="the data set's folder")
    prepare.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .csv or .parquet file")
    prepare.add_argument("--fold", type=int, metavar="N", help="of sets with several official folds (default: 1)")
    prepare.add_argument("--classes", type=Path, metavar="FILE", help="imagenet9k: the classes to use, one wnid a line")
    prepare.add_argument("--allow-missing", action="store_true", help="take what is there, if it is less than half")
    prepare.add_argument("--media", type=Path, metavar="DIR", help="cifar10, cifar100: where to write the pictures")
    _add_trusted_root(prepare)
    _add_check_arguments(
        actions.add_parser(
            "check",
            help="decode every sample once",
            description="Says what cannot be read and why, durations, sizes, codecs and copies. The same command goes "
            "on where it was stopped.",
            allow_abbrev=False,
        )
    )
    stats = actions.add_parser("stats", help="what a check found, in words", allow_abbrev=False)
    stats.add_argument("check", type=Path, metavar="FILE", help="written by cfvid data check")
    _add_leaks_arguments(
        actions.add_parser(
            "leaks",
            help="near-duplicates between a pool and a target",
            description="Samples of the second set that look like one of the first, by perceptual hashes.",
            allow_abbrev=False,
        )
    )

    _add_shard_arguments(
        actions.add_parser(
            "shard",
            help="write samples as WebDataset tar shards",
            description="Copies the media unchanged, with labels, splits and times beside them; the shards can be a "
            "source again. The same command goes on where it was stopped.",
            allow_abbrev=False,
        )
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that name a source: its place, its media and how to read it."""
    text = "class folders, a manifest, Kinetics' CSV, tar shards, or embedded:NAME"
    parser.add_argument("source", metavar="SOURCE", help=text)
    parser.add_argument("--modality", required=True, help="video, image or frame: whose media files to take")
    parser.add_argument("--media-root", metavar="DIR", help="where the paths in a manifest start")
    parser.add_argument("--label-separator", metavar="TEXT", help="splits the labels in a CSV, e.g. '|'")
    kind = "how to read it; `classes`: no top folder is a split (default: auto)"
    parser.add_argument("--kind", default="auto", metavar="KIND", help=kind)
    parser.add_argument("--train-split", metavar="NAME", help="what it is called (default: train, or a usual name)")
    parser.add_argument("--val-split", metavar="NAME", help="what it is called (default: val, or a usual name)")
    _add_trusted_root(parser)


def _add_trusted_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trusted-root",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="a folder that paths and links may lead to besides the source's own; can be repeated",
    )


def _add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--split", metavar="SPLIT", help="only this split of the source (default: all, apart)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shard-size-mb", type=int, default=500, metavar="N", help="at most so large (default: 500)")
    size.add_argument("--samples-per-shard", type=int, metavar="N", help="so many in each instead")


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .parquet file")
    parser.add_argument("--workers", type=int, metavar="N", help="decoding processes (default: cores, at most 8)")
    parser.add_argument("--memory-gb", type=float, metavar="GB", help="of one decoding process (default: 4)")
    parser.add_argument("--max-megapixels", type=float, metavar="N", help="of a picture (default: 64)")
    parser.add_argument(
        "--deadline",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long one decoder may take for one whole file (default: 600)",
    )


def _add_leaks_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pool", type=Path, metavar="POOL", help="its check, written by cfvid data check")
    parser.add_argument("target", type=Path, metavar="TARGET", help="the target's check; may be the same file")
    parser.add_argument(
        "--splits",
        nargs=2,
        default=("train", "val"),
        metavar=("POOL_SPLIT", "TARGET_SPLIT"),
        help="which splits are compared (default: train val)",
    )
    parser.add_argument("--max-distance", type=int, metavar="BITS", help="of the 64 of a hash (default: 6)")
    parser.add_argument(
        "--features",
        type=Path,
        nargs=2,
        metavar=("POOL_STORE", "TARGET_STORE"),
        help="also compare features of one network: RUN/extract and RUN/transfer/TARGET/n_pre/features/val, say",
    )
    parser.add_argument("--min-cosine", type=float, metavar="X", help="between features (default: 0.95)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .csv file of all pairs, for report.leaks too")


def run_data(options: argparse.Namespace) -> int:
    """Do what `cfvid data` was asked for; returns the exit code."""
    actions: dict[str, Callable[[argparse.Namespace], None]] = {
        "list": _list,
        "prepare": _prepare,
        "check": _check,
        "stats": _stats,
        "leaks": _leaks,
        "shard": _shard,
    }
    with named_by_options(options):
        actions[options.action](options)
    return 0


def _list(_: argparse.Namespace) -> None:
    from cfvid.data.cards import card_names, read_card
    from cfvid.sections.data import EMBEDDED_PREFIX

    for name in card_names():
        card = read_card(name)
        rows = [(name, card.modality, card.classes, card.title)]
        if card.sets:
            rows = [(f"{EMBEDDED_PREFIX}{n}", s.modality, len(s.classes), s.purpose) for n, s in card.sets.items()]
        for shown, modality, classes, title in rows:
            print(f"{shown:18} {modality or '':6} {classes or '-':>6}  {title}")


def _prepare(options: argparse.Namespace) -> None:
    from cfvid.data.cards import deviations, read_card
    from cfvid.data.manifest_files import check_name, write_manifest
    from cfvid.data.official import read_official
    from cfvid.modalities import MODALITIES

    card = read_card(options.name)
    check_name(options.out)  # before any work
    prepared = read_official(
        card,
        options.root,
        suffixes=MODALITIES[card.modality].suffixes if card.modality else (),
        trusted_roots=[str(root.resolve()) for root in options.trusted_root],
        options={name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None},
        allow_missing=options.allow_missing,
    )
    outside = write_manifest(prepared.manifest, options.out)
    print("\n".join(describe_manifest(prepared.manifest, options.out, outside=outside)))
    for line in deviations(card, prepared.manifest, fold=options.fold):
        print(line)
    _tell_missing(prepared.not_found, options.out)
    if prepared.not_listed:
        named = ", ".join(prepared.not_listed[:_NUM_NAMED])
        more = ", ..." if len(prepared.not_listed) > _NUM_NAMED else ""
        print(f"{len(prepared.not_listed):,} media files are not listed and not used: {named}{more}", flush=True)


def describe_manifest(manifest: Manifest, out: Path, *, outside: Sequence[Path]) -> list[str]:
    """What was written, and what its reader has to be told.

    Args:
        manifest: the samples.
        out: the file that they were written to.
        outside: as `write_manifest` returned them.
    """
    from cfvid.data.manifest_files import SEPARATOR

    splits = Counter(sample.split for sample in manifest)
    counts = ", ".join(f"{count} in {split!r}" for split, count in sorted(splits.items()))
    lines = [f"{out}: {len(manifest)} samples ({counts}), {len(manifest.classes)} classes"]
    several = any(len(sample.labels) > 1 or len(sample.unsure_labels) > 1 for sample in manifest)
    if out.suffix.lower() == ".csv" and several:
        option = f"by cfvid data with --label-separator '{SEPARATOR}'"
        lines.append(f"Samples have several labels: read it with label_separator: '{SEPARATOR}', {option}.")
    return lines + [
        f"Its paths into {root} are absolute: to use them, name that folder in data.trusted_roots, or to cfvid data by "
        "--trusted-root."
        for root in outside
    ]


def _tell_missing(not_found: Sequence[str], out: Path) -> None:
    """List the missing files beside the manifest; an older list is removed when there are none."""
    from cfvid.artifacts import write_text

    path = out.with_suffix(".not_found.txt")
    if not not_found:
        path.unlink(missing_ok=True)
        return
    write_text(path, "".join(f"{name}\n" for name in not_found))
    print(f"{len(not_found):,} listed files are not there and left out; {path} names them.")


def _check(options: argparse.Namespace) -> None:
    from cfvid.data.check import check, summary
    from cfvid.modalities import MODALITIES
    from cfvid.sections.stages import RuntimeConfig

    given = {
        "num_workers": options.workers,
        "decode_deadline_s": options.deadline,
        "decode_memory_gb": options.memory_gb,
        "max_image_megapixels": options.max_megapixels,
    }
    runtime = section_of(RuntimeConfig, {name: value for name, value in given.items() if value is not None})
    manifest = read_named_source(options)
    table = check(manifest, options.out, decoders=MODALITIES[options.modality].decoders, runtime=runtime)
    print("\n".join([f"{options.out}:", *(in_options(line, options) for line in summary(table))]), flush=True)


def read_named_source(options: argparse.Namespace) -> Manifest:
    """The samples of the source that the flags of `add_source_arguments` name, with its own ids and splits."""
    from cfvid.data.readers import read_source
    from cfvid.modalities import MODALITIES
    from cfvid.sections.data import DataConfig, SourceConfig
    from cfvid.stages.context import cache_folder

    if options.modality not in MODALITIES:
        raise ConfigError(f"--modality: {options.modality!r} is not one of {', '.join(MODALITIES)}")
    names = ("kind", "media_root", "label_separator", "train_split", "val_split")
    source = section_of(SourceConfig, {"path": options.source, **{name: getattr(options, name) for name in names}})
    data = DataConfig(pretrain=[source], targets={}, trusted_roots=[str(root) for root in options.trusted_root])
    return read_source(source, data=data, suffixes=MODALITIES[options.modality].suffixes, cache=cache_folder())


def _shard(options: argparse.Namespace) -> None:
    from cfvid.data.shard_writer import write_shards
    from cfvid.data.skips import LEDGER_NAME
    from cfvid.modalities import MODALITIES

    for flag, value in (("shard-size-mb", options.shard_size_mb), ("samples-per-shard", options.samples_per_shard)):
        if value is not None and value < 1:
            raise ConfigError(f"--{flag} is {value}; it is at least 1.")
    manifest = read_named_source(options)
    if options.split is not None:
        splits = sorted(set(manifest.table["split"].to_pylist()))
        manifest = manifest.split(options.split)
        if len(manifest) == 0:
            raise ConfigError(f"--split: the source has no split {options.split!r} but {', '.join(splits)}.")
    written = write_shards(
        manifest,
        options.out,
        suffixes=MODALITIES[options.modality].suffixes,
        samples_per_shard=options.samples_per_shard,
        bytes_per_shard=None if options.samples_per_shard else options.shard_size_mb * 1_000_000,
    )
    print(f"{options.out}: {written.num_samples:,} samples in {len(written.shards):,} shards", flush=True)
    if written.num_left_out:
        print(f"{written.num_left_out:,} samples are left out; {options.out / LEDGER_NAME} says why", flush=True)


def _stats(options: argparse.Namespace) -> None:
    from cfvid.data.check import read_check, summary

    print("\n".join(summary(read_check(options.check))), flush=True)


def _leaks(options: argparse.Namespace) -> None:
    from cfvid.data.check import of_split, read_check
    from cfvid.data.leaks import MAX_DISTANCE, find_leaks, num_without_hash, write_leaks

    if options.min_cosine is not None and not options.features:
        raise ConfigError("--min-cosine has no effect without --features.", fix="Name two feature stores.")
    pool, target = (
        of_split(read_check(path), split)
        for path, split in zip((options.pool, options.target), options.splits, strict=True)
    )
    distance = MAX_DISTANCE if options.max_distance is None else options.max_distance
    leaks = find_leaks(pool, target, max_distance=distance)
    print(f"{len(leaks):,} of {target.num_rows:,} samples of the target look like one of {pool.num_rows:,} of the pool")
    for leak in sorted(leaks, key=lambda leak: leak.distance or 0)[:_NUM_NAMED]:
        print(f"    {leak.other} looks like {leak.one}: {leak.distance} bits apart")
    unknown = num_without_hash(pool) + num_without_hash(target)
    if unknown:
        print(f"{unknown:,} samples were not compared: they cannot be read, or are of one colour")
    if options.features:
        leaks = leaks + _leaks_by_features(options, known={leak.other for leak in leaks})
    if options.out:
        write_leaks(leaks, options.out)
        print(f"{options.out}: all pairs", flush=True)


def _leaks_by_features(options: argparse.Namespace, *, known: set[str]) -> list[Leak]:
    """Pairs that only the features show, told in words."""
    from cfvid.data.leaks import MIN_COSINE, find_leaks_by_features
    from cfvid.features import FeatureStore, mean_features

    pool, target = (FeatureStore(folder) for folder in options.features)
    if pool.record.inputs["network"] != target.record.inputs["network"]:
        raise ConfigError("The features are of two networks.", fix="Compare stores by the same one.")
    layers = [store.record.inputs["layers"] for store in (pool, target)]
    if layers[0] != layers[1] and any(of_one[0] is not None for of_one in layers):
        raise ConfigError(f"The features are of the layers {layers[0]} and {layers[1]}.", fix="Compare equal ones.")
    # A store may hold further layers behind the trunk's output, which is what both have.
    width = min(store.shape[-1] for store in (pool, target))
    least = MIN_COSINE if options.min_cosine is None else options.min_cosine
    sides = [(store.ids, mean_features(store, width)) for store in (pool, target)]
    found = find_leaks_by_features(*sides, min_cosine=least)
    new = [leak for leak in found if leak.other not in known]
    print(
        f"{len(found):,} of {len(target):,} samples of the target have features like one of {len(pool):,} of the pool, "
        f"{len(new):,} of them besides those above"
    )
    for leak in sorted(new, key=lambda leak: -(leak.cosine or 0))[:_NUM_NAMED]:
        print(f"    {leak.other} is like {leak.one}: cosine {leak.cosine:.3f}")
    return new
