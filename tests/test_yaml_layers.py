"""Layers: strict YAML that remembers lines, overrides read as YAML, merging."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cfvid.errors import ConfigError
from cfvid.yaml_layers import from_overrides, merge, parse_yaml, place, read_yaml

FLAGS = ("modality", "config", "output", "fresh", "print-config", "dry-run", "verbose")


def test_every_key_knows_its_line() -> None:
    layer = parse_yaml("a: 1\nb:\n  c: 2\n  d: [1, {e: 3}]\n", name="f.yaml")
    assert layer.values == {"a": 1, "b": {"c": 2, "d": [1, {"e": 3}]}}
    assert layer.faults == []
    assert [layer.where(key) for key in ("a", "b.c", "b.d.1.e", "b.c.unknown")] == [
        "f.yaml:1",
        "f.yaml:3",
        "f.yaml:4",
        "f.yaml:3",
    ]
    assert layer.where("elsewhere") == "f.yaml"


def test_place_names_the_strongest_layer_that_has_the_key() -> None:
    weak, strong = parse_yaml("a: {b: 1}\nc: 2", name="weak"), parse_yaml("a: {b: 3}", name="strong")
    assert place([weak, strong], "a.b") == "strong:1: "
    assert place([weak, strong], "c") == "weak:2: "
    assert place([weak, strong], "d") == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "f:2: a stands twice (first in line 1)"),
        ("a: {b: 1, b: 2}", "f:1: a.b stands twice"),
        ("a: [{b: 1, b: 2}]", "f:1: a.0.b stands twice"),
        ("a: &x [1]\nb: *x", "f:2: aliases"),
        ("a: !!python/name:os.system", "f:1: could not determine a constructor"),
        ("a: !!python/object/apply:os.system [ls]", "f:1: the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !mine {b: 1}", "f:1: the tag '!mine' is refused"),
        ("a: !!set {b, c}", "is refused"),
        ("<<: {a: 1}", "f:1: "),
        ("a: 1\nb.c: 2", "f:2: b.c: in a file, keys stand inside their sections"),
        ("? [a, b]\n: 1", "f:1: a key must be plain text"),
        ("a: b: c", "f:1: mapping values are not allowed"),
        ("a: 1\n\tb: 2", "f:2: "),
        ("a: 1\n---\nb: 2", "f:2: but found another document"),
        ("- a\n- b", "f: a configuration is a mapping"),
        ("just text", "f: a configuration is a mapping"),
        ("a: \x00", "f: unacceptable character"),
        ("a: 0x", ""),
        ("a: !!int many", "f: invalid literal"),
    ],
)
def test_faulty_text_is_told_with_its_line(text: str, told: str) -> None:
    layer = parse_yaml(text, name="f")
    if told:
        assert told in "\n".join(layer.faults)
    else:
        assert layer.faults == []


def test_nothing_in_yaml_is_executed(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    commands = [
        f"!!python/object/apply:os.system ['touch {sentinel}']",
        f"!!python/object/new:os.system ['touch {sentinel}']",
        f"!!python/object/apply:subprocess.check_output [['touch', '{sentinel}']]",
        f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{sentinel}']]",
    ]
    # That the payloads are real: the loader that must never be used runs them.
    yaml.unsafe_load(commands[0])
    assert sentinel.exists()
    sentinel.unlink()
    for command in commands:
        for text in (f"a: {command}", f"{command}: 1", f"a: [{command}]", command):
            assert parse_yaml(text, name="f").faults
        from_overrides(["--a", command])
    assert not sentinel.exists()


def test_alias_bombs_and_deep_nesting_end_at_once() -> None:
    laughs = "a0: &a0 [lol, lol]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    start = time.process_time()
    assert "aliases" in parse_yaml(laughs, name="f").faults[0]
    for deep in ("[" * 90_000, "{a: " * 40_000, "a: " + "[" * 90_000, "- " * 90_000, "? " * 90_000):
        assert "nested too deeply" in parse_yaml(deep, name="f").faults[0]
    assert time.process_time() - start < 3


@given(st.text() | st.text(alphabet="ab:{}[]&*!#-?|>'\"% \n\t\\~0.", max_size=40))
def test_any_text_gives_a_layer(text: str) -> None:
    for layer in (parse_yaml(text, name="f"), from_overrides([f"--a={text}", "--b.c", text])):
        assert isinstance(layer.values, dict)


# PyYAML writes NEL (U+0085) as a line break; keys have no dots; everything else survives.
Text = st.text(st.characters(codec="utf-8", exclude_characters="\x85."), max_size=12)
Scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | Text
Values = st.recursive(Scalars, lambda inner: st.lists(inner) | st.dictionaries(Text, inner), max_leaves=8)


@given(st.dictionaries(Text, Values, max_size=4))
def test_what_yaml_writes_is_read_back(values: dict) -> None:
    layer = parse_yaml(yaml.safe_dump(values, allow_unicode=True), name="f")
    assert (layer.values, layer.faults) == (values, [])


def test_dates_stay_text() -> None:
    assert parse_yaml("a: 2024-01-31\nb: 2024-01-31 10:00:00", name="f").values == {
        "a": "2024-01-31",
        "b": "2024-01-31 10:00:00",
    }


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="Cannot read"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError, match="too large"):
        read_yaml(Path("/dev/zero"))
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    assert read_yaml(tmp_path / "latin.yaml").values == {"a": "�"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("0.1", 0.1),
        ("null", None),
        ("true", True),
        ("[0, 1]", [0, 1]),
        ("{a: b}", {"a": "b"}),
        ("embedded:motion", "embedded:motion"),
        ("-1", -1),
        ("", ""),
        ("/data/set #1", "/data/set #1"),
        ("*.mp4", "*.mp4"),
        ("[unclosed", "[unclosed"),
        ("2024-01-01", "2024-01-01"),
        ("x\ny: 1", "x\ny: 1"),
    ],
)
def test_overrides_are_read_as_yaml(text: str, value: object) -> None:
    for tokens in (["--a.b", text], [f"--a.b={text}"]):
        layer = from_overrides(tokens)
        assert (layer.values, layer.faults) == ({"a": {"b": value}}, [])


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["a.b", "5"], ["'a.b' is not a flag", "'5' is not a flag"]),
        (["-a", "5"], ["'-a' is not a flag", "'5' is not a flag"]),
        (["--a.b"], ["--a.b has no value"]),
        (["--a.b", "--c", "1"], ["--a.b has no value"]),
        (["--a", "1", "--a", "2"], ["--a is given twice"]),
        (["--a", "1", "--a.b", "2"], ["--a.b contradicts another override"]),
        (["--a.b", "2", "--a", "{b: 1}"], ["--a is given twice"]),
        (["--mod", "video"], ["unknown flag --mod; did you mean --modality?"]),
        (["--conf", "x.yaml"], ["unknown flag --conf; did you mean --config?"]),
        (["--dryrun"], ["unknown flag --dryrun; did you mean --dry-run?"]),
        (["--print_config"], ["unknown flag --print_config; did you mean --print-config?"]),
        (["--data.pretrain.0.path", "x"], ["items of a list cannot be set one by one"]),
    ],
)
def test_faulty_overrides(tokens: list[str], told: list[str]) -> None:
    faults = from_overrides(tokens, flags=FLAGS).faults
    assert len(faults) == len(told)
    for fault, expected in zip(faults, told, strict=True):
        assert fault.startswith("command line: ")
        assert expected in fault


def test_keys_of_the_configuration_are_no_misspelt_flags() -> None:
    tokens = ["--seed", "1", "--precision", "bf16", "--input.flip", "true", "--report", "{}"]
    assert from_overrides(tokens, flags=FLAGS).faults == []


def test_merging_extends_sections_and_replaces_lists() -> None:
    weak = {"a": {"b": 1, "c": [1, 2]}, "e": {"f": 1}}
    strong = {"a": {"c": [3]}, "d": None, "e": 2}
    before = yaml.safe_dump([weak, strong])
    assert merge(weak, strong) == {"a": {"b": 1, "c": [3]}, "d": None, "e": 2}
    assert yaml.safe_dump([weak, strong]) == before
