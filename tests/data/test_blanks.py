"""Labels with blanks around them are those without, and that is told."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from support.tars import write_tar

from cfvid.data.blanks import trimmed
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.data.readers import read_sources
from cfvid.sections.data import DataConfig, SourceConfig


def sample(sample_id: str, *labels: str, unsure: tuple[str, ...] = (), split: str = "train") -> Sample:
    return Sample(sample_id, f"{sample_id}.png", "/r", labels, split, None, None, unsure)


def read(path: Path, **options: str) -> Manifest:
    source = SourceConfig(path=str(path), **options)  # type: ignore[arg-type]
    data = DataConfig(pretrain=[source], targets={})
    return read_sources([source], data=data, suffixes={".png"}, cache=path.parent / "cache")


def test_labels_and_splits(caplog: pytest.LogCaptureFixture) -> None:
    """`cat ` and `cat` were two classes."""
    rows = [
        sample("a", "cat", "dog "),
        sample("b", "cat ", "cat", "\u00a0cat", unsure=(" dog", "ox")),
        sample("c", " ", split="val "),
        sample("d"),
    ]
    manifest = trimmed(from_samples(rows), place="here")
    assert [s.labels for s in manifest] == [("cat", "dog"), ("cat",), (), ()]
    assert [s.unsure_labels for s in manifest] == [(), ("dog", "ox"), (), ()]
    assert [s.split for s in manifest] == ["train", "train", "val", "train"]
    assert (
        "here: white space was removed around 4 labels and 1 unsure labels and the splits of 1 samples" in caplog.text
    )


def test_nothing_to_trim_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    manifest = from_samples([sample("a", "a b", "a b"), sample("b")])
    assert trimmed(manifest, place="here") is manifest
    assert trimmed(from_samples([]), place="here").ids == []
    assert caplog.text == ""


@pytest.mark.parametrize("kind", ["csv", "separator", "parquet", "kinetics", "cls", "json", "folder"])
def test_sources_of_every_kind(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, options = tmp_path / "m.csv", {}
    if kind == "csv":
        path.write_text("sample_id,path,label,split\n1,1.png,cat,train\n2,2.png,cat ,train \n")
    elif kind == "separator":
        path.write_text("sample_id,path,label,split\n1,1.png,cat,train\n2,2.png,cat | cat,train\n")
        options = {"label_separator": "|"}
    elif kind == "parquet":
        path = tmp_path / "m.parquet"
        rows = {
            "sample_id": ["1", "2"],
            "path": ["1.png", "2.png"],
            "label": [["cat"], ["\tcat"]],
            "split": ["train"] * 2,
        }
        pyarrow.parquet.write_table(pa.table(rows), path)
    elif kind == "kinetics":
        path.write_text("label, youtube_id,time_start,time_end,split\ncat,a,1,2,train\ncat , b,1,2,train\n")
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat" / "b_000001_000002.png").touch()
    elif kind in ("cls", "json"):
        path = tmp_path / "s.tar"
        about = {"1.json": json.dumps({"label": "cat"}), "2.json": json.dumps({"label": "cat "})}
        about = about if kind == "json" else {"1.cls": "cat", "2.cls": " cat\n"}
        write_tar(path, {"1.png": b"", "2.png": b"", **{name: text.encode() for name, text in about.items()}})
    else:
        path = tmp_path / "set"
        for name in ("cat", "cat "):
            (path / name).mkdir(parents=True)
            (path / name / "1.png").touch()
    manifest = read(path, **options)
    assert manifest.classes == ["cat"]
    assert [s.labels for s in manifest] == [("cat",), ("cat",)]
    assert kind == "cls" or "white space was removed around 1 labels" in caplog.text or kind == "separator"
    if kind == "kinetics":
        assert manifest[1].path == "cat/b_000001_000002.png"
