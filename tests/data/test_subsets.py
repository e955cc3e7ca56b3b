"""Parts of manifests."""

from __future__ import annotations

import pytest

from cfvid.data import subsets
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.data.subsets import drawn_order, keep_classes, keep_samples


def manifest(num_classes: int = 10, each: int = 4) -> Manifest:
    samples = []
    for split in ("train", "val"):
        for number in range(num_classes * each):
            label = f"class{number % num_classes}"
            samples.append(Sample(f"{split}/{number}", f"{number}.png", "/data", (label,), split, None, None))
    return from_samples(samples)


def test_halves_have_no_class_in_common_and_miss_none() -> None:
    whole = manifest()
    first, second = keep_classes(whole, (0.0, 0.5)), keep_classes(whole, (0.5, 1.0))
    assert len(first.classes) == len(second.classes) == 5
    assert sorted(first.classes + second.classes) == whole.classes
    assert first.classes != whole.classes[:5]  # drawn, not alphabetical
    assert len(first) == len(second) == 40


def test_labels_outside_the_range_are_removed_one_by_one() -> None:
    first, *_, last = drawn_order([f"class{c}" for c in range(10)], of="class-order")
    several = from_samples(
        [
            Sample("both", "a.png", "/data", (first, last), "train", None, None),
            Sample("outside", "b.png", "/data", (last,), "train", None, None),
            Sample("none", "c.png", "/data", (), "train", None, None),
            *manifest(),
        ]
    )
    kept = keep_classes(several, (0.0, 0.1))
    assert kept.labels_by_id["both"] == (first,)
    assert {"outside", "none"}.isdisjoint(kept.ids)


def test_unsure_labels_outside_the_range_are_removed_too() -> None:
    first, *_, last = drawn_order([f"class{c}" for c in range(10)], of="class-order")
    unsure = Sample("unsure", "a.png", "/data", (first,), "train", None, None, unsure_labels=(last, first))
    only_unsure = Sample("only", "b.png", "/data", (), "train", None, None, unsure_labels=(first,))
    kept = keep_classes(from_samples([unsure, only_unsure, *manifest()]), (0.0, 0.1))
    assert kept.sample("unsure").unsure_labels == (first,)
    assert "only" not in kept.ids


def test_smaller_numbers_are_parts_of_larger_ones_and_other_splits_stay() -> None:
    small, large = (keep_samples(manifest(), number, split="train") for number in (7, 20))
    assert (len(small.split("train")), len(large.split("train"))) == (7, 20)
    assert set(small.ids) <= set(large.ids)
    assert len(small.split("val")) == 40
    assert len(keep_samples(manifest(), 1000, split="train")) == 80


@pytest.mark.parametrize("number", [1, 7, 39])
@pytest.mark.parametrize("has_ties", [False, True])
def test_samples_are_the_first_in_drawn_order(monkeypatch: pytest.MonkeyPatch, number: int, has_ties: bool) -> None:
    if has_ties:
        monkeypatch.setattr(subsets, "derive", lambda *names: len(names[-1]))
    whole = manifest()
    ids = whole.split("train").ids
    expected = set(drawn_order(ids, of="sample-order")[:number])
    assert list(keep_samples(whole, number, split="train").split("train").ids) == [i for i in ids if i in expected]
