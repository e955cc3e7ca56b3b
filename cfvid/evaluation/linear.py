"""Linear probe: multinomial logistic regression on frozen features, its penalty chosen on held-out samples."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import StandardScaler

from cfvid.config import LinearConfig
from cfvid.seeds import stream

logger = logging.getLogger(__name__)


class LinearProbe:
    """Standardises features and fits a logistic regression; the scikit-learn contract.

    Args:
        config: penalties to choose from.
        seed: of the held-out choice.
    """

    def __init__(self, config: LinearConfig, *, seed: int) -> None:
        self.config, self.seed = config, seed

    def fit(self, features_NVD: np.ndarray, labels_N: np.ndarray, *, num_classes: int) -> LinearProbe:
        """Fit on the views of each sample as separate examples.

        The penalty is chosen by top-1 on a fifth of the samples, all views of a sample on one side; where these are too
        few for that, or most of their classes are in no other sample, the middle penalty is used. `converged_` and
        `iterations_` speak of the final fit.
        """
        num_views = features_NVD.shape[1]
        self.num_classes_ = num_classes
        examples = features_NVD.reshape(-1, features_NVD.shape[-1])
        labels, groups = np.repeat(labels_N, num_views), np.repeat(np.arange(len(labels_N)), num_views)
        self.scaler_ = StandardScaler().fit(examples)
        examples = self.scaler_.transform(examples)
        self.penalty_ = self._choose(examples, labels, groups)
        self.model_ = self._regression(self.penalty_, examples, labels)
        self.iterations_ = int(self.model_.n_iter_.max())
        self.converged_ = self.iterations_ < self.config.max_iterations
        if not self.converged_:
            logger.warning(
                "linear probe: not converged after %d iterations (transfer.linear.max_iterations), C = %g",
                self.iterations_,
                self.penalty_,
            )
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What is to be known about the fit."""
        return {"penalty": self.penalty_, "converged": self.converged_, "iterations": self.iterations_}

    def _choose(self, examples: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
        penalties = sorted(self.config.penalties)
        middle = penalties[len(penalties) // 2]
        if len(penalties) == 1 or len(np.unique(groups)) < 10:
            return middle
        splitter = GroupShuffleSplit(n_splits=1, test_size=0.2, random_state=self.seed % 2**32)
        fit, held_out = next(splitter.split(examples, labels, groups))
        if len(np.unique(labels[fit])) < 2 or np.isin(labels[held_out], labels[fit]).mean() < 0.5:
            return middle
        scores = [
            self._regression(penalty, examples[fit], labels[fit]).score(examples[held_out], labels[held_out])
            for penalty in penalties
        ]
        best = penalties[int(np.argmax(scores))]  # the strongest regularisation among equals
        logger.debug("linear probe: C = %g (held-out top-1 %s)", best, [round(s, 3) for s in scores])
        if best in (penalties[0], penalties[-1]) and len(set(scores)) > 1:
            logger.info(
                "linear probe: C = %g is at the end of transfer.linear.penalties; one beyond it may score higher", best
            )
        return best

    def _regression(self, penalty: float, examples: np.ndarray, labels: np.ndarray) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=penalty, max_iter=self.config.max_iterations).fit(examples, labels)

    def logits(self, features_NVD: np.ndarray) -> np.ndarray:
        """float32 (N, V, D) -> log-probabilities (N, V, num_classes); classes never seen in training get -inf."""
        num_samples, num_views, dim = features_NVD.shape
        examples = self.scaler_.transform(features_NVD.reshape(-1, dim))
        result = np.full((num_samples * num_views, self.num_classes_), -np.inf, dtype=np.float32)
        result[:, self.model_.classes_] = self.model_.predict_log_proba(examples)
        return result.reshape(num_samples, num_views, -1)


def few_of_each(ids: Sequence[str], labels_N: np.ndarray, num: int, *, seed: int) -> np.ndarray:
    """Rows of at most `num` samples of each class, drawn by their ids: int64, ascending.

    A larger number keeps all that a smaller one keeps, and samples that are absent change no other draw.
    """
    draws = np.array([stream(seed, "few", sample_id).random() for sample_id in ids])
    rows = [np.flatnonzero(labels_N == label) for label in np.unique(labels_N)]
    return np.sort(np.concatenate([of_one[np.argsort(draws[of_one])[:num]] for of_one in rows]))
