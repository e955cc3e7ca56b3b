"""What a validation found, in the words of the user's files: where it stands, and the nearest known key."""

from __future__ import annotations

import difflib
import itertools
import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from cfvid.yaml_layers import Layer, place

_MAX_FAULTS = 50
"""More are counted only: nobody reads them, and looking for the nearest known key takes time."""


def faults_from(
    error: ValidationError, *, model: type[BaseModel], layers: Sequence[Layer], values: dict[str, Any]
) -> list[str]:
    """One line per fault: where it stands, the key, what is wrong, the nearest known key.

    Args:
        error: what the validation of `values` found.
        model: what they were validated as.
        layers: where they come from.
        values: the merged values of the layers.
    """
    lines: list[str] = []
    for fault in error.errors(include_url=False):
        loc = [part for part in fault["loc"] if part != "[key]"]
        key = _as_written(values, loc)
        prefix = place(layers, key)
        if len(lines) == _MAX_FAULTS:
            return [*lines, f"... and {error.error_count() - _MAX_FAULTS} more"]
        if fault["type"] == "extra_forbidden":
            lines.append(f"{prefix}unknown key {key}{suggestion(loc, model, values)}")
        elif fault["type"] == "missing":
            lines.append(f"{prefix}{key} is missing")
        else:
            message = fault["msg"].removeprefix("Value error, ").replace("Input should", "should")
            said = f"{key}: {message}" if key else message  # a fault of the whole names its keys itself
            lines.append(f"{prefix}{said}{_given(fault['input'])}")
    return lines


def _given(value: Any) -> str:
    return f" (given: {value!r:.80})" if isinstance(value, str | int | float | bool) or value is None else ""


def _as_written(values: dict[str, Any], loc: Sequence[int | str]) -> str:
    """A place in the validated data as a dotted key of the files, where a list of one may stand without its list."""
    parts: list[str] = []
    node: Any = values
    for part in loc:
        if isinstance(part, int) and not isinstance(node, list):
            continue
        parts.append(str(part))
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = {}
    return ".".join(parts)


def suggestion(loc: Sequence[int | str], model: type[BaseModel], values: dict[str, Any]) -> str:
    """`; did you mean X?` with the known key most like the one at `loc`, or nothing when none is.

    The last part decides, so that a key without its section is found; among equals the nearest section does.
    """
    *section, leaf = _as_written(values, loc).split(".")
    here = _section_at(model, loc[:-1])
    siblings = [".".join([*section, name]) for name in here.model_fields] if here else []

    def likeness(name: str) -> float:
        *its_section, its_leaf = name.split(".")
        ratio = difflib.SequenceMatcher(None, leaf, its_leaf).ratio()
        if len(leaf) > 2 and its_leaf.startswith(leaf):
            ratio = max(ratio, 0.8)
        return ratio + 0.1 * _num_alike(section, its_section) / (1 + len(section))

    best = max([*siblings, *known_keys(model)], key=likeness, default="")
    return f"; did you mean {best}?" if best and likeness(best) >= 0.75 else ""


def _num_alike(parts: list[str], others: list[str]) -> int:
    """How many parts are the same from the start on."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(parts, others, strict=False)))


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a model, in the order of its fields; not those inside its lists and mappings."""
    keys = []
    for name, info in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        inner = _model_in(info.annotation)
        keys += known_keys(inner, prefix=f"{prefix}{name}.") if inner else []
    return keys


def _section_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel] | None:
    """The model that validates what stands at `loc`."""
    annotation: Any = model
    for part in loc:
        section = _model_in(annotation)
        if section is not None:
            info = section.model_fields.get(str(part))
            annotation = info.annotation if info else None
        else:  # a list or mapping: what its items are
            containers = [inner for inner in _alternatives(annotation) if typing.get_origin(inner) in (list, dict)]
            annotation = typing.get_args(containers[0])[-1] if containers else None
    return _model_in(annotation)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds directly, not inside a list or mapping."""
    models = [a for a in _alternatives(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
    return models[0] if models else None


def _alternatives(annotation: Any) -> list[Any]:
    """A type without `Annotated` and with its union taken apart."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _alternatives(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return [inner for argument in arguments for inner in _alternatives(argument)]
    return [annotation]
