"""YAML text and command-line overrides as configuration layers that remember where each value stands."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cfvid.errors import ConfigError

_MAX_BYTES = 200_000
_MAX_DEPTH = 50


@dataclass(frozen=True)
class Layer:
    """One origin of configuration values."""

    name: str
    """A file's path, or `command line`."""
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    """The line (from 1) of each dotted key, for files."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with the text itself: duplicate keys, tags, aliases."""
    may_have_dots: bool = False
    """Whether a key of the text may have dots, instead of standing inside its section."""

    def where(self, key: str) -> str:
        """`file:line` of a dotted key, or of its nearest parent that the layer knows."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{self.name}:{self.lines[key]}" if key else self.name

    def holds(self, key: str) -> bool:
        """Whether the layer gives a value for this dotted key or for a part of it."""
        node: Any = self.values
        for part in key.split("."):
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                return False
        return True

    def section(self, name: str) -> Layer:
        """One section as a layer of its own, which still knows its lines; empty where there is none."""
        begin = f"{name}."
        lines = {key.removeprefix(begin): line for key, line in self.lines.items() if key.startswith(begin)}
        values = self.values.get(name)
        return Layer(self.name, values if isinstance(values, dict) else {}, lines, may_have_dots=self.may_have_dots)


# ---------------------------------------------------------------------------------------------- reading


class _StrictLoader(yaml.SafeLoader):
    """Plain data alone: no tags that construct objects, no aliases (they can expand without bound), no dates."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are refused", problem_mark=mark)
        if self._depth == _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path, *, dotted: bool = False) -> Layer:
    """Read one YAML file as a layer; faults inside it are collected, not raised.

    Args:
        path: the file.
        dotted: whether keys may have dots.

    Raises:
        ConfigError: when the file does not exist or is far too large for a configuration.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}.", why=str(error)) from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} is too large: a configuration has at most {_MAX_BYTES} bytes.")
    return parse_yaml(data.decode("utf-8", errors="replace"), name=str(path), dotted=dotted)


def parse_yaml(text: str, *, name: str, dotted: bool = False) -> Layer:
    """Parse YAML text as a layer."""
    layer = Layer(name=name, values={}, may_have_dots=dotted)
    value = _parse(text, layer)
    if isinstance(value, dict):
        layer.values.update(value)
    elif value is not None:
        layer.faults.append(f"{name}: a configuration is a mapping of keys to values")
    return layer


def _parse(text: str, layer: Layer) -> Any:
    """One YAML document as plain Python values; None when it is empty or, with a fault noted, cannot be read."""
    try:
        loader = _StrictLoader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else _plain(node, loader, layer, key="")
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{layer.name}:{mark.line + 1}" if mark else layer.name
        layer.faults.append(f"{where}: {error.problem or error}")
    except (yaml.YAMLError, ValueError) as error:
        layer.faults.append(f"{layer.name}: {' '.join(str(error).split())}")
    return None


def _plain(node: yaml.Node, loader: yaml.SafeLoader, layer: Layer, *, key: str) -> Any:
    """A node as plain Python values; notes the line of every key and each key that occurs twice."""
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_object(node)
    if node.tag not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag!r} is refused", problem_mark=node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, loader, layer, key=f"{key}.{i}") for i, item in enumerate(node.value)]
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
        part = str(loader.construct_object(key_node))
        dotted = f"{key}.{part}" if key else part
        here = key_node.start_mark.line + 1
        if "." in part and not layer.may_have_dots:
            layer.faults.append(
                f"{layer.name}:{here}: {part}: in a file, keys stand inside their sections, without dots"
            )
            continue
        if part in result:
            layer.faults.append(f"{layer.name}:{here}: {dotted} stands twice (first in line {layer.lines[dotted]})")
        layer.lines.setdefault(dotted, here)
        result[part] = _plain(value_node, loader, layer, key=dotted)
    return result


def from_overrides(tokens: Sequence[str], *, flags: Collection[str] = ()) -> Layer:
    """Dotted overrides (`--cluster.num_clusters 64` or `--cluster.num_clusters=64`) as a layer.

    Values are read as YAML, so that numbers, lists and null mean what they mean in a file.

    Args:
        tokens: what the command line holds besides its own flags.
        flags: those flags, without dashes: what comes near one of them is a misspelt or abbreviated flag.
    """
    layer = Layer(name="command line", values={})
    queue = list(tokens)
    while queue:
        token = queue.pop(0)
        flag, equals, value = token.partition("=")
        if not flag.startswith("--") or len(flag) < 3:
            layer.faults.append(f"command line: {token!r} is not a flag")
            continue
        has_value = bool(equals) or bool(queue and not queue[0].startswith("--"))
        if has_value and not equals:
            value = queue.pop(0)
        meant = _nearest_flag(flag[2:], flags)
        if meant:
            layer.faults.append(f"command line: unknown flag {flag}; did you mean --{meant}?")
        elif not has_value:
            layer.faults.append(f"command line: {flag} has no value")
        else:
            _set(layer, flag[2:], value)
    return layer


def _nearest_flag(key: str, flags: Collection[str]) -> str | None:
    begun = [flag for flag in flags if len(key) > 1 and flag.startswith(key)]
    return next(iter(begun or difflib.get_close_matches(key, flags, n=1, cutoff=0.75)), None)


def _set(layer: Layer, key: str, text: str) -> None:
    node = layer.values
    *parents, last = key.split(".")
    if any(part.isdigit() for part in parents):
        layer.faults.append(f"command line: --{key}: items of a list cannot be set one by one; give the whole list")
        return
    for part in parents:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            layer.faults.append(f"command line: --{key} contradicts another override")
            return
    if last in node:
        layer.faults.append(f"command line: --{key} is given twice")
    node[last] = _override_value(text)


def _override_value(text: str) -> Any:
    """The YAML value of an override; text that is none, or that YAML would cut at a comment, is meant as it stands."""
    scratch = Layer(name="command line", values={})
    value = _parse(text, scratch)
    return text if scratch.faults or not text.strip() or "#" in text else value


def merge(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """Values laid over weaker ones; sections are merged, all else is replaced."""
    result = dict(weak)
    for key, value in strong.items():
        known = result.get(key)
        result[key] = merge(known, value) if isinstance(value, dict) and isinstance(known, dict) else value
    return result


def place(layers: Sequence[Layer], key: str) -> str:
    """`file:line: ` of the strongest layer that gives a value for a dotted key; empty when none does."""
    origin = next((layer for layer in reversed(layers) if key and layer.holds(key)), None)
    return f"{origin.where(key)}: " if origin else ""
