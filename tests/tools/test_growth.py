"""Growth curves: their exponents and their figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tools import growth


def test_exponents_are_slopes_of_logarithms() -> None:
    assert growth.exponent({10: 1.0, 20: 4.0, 40: 16.0}) == pytest.approx(2.0)
    assert growth.exponent({1: 3.0, 2: 1.5}) == pytest.approx(-1.0)


def test_every_point_of_a_curve_is_an_iteration(tmp_path: Path) -> None:
    path = growth._points(tmp_path / "points.npy", 300)
    stored = np.load(path)
    assert stored.shape == (300, growth.DIM)
    assert stored.dtype == np.float16
    assert growth._seconds(path, 7, cores=1) > 0


def test_the_figure_tells_all_numbers_in_words() -> None:
    curves = {"points": {100: 0.25, 200: 0.5}, "clusters": {4: 1.0, 8: 2.0}, "processes": {1: 2.0, 2: 1.0}}
    figure = growth.draw(curves)
    assert b"</svg>" in figure.light
    assert figure.light != figure.dark
    assert "points: 100 0.25 s, 200 0.5 s; clusters: 4 1 s, 8 2 s; processes: 1 2 s, 2 1 s" in figure.alt
