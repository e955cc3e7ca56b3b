"""cfvid.report.text: what other people wrote, made safe to show."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfvid.report.text import aligned, counted, duration, shortened, signed, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\u202egnp.exe", "a⟨U+202E⟩gnp.exe"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
        ("bell\x07 esc\x1b[31m", "bell⟨U+0007⟩ esc⟨U+001B⟩[31m"),
        ("line\u2028end", "line⟨U+2028⟩end"),
        ("lone\udc80", "lone⟨U+DC80⟩"),
        ("two\nlines", "two⟨U+000A⟩lines"),
        ("日本語 café 👩\u200d🔬", "日本語 café 👩\u200d🔬"),  # the joiner makes one picture of two
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_visible_keeps_what_it_is_told_to() -> None:
    assert visible("two\nlines\ta\r", keep="\n\t") == "two\nlines\ta⟨U+000D⟩"


@given(st.text())
def test_nothing_visible_reorders_or_hides(text: str) -> None:
    left = {unicodedata.category(c) for c in visible(text) if c not in "\u200c\u200d"}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    visible(text).encode()  # no lone surrogates


def test_shortened_keeps_both_ends() -> None:
    assert shortened("short") == "short"
    cut = shortened("/data/" + "x" * 1000 + "/clip.mp4", 41)
    assert len(cut) == 41
    assert cut.startswith("/data/")
    assert cut.endswith("clip.mp4")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01, "< 0.1 s"),
        (0.4, "0.4 s"),
        (40.2, "40 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(4.23, "+4.2"), (-8.34, "-8.3"), (0.04, "0.0"), (-0.04, "0.0")])
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


def test_counted() -> None:
    assert [counted(n, "sample") for n in (0, 1, 1200)] == ["0 samples", "1 sample", "1,200 samples"]


def test_aligned_counts_terminal_cells() -> None:
    lines = aligned([["name", "x"], ["日本", "1.0"], ["abcd", "10.0"]], num_left=1)
    assert lines == ["name     x", "日本   1.0", "abcd  10.0"]
