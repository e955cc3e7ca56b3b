"""Manifests: joined by id whatever the order, read back as written, never a path out of the root."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfvid.artifacts import digest_of
from cfvid.data.manifest import TWIN_COLUMNS, Manifest, Sample, concatenate, from_samples, twins
from cfvid.data.manifest_files import read_manifest, write_manifest
from cfvid.errors import DataError


def sample(sample_id: str, **changes: Any) -> Sample:
    values = {"path": f"{sample_id}.mp4", "root": "/r", "labels": (), "split": "train", "start_s": None, "end_s": None}
    return Sample(**{"sample_id": sample_id, **values, **changes})


def manifest_of(text: str, folder: Path, **options: Any) -> Manifest:
    (folder / "m.csv").write_text(text, encoding="utf-8", newline="")
    return read_manifest(folder / "m.csv", **options)


# ---------------------------------------------------------------------------------------------- the table


def test_rows_are_samples() -> None:
    rows = [sample("b", labels=("x", "y"), start_s=1.5, end_s=2.0), sample("a", labels=("z",), split="val")]
    manifest = from_samples(rows)
    assert list(manifest) == rows
    assert [manifest[1], manifest[0]] == rows[::-1]
    assert (len(manifest), manifest.ids, manifest.ids.rows(["a", "b"]).tolist()) == (2, ["b", "a"], [1, 0])
    assert manifest.classes == ["x", "y", "z"]
    assert manifest.labels_by_id == {"b": ("x", "y"), "a": ("z",)}
    assert manifest.split("val").ids == ["a"]
    assert manifest.split("none").ids == []


def test_no_rows() -> None:
    manifest = from_samples([])
    assert (list(manifest), manifest.ids, manifest.classes, manifest.labels_by_id) == ([], [], [], {})
    assert manifest.digest == from_samples([]).digest


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([sample("a"), sample("b"), sample("a")], "1 sample_ids occur more than once, first: a"),
        ([sample("")], "without a sample_id"),
        ([sample("a", path="")], "without a path"),
        ([sample("a", split=None)], "without a split"),
        ([sample("a", start_s=2.0, end_s=2.0)], "Sample a ends before it starts"),
        ([sample("a"), sample("b", start_s=2.0, end_s=1.0)], "Sample b ends before it starts"),
        ([sample("a", start_s=float("nan"))], "start_s that is no finite number"),
        ([sample("a", end_s=float("inf"))], "end_s that is no finite number"),
    ],
)
def test_faulty_rows_are_refused(rows: list[Sample], told: str) -> None:
    with pytest.raises(DataError, match=told):
        from_samples(rows)


def test_two_manifests_with_the_same_id_cannot_be_put_together() -> None:
    one, other = from_samples([sample("a"), sample("b")]), from_samples([sample("b"), sample("c")])
    with pytest.raises(DataError, match="first: b"):
        concatenate([one, other])


def test_select_keeps_the_order_and_names_unknown_ids() -> None:
    manifest = from_samples([sample(c) for c in "dbca"])
    assert manifest.select(["a", "b", "d"]).ids == ["d", "b", "a"]
    assert manifest.select([]).ids == []
    with pytest.raises(DataError, match=r"2 sample_ids are not in the manifest, first: x, y"):
        manifest.select(["a", "y", "x"])


@given(st.permutations(range(12)))
def test_shuffled_rows_give_the_same_joins(order: list[int]) -> None:
    rows = [sample(f"s{i}", labels=(f"l{i % 3}",), split="val" if i % 4 == 0 else "train") for i in range(12)]
    plain, shuffled = from_samples(rows), from_samples([rows[i] for i in order])
    assert shuffled.labels_by_id == plain.labels_by_id
    assert shuffled.classes == plain.classes
    for sample_id in plain.ids:
        assert shuffled.sample(sample_id) == plain.sample(sample_id)
    assert set(shuffled.split("val").ids) == set(plain.split("val").ids)
    wanted = ["s3", "s7", "s1"]
    assert {s.sample_id: s for s in shuffled.select(wanted)} == {s.sample_id: s for s in plain.select(wanted)}


def test_the_digest_is_of_the_samples_and_not_of_their_place() -> None:
    rows = [sample("a", labels=("x",)), sample("b", start_s=1.0)]
    digest = from_samples(rows).digest
    assert (
        from_samples([sample("a", labels=("x",), root="/moved"), sample("b", start_s=1.0, root="/m")]).digest == digest
    )
    for changed in (
        [rows[0]],
        [rows[0], sample("b", start_s=1.5)],
        [sample("a", labels=("y",)), rows[1]],
        [sample("a", labels=("x",), path="other"), rows[1]],
        [sample("a", labels=("x",), split="val"), rows[1]],
    ):
        assert from_samples(changed).digest != digest


def test_the_snapshot_of_a_run_holds_everything(tmp_path: Path) -> None:
    manifest = from_samples([sample("a", labels=("x", "y")), sample("b", start_s=0.1, end_s=0.3)])
    manifest.write(tmp_path / "snapshot.parquet")
    assert list(Manifest(pyarrow.parquet.read_table(tmp_path / "snapshot.parquet"))) == list(manifest)


def test_the_digest_does_not_know_of_unsure_labels_where_there_are_none() -> None:
    """These were computed before there was such a column: runs that were begun then are still taken for done."""
    rows = [
        sample("b", path="b ü.mp4", labels=("x", "y"), start_s=1.5, end_s=2.0),
        sample("a", split="val"),
    ]
    assert from_samples(rows).digest == "df1f41dcceb005826259a7b1bc9c9c17e661221d2b0ef75fb6dc752f92b8f705"
    assert from_samples([]).digest == "653ce000ff35eb8d3709d99eb26b78b2f6252d877708e7a07c23f99b04ea6d4e"
    unsure = [rows[0], sample("a", split="val", unsure_labels=("x",))]
    assert from_samples(unsure).digest not in (from_samples(rows).digest, from_samples([]).digest)


def test_a_table_without_the_column_of_unsure_labels_is_read() -> None:
    manifest = from_samples([sample("a", labels=("x",)), sample("b")])
    old = Manifest(manifest.table.drop(["unsure_labels"]))
    assert list(old) == list(manifest)
    assert old.digest == manifest.digest


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_groups_are_written_and_read(suffix: str, tmp_path: Path) -> None:
    rows = [sample("a", group="007", root=str(tmp_path)), sample("b", root=str(tmp_path))]
    write_manifest(from_samples(rows), tmp_path / f"m{suffix}")
    assert list(read_manifest(tmp_path / f"m{suffix}")) == rows
    from_samples(rows).write(tmp_path / "snapshot.parquet")
    assert list(Manifest(pyarrow.parquet.read_table(tmp_path / "snapshot.parquet"))) == rows
    write_manifest(from_samples(rows[1:]), tmp_path / f"none{suffix}")
    assert b"group" not in (tmp_path / f"none{suffix}").read_bytes().split(b"ARROW:schema")[0]
    assert manifest_of("sample_id,path,split,group\n1,1.png,val, film \n", tmp_path)[0].group == "film"


def test_the_digest_knows_groups_where_there_are_some() -> None:
    rows = [sample("a", labels=("x",)), sample("b")]
    manifest = from_samples(rows)
    assert Manifest(manifest.table.drop(["group"])).digest == manifest.digest
    assert from_samples([rows[0], sample("b", group="film")]).digest != manifest.digest


def test_samples_that_share_a_group_or_a_file(tmp_path: Path) -> None:
    """UCF101's g01, and shots of one video in a manifest of segments."""
    rows = [
        sample("a", group="film"),
        sample("b", group="film"),
        sample("c"),
        sample("d", path="long.mp4", start_s=0.0, end_s=1.0),
        sample("e", path="long.mp4", start_s=1.0, end_s=2.0),
        sample("f", path="long.mp4", root="/other"),
        sample("g", group="alone"),
    ]
    manifest = from_samples(rows)
    assert manifest.groups(["e", "a", "c", "d", "f", "b"]) == ["long.mp4", "film", None, "long.mp4", None, "film"]
    assert manifest.groups(["a", "c", "d", "f", "g"]) is None
    assert manifest.groups([]) is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_unsure_labels_are_written_and_read(suffix: str, tmp_path: Path) -> None:
    rows = [sample("a", labels=("x",), unsure_labels=("y", "z"), root=str(tmp_path)), sample("b", root=str(tmp_path))]
    write_manifest(from_samples(rows), tmp_path / f"m{suffix}")
    read = read_manifest(tmp_path / f"m{suffix}", label_separator="|")
    assert list(read) == rows
    assert read.classes == ["x"]
    write_manifest(from_samples(rows[1:]), tmp_path / f"sure{suffix}")
    assert b"unsure" not in (tmp_path / f"sure{suffix}").read_bytes()


def test_a_label_with_the_separator_and_several_unsure_ones_need_parquet(tmp_path: Path) -> None:
    rows = [sample("a", labels=("x|y",), unsure_labels=("p", "q"), root=str(tmp_path))]
    with pytest.raises(DataError, match=r"'x\|y' contains '\|'"):
        write_manifest(from_samples(rows), tmp_path / "m.csv")
    write_manifest(from_samples(rows), tmp_path / "m.parquet")
    assert list(read_manifest(tmp_path / "m.parquet")) == rows


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 7, 100])
def test_samples_and_digest_do_not_depend_on_blocks(rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [sample(f"ü{i}", labels=("x", "y")[: i % 3], unsure_labels=("z",) * (i == 4)) for i in range(7)]
    whole = from_samples(rows)
    assert whole.digest == digest_of(whole.table.drop(["root", "member_offset", "member_size", "group"]).to_pydict())
    monkeypatch.setattr("cfvid.data.manifest.BLOCK_ROWS", rows_at_a_time)
    in_blocks = from_samples(rows)
    assert list(in_blocks) == rows
    assert in_blocks.samples([5, 0, 5]) == [rows[5], rows[0], rows[5]]
    assert in_blocks.digest == whole.digest


def test_links_are_followed_once_for_each_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    plain = Manifest._is_allowed

    def counted(self: Manifest, root: str, path: str) -> bool:
        looked_at.append(path)
        return plain(self, root, path)

    monkeypatch.setattr(Manifest, "_is_allowed", counted)
    manifest = from_samples([sample(str(i), path=f"c{i % 5}/{i}.jpg") for i in range(100)])
    for own in manifest:
        assert manifest.locate(own) == Path(own.root, own.path)
    assert sorted(looked_at) == [f"c{i}/" for i in range(5)]


# ---------------------------------------------------------------------------------------------- files

Text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
Tricky = Text | st.sampled_from(
    ["a,b", 'say "hi"', "two\nlines", "cr\rlf\r\n", " spaced ", "007", "null", "NA", "ü/日本", "'"]
)


@st.composite
def manifests(draw: st.DrawFn, *, several_labels: bool) -> Manifest:
    ids = draw(st.lists(Tricky, unique=True, max_size=6))
    labels = st.lists(Tricky.filter(lambda t: "|" not in t), max_size=3 if several_labels else 1).map(tuple)
    starts = st.none() | st.floats(0, 1e6)
    rows = []
    for number, sample_id in enumerate(ids):
        start = draw(starts)
        end = None if start is None else draw(st.none() | st.floats(start + 0.001, 2e6))
        rows.append(
            sample(
                sample_id, path=f"{number}/{draw(Tricky).replace('/', '-').replace('..', '-')}x", labels=draw(labels),
                split=draw(Tricky), start_s=start, end_s=end,
            )
        )  # fmt: skip
    return from_samples(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifests")


def assert_reads_back(manifest: Manifest, path: Path, **options: Any) -> None:
    rooted = Manifest(
        manifest.table.set_column(6, "root", pa.array([str(path.parent / "media")] * len(manifest), pa.string()))
    )
    assert write_manifest(rooted, path) == []
    again = read_manifest(path, **options)
    for before, after in zip(rooted, again, strict=True):
        assert (after.sample_id, after.labels, after.split) == (before.sample_id, before.labels, before.split)
        assert (after.start_s, after.end_s) == (before.start_s, before.end_s)
        assert again.locate(after) == rooted.locate(before)


@given(manifests(several_labels=True))
def test_parquet_reads_back_as_written(folder: Path, manifest: Manifest) -> None:
    assert_reads_back(manifest, folder / "m.parquet")


@given(manifests(several_labels=False))
def test_csv_reads_back_as_written(folder: Path, manifest: Manifest) -> None:
    assert_reads_back(manifest, folder / "m.csv")


@given(manifests(several_labels=True))
def test_csv_of_several_labels_reads_back_with_the_separator(folder: Path, manifest: Manifest) -> None:
    assert_reads_back(manifest, folder / "m.csv", label_separator="|")


def test_a_label_that_contains_the_separator_needs_parquet(tmp_path: Path) -> None:
    manifest = from_samples([sample("a", labels=("x|y", "z"))])
    with pytest.raises(DataError, match=r"'x\|y' contains"):
        write_manifest(manifest, tmp_path / "m.csv")
    assert list(tmp_path.iterdir()) == []
    write_manifest(manifest, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet")[0].labels == ("x|y", "z")


def test_paths_outside_the_folder_are_absolute_and_their_roots_told(tmp_path: Path) -> None:
    inside, outside = tmp_path / "list" / "media", tmp_path / "far" / "media"
    for media in (inside, outside):
        media.mkdir(parents=True)
        (media / "x.png").touch()
    rows = [sample("a", path="x.png", root=str(inside)), sample("b", path="x.png", root=str(outside))]
    out = tmp_path / "list" / "m.csv"
    assert write_manifest(from_samples(rows), out) == [outside]
    assert [s.path for s in read_manifest(out)] == ["media/x.png", str(outside / "x.png")]
    untrusting, trusting = read_manifest(out), read_manifest(out, trusted_roots=[str(outside)])
    assert trusting.locate(trusting[1]) == outside / "x.png"
    with pytest.raises(DataError, match="leads out of"):
        untrusting.locate(untrusting[1])


def test_the_smallest_csv(tmp_path: Path) -> None:
    manifest = manifest_of("sample_id,path,split\n007,x.mp4,train\n", tmp_path)
    assert list(manifest) == [sample("007", path="x.mp4", root=str(tmp_path))]
    assert manifest_of("sample_id,path,split\n", tmp_path).ids == []


def test_csv_with_everything_in_any_order_and_columns_of_others(tmp_path: Path) -> None:
    text = "﻿end_s,label,split,note,path,sample_id,start_s\n,1|2,train,hi,x,a,0.5\n3.25,,val,,y,b,\n"
    manifest = manifest_of(text, tmp_path, label_separator="|", media_root=Path("/m"))
    assert list(manifest) == [
        sample("a", path="x", root="/m", labels=("1", "2"), start_s=0.5),
        sample("b", path="y", root="/m", split="val", end_s=3.25),
    ]
    assert manifest_of(text, tmp_path)[0].labels == ("1|2",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sample_id,path\na,b\n", "has no column split"),
        ("path;split\n", "has no column sample_id, path, split"),
        ("", "cannot be read as a manifest"),
        ("sample_id,path,split,start_s\na,b,train,soon\n", "cannot be read as a manifest"),
        ("sample_id,path,split\na,b\n", "cannot be read as a manifest"),
        ("sample_id,path,split,path\na,b,train,c\n", "has the column path twice"),
        ("sample_id,path,split\na,b,train\na,c,train\n", "occur more than once, first: a"),
        ("sample_id,path,split\n,b,train\n", "without a sample_id"),
    ],
)
def test_faulty_csv(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        manifest_of(text, tmp_path)


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00garbage\x00\xff", b"PAR1" + b"\0" * 50 + b"PAR1", None])
def test_files_that_are_no_manifest(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"m\.(csv|parquet) (cannot be read|does not exist|has no column)"):
        read_manifest(tmp_path / name)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array(["x", "", None]), [("x",), (), ()]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), [("x",), ("y",), ("x",)]),
        (pa.array(["x", "y", "z"], pa.large_string()), [("x",), ("y",), ("z",)]),
        (pa.array([[], None, ["x", None, "", "y"]]), [(), (), ("x", "y")]),
        (pa.array([["x"], [], ["y"]], pa.large_list(pa.large_string())), [("x",), (), ("y",)]),
        (pa.array([1, 2, None]), [("1",), ("2",), ()]),
    ],
    ids=["text", "categories", "large text", "lists", "large lists", "numbers"],
)
def test_parquet_labels_of_other_programs(labels: pa.Array, expected: list, tmp_path: Path) -> None:
    table = pa.table({"sample_id": [1, 2, 3], "path": ["a", "b", "c"], "label": labels, "split": ["train"] * 3})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    manifest = read_manifest(tmp_path / "m.parquet")
    assert manifest.ids == ["1", "2", "3"]
    assert [s.labels for s in manifest] == expected


def test_parquet_columns_of_the_wrong_type(tmp_path: Path) -> None:
    table = pa.table({"sample_id": ["a"], "path": [{"x": 1}], "split": ["train"]})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(DataError, match="column of the wrong type"):
        read_manifest(tmp_path / "m.parquet")


def test_large_csv_keeps_rows_together(tmp_path: Path) -> None:
    """Line breaks inside values, over the borders of the blocks that the CSV reader works in."""
    rng = random.Random(0)
    rows = [sample(f"id\n{i}", path=f"p{i}", labels=("l\n" * rng.randrange(1, 40),)) for i in range(40_000)]
    out = tmp_path / "m.csv"
    write_manifest(from_samples([replace(s, root=str(tmp_path)) for s in rows]), out)
    assert out.stat().st_size > 2_500_000
    assert [(s.sample_id, s.path, s.labels) for s in read_manifest(out)] == [
        (s.sample_id, s.path, s.labels) for s in rows
    ]


def test_the_same_file_and_segment_make_the_same_sample_under_whatever_id() -> None:
    def of(*rows: tuple[str, str, str, float | None]) -> Manifest:
        return from_samples([Sample(i, path, root, (), "train", start, None) for i, path, root, start in rows])

    ours = of(("a", "x/1.mp4", "/data", None), ("b", "2.mp4", "/data", None), ("c", "3.mp4", "/data", 1.5))
    theirs = of(
        ("2", "3.mp4", "/data", 1.5),
        ("1", "1.mp4", "/data/x", None),
        ("3", "2.mp4", "/data", 0.0),
        ("4", "2.mp4", "/else", None),
    )
    own, others = twins(ours.blocks(TWIN_COLUMNS), theirs.blocks(TWIN_COLUMNS))
    assert (list(own), list(others)) == (["a", "c"], ["1", "2"])
    own, others = twins(ours.blocks(TWIN_COLUMNS), from_samples([]).blocks(TWIN_COLUMNS))
    assert (list(own), list(others)) == ([], [])
