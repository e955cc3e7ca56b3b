"""`cfvid data`: from an official layout to a manifest that the engine reads and decodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support.official import add_images, add_text, add_videos, decoded

from cfvid.cli import main
from cfvid.data.cards import card_names
from cfvid.data.manifest import Manifest
from cfvid.data.readers import read_source, read_sources
from cfvid.modalities import MODALITIES
from cfvid.sections.data import DataConfig, SourceConfig


def read(path: Path, *, modality: str, trusted: tuple[Path, ...] = (), **options: str) -> Manifest:
    source = SourceConfig(path=str(path), **options)
    data = DataConfig(pretrain=[source], targets={}, trusted_roots=[str(root) for root in trusted])
    return read_source(source, data=data, suffixes=MODALITIES[modality].suffixes, cache=path.parent)


def add_hmdb(root: Path) -> Path:
    add_videos(root, "hmdb51_org/wave/a ü.avi", "hmdb51_org/wave/b.avi", "hmdb51_org/wave/c.avi", "new.avi")
    add_text(root, "splits/wave_test_split2.txt", "a ü.avi 1", "b.avi 2", "c.avi 0", "gone.avi 2")
    return root


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0] for line in lines}
    assert named == {*card_names(), "embedded:motion", "embedded:gestures", "embedded:textures", "embedded:shapes"} - {
        "embedded"
    }
    assert any(line.split()[:3] == ["hmdb51", "video", "51"] for line in lines)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("place", ["set", "elsewhere"])
def test_videos_end_to_end(suffix: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = add_hmdb(tmp_path / "set"), tmp_path / place / f"hmdb{suffix}"
    arguments = ["data", "prepare", "hmdb51", "--root", str(root), "--out", str(out), "--fold", "2"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    missing = tmp_path / place / "hmdb.not_found.txt"
    for line in (
        f"{out}: 3 samples (1 in 'train', 1 in 'unused', 1 in 'val'), 1 classes",
        "1 samples in 'train', 3,569 fewer than the 3,570 published",
        "1 classes, 50 fewer than the 51 published",
        f"1 listed files are not there and left out; {missing} names them.",
        "1 media files are not listed and not used: new.avi",
    ):
        assert line in shown
    assert (f"Its paths into {root} are absolute" in shown) == (place == "elsewhere")
    assert missing.read_text() == "hmdb51_org/wave/gone.avi\n"

    manifest = read(out, modality="video", trusted=(root,) if place == "elsewhere" else ())
    assert manifest.ids == ["wave/a ü", "wave/b", "wave/c"]
    assert decoded(manifest, modality="video").shape == (1, 3, 4, 32, 32)
    assert decoded(manifest, 1, modality="frame").shape == (1, 3, 32, 32)

    add_videos(root, "hmdb51_org/wave/gone.avi")
    assert main(arguments) == 0
    assert not missing.exists()
    assert "not there" not in capsys.readouterr().out


def test_unused_clips_are_in_neither_split_of_a_run(tmp_path: Path) -> None:
    root = add_hmdb(tmp_path / "set")
    assert main(["data", "prepare", "hmdb51", "--root", str(root), "--out", str(root / "m.csv"), "--fold", "2"]) == 0
    source = SourceConfig(path=str(root / "m.csv"))
    data = DataConfig(pretrain=[source], targets={})
    manifest = read_sources([source], data=data, suffixes=MODALITIES["video"].suffixes, cache=tmp_path)
    assert [(sample.sample_id, sample.split) for sample in manifest] == [("wave/a ü", "train"), ("wave/b", "val")]


def test_unsure_labels_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "VOCdevkit" / "VOC2007"
    marks = [("person", 1), ("dog", 1), ("car", 0), ("cat", 0)]
    objects = "".join(f"<object><name>{n}</name><difficult>{d}</difficult></object>" for n, d in marks)
    for split, number in (("trainval", "000005"), ("test", "000001")):
        add_images(home, f"JPEGImages/{number}.jpg")
        add_text(home, f"ImageSets/Main/{split}.txt", number)
        add_text(home, f"Annotations/{number}.xml", f"<annotation>{objects}</annotation>")
    for suffix in (".csv", ".parquet"):
        out = tmp_path / f"voc{suffix}"
        assert main(["data", "prepare", "voc07", "--root", str(tmp_path), "--out", str(out)]) == 0
        assert ("label_separator: '|'" in capsys.readouterr().out) == (suffix == ".csv")
        manifest = read(out, modality="image", label_separator="|")
        assert (manifest[0].labels, manifest[0].unsure_labels) == (("car", "cat"), ("dog", "person"))
        assert decoded(manifest, modality="image").shape == (1, 3, 32, 32)


def test_a_set_of_which_most_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`cfvid data prepare` refused when more than half of the listed files were missing, with no way on."""
    root, out = add_hmdb(tmp_path / "set"), tmp_path / "m.csv"
    add_text(root, "splits/wave_test_split1.txt", "b.avi 1", "gone.avi 2", "lost.avi 2")
    arguments = ["data", "prepare", "hmdb51", "--root", str(root), "--out", str(out)]
    assert main(arguments) == 3
    shown = capsys.readouterr().err
    assert "2 of 3 files that the annotations list are not below" in shown
    assert "--allow-missing takes what is there" in shown
    assert not out.exists()
    assert main([*arguments, "--allow-missing"]) == 0
    assert "2 listed files are not there and left out" in capsys.readouterr().out
    assert read(out, modality="video").ids == ["wave/b"]
    (root / "hmdb51_org" / "wave" / "b.avi").unlink()
    assert main([*arguments, "--allow-missing"]) == 3
    assert "3 of 3 files" in capsys.readouterr().err


def test_a_linked_media_folder_is_trusted_by_the_option_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was refused with the name of a key of the configuration, which the command does not take."""
    far = add_hmdb(tmp_path / "far") / "hmdb51_org"
    root = tmp_path / "set"
    add_text(root, "wave_test_split2.txt", "a ü.avi 1", "b.avi 2")
    (root / "hmdb51_org").symlink_to(far)
    for command in (
        ["prepare", "hmdb51", "--root", str(root), "--out", str(tmp_path / "m.csv"), "--fold", "2"],
        ["check", str(root), "--modality", "video", "--out", str(tmp_path / "m.parquet")],
        ["shard", str(root), "--modality", "video", "--out", str(tmp_path / "shards")],
    ):
        assert main(["data", *command]) == 3
        shown = capsys.readouterr().err
        assert f"hmdb51_org leads out of {root}, to {far}." in shown
        assert f"trust a folder that holds them all by --trusted-root (this one lies in {far})." in shown
        assert "data.trusted_roots" not in shown
        assert main(["data", *command, "--trusted-root", str(far)]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        (["--media-root", "absent"], 3, "absent does not exist.\n  do:  Check --media-root."),
        (["--train-split", "x", "--val-split", "x"], 2, "--train-split and --val-split are both 'x'"),
        (["--kind", "classs"], 2, "--kind should be 'auto', 'embedded'"),
        (["--deadline", "-1"], 2, "--deadline should be greater than 0"),
        (["--workers", "-1"], 2, "--workers should be greater than or equal to 0"),
        (["--memory-gb", "0"], 2, "--memory-gb should be greater than 0"),
        (["--max-megapixels", "0"], 2, "--max-megapixels should be greater than 0"),
    ],
)
def test_faults_name_the_options_of_the_command(
    changes: list[str], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "k.csv").write_text("label,youtube_id,time_start,time_end,split\na,b,1,2,train\n")
    arguments = ["data", "check", str(tmp_path / "k.csv"), "--modality", "video", "--out", str(tmp_path / "c.parquet")]
    assert main([*arguments, *changes]) == code
    assert told in capsys.readouterr().err


def test_splits_and_classes_are_named_by_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "set", tmp_path / "m.csv"
    add_images(root, "train/car/1.png", "plane/a/2.png", "fit/car/3.png")
    arguments = ["manifest", "--modality", "image", "--out", str(out), str(root)]
    assert main(arguments) == 3
    assert (
        "name them by --train-split and --val-split; if all are classes, give --kind classes."
        in capsys.readouterr().err
    )
    assert main([*arguments, "--kind", "classes"]) == 0
    assert read(out, modality="image").classes == ["fit", "plane", "train"]
    assert main([*arguments, "--train-split", "fit"]) == 0
    assert read(out, modality="image").classes == ["a", "car"]


def test_large_pictures_and_other_suffixes_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """.jfif and .avif were left out; pictures of more than 64 megapixels were refused, and no option let them in."""
    folder = tmp_path / "s" / "train" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(folder / "1.jfif", format="JPEG")
    Image.new("RGB", (40, 40)).save(folder / "2.avif")
    Image.new("1", (9000, 8000)).save(folder / "3.png")
    arguments = ["data", "check", str(tmp_path / "s"), "--modality", "image", "--out", str(tmp_path / "c.parquet")]
    assert main([*arguments, "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert "3 samples, 1 of them cannot be read" in shown
    assert "9000x8000 pixels exceed the limit of 64 megapixels (--max-megapixels)" in shown
    assert "avif (1)" in shown
    assert main([*arguments, "--workers", "0", "--max-megapixels", "72"]) == 0
    assert "3 samples, 0 of them cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        (["hmdb"], 2, "did you mean hmdb51?"),
        (["hmdb51", "--root", "absent"], 3, "absent does not exist"),
        (["hmdb51", "--fold", "4"], 2, "the folds are 1 to 3"),
        (["hmdb51", "--classes", "x"], 2, "has no option --classes"),
        (["hmdb51", "--out", "m.json"], 3, ".csv or .parquet"),
        (["hmdb51", "--folds", "1"], 2, "unknown arguments: --folds"),
        (["embedded"], 2, "there is nothing to prepare"),
    ],
)
def test_errors_are_told_and_nothing_is_written(
    changes: list[str], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = add_hmdb(tmp_path / "set")
    name, *rest = changes
    out = tmp_path / "out"
    assert main(["data", "prepare", name, "--root", str(root), "--out", str(out / "m.csv"), *rest]) == code
    assert told in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("kind", ["folders", "manifest", "kinetics", "embedded"])
def test_any_source_as_shards_and_back(
    kind: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same ids, labels, splits, times and pictures; also through check and manifest."""
    root = tmp_path / "set"
    if kind != "embedded":
        add_videos(root, "train/run/a.mp4", "train/wave/b.mp4", "val/run/c.mp4")
    source = {"folders": root, "manifest": root / "m.csv", "kinetics": root / "k.csv", "embedded": "embedded:motion"}[
        kind
    ]
    if kind == "manifest":
        add_text(root, "m.csv", "sample_id,path,split,label,start_s,end_s", "x/1,train/run/a.mp4,train,a|b,0.1,0.5",
                 "x.2,train/run/a.mp4,val,,,", "y,val/run/c.mp4,test,c,,")  # fmt: skip
    elif kind == "kinetics":
        add_text(root, "k.csv", "label,youtube_id,time_start,time_end,split", "run,a,0,1,train", "gone,z,0,9,train")
    separator = ["--label-separator", "|"] if kind == "manifest" else []
    out = tmp_path / "shards"
    command = ["data", "shard", str(source), "--modality", "video", *separator, "--samples-per-shard", "20"]
    assert main([*command, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    named = SourceConfig(path=str(source), label_separator="|" if separator else None)
    data = DataConfig(pretrain=[named], targets={})
    files = read_source(named, data=data, suffixes=MODALITIES["video"].suffixes, cache=cache)
    if kind == "kinetics":
        files = files.select(["a_000000_000001"])
        assert f"1 samples are left out; {out / 'skips.jsonl'} says why" in shown
    assert f"{out}: {len(files)} samples in " in shown
    for path in (out, tmp_path / "m.parquet"):
        again = read(path, modality="video")
        assert sorted(again.ids) == sorted(files.ids)
        for sample in files:
            other = again.sample(sample.sample_id)
            for name in ("labels", "split", "start_s", "end_s"):
                assert getattr(other, name) == getattr(sample, name)
        first = files[0].sample_id
        seen = [decoded(which, which.ids.index(first), modality="video") for which in (again, files)]
        assert (seen[0] == seen[1]).all()
        arguments = ["manifest", str(out), "--modality", "video", "--out", str(tmp_path / "m.parquet")]
        assert main(arguments) == 0
    if kind == "embedded":  # too many for this
        return
    check = ["data", "check", str(out), "--modality", "video", "--workers", "0", "--out", str(tmp_path / "c.parquet")]
    assert main(check) == 0
    assert f"{len(files):,} samples, 0 of them cannot be read" in capsys.readouterr().out


def test_shards_of_one_split_and_of_no_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_videos(tmp_path / "set", "train/run/a.mp4", "val/run/c.mp4")
    command = ["data", "shard", str(tmp_path / "set"), "--modality", "video"]
    assert main([*command, "--out", str(tmp_path / "s"), "--split", "val"]) == 0
    assert [path.name for path in (tmp_path / "s").glob("*.tar")] == ["val-000000.tar"]
    capsys.readouterr()
    for flags, code, told in (
        (["--split", "test"], 2, "no split 'test' but train, val"),
        (["--samples-per-shard", "0"], 2, "--samples-per-shard is 0"),
        (["--shard-size-mb", "-1"], 2, "--shard-size-mb is -1"),
        (["--shard-size-mb", "5", "--samples-per-shard", "5"], 2, "not allowed with"),
    ):
        assert main([*command, "--out", str(tmp_path / "none"), *flags]) == code
        assert told in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
