"""YAML text and command-line overrides as configuration layers that remember where each value stands."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cfvid.errors import ConfigError

_MAX_BYTES = 1_000_000
_REPLACED_WHOLE = {("data", "targets")}
"""Mappings that a stronger layer replaces instead of extending: their keys are the user's own names."""


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


# ---------------------------------------------------------------------------------------------- reading


class _StrictLoader(yaml.SafeLoader):
    """Plain data alone: no tags that construct objects, no aliases (they can expand without bound)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem="aliases (*name) are refused", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Layer:
    """Read one YAML file as a layer; faults inside it are collected, not raised.

    Raises:
        ConfigError: when the file does not exist or is far too large for a configuration.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}.", why=str(error)) from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} has {len(data)} bytes; a configuration has at most {_MAX_BYTES}.")
    return parse_yaml(data.decode("utf-8", errors="replace"), name=str(path))


def parse_yaml(text: str, *, name: str) -> Layer:
    """Parse YAML text as a layer."""
    layer = Layer(name=name, values={})
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        value = {} if node is None else _plain(node, loader, layer, key="")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        layer.faults.append(f"{where}: {error.problem or error}")
        return layer
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        layer.faults.append(f"{name}: {type(error).__name__}: {error}")
        return layer
    finally:
        loader.dispose()
    if isinstance(value, dict):
        layer.values.update(value)
    else:
        layer.faults.append(f"{name}: a configuration is a mapping of keys to values")
    return layer


def _plain(node: yaml.Node, loader: yaml.SafeLoader, layer: Layer, *, key: str) -> Any:
    """A node as plain Python values; notes the line of every key and each key that occurs twice."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, loader, layer, key=f"{key}.{i}") for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        part = str(loader.construct_object(key_node))
        dotted = f"{key}.{part}" if key else part
        if part in result:
            here = key_node.start_mark.line + 1
            layer.faults.append(f"{layer.name}:{here}: {dotted} stands twice (first in line {layer.lines[dotted]})")
        layer.lines.setdefault(dotted, key_node.start_mark.line + 1)
        result[part] = _plain(value_node, loader, layer, key=dotted)
    return result


def from_overrides(tokens: list[str]) -> Layer:
    """Dotted overrides (`--cluster.num_clusters 64` or `--cluster.num_clusters=64`) as a layer.

    Values are read as YAML, so that numbers, lists and null mean what they mean in a file.
    """
    layer = Layer(name="command line", values={})
    queue = list(tokens)
    while queue:
        token = queue.pop(0)
        flag, equals, value = token.partition("=")
        if not flag.startswith("--") or len(flag) < 3:
            layer.faults.append(f"command line: {token!r} is not a flag")
            continue
        if not equals:
            if not queue or queue[0].startswith("--"):
                layer.faults.append(f"command line: {flag} has no value")
                continue
            value = queue.pop(0)
        _set(layer, flag[2:], value)
    return layer


def _set(layer: Layer, key: str, text: str) -> None:
    parsed = parse_yaml(f"value: {text}" if text.strip() else "value: ''", name="command line")
    if parsed.faults:
        # Text such as `a: b` is no YAML value; it is meant as it stands.
        parsed = Layer(name="command line", values={"value": text})
    node = layer.values
    *parents, last = key.split(".")
    for part in parents:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            layer.faults.append(f"command line: --{key} contradicts another override")
            return
    if last in node:
        layer.faults.append(f"command line: --{key} is given twice")
    node[last] = parsed.values["value"]


def merge(layers: Iterable[Layer]) -> dict[str, Any]:
    """The layers' values, later ones over earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.values, ())
    return merged


def _merge(weak: dict[str, Any], strong: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    result = dict(weak)
    for key, value in strong.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(result.get(key), dict) and here not in _REPLACED_WHOLE:
            value = _merge(result[key], value, here)
        result[key] = value
    return result


# ---------------------------------------------------------------------------------------------- faults


def faults_from(error: ValidationError, *, model: type[BaseModel], layers: list[Layer]) -> list[str]:
    """One line per fault: where it stands, the key, what is wrong, the nearest known key."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        prefix = place(layers, key)
        if fault["type"] == "extra_forbidden":
            lines.append(f"{prefix}unknown key {key}{suggestion(key, model)}")
        elif fault["type"] == "missing":
            lines.append(f"{prefix}{key} is missing")
        else:
            given = f" (given: {fault['input']!r})" if isinstance(fault["input"], str | int | float | bool) else ""
            message = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{prefix}{key}: {message}{given}")
    return lines


def place(layers: list[Layer], key: str) -> str:
    """`file:line: ` of the strongest layer that gives a value for a dotted key; empty when none does."""
    origin = next((layer for layer in reversed(layers) if key and layer.holds(key)), None)
    return f"{origin.where(key)}: " if origin else ""


def suggestion(key: str, model: type[BaseModel]) -> str:
    """`; did you mean X?` with the known key nearest to `key`, or nothing when none is near."""
    known = known_keys(model)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not near:
        # A flag without its section, e.g. num_cluster for cluster.num_clusters.
        leaf = key.rpartition(".")[2]
        near = [name for name in known if name.rpartition(".")[2] == leaf][:1]
        if not near:
            leaves = {name.rpartition(".")[2]: name for name in reversed(known)}
            near = [leaves[n] for n in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)]
    return f"; did you mean {near[0]}?" if near else ""


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a model, in the order of its fields."""
    keys = []
    for name, info in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        for inner in _models_in(info.annotation):
            keys += known_keys(inner, prefix=f"{prefix}{name}.")
    return keys


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field holds directly (not those inside its lists and mappings)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]
    return []
