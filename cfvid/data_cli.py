"""`cfvid data`: data sets in their official layouts as manifests; thin, as `cli`.

cfvid data list
cfvid data prepare hmdb51 --root /data/hmdb51 --out hmdb51.parquet --fold 2
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    prepare.add_argument("--media", type=Path, metavar="DIR", help="cifar10, cifar100: where to write the pictures")
    prepare.add_argument(
        "--trusted-root",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="a folder that links may lead to besides the data set's own; can be repeated",
    )


def run_data(options: argparse.Namespace) -> int:
    """Do what `cfvid data` was asked for; returns the exit code."""
    actions: dict[str, Callable[[argparse.Namespace], None]] = {"list": _list, "prepare": _prepare}
    actions[options.action](options)
    return 0


def _list(_: argparse.Namespace) -> None:
    from cfvid.data.cards import card_names, read_card
    from cfvid.data.readers import EMBEDDED_PREFIX

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
        lines.append(f"Samples have several labels: read it with label_separator: '{SEPARATOR}'.")
    return lines + [
        f"Its paths into {root} are absolute: name that folder in data.trusted_roots to use them." for root in outside
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
