"""From the logits of a sample's views to top-1 and top-5, by view and by sample."""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_accuracy


def sample_probabilities(logits_NVC: np.ndarray) -> np.ndarray:
    """The softmax of every view, averaged over the views: float32 (N, C)."""
    return torch.from_numpy(logits_NVC).float().softmax(-1).mean(1).numpy()


def score(logits_NVC: np.ndarray, labels_NL: np.ndarray, *, view_noun: str) -> dict[str, float]:
    """Accuracies in percent: how often a label is the first, or among the first five, that is named.

    Args:
        logits_NVC: of N samples with V views each.
        labels_NL: int64 class indices; where samples have several labels, all of each and then -1.
        view_noun: prefix of the view-level metrics.

    Returns:
        `top1`, and `top5` where there are more than five classes; where these are not equally frequent, and samples
        have one label, `class_top1`, the mean of the accuracies of each class; with several views also
        `<view_noun>_top1` and `<view_noun>_top5`, over the views taken singly.
    """
    num_views, num_classes = logits_NVC.shape[1:]
    probabilities_NC = sample_probabilities(logits_NVC)
    scores = _top(probabilities_NC, labels_NL, prefix="")
    if labels_NL.shape[1] == 1:
        counts = np.bincount(labels_NL[:, 0], minlength=num_classes)
        if len(set(counts[counts > 0])) > 1:
            truth, said = (torch.from_numpy(part) for part in (labels_NL[:, 0], probabilities_NC.argmax(axis=1)))
            by_class = multiclass_accuracy(said, truth, num_classes=num_classes, average="none").numpy()
            scores["class_top1"] = 100 * float(by_class[counts > 0].mean())
    if num_views > 1:
        views = logits_NVC.reshape(-1, num_classes)
        scores |= _top(views, np.repeat(labels_NL, num_views, axis=0), prefix=f"{view_noun}_")
    return scores


def _top(outputs_NC: np.ndarray, labels_NL: np.ndarray, *, prefix: str) -> dict[str, float]:
    num_classes = outputs_NC.shape[1]
    # Few are sorted, and the first of equals comes first, as in predictions.
    most = min(5, num_classes)
    kept = np.sort(np.argpartition(-outputs_NC, most - 1, axis=1)[:, :most], axis=1)
    order = np.argsort(-np.take_along_axis(outputs_NC, kept, axis=1), axis=1, kind="stable")
    named = np.take_along_axis(kept, order, axis=1)
    named[:, 0] = outputs_NC.argmax(axis=1)
    right = (named[:, :, None] == labels_NL[:, None, :]).any(axis=2)
    numbers = (1, 5) if num_classes > 5 else (1,)
    return {f"{prefix}top{k}": 100 * float(right[:, :k].any(axis=1).mean()) for k in numbers}
