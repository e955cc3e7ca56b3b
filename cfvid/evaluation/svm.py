"""One-vs-all linear SVMs on frozen features: the VOC07 protocol of self-supervised work (as in VISSL)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from cfvid.errors import DataError
from cfvid.evaluation.average_precision import average_precision, influences
from cfvid.sections.transfer import SvmConfig
from cfvid.seeds import derive

logger = logging.getLogger(__name__)

IGNORED = -1
"""Neither a positive nor a negative of its class: left out of its training and of its score."""
_FEWEST_POSITIVES = 20
"""Of each class, for an interval of the mAP: with 3 it would be a third too narrow."""


class OneVsAllSvm:
    """For each class an SVM with squared hinge loss, positives weighted twice, its cost chosen by cross-validated AP.

    Args:
        config: costs to choose from, folds.
        seed: of the folds.
    """

    def __init__(self, config: SvmConfig, *, seed: int) -> None:
        self.config, self.seed = config, seed

    def fit(self, features_ND: np.ndarray, labels_NC: np.ndarray) -> OneVsAllSvm:
        """Fit; `costs_` has each class's cost, None for one without positives or without negatives; `converged_`.

        Args:
            features_ND: float, brought to unit length.
            labels_NC: int8, 1, 0 or IGNORED.
        """
        points = normalize(features_ND)
        self.models_: list[LinearSVC | None] = []
        self.costs_: list[float | None] = []
        for c in range(labels_NC.shape[1]):
            counts = labels_NC[:, c] != IGNORED
            x, y = points[counts], labels_NC[counts, c] == 1
            cost = self._choose(x, y, seed=derive(self.seed, "folds", c)) if 0 < y.sum() < len(y) else None
            self.costs_.append(cost)
            self.models_.append(None if cost is None else self._machine(cost, x, y))
        limit = self.config.max_iterations
        self.converged_ = [model is None or bool(model.n_iter_ < limit) for model in self.models_]
        return self

    def decisions(self, features_ND: np.ndarray) -> np.ndarray:
        """float32 (N, C): signed distances; nan for classes that could not be fitted."""
        points = normalize(features_ND)
        nothing = np.full(len(points), np.nan)
        columns = [nothing if model is None else model.decision_function(points) for model in self.models_]
        return np.stack(columns, axis=1).astype(np.float32)

    def _choose(self, x: np.ndarray, y: np.ndarray, *, seed: int) -> float:
        costs = sorted(self.config.costs)
        num_folds = min(self.config.num_folds, int(y.sum()), int((~y).sum()))
        if len(costs) == 1 or num_folds < 2:
            return costs[len(costs) // 2]
        folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed % 2**32)
        parts = list(folds.split(x, y))
        precisions = [np.mean(list(self._precisions(cost, x, y, parts))) for cost in costs]
        return costs[int(np.argmax(precisions))]  # the strongest regularisation among equals

    def _precisions(self, cost: float, x: np.ndarray, y: np.ndarray, parts: list) -> Iterator[float]:
        for fit, held_out in parts:
            machine = self._machine(cost, x[fit], y[fit])
            found = average_precision(machine.decision_function(x[held_out]), y[held_out])["area"]
            yield 0.0 if found is None else found

    def _machine(self, cost: float, x: np.ndarray, y: np.ndarray) -> LinearSVC:
        weights, limit = {True: 2.0, False: 1.0}, self.config.max_iterations
        machine = LinearSVC(C=cost, class_weight=weights, dual="auto", max_iter=limit, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(x, y)
        return machine


def parts_of_map(decisions_NC: np.ndarray, labels_NC: np.ndarray) -> np.ndarray | None:
    """Values for each sample whose mean is `map`, in percent, and whose spread is the mAP's: float64 (N,).

    None where a class has fewer positives than the spread can be told from.

    Args:
        decisions_NC: as for `mean_average_precision`.
        labels_NC: likewise.
    """
    num = len(labels_NC)
    deviations = []
    for decisions, labels in _scored_classes(decisions_NC, labels_NC):
        own, counts = np.zeros(num), labels != IGNORED
        if (labels == 1).sum() < _FEWEST_POSITIVES:
            logger.info("no interval of the mAP: a class has only %d positives", (labels == 1).sum())
            return None
        own[counts] = influences(decisions[counts], labels[counts] == 1) * num / counts.sum()
        deviations.append(own)
    mean = mean_average_precision(decisions_NC, labels_NC)["map"]
    return np.asarray(mean + 100 * np.mean(deviations, axis=0))


def mean_average_precision(decisions_NC: np.ndarray, labels_NC: np.ndarray) -> dict[str, float]:
    """`map` and `map_11point` in percent, over the classes that have positives and could be fitted.

    Args:
        decisions_NC: of `OneVsAllSvm.decisions`.
        labels_NC: int8, 1, 0 or IGNORED.

    Raises:
        DataError: when there is no such class.
    """
    found = []
    for decisions, labels in _scored_classes(decisions_NC, labels_NC):
        counts = labels != IGNORED
        found.append(average_precision(decisions[counts], labels[counts] == 1))
    if not found:
        raise DataError("No class has samples that it is right and wrong for.", fix="Check the labels of the target.")
    if len(found) < decisions_NC.shape[1]:
        logger.warning("mAP over %d of %d classes: the others lack positives", len(found), decisions_NC.shape[1])
    return {
        name: 100 * float(np.mean([one[rule] for one in found]))
        for name, rule in (("map", "area"), ("map_11point", "11-point"))
    }


def _scored_classes(decisions_NC: np.ndarray, labels_NC: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Decisions and labels of the classes that have positives and could be fitted."""
    pairs = zip(decisions_NC.T, labels_NC.T, strict=True)
    return [(said, labels) for said, labels in pairs if not np.isnan(said).any() and (labels == 1).any()]
