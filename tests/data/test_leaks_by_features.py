"""Near-duplicates by features, and what the report says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny import tiny_config, write_pictures

from cfvid.cli import main
from cfvid.config import RunConfig
from cfvid.data.leaks import Leak, find_leaks_by_features, read_leaked, write_leaks
from cfvid.errors import ConfigError, DataError
from cfvid.pipeline import run_stages
from cfvid.report.comparison import leak_caution


def test_the_nearest_of_each_that_is_near_enough() -> None:
    pool = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    target = np.array([[3.0, 0.1], [-1.0, 0.0], [1.0, 0.9]])
    found = find_leaks_by_features(
        (["a", "b", "c"], [pool[:1], pool[1:]]), (["x", "y", "z"], [target[:2], target[2:]]), min_cosine=0.9
    )
    assert [(leak.one, leak.other) for leak in found] == [("a", "x"), ("c", "z")]
    assert found[0].cosine == pytest.approx(3 / np.hypot(3, 0.1))
    with pytest.raises(DataError, match="2 and 3 values"):
        find_leaks_by_features((["a"], [pool[:1]]), (["x"], [np.ones((1, 3))]))


def test_a_file_of_leaks_is_read_back(tmp_path: Path) -> None:
    write_leaks([Leak("a", "x", distance=3), Leak("b", "ü,y", cosine=0.97)], tmp_path / "leaks.csv")
    assert read_leaked(tmp_path / "leaks.csv") == {"x", "ü,y"}
    for text in ("", "foo\n", "id\n1\n"):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(DataError, match="no list of leaks"):
            read_leaked(tmp_path / "other.csv")


def test_gains_without_them() -> None:
    scores = [
        {"target": "t", "protocol": "linear", "metric": "top1", "seed": 0, "network": network, "value": value}
        for network, value in (("n_pre", 50.0), ("n_cf", 75.0))
    ]
    hits = {("t", "linear", "n_pre", 0): {"a": 1.0, "b": 0.0}, ("t", "linear", "n_cf", 0): {"a": 0.0, "b": 0.0}}
    said = leak_caution("t", num_leaked=2, num_scored=4, hits=hits, scores=scores)
    assert said == (
        "t: 2 of its 4 validation samples look like one of the pool; without them the gain is -50.0 instead of +25.0 "
        "points (linear probe)."
    )
    assert leak_caution("t", num_leaked=0, num_scored=4, hits=hits, scores=scores).endswith("of the pool.")


def _options(pictures: Path) -> dict[str, object]:
    return {
        "data__targets": {"target": str(pictures)},
        "transfer__protocols": ["linear"],
        "transfer__networks": ["n_pre", "n_cf"],
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A validation sample is a copy of one of the pool's."""
    root = write_pictures(tmp_path_factory.mktemp("pictures"))
    copied = root / "train" / "class0" / "000.png"
    (root / "val" / "class0" / "000.png").write_bytes(copied.read_bytes())
    return root


def test_from_the_command_line_to_the_report(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, leaks = tmp_path / "run", tmp_path / "leaks.csv"
    config: RunConfig = tiny_config(pictures, **_options(pictures))
    run_stages(config, run)
    assert main(["data", "check", str(pictures), "--modality", "image", "--out", str(tmp_path / "c.parquet")]) == 0
    stores = [str(run / "extract"), str(run / "transfer" / "target" / "n_pre" / "features" / "val")]
    checks = [str(tmp_path / "c.parquet")] * 2
    command = ["data", "leaks", *checks, "--features", *stores, "--min-cosine", "0.9999", "--out", str(leaks)]
    assert main(command) == 0
    assert "have features like one of 24 of the pool" in capsys.readouterr().out
    assert "val/class0/000.png" in read_leaked(leaks)
    told = tiny_config(pictures, **_options(pictures), report__leaks={"target": str(leaks)})
    run_stages(told, run, stages=["report"])
    assert "validation samples look like one of the pool" in (run / "report" / "report.html").read_text()
    (tmp_path / "of_others.csv").write_text("pool,target,distance,cosine\na,b,1,\n")
    other = tiny_config(pictures, **_options(pictures), report__leaks={"target": str(tmp_path / "of_others.csv")})
    run_stages(other, run, stages=["report"])
    assert "none of its samples is one of target" in (run / "report" / "report.html").read_text()


def test_leaks_of_an_unknown_target(pictures: Path) -> None:
    with pytest.raises(ConfigError, match=r"report.leaks: data.targets has no 'hmdb51'"):
        tiny_config(pictures, report__leaks={"hmdb51": "leaks.csv"})
