"""Cards: every one that is shipped is whole, and a faulty one says where."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from cfvid.data import cards, embedded
from cfvid.data.cards import Card, card_names, deviations, read_card
from cfvid.data.manifest import Sample, from_samples
from cfvid.data.official import READERS, read_official
from cfvid.errors import ConfigError
from cfvid.modalities import MODALITIES

REPOSITORY = Path(__file__).parents[2]
NAMES = [
    "cifar10",
    "cifar100",
    "embedded",
    "hmdb51",
    "imagenet1k",
    "imagenet9k",
    "inaturalist2018",
    "kinetics400",
    "kinetics600",
    "kinetics700",
    "places205",
    "places365",
    "something_v1",
    "something_v2",
    "sports1m",
    "tiny_imagenet",
    "ucf101",
    "voc07",
]


def test_every_set_has_a_card_and_a_line_in_the_table() -> None:
    assert card_names() == NAMES
    table = (REPOSITORY / "datasets" / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in table] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_card_is_whole(name: str) -> None:
    card = read_card(name)
    for modality in [card.modality] if card.modality else [one.modality for one in card.sets.values()]:
        assert modality in MODALITIES
    if card.reader is None:
        assert card.sets
        return
    parameters = inspect.signature(READERS[card.reader.name]).parameters
    assert list(parameters)[:3] == ["root", "suffixes", "trusted_roots"]
    assert set(card.reader.options) <= set(parameters)
    assert card.protocol
    assert card.normalisation
    assert ("fold" in parameters) == bool(card.fold_counts)


def test_every_reader_has_a_card() -> None:
    assert {card.reader.name for card in map(read_card, NAMES) if card.reader} == set(READERS)


def test_the_card_of_the_embedded_sets_tells_what_is_drawn() -> None:
    for name, told in read_card("embedded").sets.items():
        assert sorted(told.classes) == sorted(embedded.EMBEDDED[name].classes)


def test_hyphens_and_unknown_names() -> None:
    assert read_card("something-v2") == read_card("something_v2")
    with pytest.raises(ConfigError, match="no shipped data set card 'kinetics40'; did you mean kinetics400"):
        read_card("kinetics40")


def test_faults_name_their_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "odd.yaml"
    monkeypatch.setattr(cards, "yaml_files", lambda _: {"odd": path})
    values: dict[str, Any] = yaml.safe_load((REPOSITORY / "datasets" / "hmdb51.yaml").read_text())
    for changes, told in (
        ({"classes": "51"}, r"odd.yaml:\d+: classes"),
        ({"clases": 51}, "unknown key clases.*classes"),
        ({"title": " "}, "title: should say something"),
        ({"modality": None}, "either a modality, or sets"),
        ({"fold_counts": [{"train": 1}]}, "one entry per fold"),
    ):
        path.write_text(yaml.safe_dump(values | changes))
        with pytest.raises(ConfigError, match=told):
            read_card("odd")


def test_differences_are_told_in_words() -> None:
    def manifest(**counts: int) -> Any:
        return from_samples(
            [Sample(f"{s}{n}", "x", "/", ("a",), s, None, None) for s, count in counts.items() for n in range(count)]
        )

    values = read_card("hmdb51").model_dump()
    values |= {"classes": 1, "fold_counts": [{"train": 2, "val": 1}, {"train": 1, "val": 1}, {"train": 1, "val": 1}]}
    card = Card.model_validate(values)
    assert deviations(card, manifest(train=2, val=1, unused=3)) == []
    assert deviations(card, manifest(train=1, val=1), fold=2) == []
    assert deviations(card, manifest(train=3)) == [
        "3 samples in 'train', 1 more than the 2 published",
        "0 samples in 'val', 1 fewer than the 1 published",
    ]
    assert deviations(card.model_copy(update={"classes": 2}), manifest(train=2, val=1)) == [
        "1 classes, 1 fewer than the 2 published"
    ]


def test_options_that_a_set_does_not_have_or_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ImageNet-1K, .* has no option --fold"):
        read_official(read_card("imagenet1k"), tmp_path, suffixes={".jpg"}, options={"fold": 1})
    with pytest.raises(ConfigError, match="needs --classes"):
        read_official(read_card("imagenet9k"), tmp_path, suffixes={".jpg"})
    with pytest.raises(ConfigError, match=r"nothing to prepare.*\n.*embedded:NAME"):
        read_official(read_card("embedded"), tmp_path, suffixes=())
