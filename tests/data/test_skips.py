"""The skip ledger: each sample once, counted by reason, and an end when there are too many (fault matrix row 12)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cfvid.data.skips import Skip, SkipLedger, read_skips, write_skips
from cfvid.errors import SkipBudgetExceeded


def ledger(num_samples: int, budget: float) -> SkipLedger:
    return SkipLedger(num_samples=num_samples, budget=budget, stage="extract")


def skip(name: str, *reasons: str) -> Skip:
    return Skip(name, f"{name}.mp4", reasons or ("pyav: broken",))


@pytest.mark.parametrize(
    ("num_samples", "budget", "accepted"),
    [(100, 0.05, 5), (99, 0.05, 4), (100, 0.0, 0), (3, 1.0, 3), (1, 0.99, 0), (10, 0.3, 3)],
)
def test_the_budget_is_a_share_of_all_samples(num_samples: int, budget: float, accepted: int) -> None:
    skips = ledger(num_samples, budget)
    for number in range(accepted):
        skips.add(skip(f"s{number}"))
    if accepted < num_samples:
        with pytest.raises(
            SkipBudgetExceeded, match=f"extract: {accepted + 1} of {num_samples} samples are unreadable"
        ):
            skips.add(skip("one more"))


def test_a_sample_counts_once_however_often_it_is_read() -> None:
    skips = ledger(10, 0.2)
    for _ in range(5):
        skips.extend([skip("a", "pyav: first"), skip("b")])
    skips.add(skip("a", "pyav: later"))
    assert [s.sample_id for s in skips.skips] == ["a", "b"]
    assert skips.skips[0].reasons == ("pyav: later",)


def test_row_12_thirty_percent_bad_at_five_percent_stops_with_counts_by_reason() -> None:
    skips = ledger(1000, 0.05)
    bad = (skip(f"s{i:03d}", "decord: x", "pyav: no frame" if i % 3 else "pyav: truncated") for i in range(300))
    with pytest.raises(SkipBudgetExceeded) as caught:
        skips.extend(bad)
    assert len(skips.skips) == 51  # as soon as it is too many
    assert caught.value.exit_code == 3
    told = str(caught.value)
    assert "51 of 1000 samples are unreadable, more than the budget of 5.0%" in told
    assert told.index("34 x pyav: no frame (e.g. s001.mp4)") < told.index("17 x pyav: truncated (e.g. s000.mp4)")
    assert "data.skip_budget" in told


def test_the_summary_is_short() -> None:
    skips = ledger(100, 1.0)
    skips.extend(skip(f"s{number:02d}", f"pyav: reason {number}") for number in range(20))
    skips.add(Skip("none", "none.mp4", ()))
    assert len(skips.summary()) == 9
    assert skips.summary()[-1] == "... and 13 other reasons"
    assert skips.summary(limit=30)[0] == "1 x unknown (e.g. none.mp4)"


def test_the_file_has_one_line_for_each_whatever_is_in_it(tmp_path: Path) -> None:
    written = [skip("ü\n\u2028x", 'decord: "quoted"\nnext line', "pyav: \x85"), skip("b"), Skip("c", "p", ())]
    path = tmp_path / "skips.jsonl"
    skips = SkipLedger(num_samples=10, budget=1.0, stage="extract", path=path)
    skips.extend(reversed(written))
    skips.close()
    lines = path.read_bytes().decode().rstrip("\n").split("\n")
    assert [json.loads(line)["sample_id"] for line in lines] == ["b", "c", "ü\n\u2028x"]
    assert read_skips(path) == sorted(written, key=lambda s: s.sample_id)


def test_files_without_skips(tmp_path: Path) -> None:
    write_skips(tmp_path / "skips.jsonl", [])
    assert read_skips(tmp_path / "skips.jsonl") == []
    assert read_skips(tmp_path / "absent.jsonl") == []


def test_a_skip_is_in_the_file_at_once_and_survives_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "skips.jsonl"
    first = SkipLedger(num_samples=10, budget=1.0, stage="train", path=path)
    first.add(skip("2"))
    first.add(skip("2"))
    assert read_skips(path) == [skip("2")]
    with open(path, "a") as file:
        file.write('{"sample_id": "s7", "pa')  # killed while writing
    second = SkipLedger(num_samples=10, budget=1.0, stage="train", path=path)
    second.add(skip("1"))
    assert read_skips(path) == [skip("2"), skip("1")]
    second.close()
    assert read_skips(path) == [skip("1"), skip("2")]


def test_files_mended_since_an_earlier_attempt_do_not_end_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "skips.jsonl"
    write_skips(path, [skip(str(number)) for number in range(5)])
    after = SkipLedger(num_samples=10, budget=0.2, stage="train", path=path)
    after.add(skip("0"))
    after.add(skip("1"))
    with pytest.raises(SkipBudgetExceeded, match="3 of 10"):
        after.add(skip("2"))
    assert len(read_skips(path)) == 5


def looked_at(name: str, identity: str | None, epoch: int = 0) -> Skip:
    return dataclasses.replace(skip(name), identity=identity, epoch=epoch)


def test_what_is_still_so_counts_after_a_resume_and_refuses_again(tmp_path: Path) -> None:
    """The same command passed at its second try: what the ledger knew did not count."""
    path = tmp_path / "skips.jsonl"

    def attempt(**options: bool) -> SkipLedger:
        return SkipLedger(num_samples=10, budget=0.2, stage="train", path=path, **options)

    first = attempt()
    with pytest.raises(SkipBudgetExceeded, match="3 of 10 samples are unreadable, more"):
        first.extend(looked_at(name, f"as it was {name}") for name in "abc")
    with pytest.raises(
        SkipBudgetExceeded, match=r"3 of 10 samples are unreadable \(3 of them since an earlier attempt\)"
    ):
        attempt().recall(lambda skip: skip.identity is not None)
    mended = attempt()
    mended.recall(lambda skip: skip.sample_id != "b")
    assert [s.sample_id for s in mended.skips] == ["a", "c"]
    fresh = attempt(fresh=True)
    fresh.recall(lambda skip: skip.identity is not None)
    assert fresh.skips == []
    fresh.add(looked_at("a", "as it was a"))
    fresh.close()
    assert read_skips(path) == [skip("a"), skip("b"), skip("c")]  # as it stays, the file tells no times


def test_what_is_known_is_what_earlier_epochs_met(tmp_path: Path) -> None:
    """An epoch that is resumed has the samples that it had, so that what it met itself is not known to it."""
    skips = SkipLedger(num_samples=10, budget=1.0, stage="train", path=tmp_path / "skips.jsonl")
    skips.add(looked_at("a", "x", epoch=1))
    skips.add(looked_at("url", None, epoch=1))
    again = SkipLedger(num_samples=10, budget=1.0, stage="train", path=tmp_path / "skips.jsonl")
    again.recall(lambda _: True)
    again.add(looked_at("a", "x", epoch=1))
    for ledger in (skips, again):
        assert ledger.known("a", look="train", before_epoch=0) is None
        assert ledger.known("a", look="train", before_epoch=1) is None
        assert ledger.known("a", look="train", before_epoch=2) == looked_at("a", "x", epoch=1)
        assert ledger.known("a", look="score", before_epoch=None) is not None
        assert ledger.known("url", look="train", before_epoch=9) is None
        ledger.add(looked_at("a", "changed", epoch=3))
        assert ledger.known("a", look="train", before_epoch=3) is None


def test_ledgers_of_one_process_know_of_looks_that_are_always_the_same() -> None:
    memory: dict[tuple[str, str], Skip] = {}
    first, second = (SkipLedger(num_samples=9, budget=1.0, stage="x", memory=memory) for _ in range(2))
    first.remember(looked_at("a", "x"), look="score")
    assert second.known("a", look="score", before_epoch=None) == looked_at("a", "x")
    assert second.known("a", look="extract", before_epoch=None) is None
    assert second.known("a", look="score", before_epoch=5) is None
    assert second.skips == []
