"""The command line: quick, helpful, and with the same outcome whichever way a configuration is given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from support.blocked import run_without
from support.tiny import tiny_values, write_pictures
from yaml import safe_dump

import cfvid
from cfvid.artifacts import read_json
from cfvid.cli import STAGE_HELP, main
from cfvid.data.readers import read_source
from cfvid.errors import ConfigError
from cfvid.features import FeatureStore
from cfvid.loading import load
from cfvid.modalities import MODALITIES
from cfvid.pipeline import STAGES, run_stages
from cfvid.sections.data import DataConfig, SourceConfig
from cfvid.stages.cluster import read_pseudo_labels

REPOSITORY = Path(__file__).parents[1]
FITTING = {"pretrain__arch": "resnet10_thin", "transfer__finetune__epochs": 2}
"""What `tiny_values` is given besides."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data folder, and a run folder with pretrain, extract and cluster done."""
    home = tmp_path_factory.mktemp("run")
    data = write_pictures(home / "pictures", classes=2, train=6, val=3)
    values = tiny_values(data, cluster__num_clusters=3, **FITTING)
    (home / "tiny.yaml").write_text(safe_dump(values))
    config = load([], config=str(home / "tiny.yaml"))
    run_stages(config, home / "run", stages=["pretrain", "extract", "cluster"])
    return data, home / "run"


def test_version_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom cfvid.cli import main\n"
        "try: main(['--version'])\nexcept SystemExit as e: print(e.code)\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'pyarrow'} & set(sys.modules)\nprint(sorted(heavy))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    before = os.times()
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    after = os.times()
    assert done.stdout.split("\n")[:3] == [f"cfvid {cfvid.__version__}", "0", "[]"]
    # Of the processor, not of the clock: the machine may be busy.
    assert (after.children_user + after.children_system) - (before.children_user + before.children_system) < 0.3


def test_help_names_every_command_and_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(STAGE_HELP) == ["train", *STAGES]
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    for command in [*STAGE_HELP, "doctor", "manifest", "assign", "export", "data"]:
        assert f"    {command} " in shown
    for command, words in {
        "train": ["--modality", "--config", "--output", "--fresh", "--print-config", "--dry-run", "--section.key"],
        "manifest": ["SOURCE", "--out", ".csv or .parquet", "--trusted-root"],
        "assign": ["SOURCE", "--output", "--out", "distance"],
        "export": ["--output", "--network", "n_cf", "--format", "torch-export", "--out", "model card"],
        "doctor": ["what to mend"],
    }.items():
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        for word in words:
            assert word in shown


def test_print_config_can_be_fed_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--cluster.num_clusters",
        "7",
        "--data.pretrain",
        "/p",
        "--data.targets",
        "{a: /x, ü: [/y, {path: z, kind: folder}]}",
        "--seed=3",
    ]
    assert main(["train", "--modality", "image", *flags, "--print-config"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "fed.yaml").write_text(first, encoding="utf-8")
    assert main(["cluster", "--config", str(tmp_path / "fed.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    assert "num_clusters: 7" in first
    assert load([], config=str(tmp_path / "fed.yaml")) == load(flags, modality="image")


def test_dry_run_prints_the_plan_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pictures(tmp_path / "pictures", classes=2, train=3, val=2)
    (tmp_path / "tiny.yaml").write_text(safe_dump(tiny_values(data, **FITTING)))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    for flags in ([], ["--output", "mine"]):
        assert main(["train", "--config", "../tiny.yaml", "--dry-run", *flags]) == 0
        shown = capsys.readouterr().out
        assert f"run folder   {'mine' if flags else 'runs/tiny'}\n" in shown
        assert "6 samples, 2 classes" in shown
        assert "done before  nothing" in shown
    assert list(empty.iterdir()) == []


def test_dry_run_of_a_finished_run_leaves_it_as_it_was(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished[1]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["train", "--output", str(folder), "--dry-run"]) == 0
    assert "done before  pretrain, extract, cluster" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_run_folder_knows_its_own_configuration(finished: tuple[Path, Path]) -> None:
    assert load([], stored=finished[1] / "config.yaml").cluster.num_clusters == 3
    assert load(["--cluster.num_clusters", "2"], stored=finished[1] / "config.yaml").cluster.num_clusters == 2
    assert load([], stored=finished[1] / "config.yaml", modality="video").modality == "video"
    with pytest.raises(ConfigError, match="Which modality"):
        load([], stored=finished[1] / "nothing-here" / "config.yaml")


def test_other_settings_are_refused_with_the_difference(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "--output", str(finished[1]), "--cluster.num_clusters", "2"]) == 4
    told = capsys.readouterr().err
    assert "cluster.num_clusters: 3 -> 2" in told
    assert "--fresh" in told
    assert main(["cluster", "--output", str(finished[1]), "--cluster.num_clusters", "3"]) == 0


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    for module, package in (("faiss", "faiss-"), ("torch", "torch>="), ("yaml", "PyYAML>=")):
        code = "from cfvid.cli import main\nsys.exit(main(['train', '--modality', 'image']))"
        done = run_without(module, code=code, cwd=tmp_path)
        assert done.returncode == 7
        assert "Traceback" not in done.stderr
        assert f"pip install '{package}" in done.stderr
        assert list(tmp_path.iterdir()) == []


def test_twins_are_told_before_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cfvid.doctor.find_twins", lambda: ["decord and eva-decord both provide `decord`: pip ..."])
    absent = ["--data.pretrain", str(tmp_path / "absent"), "--output", str(tmp_path / "run")]
    assert main(["pretrain", "--modality", "image", *absent]) == 3
    assert "eva-decord both provide" in caplog.text


def test_a_closed_pipe_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["train", "--modality", "image", "--print-config"]) == 1
        # As when Python ends; what is left goes nowhere.
        stdout.write("rest")
        stdout.flush()


# ---------------------------------------------------------------------------------------------- manifest


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("place", [".", "elsewhere"])
def test_manifest_of_folders_reads_back_the_same(
    suffix: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pictures(tmp_path / "my pictures ü", classes=2, train=2, val=1)
    (data / "train" / "class0").rename(data / "train" / 'a,"b"')
    out = tmp_path / place / f"list{suffix}"
    assert main(["manifest", str(data), "--modality", "image", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "6 samples (4 in 'train', 2 in 'val'), 3 classes" in shown
    assert (f"Its paths into {data} are absolute" in shown) == (place == "elsewhere")

    trusted = [str(data)] if place == "elsewhere" else []
    options = {"suffixes": MODALITIES["image"].suffixes, "cache": tmp_path}

    def read(path: Path) -> list[tuple]:
        source = SourceConfig(path=str(path))
        manifest = read_source(source, data=DataConfig(pretrain=[source], targets={}, trusted_roots=trusted), **options)
        return [(s.sample_id, s.labels, s.split, manifest.locate(s).read_bytes()) for s in manifest]

    assert read(out) == read(data)


def test_manifest_of_an_embedded_set(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifest", "embedded:shapes", "--modality", "image", "--out", str(tmp_path / "m.csv")]) == 0
    shown = capsys.readouterr().out
    assert "360 samples (240 in 'train', 120 in 'val'), 6 classes" in shown
    assert f"Its paths into {cache.resolve()}/shapes-" in shown


def test_manifest_refuses_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_pictures(tmp_path / "pictures", classes=2, train=1, val=1)
    assert main(["manifest", str(data), "--modality", "image", "--out", str(tmp_path / "m.json")]) == 3
    assert ".csv or .parquet" in capsys.readouterr().err
    assert main(["manifest", str(data), "--modality", "video", "--out", str(tmp_path / "m.csv")]) == 3
    assert "has no samples" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


# ---------------------------------------------------------------------------------------------- assign


def test_assign_gives_the_samples_of_the_run_their_own_clusters(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = finished
    (data / "val" / "class0" / "broken.png").write_bytes(b"no picture")
    try:
        out = tmp_path / "assigned.parquet"
        arguments = ["assign", str(data), "--output", str(folder), "--out", str(out), "--data.skip_budget", "0.5"]
        assert main(arguments) == 0
    finally:
        (data / "val" / "class0" / "broken.png").unlink()
    table = pyarrow.parquet.read_table(out)
    assert table.column_names == ["sample_id", "cluster", "distance"]
    assigned = dict(zip(table["sample_id"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    assert len(assigned) == 18
    assert {i: c for i, c in assigned.items() if i.startswith("train/")} == read_pseudo_labels(folder / "cluster")
    assert f"{out}: 18 samples" in capsys.readouterr().out
    [store] = (folder / "assign").iterdir()
    assert FeatureStore(store).record.facts["num_skipped"] == 1


def test_assign_refuses_features_made_in_another_way(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = finished
    out = tmp_path / "assigned.parquet"
    arguments = ["assign", str(data), "--output", str(folder), "--out", str(out)]
    assert main([*arguments, "--extract.layer", "layer1"]) == 4
    assert 'layers: [null] -> ["layer1"]' in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "a.csv")]) == 2

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    inputs = read_json(copy / "cluster" / "record.json")["inputs"]
    shutil.rmtree(copy / "extract")
    config = load(["--extract.dtype", "fp32"], stored=copy / "config.yaml")
    run_stages(config, copy, stages=["extract"])
    assert main(["assign", str(data), "--output", str(copy), "--out", str(out)]) == 4
    assert "made from other features" in capsys.readouterr().err
    assert inputs == read_json(copy / "cluster" / "record.json")["inputs"]
    shutil.rmtree(copy / "cluster")
    assert main(["assign", str(data), "--output", str(copy), "--out", str(out)]) == 4
    assert not out.exists()
