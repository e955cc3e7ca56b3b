"""How a stronger configuration layer speaks of data: what it replaces of the weaker ones, and whose data it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cfvid.sections.data import EMBEDDED_PREFIX

_POOLS = ("pretrain", "clusterfit")


def names_data(values: Mapping[str, Any]) -> bool:
    """Whether a layer's values name any source of samples: a path, not only an option of a weaker layer's source."""
    return any(True for _ in _sources(values))


def names_own_data(values: Mapping[str, Any]) -> bool:
    """Whether a layer's values name a source that is not drawn by cfvid itself."""
    return any(not _is_drawn(source) for source in _sources(values))


def without_replaced(weak: dict[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """The weaker values without what the stronger ones say anew.

    A source with a path of its own inherits nothing: options like `class_share` belong to the data that they were
    written for. Whoever names `pretrain` alone clusters the same data, and not the pool of a weaker layer. All targets
    are replaced together, since their names are the user's own, and with them what says which are folds of one set.
    """
    told, known = strong.get("data"), weak.get("data")
    if not isinstance(told, Mapping) or not isinstance(known, Mapping):
        return weak
    data = dict(known)
    for name in _POOLS:
        if _is_source(told.get(name)):
            data.pop(name, None)
        elif isinstance(told.get(name), Mapping) and isinstance(data.get(name), str):
            data[name] = {"path": data[name]}  # options for a source that was named by its path alone
    if _is_source(told.get("pretrain")) and "clusterfit" not in told:
        data.pop("clusterfit", None)
    if "targets" not in told:
        return {**weak, "data": data}
    data.pop("targets", None)
    transfer = weak.get("transfer")
    if isinstance(transfer, Mapping):
        transfer = {key: value for key, value in transfer.items() if key != "folds"}
    return {**weak, "data": data, **({} if transfer is None else {"transfer": transfer})}


def _sources(values: Mapping[str, Any]) -> Iterator[Any]:
    data = values.get("data")
    if not isinstance(data, Mapping):
        return
    targets = data.get("targets")
    named = [data.get(name) for name in _POOLS] + [*(targets.values() if isinstance(targets, Mapping) else ())]
    for value in named:
        for source in value if isinstance(value, list) else [value]:
            if _is_source(source):
                yield source


def _is_source(value: Any) -> bool:
    return isinstance(value, str | list) or (isinstance(value, Mapping) and "path" in value)


def _is_drawn(source: Any) -> bool:
    if isinstance(source, Mapping):
        return source.get("kind") == "embedded" or str(source["path"]).startswith(EMBEDDED_PREFIX)
    return str(source).startswith(EMBEDDED_PREFIX)
