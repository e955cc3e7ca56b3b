"""Label noise as pure functions: its rate, its distribution, and that less of it is part of more."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from support.tiny import tiny_values

from cfvid.errors import ConfigError
from cfvid.sections.stages import PretrainConfig
from cfvid.tasks import noise
from cfvid.tasks.labels import kept_classes, noisy_labels

CLASSES = [f"class{i}" for i in range(10)]


def labels_of(count: int = 4000) -> dict[str, tuple[str, ...]]:
    return {f"s{i}": (CLASSES[i % len(CLASSES)],) for i in range(count)}


def options(**values: object) -> PretrainConfig:
    training = tiny_values("nowhere")["pretrain"]["training"]  # type: ignore[arg-type]
    return PretrainConfig(arch="resnet10_thin", training=training, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["uniform", "pair_flip"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_noise_flips_the_share_asked_for(kind: str, share: float) -> None:
    labels = labels_of()
    noisy = noisy_labels(labels, CLASSES, options(noise=kind, label_noise=share), seed=3)
    assert sum(noisy[i] != labels[i] for i in labels) / len(labels) == pytest.approx(share, abs=0.03)
    if share == 1.0:
        counts = Counter(names[0] for names in noisy.values())
        assert min(counts[name] for name in CLASSES) > 300
        assert max(counts.values()) < 500


@pytest.mark.parametrize("kind", ["uniform", "pair_flip", "tags"])
def test_flips_of_less_noise_are_flips_of_more(kind: str) -> None:  # so that runs over p differ in p alone
    labels = labels_of(500)
    less, more = (
        noisy_labels(labels, CLASSES, options(noise=kind, label_noise=share), seed=3) for share in (0.25, 0.75)
    )
    if kind == "tags":
        missing_less, missing_more = ({i for i in labels if labels[i][0] not in noisy[i]} for noisy in (less, more))
        assert missing_less < missing_more
        assert all(set(less[i]) - set(labels[i]) == set(more[i]) - set(labels[i]) for i in labels)
    else:
        assert all(more[i] == less[i] for i in labels if less[i] != labels[i])


def test_the_draws_are_those_of_earlier_versions() -> None:
    noisy = noise.uniform(dict.fromkeys("uvwxyz", ("a",)), ["a", "b", "c", "d"], share=0.5, seed=0)
    assert "".join(noisy[i][0] for i in "uvwxyz") == "baaadc"


def test_pairs_are_flipped_to_the_next_class_in_sorted_order() -> None:
    labels = {"x": ("b",), "y": ("c",), "z": ("a", "b")}
    assert noise.pair_flip(labels, ["c", "a", "b"], share=1.0, seed=0) == {"x": ("c",), "y": ("a",), "z": ("b", "c")}


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_tags_are_never_empty_and_the_true_one_is_missing_as_often_as_asked_for(share: float) -> None:
    labels = labels_of()
    tags = noise.tags(labels, CLASSES, share=share, extra_tags=2, seed=3)
    assert list(tags) == list(labels)
    assert all(1 <= len(names) == len(set(names)) <= 3 for names in tags.values())
    assert sum(labels[i][0] not in tags[i] for i in labels) / len(labels) == pytest.approx(share, abs=0.03)


def test_other_tags_have_a_long_tail() -> None:
    labels = labels_of()
    counts = Counter(
        name for i, names in noise.tags(labels, CLASSES, share=1.0, extra_tags=1, seed=3).items() for name in names
    )
    often = [count for _, count in counts.most_common()]
    # By Zipf's law the first of ten has 34% and the last 3.4%; a class' own samples never draw it.
    assert len(often) == len(CLASSES)
    assert 0.25 < often[0] / sum(often) < 0.42
    assert often[0] > 5 * often[-1]
    other_seed = noise.tags(labels, CLASSES, share=1.0, extra_tags=1, seed=4)
    popular = Counter(name for names in other_seed.values() for name in names).most_common(3)
    assert [name for name, _ in popular] != [name for name, _ in counts.most_common(3)]


def test_a_sample_that_has_every_label_keeps_them() -> None:
    assert noise.tags({"x": ("a", "b")}, ["a", "b"], share=1.0, extra_tags=2, seed=0) == {"x": ("a", "b")}


def test_more_kept_labels_include_the_fewer() -> None:
    kept = [kept_classes(CLASSES, count, seed=5) for count in range(2, 11)]
    assert [len(names) for names in kept] == list(range(2, 11))
    assert all(set(fewer) < set(more) for fewer, more in itertools.pairwise(kept))
    assert all(names == sorted(names) for names in kept)
    assert kept[-1] == kept_classes(CLASSES, None, seed=5) == CLASSES
    assert any(kept_classes(CLASSES, 3, seed=seed) != kept[1] for seed in range(5))
    with pytest.raises(ConfigError, match="11, the samples have 10"):
        kept_classes(CLASSES, 11, seed=5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"task": "rotation", "label_noise": 0.1}, "label_noise: no effect with task: rotation"),
        ({"task": "jigsaw", "noise": "tags", "num_labels": 3}, "noise, num_labels: no effect"),
        ({"noise": "tags", "extra_tags": 0}, "extra_tags of at least 1"),
        ({"num_labels": 1}, "greater than or equal to 2"),
        ({"task": "jigsaw", "num_permutations": 20_000}, "less than or equal to 10000"),
    ],
)
def test_options_that_do_not_agree_are_faults(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        options(**values)
