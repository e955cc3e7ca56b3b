"""Linear probe: multinomial logistic regression on frozen features, its penalty chosen on held-out samples."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import StandardScaler

from cfvid.evaluation.logistic import LogisticProblem, Solution
from cfvid.sections.transfer import LinearConfig
from cfvid.seeds import stream

logger = logging.getLogger(__name__)


class LinearProbe:
    """Standardises features and fits a logistic regression; the scikit-learn contract.

    Args:
        config: penalties to choose from.
        seed: of the held-out choice.
        device: where sums over examples are computed.
    """

    def __init__(self, config: LinearConfig, *, seed: int, device: torch.device | None = None) -> None:
        self.config, self.seed, self.device = config, seed, device or torch.device("cpu")

    def fit(
        self,
        features_NVD: np.ndarray,
        labels_N: np.ndarray,
        *,
        num_classes: int,
        samples_N: np.ndarray | None = None,
    ) -> LinearProbe:
        """Fit on the views of each sample as separate examples.

        The penalty is chosen by top-1 on a fifth of the samples, all views of a sample on one side; where these are too
        few for that, or most of their classes are in no other sample, the middle penalty is used. `converged_` and
        `iterations_` speak of the final fit. With `samples_N`, rows of the same sample (one for each of its labels)
        stay together, too.
        """
        num_views = features_NVD.shape[1]
        samples_N = np.arange(len(labels_N)) if samples_N is None else samples_N
        self.num_classes_ = num_classes
        examples = features_NVD.reshape(-1, features_NVD.shape[-1])
        labels, groups = np.repeat(labels_N, num_views), np.repeat(samples_N, num_views)
        self.scaler_ = StandardScaler().fit(examples)
        examples = self.scaler_.transform(examples)
        self.classes_, labels = np.unique(labels, return_inverse=True)
        self.penalty_, start = self._choose(examples, labels, groups)
        problem = LogisticProblem(examples, labels, device=self.device)
        self.solution_ = problem.solve(self.penalty_, max_iterations=self.config.max_iterations, start=start)
        self.iterations_, self.converged_ = self.solution_.iterations, self.solution_.converged
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

    def _choose(self, examples: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[float, Solution | None]:
        """The penalty, and where to start from: its solution on the samples that were not held out."""
        penalties = sorted(self.config.penalties)
        middle = penalties[len(penalties) // 2]
        if len(penalties) == 1 or len(np.unique(groups)) < 10:
            return middle, None
        splitter = GroupShuffleSplit(n_splits=1, test_size=0.2, random_state=self.seed % 2**32)
        fit, held_out = next(splitter.split(examples, labels, groups))
        present, indices = np.unique(labels[fit], return_inverse=True)
        if len(present) < 2 or np.isin(labels[held_out], present).mean() < 0.5:
            return middle, None
        problem = LogisticProblem(examples[fit], indices, device=self.device)
        solutions: list[Solution] = []
        for penalty in penalties:
            start = solutions[-1] if solutions else None
            solutions.append(problem.solve(penalty, max_iterations=self.config.max_iterations, start=start))
        said = [present[solution.log_probabilities(examples[held_out]).argmax(axis=1)] for solution in solutions]
        scores = [float(np.mean(one == labels[held_out])) for one in said]
        best = int(np.argmax(scores))  # the strongest regularisation among equals
        logger.debug("linear probe: C = %g (held-out top-1 %s)", penalties[best], [round(s, 3) for s in scores])
        if best in (0, len(penalties) - 1) and len(set(scores)) > 1:
            logger.info(
                "linear probe: C = %g is at the end of transfer.linear.penalties; one beyond it may score higher",
                penalties[best],
            )
        whole = len(present) == len(self.classes_)
        return penalties[best], solutions[best] if whole else None

    def logits(self, features_NVD: np.ndarray) -> np.ndarray:
        """float32 (N, V, D) -> log-probabilities (N, V, num_classes); classes never seen in training get -inf."""
        num_samples, num_views, dim = features_NVD.shape
        examples = self.scaler_.transform(features_NVD.reshape(-1, dim))
        result = np.full((num_samples * num_views, self.num_classes_), -np.inf, dtype=np.float32)
        result[:, self.classes_] = self.solution_.log_probabilities(examples)
        return result.reshape(num_samples, num_views, -1)

    def logit_blocks(self, blocks: Iterable[np.ndarray], *, num_views: int) -> Iterator[np.ndarray]:  # noqa: ARG002
        """`logits` of blocks of samples, in their order."""
        return map(self.logits, blocks)


def few_of_each(ids: Sequence[str], labels_N: np.ndarray, num: int, *, seed: int) -> np.ndarray:
    """Rows of at most `num` samples of each class, drawn by their ids: int64, ascending.

    A larger number keeps all that a smaller one keeps, and samples that are absent change no other draw.
    """
    draws = np.array([stream(seed, "few", sample_id).random() for sample_id in ids])
    rows = [np.flatnonzero(labels_N == label) for label in np.unique(labels_N)]
    return np.sort(np.concatenate([of_one[np.argsort(draws[of_one])[:num]] for of_one in rows]))
