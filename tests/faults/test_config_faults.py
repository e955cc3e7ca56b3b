"""Fault matrix rows 1, 2, 3: a faulty command line or file ends with exit code 2 before any work, all told at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny import tiny_values, write_pictures
from yaml import safe_dump

from cfvid.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: what is in it afterwards is what the command left."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that ends with 2, printed nothing to stdout and wrote nothing."""
    before = sorted(here.rglob("*"))
    assert main(arguments) == 2
    assert sorted(here.rglob("*")) == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cfvid: ")
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--num_cluster", "5"], "unknown key num_cluster; did you mean cluster.num_clusters?"),
        (["--cluster.num_cluster", "5"], "unknown key cluster.num_cluster; did you mean cluster.num_clusters?"),
        (["--cluster.num-clusters", "5"], "did you mean cluster.num_clusters?"),
        (["--cluster.num_clusters"], "--cluster.num_clusters has no value"),
        (["--cluster.num_clusters", "many"], "cluster.num_clusters: should be a valid integer"),
        (["--conf", "x.yaml"], "unknown flag --conf; did you mean --config?"),
        (["--out", "x"], "unknown flag --out; did you mean --output?"),
        (["--fres"], "unknown flag --fres; did you mean --fresh?"),
        (["--dry_run"], "unknown flag --dry_run; did you mean --dry-run?"),
        (["stray"], "'stray' is not a flag"),
        (["--pretrain.arch", "resnet10_smal"], "did you mean resnet10_small?"),
        (["--data.targets", "{x: [{pat: y}]}"], "unknown key data.targets.x.0.pat; did you mean data.targets.x.0.path"),
        (["--config", "imag"], "There is no shipped configuration 'imag'; did you mean image?"),
        (["--config", "absent.yaml"], "Cannot read the configuration absent.yaml"),
        (["--output"], "expected one argument"),
    ],
)
@pytest.mark.parametrize("command", ["train", "cluster"])
def test_row_1_faulty_flags(
    command: str, arguments: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused([command, "--modality", "image", *arguments], here, capsys)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "Which modality?"),
        (["train", "--mod", "video"], "unknown flag --mod; did you mean --modality?"),
        (["train", "--modality", "vidoe"], "'vidoe' is not one of video, image, frame; did you mean video?"),
        (["--vers"], "COMMAND"),
        (["doctor", "--fast"], "unknown arguments: --fast"),
        (["manifest", "x", "--modality", "image"], "required: --out"),
        (["manifest", "x", "--modality", "imag", "--out", "m.csv"], "'imag' is not one of video, image, frame"),
        (["manifest", "x", "--modal", "image", "--out", "m.csv"], "required: --modality"),
        (["assign", "x", "--output", "absent", "--out", "a.parquet"], "absent is no run folder"),
    ],
)
def test_row_1_other_faulty_commands(
    arguments: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(arguments, here, capsys)


def test_row_2_all_faults_of_file_and_flags_in_one_message(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tiny_values(write_pictures(here / "data", classes=2, train=2, val=1), transfer__finetune__epochs=2)
    text = safe_dump(values) + "seed: 1\nseed: 2\nclutser: {}\n"
    text = text.replace("num_clusters: 4", "num_clusters: four").replace("shard_size", "shard_sise")
    (here / "bad.yaml").write_text(text)
    told = refused(["train", "--config", "bad.yaml", "--data.skip_budget", "2", "--zzz"], here, capsys)

    def line_of(part: str) -> int:
        return 1 + text[: text.index(part)].count("\n")

    for expected in (
        "The configuration has 6 faults",
        f"bad.yaml:{line_of('seed: 2')}: seed stands twice (first in line {line_of('seed: 1')})",
        f"bad.yaml:{line_of('clutser')}: unknown key clutser; did you mean cluster?",
        f"bad.yaml:{line_of('num_clusters')}: cluster.num_clusters: should be a valid integer",
        f"bad.yaml:{line_of('shard_sise')}: unknown key extract.shard_sise; did you mean extract.shard_size?",
        "command line: data.skip_budget: should be less than or equal to 1 (given: 2)",
        "command line: --zzz has no value",
    ):
        assert expected in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: !!python/object/apply:os.system ['touch SENTINEL']", "bad.yaml:1: the tag"),
        ("seed: !!python/object/apply:os.mkdir [SENTINEL]", "bad.yaml:1: the tag"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "bad.yaml:2: aliases (*name) are refused"),
        ("a: " + "[" * 100_000, "bad.yaml:1: nested too deeply"),
        ("a: " + "x" * 300_000, "too large"),
    ],
)
def test_row_3_hostile_files(text: str, told: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "bad.yaml").write_text(text)
    assert told in refused(["train", "--config", "bad.yaml"], here, capsys)
    assert not (here / "SENTINEL").exists()


def test_row_3_hostile_overrides(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "!!python/object/apply:os.system ['touch SENTINEL']"
    assert "seed: should be a valid integer" in refused(
        ["train", "--modality", "image", "--seed", command], here, capsys
    )
    assert list(here.iterdir()) == []


def test_row_3_a_real_process_ends_at_once_and_runs_nothing(here: Path) -> None:
    laughs = "a0: &a0 [lol, lol]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 99))
    (here / "bad.yaml").write_text("x: !!python/object/apply:os.mkdir [SENTINEL]\n" + laughs)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "cfvid", "train", "--config", "bad.yaml"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert [path.name for path in here.iterdir()] == ["bad.yaml"]
