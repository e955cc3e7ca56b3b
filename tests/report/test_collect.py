"""cfvid.report.collect: a run folder as plain data, whole or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.synthetic_run import ALL_STAGES, SECONDS, write_run
from support.tiny import tiny_config

from cfvid import __version__
from cfvid.artifacts import Record, read_json, write_json
from cfvid.config import RunConfig
from cfvid.data.skips import Skip
from cfvid.report.collect import collect
from cfvid.stages import Run


def test_a_whole_run(run: Run) -> None:
    report = collect(run)
    assert (report["cfvid"], report["modality"], report["seed"]) == (__version__, "image", 0)
    assert (report["missing"], report["problems"]) == ([], [])
    assert len(report["scores"]) == 3 * 2 * 2  # networks, protocols, metrics
    assert report["scores"][0] == {
        "network": "n_pre",
        "target": "target",
        "protocol": "linear",
        "metric": "top1",
        "value": 50.0,
        "seed": 0,
    }
    assert [(g["protocol"], g["metric"], g["gain"], g["num_seeds"]) for g in report["gains"]] == [
        ("linear", "top1", 25.0, 1),
        ("linear", "crop_top1", pytest.approx(25.0), 1),
        ("finetune", "top1", 25.0, 1),
        ("finetune", "crop_top1", pytest.approx(25.0), 1),
    ]
    top1 = report["gains"][0]
    assert (top1["won"], top1["lost"], top1["num_samples"], top1["chance"]) == (3, 0, 12, pytest.approx(100 / 3))
    target = {"num_classes": 3, "num_train": 24, "num_scored": 12, "classes": ["class0", "class1", "class2"]}
    assert report["targets"] == {"target": target}
    assert report["pretrain"]["held_out_accuracy"] == 0.75
    assert report["pretrain"]["curve"][0] == {"epoch": 1.0, "loss": 1.0, "accuracy": 0.2}
    assert len(report["retrain"]["curve"]) == 3
    figures = read_json(run.folder / "cluster" / "quality.json")
    assert {key: report["clusters"][key] for key in figures} == figures
    assert (report["clusters"]["num_tiny"], report["clusters"]["num_giant"]) == (3, 1)
    assert len(report["clusters"]["warnings"]) == 2
    assert report["config"] == run.config.plain()
    assert {"python", "torch", "torchvision", "faiss", "decord", "av", "pytorchvideo", "accelerate", "numpy"} < set(
        report["versions"]
    )
    assert report["versions"]["torch"]
    assert report["versions"]["device"].startswith("cpu")


def test_costs_count_every_second_once(run: Run) -> None:
    costs = collect(run)["costs"]
    # Each evaluation's cost holds the features it extracted: the feature stores' own cost.json is not added.
    transfer = 3 * (SECONDS["linear"] + SECONDS["finetune"])
    assert costs["stages"] == {name: SECONDS[name] for name in ("pretrain", "extract", "cluster", "retrain")} | {
        "transfer": transfer
    }
    assert costs["transfer_by_protocol"] == {"linear": 9.0, "finetune": 30.0}
    assert costs["total"] == pytest.approx(40 + 2 + 0.5 + 50 + transfer)


@pytest.mark.parametrize("num_done", range(len(ALL_STAGES)))
def test_a_partial_run(config: RunConfig, tmp_path: Path, num_done: int) -> None:
    run = write_run(config, tmp_path / "run", stages=ALL_STAGES[:num_done])
    report = collect(run)
    assert [stage["name"] for stage in report["stages"] if stage["state"] == "done"] == list(ALL_STAGES[:num_done])
    assert [text.split()[0] for text in report["missing"]] == list(ALL_STAGES[num_done:])
    assert report["problems"] == []
    assert report["headline"]["answer"] == "No answer yet: nothing has been scored."
    assert (report["clusters"] is None) == (num_done < 3)


def test_a_stage_that_was_cut_short(config: RunConfig, tmp_path: Path) -> None:
    run = write_run(config, tmp_path / "run", stages=["pretrain"])
    write_json(run.folder / "extract" / "inputs.json", {})
    assert collect(run)["missing"][0] == "extract (begun, not finished)"


def test_half_of_the_evaluations(run: Run) -> None:
    shutil.rmtree(run.folder / "transfer" / "target" / "n_cf")
    report = collect(run)
    assert report["missing"] == ["transfer (4 of 6 evaluations)"]
    assert report["headline"]["answer"] == "No comparison yet: N_cf has not been scored."


def test_seeds(pictures: Path, tmp_path: Path) -> None:
    config = tiny_config(pictures, transfer__seeds=[0, 1, 2])
    report = collect(write_run(config, tmp_path / "run"))
    top1 = report["gains"][0]
    assert (top1["num_seeds"], top1["gain"], top1["std"]) == (3, pytest.approx(25.0), pytest.approx(0, abs=1e-9))
    assert top1["networks"]["random"]["num_seeds"] == 3


def test_only_numbers_that_json_knows(run: Run) -> None:
    with open(run.folder / "pretrain" / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "event": "epoch", "epoch": 4.0, "loss": NaN, "accuracy": Infinity}\n')
    report = collect(run)
    assert report["pretrain"]["curve"][-1] == {"epoch": 4.0, "loss": None, "accuracy": None}
    json.dumps(report, allow_nan=False)


# ---------------------------------------------------------------------------------------------- skips


def test_skips_by_reason(config: RunConfig, tmp_path: Path) -> None:
    skips = [
        Skip("a", "x/a.png", ("pillow: cannot identify x/a.png",)),
        Skip("b", "x/b.png", ("pillow: cannot identify x/b.png",)),
        Skip("c", "x/c.png", ("decord: no", "pyav: no frame")),
    ]
    report = collect(write_run(config, tmp_path / "run", skips=skips, fallbacks={"pyav": 7}))
    extract = report["skips"]["extract"]
    assert (extract["num_samples"], extract["num_skipped"]) == (24, 3)
    assert extract["by_reason"] == {"pillow: cannot identify (file)": 2, "pyav: no frame": 1}
    assert extract["fallbacks"] == {"pyav": 7}
    assert extract["examples"][2] == {"sample_id": "c", "path": "x/c.png", "reasons": ["decord: no", "pyav: no frame"]}
    # Three networks read the same target: its unreadable samples count once.
    assert report["skips"]["transfer, target val"]["num_skipped"] == 3
    assert report["skips"]["pretrain"]["num_skipped"] == 0


def test_many_reasons_are_summed(config: RunConfig, tmp_path: Path) -> None:
    skips = [Skip(f"s{i}", f"{i}.png", (f"reason {'x' * i}",)) for i in range(12)]
    by_reason = collect(write_run(config, tmp_path / "run", skips=skips))["skips"]["extract"]["by_reason"]
    assert len(by_reason) == 9
    assert by_reason["other reasons"] == 4


# ---------------------------------------------------------------------------------------------- what went wrong


def test_a_torn_evaluation_is_not_a_score(run: Run) -> None:
    (run.folder / "transfer/target/n_cf/linear-seed0/record.json").unlink()  # killed before the record was written
    report = collect(run)
    assert report["missing"] == ["transfer (5 of 6 evaluations)"]
    assert report["problems"] == []
    assert len(report["scores"]) == 10


@pytest.mark.parametrize(
    "name",
    [
        "transfer/target/n_cf/linear-seed0/scores.json",
        "transfer/target/n_cf/linear-seed0/predictions.parquet",
        "transfer/target/n_cf/linear-seed0/record.json",
        "cluster/quality.json",
        "pretrain/record.json",
        "extract/skips.jsonl",
        "pretrain/metrics.jsonl",
        "retrain/cost.json",
        "data/target.parquet",
    ],
)
@pytest.mark.parametrize("content", [b"{", b"[]", b"", b"\xff\xfe"])
def test_a_damaged_file_is_a_line_not_an_end(run: Run, name: str, content: bytes) -> None:
    (run.folder / name).write_bytes(content)
    report = collect(run)
    told = len(report["problems"])
    # An empty file of lines is a good one, and a killed run may leave half a line of metrics.
    good = (name.endswith("jsonl") and content == b"") or (name.endswith("metrics.jsonl") and content != b"\xff\xfe")
    assert told == (0 if good else 1), report["problems"]
    assert len(report["scores"]) >= 10


def test_scores_of_a_former_network_are_left_out(run: Run) -> None:
    Record.write(run.folder / "retrain" / "network", kind="network", inputs={"arch": "another"}, files=[])
    report = collect(run)
    assert {score["network"] for score in report["scores"]} == {"n_pre", "random"}
    assert len([text for text in report["problems"] if "another n_cf" in text]) == 2
    assert report["missing"] == ["transfer (4 of 6 evaluations)"]


def test_stages_made_from_something_else_are_told(run: Run) -> None:
    Record.write(run.folder / "extract", kind="features", inputs={"network": "?"}, files=[], facts={})
    problems = "\n".join(collect(run)["problems"])
    assert "extract was made from other N_pre" in problems
    assert "cluster was made from other features" in problems
    assert "retrain was made" not in problems


def test_a_changed_setting_is_told(run: Run, pictures: Path) -> None:
    changed = Run(tiny_config(pictures, cluster__num_clusters=99), run.folder)
    problems = collect(changed)["problems"]
    text = "cluster was made with another setting than the configuration's: cluster.num_clusters: 4 -> 99"
    assert problems == [text]


def test_networks_scored_on_different_samples_are_told(run: Run) -> None:
    path = run.folder / "transfer/target/n_cf/linear-seed0/record.json"
    record = read_json(path)
    record["inputs"]["val"] = "other samples"
    write_json(path, record)
    assert collect(run)["problems"] == ["target, linear: the networks were scored with different settings or samples."]
