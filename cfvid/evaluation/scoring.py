"""From the logits of a sample's views to top-1 and top-5, by view and by sample."""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_accuracy


def sample_probabilities(logits_NVC: np.ndarray) -> np.ndarray:
    """The softmax of every view, averaged over the views: float32 (N, C)."""
    return torch.from_numpy(logits_NVC).float().softmax(-1).mean(1).numpy()


def score(logits_NVC: np.ndarray, labels_N: np.ndarray, *, view_noun: str) -> dict[str, float]:
    """Accuracies in percent.

    Args:
        logits_NVC: of N samples with V views each.
        labels_N: int64 class indices.
        view_noun: prefix of the view-level metrics.

    Returns:
        `top1`, and `top5` where there are more than five classes; where these are not equally frequent, `class_top1`,
        the mean of the accuracies of each class; with several views also `<view_noun>_top1` and `<view_noun>_top5`,
        over the views taken singly.
    """
    num_views, num_classes = logits_NVC.shape[1:]
    probabilities_NC = sample_probabilities(logits_NVC)
    scores = _top(probabilities_NC, labels_N, num_classes, prefix="")
    counts = np.bincount(labels_N, minlength=num_classes)
    if len(set(counts[counts > 0])) > 1:
        right = np.bincount(labels_N, weights=probabilities_NC.argmax(axis=1) == labels_N, minlength=num_classes)
        scores["class_top1"] = 100 * float((right[counts > 0] / counts[counts > 0]).mean())
    if num_views > 1:
        views = logits_NVC.reshape(-1, num_classes)
        scores |= _top(views, np.repeat(labels_N, num_views), num_classes, prefix=f"{view_noun}_")
    return scores


def _top(outputs_NC: np.ndarray, labels_N: np.ndarray, num_classes: int, *, prefix: str) -> dict[str, float]:
    outputs, labels = torch.from_numpy(outputs_NC).float(), torch.from_numpy(labels_N)
    scores = {}
    for k in (1, 5):
        if k == 1 or num_classes > k:
            share = multiclass_accuracy(outputs, labels, num_classes=num_classes, average="micro", top_k=k)
            scores[f"{prefix}top{k}"] = 100 * float(share)
    return scores
