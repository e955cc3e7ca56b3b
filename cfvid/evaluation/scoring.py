"""Scores: the logits of a sample's views become top-1 and top-5, by view and by sample.

A million samples of ten thousand classes have 40 GB of logits: they come batch by batch, and of each sample a few
numbers are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

_FIRST = 5
"""Classes that a sample may name."""


@dataclass(frozen=True)
class Said:
    """What is kept of the logits of N samples with V views each: 18 bytes a sample."""

    predicted_N: np.ndarray
    """int32: the class of the largest mean probability."""
    probability_N: np.ndarray
    """float32: that probability."""
    right_N2: np.ndarray
    """bool: whether a label is the first that is named, and whether one is among the first five."""
    right_views_N2: np.ndarray
    """int32: of how many views, taken singly, that is so."""

    def __len__(self) -> int:
        return len(self.predicted_N)

    @classmethod
    def joined(cls, parts: Sequence[Said]) -> Said:
        """What is kept of several parts of the samples, one after the other; at least one."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class Tally:
    """Takes logits batch by batch, and keeps what there is to say of them.

    Its arrays are there from the beginning: small ones that were made between the large ones of each batch would keep
    the allocator from ever using the memory of a batch again.

    Args:
        num_samples: at most.
    """

    def __init__(self, num_samples: int) -> None:
        self._num = 0
        self._kept = Said(
            np.zeros(num_samples, dtype=np.int32),
            np.zeros(num_samples, dtype=np.float32),
            np.zeros((num_samples, 2), dtype=bool),
            np.zeros((num_samples, 2), dtype=np.int32),
        )

    def add(self, logits_NVC: np.ndarray, labels_NL: np.ndarray) -> None:
        """Take a batch.

        Args:
            logits_NVC: float32, of N samples with V views each.
            labels_NL: int64 class indices; where samples have several labels, all of each and then -1.
        """
        num_samples, num_views, num_classes = logits_NVC.shape
        rows, kept = slice(self._num, self._num + num_samples), self._kept
        self._num += num_samples
        probabilities_NC = sample_probabilities(logits_NVC)
        kept.predicted_N[rows] = probabilities_NC.argmax(axis=1)
        kept.probability_N[rows] = probabilities_NC[np.arange(num_samples), kept.predicted_N[rows]]
        kept.right_N2[rows] = _right(probabilities_NC, labels_NL)
        if num_views > 1:
            right_M2 = _right(logits_NVC.reshape(-1, num_classes), np.repeat(labels_NL, num_views, axis=0))
            kept.right_views_N2[rows] = right_M2.reshape(num_samples, num_views, 2).sum(axis=1)

    @property
    def said(self) -> Said:
        """The values of the samples that were taken, in their order."""
        return Said(*(getattr(self._kept, field.name)[: self._num] for field in fields(Said)))


def sample_probabilities(logits_NVC: np.ndarray) -> np.ndarray:
    """The softmax of every view, averaged over the views: float32 (N, C)."""
    return torch.from_numpy(logits_NVC).float().softmax(-1).mean(1).numpy()


def score(said: Said, labels_NL: np.ndarray, *, num_views: int, num_classes: int, view_noun: str) -> dict[str, float]:
    """Accuracies in percent: how often a label is the first, or among the first five, that is named.

    Args:
        said: of N samples.
        labels_NL: as of `Tally.add`.
        num_views: V, of each sample.
        num_classes: C.
        view_noun: prefix of the view-level metrics.

    Returns:
        `top1`, and `top5` where there are more than five classes; where these are not equally frequent, and samples
        have one label, `class_top1`, the mean of the accuracies of each class; with several views also
        `<view_noun>_top1` and `<view_noun>_top5`, over the views taken singly.
    """
    num_first = 2 if num_classes > _FIRST else 1
    names = ("top1", "top5")[:num_first]
    scores = {name: 100 * float(said.right_N2[:, place].mean()) for place, name in enumerate(names)}
    if labels_NL.shape[1] == 1:
        truth_N = labels_NL[:, 0]
        counts_C = np.bincount(truth_N, minlength=num_classes)
        if len(set(counts_C[counts_C > 0])) > 1:
            # torchmetrics counts a table of all pairs of classes first, which takes 650 MB for 9,000 of them.
            right_C = np.bincount(truth_N[said.predicted_N == truth_N], minlength=num_classes)
            by_class = right_C[counts_C > 0].astype(np.float32) / counts_C[counts_C > 0].astype(np.float32)
            scores["class_top1"] = 100 * float(by_class.mean())
    if num_views > 1:
        rights = said.right_views_N2.sum(axis=0) / (num_views * len(said))
        scores |= {f"{view_noun}_{name}": 100 * float(rights[place]) for place, name in enumerate(names)}
    return scores


def _right(outputs_NC: np.ndarray, labels_NL: np.ndarray) -> np.ndarray:
    """Whether a label is the first that is named, and whether one is among the first five: bool (N, 2)."""
    # Few are sorted, and the first of equals comes first, as in predictions.
    most = min(_FIRST, outputs_NC.shape[1])
    kept = np.sort(np.argpartition(-outputs_NC, most - 1, axis=1)[:, :most], axis=1)
    order = np.argsort(-np.take_along_axis(outputs_NC, kept, axis=1), axis=1, kind="stable")
    named = np.take_along_axis(kept, order, axis=1)
    named[:, 0] = outputs_NC.argmax(axis=1)
    right = (named[:, :, None] == labels_NL[:, None, :]).any(axis=2)
    return np.stack([right[:, 0], right.any(axis=1)], axis=1)
