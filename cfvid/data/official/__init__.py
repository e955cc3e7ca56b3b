"""Readers of data sets in their official layouts: one short file per format of annotations, all of them here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cfvid.data.cards import Card
from cfvid.data.official.cifar import read_cifar
from cfvid.data.official.hmdb51 import read_hmdb51
from cfvid.data.official.imagenet import read_imagenet
from cfvid.data.official.imagenet_subset import read_imagenet_subset
from cfvid.data.official.inaturalist import read_inaturalist
from cfvid.data.official.kinetics import read_kinetics
from cfvid.data.official.places import read_places205, read_places365
from cfvid.data.official.something_v1 import read_something_v1
from cfvid.data.official.something_v2 import read_something_v2
from cfvid.data.official.sports1m import read_sports1m
from cfvid.data.official.tiny_imagenet import read_tiny_imagenet
from cfvid.data.official.tree import Prepared
from cfvid.data.official.ucf101 import read_ucf101
from cfvid.data.official.voc import read_voc
from cfvid.errors import ConfigError

READERS: dict[str, Callable[..., Prepared]] = {
    "cifar": read_cifar,
    "hmdb51": read_hmdb51,
    "imagenet": read_imagenet,
    "imagenet_subset": read_imagenet_subset,
    "inaturalist": read_inaturalist,
    "kinetics": read_kinetics,
    "places205": read_places205,
    "places365": read_places365,
    "something_v1": read_something_v1,
    "something_v2": read_something_v2,
    "sports1m": read_sports1m,
    "tiny_imagenet": read_tiny_imagenet,
    "ucf101": read_ucf101,
    "voc": read_voc,
}
"""All take `(root, *, suffixes, trusted_roots=())`; some have options of their own, with or without a default."""


def read_official(
    card: Card,
    root: Path,
    *,
    suffixes: Collection[str],
    trusted_roots: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    allow_missing: bool = False,
) -> Prepared:
    """Read a data set with the reader that its card names.

    Args:
        card: of the set.
        root: its folder, in the layout that the card describes.
        suffixes: file name endings that are media.
        trusted_roots: folders that linked folders may lead to.
        options: of the reader, besides those that the card gives.
        allow_missing: take what is there where more than half of what is listed is not.

    Raises:
        ConfigError: for options that this reader does not have, those that it needs and has not been given, and for
            sets that need no preparation.
        DataError: when the folder is not in that layout, or most of what is listed is not there.
    """
    if card.reader is None:
        raise ConfigError(f"{card.title}: there is nothing to prepare.", fix=f"{card.get[0].upper()}{card.get[1:]}.")
    reader = READERS[card.reader.name]
    own = {n: p for n, p in inspect.signature(reader).parameters.items() if p.kind is p.KEYWORD_ONLY}
    given = {**card.reader.options, **(options or {})}
    for name in given:
        if name not in own:
            raise ConfigError(f"{card.title} has no option --{name}.")
    for name, parameter in own.items():
        if parameter.default is parameter.empty and name not in given and name != "suffixes":
            raise ConfigError(f"{card.title} needs --{name}; its card says what for.")
    prepared = reader(root, suffixes=suffixes, trusted_roots=trusted_roots, **given)
    if not allow_missing:
        prepared.refuse_shortage()
    return prepared
