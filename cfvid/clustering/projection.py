"""What happens to features before k-means: L2 normalisation and PCA, fitted once and kept for new samples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA

from cfvid.artifacts import atomic_file
from cfvid.errors import ConfigError


class Projection:
    """L2 normalisation, then an optional PCA (with or without whitening), after which rows are normalised again.

    Args:
        l2_normalize: give rows unit length, before and after the PCA.
        pca_dim: number of principal components; None for no PCA.
        whiten: scale the components to unit variance.
        seed: of the randomised PCA solver.
    """

    def __init__(self, *, l2_normalize: bool, pca_dim: int | None = None, whiten: bool = False, seed: int = 0) -> None:
        self.l2_normalize, self.pca_dim, self.whiten, self.seed = l2_normalize, pca_dim, whiten, seed
        self.mean_D_: np.ndarray | None = None
        self.components_PD_: np.ndarray | None = None

    def fit(self, features_ND: np.ndarray) -> Projection:
        """Learn the principal components.

        Raises:
            ConfigError: when there are fewer samples or dimensions than components.
        """
        if self.pca_dim is None:
            return self
        self._check(features_ND.shape)
        pca = PCA(self.pca_dim, whiten=self.whiten, svd_solver="auto", random_state=self.seed % 2**32)
        pca.fit(self._normalized(features_ND))
        self._keep(pca.mean_, pca.components_, pca.explained_variance_)
        return self

    def fit_blocks(self, blocks: Iterable[np.ndarray]) -> Projection:
        """`fit` over features (N, D) that come in blocks, from all their second moments.

        Raises:
            ConfigError: as `fit`.
        """
        if self.pca_dim is None:
            return self
        num, total_D, moments_DD = 0, np.zeros(0), np.zeros((0, 0))
        for block_ND in blocks:
            rows = self._normalized(block_ND)
            if not num:
                total_D, moments_DD = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
            num, total_D = num + len(rows), total_D + rows.sum(axis=0, dtype=np.float64)
            moments_DD += rows.T @ rows
        self._check((num, len(total_D)))
        mean_D = total_D / num
        variances, vectors = np.linalg.eigh((moments_DD - num * np.outer(mean_D, mean_D)) / (num - 1))
        components_PD = vectors[:, : -self.pca_dim - 1 : -1].T
        # The sign of a component is free: its largest entry is made positive.
        rows_of_largest = np.abs(components_PD).argmax(axis=1)
        components_PD = components_PD * np.sign(components_PD[np.arange(self.pca_dim), rows_of_largest])[:, None]
        self._keep(mean_D, components_PD, variances[: -self.pca_dim - 1 : -1])
        return self

    def _check(self, shape: tuple[int, ...]) -> None:
        if self.pca_dim is not None and self.pca_dim > min(shape):
            raise ConfigError(
                f"cluster.pca_dim is {self.pca_dim}, more than the {shape[1]} dimensions "
                f"or the {shape[0]} samples of the features.",
                fix="Lower cluster.pca_dim.",
            )

    def _keep(self, mean_D: np.ndarray, components_PD: np.ndarray, variances_P: np.ndarray) -> None:
        scale = np.sqrt(np.maximum(variances_P, 1e-12)) if self.whiten else np.ones(len(components_PD))
        self.mean_D_ = mean_D.astype(np.float32)
        # safetensors writes the memory as it lies: it must lie row by row.
        self.components_PD_ = np.ascontiguousarray(components_PD / scale[:, None], dtype=np.float32)

    def transform(self, features_ND: np.ndarray) -> np.ndarray:
        """float32 (N, D) -> (N, P)."""
        points = self._normalized(features_ND)
        if self.pca_dim is None:
            return points
        assert self.mean_D_ is not None
        assert self.components_PD_ is not None
        return self._normalized((points - self.mean_D_) @ self.components_PD_.T)

    def _normalized(self, rows_ND: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows_ND, dtype=np.float32)
        if not self.l2_normalize:
            return rows
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.maximum(norms, 1e-12)

    def save(self, path: Path) -> None:
        """Write options and learned values as safetensors."""
        tensors = {"l2_normalize": np.array([self.l2_normalize])}
        if self.mean_D_ is not None and self.components_PD_ is not None:
            tensors |= {"mean": self.mean_D_, "components": self.components_PD_}
        with atomic_file(path, check=load_file) as temporary:
            save_file(tensors, temporary)

    @classmethod
    def load(cls, path: Path) -> Projection:
        """Read what `save` wrote."""
        tensors = load_file(path)
        components = tensors.get("components")
        projection = cls(
            l2_normalize=bool(tensors["l2_normalize"][0]), pca_dim=None if components is None else len(components)
        )
        projection.mean_D_, projection.components_PD_ = tensors.get("mean"), components
        return projection
