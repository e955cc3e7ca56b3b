"""Label noise: what a sample's labels become before training, drawn for each sample from its own stream.

The draws of a sample depend on (seed, sample id) alone, so that two shares of noise are nested: what the smaller one
changes, the larger one changes in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cfvid.seeds import stream

Labels = Mapping[str, tuple[str, ...]]
"""The labels of each sample, by its id."""


def uniform(labels: Labels, classes: Sequence[str], *, share: float, seed: int) -> dict[str, tuple[str, ...]]:
    """A share of the labels is replaced by another class, drawn uniformly from all others.

    Args:
        labels: clean ones.
        classes: all labels that occur, at least two.
        share: probability that a label is replaced.
        seed: of the random draws.
    """
    noisy = {}
    for sample_id, names in labels.items():
        rng = stream(seed, "label-noise", sample_id)
        flipped = []
        for label in names:
            draw, other = rng.random(), int(rng.integers(len(classes) - 1))
            others = [name for name in (classes[other], classes[-1]) if name != label]
            flipped.append(others[0] if draw < share else label)
        noisy[sample_id] = tuple(dict.fromkeys(flipped))
    return noisy


def pair_flip(labels: Labels, classes: Sequence[str], *, share: float, seed: int) -> dict[str, tuple[str, ...]]:
    """A share of the labels is replaced by the next class in sorted order, the last one by the first.

    Annotators confuse a class with one that is like it: pair flipping of Han et al. (Co-teaching, NeurIPS 2018), after
    the asymmetric noise of Patrini et al. (CVPR 2017). Arguments as of `uniform`.
    """
    order = sorted(classes)
    after = dict(zip(order, [*order[1:], order[0]], strict=True))
    noisy = {}
    for sample_id, names in labels.items():
        rng = stream(seed, "label-noise", sample_id)
        flipped = [after[label] if rng.random() < share else label for label in names]
        noisy[sample_id] = tuple(dict.fromkeys(flipped))
    return noisy


def tags(
    labels: Labels, classes: Sequence[str], *, share: float, extra_tags: int, seed: int
) -> dict[str, tuple[str, ...]]:
    """Weak tags, as people write them: the right one is often missing, and popular ones are everywhere.

    The tag of a true label is missing with probability `share`. In any case `extra_tags` draws of other tags are
    added, from a long-tailed distribution: the r-th most popular class has a weight of 1/r (Zipf), and the seed
    decides which classes are popular. Equal draws count once. A sample that no other tag exists for keeps its own.

    Args:
        labels: clean ones.
        classes: all labels that occur, at least two.
        share: probability that the tag of a true label is missing.
        extra_tags: draws of other tags, at least 1: then no sample is without a tag.
        seed: of the random draws.
    """
    ranks = stream(seed, "tag-ranks").permutation(len(classes))
    weight = dict(zip(classes, 1 / (1 + ranks), strict=True))
    noisy = {}
    for sample_id, names in labels.items():
        rng = stream(seed, "label-noise", sample_id)
        is_kept = rng.random(len(names)) >= share
        others = [name for name in classes if name not in names]
        if not others:
            noisy[sample_id] = names
            continue
        weights = np.array([weight[name] for name in others])
        drawn = rng.choice(len(others), size=extra_tags, p=weights / weights.sum())
        kept = [name for name, keep in zip(names, is_kept, strict=True) if keep]
        written = list(dict.fromkeys([*kept, *(others[i] for i in drawn)]))
        # In no order: whoever takes the first tag must not get the right one.
        noisy[sample_id] = tuple(written[i] for i in rng.permutation(len(written)))
    return noisy
