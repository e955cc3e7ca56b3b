"""L2 normalisation and PCA before k-means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from cfvid.clustering.projection import Projection
from cfvid.errors import ConfigError


@pytest.fixture
def features_ND() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 3).astype(np.float32)


def test_rows_get_unit_length_and_zeros_stay_zero(features_ND: np.ndarray) -> None:
    features_ND[7] = 0
    points = Projection(l2_normalize=True).fit(features_ND).transform(features_ND)
    norms = np.linalg.norm(points, axis=1)
    assert norms[7] == 0
    np.testing.assert_allclose(np.delete(norms, 7), 1, rtol=1e-5)


def test_without_options_nothing_changes(features_ND: np.ndarray) -> None:
    np.testing.assert_array_equal(Projection(l2_normalize=False).fit(features_ND).transform(features_ND), features_ND)


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_is_scikit_learns(features_ND: np.ndarray, whiten: bool) -> None:
    ours = Projection(l2_normalize=False, pca_dim=5, whiten=whiten).fit(features_ND).transform(features_ND)
    theirs = PCA(5, whiten=whiten).fit_transform(features_ND)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-2, atol=1e-3)
    if whiten:
        np.testing.assert_allclose(ours.std(axis=0, ddof=1), 1, rtol=1e-2)


@pytest.mark.parametrize("options", [{"l2_normalize": True}, {"l2_normalize": True, "pca_dim": 4, "whiten": True}])
def test_saved_and_loaded_it_projects_the_same(features_ND: np.ndarray, tmp_path: Path, options: dict) -> None:
    projection = Projection(**options).fit(features_ND)
    projection.save(tmp_path / "projection.safetensors")
    loaded = Projection.load(tmp_path / "projection.safetensors")
    np.testing.assert_array_equal(loaded.transform(features_ND), projection.transform(features_ND))


def test_more_components_than_dimensions_is_an_error(features_ND: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="12 dimensions"):
        Projection(l2_normalize=True, pca_dim=13).fit(features_ND)
