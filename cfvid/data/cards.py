"""Data set cards: what a set is, where to get it, what to expect of it, and which reader knows its official layout.

The cards are the YAML files of datasets/; one is a `Card`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from cfvid.config_faults import faults_from
from cfvid.data.manifest import Manifest
from cfvid.errors import ConfigError
from cfvid.sections.base import Count, Number, Positive, Section
from cfvid.shipped import unknown_name, yaml_files
from cfvid.yaml_layers import read_yaml


class _CardSection(Section):
    model_config = ConfigDict(strict=True)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("should say something")
    return text.strip()


Text = Annotated[str, AfterValidator(_not_blank)]
Counts = dict[str, Count]
"""Samples by split."""


class CardReader(_CardSection):
    """How the official layout is read."""

    name: Text
    """One of `cfvid.data.official.READERS`."""
    options: dict[str, Any] = Field(default={})
    """Of that reader, the same for everybody."""


class Normalisation(_CardSection):
    """Mean and deviation per channel that networks for this set are usually given."""

    mean: Annotated[list[Number], Field(min_length=3, max_length=3)]
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    notes: Text | None = None
    """Where the numbers come from."""


class Protocol(_CardSection):
    """How results on this set are usually reported."""

    metric: Literal["top1", "mean_average_precision"]
    """What is published."""
    folds: Count = 1
    """Official folds, whose scores are averaged."""
    clips: Count | None = None
    """Clips per video, uniformly spaced, whose scores are averaged."""
    crops: Count | None = None
    """Crops per clip."""
    mirrored: bool = True
    """Whether training may mirror samples: not where classes differ by left and right."""
    notes: Text | None = None


class CardSet(_CardSection):
    """One of several sets that a card describes together."""

    modality: Text
    purpose: Text
    classes: list[Text]
    per_class: Counts


class Card(_CardSection):
    """One data set."""

    title: Text
    licence: Text
    """The licence's name as published, or where its terms are."""
    get: Text
    """Its official address, in words."""
    modality: Text | None = None
    """Which media it has; without it, `sets` say it."""
    classes: Count | None = None
    counts: Counts = Field(default={})
    """Samples by split as published, where that is known for sure."""
    fold_counts: list[Counts] = Field(default=[])
    """The same for each fold, where they differ."""
    layout: Text
    """The tree that is read."""
    reader: CardReader | None = None
    """Without it, the set needs no preparation."""
    sets: dict[str, CardSet] = Field(default={})
    normalisation: Normalisation | None = None
    protocol: Protocol | None = None
    cite: Text
    notes: Text | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.sets) != (self.modality is None):
            raise ValueError("a card has either a modality, or sets that have one each")
        folds = self.protocol.folds if self.protocol else 1
        if self.fold_counts and (self.counts or len(self.fold_counts) != folds):
            raise ValueError("fold_counts has one entry per fold of the protocol, and stands instead of counts")
        return self

    def expected(self, fold: int | None = None) -> Counts:
        """Samples by split as published, of a fold (from 1) where there are several."""
        return self.fold_counts[(fold or 1) - 1] if self.fold_counts else self.counts


def card_names() -> list[str]:
    """The names of all cards."""
    return sorted(yaml_files("datasets"))


def read_card(name: str) -> Card:
    """A card by its name; hyphens count as underscores.

    Raises:
        ConfigError: naming the nearest one when there is none of this name, or every fault of the file.
    """
    files = yaml_files("datasets")
    path = files.get(name.replace("-", "_"))
    if path is None:
        raise unknown_name(name, files, noun="data set card")
    layer = read_yaml(path)
    faults = list(layer.faults)
    if not faults:
        try:
            return Card.model_validate(layer.values)
        except ValidationError as error:
            faults = faults_from(error, model=Card, layers=[layer], values=layer.values)
    raise ConfigError(f"The card {path} has faults:\n" + "\n".join(f"    {fault}" for fault in faults))


def not_mirrored(names: Iterable[str]) -> str | None:
    """The first of these names that is of a data set whose card says that samples are not mirrored."""
    known = {name.replace("-", "_"): name for name in names}
    for name in card_names():
        protocol = read_card(name).protocol if name in known else None
        if protocol is not None and not protocol.mirrored:
            return known[name]
    return None


def deviations(card: Card, manifest: Manifest, *, fold: int | None = None) -> list[str]:
    """How a manifest differs in number from what was published of the set, one line for each difference."""
    found = Counter(sample.split for sample in manifest)
    pairs = [(f"samples in {split!r}", found[split], count) for split, count in card.expected(fold).items()]
    if card.classes is not None:
        pairs.append(("classes", len(manifest.classes), card.classes))
    return [
        f"{here:,} {what}, {abs(here - there):,} {'fewer' if here < there else 'more'} than the {there:,} published"
        for what, here, there in pairs
        if here != there
    ]
