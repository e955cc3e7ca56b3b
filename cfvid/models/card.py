"""The model card of an exported network: Markdown in which texts of users are nothing but text."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cfvid import __version__
from cfvid.models.weights import NetworkConfig

_PAPER = "[ClusterFit](https://arxiv.org/abs/1912.03330) (Yan et al., CVPR 2020)"
_MOST_CLASSES = 20
_LONGEST = 80


@dataclass(frozen=True)
class Facts:
    """What a run knows of one of its networks."""

    is_n_cf: bool
    feature_dim: int
    num_parameters: int
    """Of the trunk."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Data counts by what is counted, e.g. `training samples`."""
    scores: Sequence[Mapping[str, Any]] = ()
    """Of the run's transfer: target, protocol, seed, top1, top5."""
    constructor: str | None = None
    """torchvision's, where there is one."""
    has_head: bool = True


def model_card(config: NetworkConfig, facts: Facts) -> str:
    """The README.md of a folder for the Hub; of the configuration, the architecture alone is taken as it is."""
    sections = [
        _front_matter(config),
        f"# {config.arch}, {'N_cf' if facts.is_n_cf else 'N_pre'} of ClusterFit",
        _what(facts),
        _table(config, facts),
        _scores(facts.scores),
        _loading(config, facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def escaped(text: str) -> str:
    """Any text as one line of Markdown that shows it and does nothing: no links, no HTML, no table cells."""
    line = " ".join("".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text).split())
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
    return re.sub(f"[{re.escape(string.punctuation)}]", r"\\\g<0>", line)


def _front_matter(config: NetworkConfig) -> str:
    # JSON is YAML, and its quotes hold whatever there is.
    return f"---\nlibrary_name: pytorch\ntags: {json.dumps(['clusterfit', config.modality, config.arch])}\n---"


def _what(facts: Facts) -> str:
    by = f"Made with cfvid {__version__}. No licence is stated: it depends on the data and weights that went into it."
    if facts.is_n_cf:
        return (
            f"A network that was trained from scratch on clusters of another network's features: N_cf of {_PAPER}. "
            f"Its features are meant to be transferred; its head tells clusters, which have no names. {by}"
        )
    return f"The network whose features were clustered: N_pre of {_PAPER}. {by}"


def _table(config: NetworkConfig, facts: Facts) -> str:
    rows = {
        "architecture": f"{config.arch}, {facts.num_parameters:,} parameters without the head",
        "features": f"{facts.feature_dim} dimensions",
        "head": _head(config, facts),
        **{name: f"{count:,}" for name, count in facts.counts.items()},
        **_source(config.made_by.get("source") or {}),
        "input": escaped(config.modality),
        **{f"input: {escaped(key)}": escaped(_value(value)) for key, value in config.input.items()},
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _head(config: NetworkConfig, facts: Facts) -> str:
    if not facts.has_head:
        return "none"
    if not config.classes:
        return f"{config.num_classes} clusters"
    shown = ", ".join(escaped(name) for name in config.classes[:_MOST_CLASSES])
    return f"{config.num_classes} classes: {shown}{', …' if len(config.classes) > _MOST_CLASSES else ''}"


def _source(source: Mapping[str, Any]) -> dict[str, str]:
    if not source:
        return {}
    rows = {"weights from": escaped(str(source.get("name") or source.get("file")))}
    trained_with = ", ".join(f"{key} {_value(value)}" for key, value in (source.get("trained_with") or {}).items())
    return rows | ({"... were trained with": escaped(trained_with)} if trained_with else {})


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return ""
    lines = ["## Transfer, in percent", "", "| target | protocol | seed | metric | score |", "|---|---|---|---|---|"]
    for score in scores:
        cells = [escaped(str(score[key])) for key in ("target", "protocol", "seed")]
        for metric in sorted(set(score) - {"target", "protocol", "seed"}):
            lines.append(f"| {' | '.join([*cells, escaped(metric), f'{score[metric]:.1f}'])} |")
    return "\n".join(lines)


def _loading(config: NetworkConfig, facts: Facts) -> str:
    """Code that a test runs as it stands."""
    code = [_with_cfvid(config)]
    if facts.constructor:
        code = [_with_torchvision(config, facts, facts.constructor), "or, as any architecture of cfvid:", *code]
    return "\n\n".join(
        [
            "## Use",
            "A `batch` is RGB from 0 to 1, less the mean, divided by the std above: (N, 3, height, width), "
            "or of clips (N, 3, frames, height, width).",
            *code,
            f"In a run of cfvid: `pretrain.weights: model.safetensors` and `pretrain.arch: {config.arch}`.",
        ]
    )


def _with_torchvision(config: NetworkConfig, facts: Facts, constructor: str) -> str:
    module, _, name = constructor.rpartition(".")
    lines = ["import torch", "from safetensors.torch import load_file", f"from {module} import {name}", ""]
    lines += [f"model = {name}(num_classes={config.num_classes})"]
    lines += [] if facts.has_head else ["model.fc = torch.nn.Identity()"]
    lines += ['model.load_state_dict(load_file("model.safetensors"))', "outputs = model.eval()(batch)"]
    return _fenced(lines)


def _with_cfvid(config: NetworkConfig) -> str:
    return _fenced(
        [
            "from pathlib import Path",
            "from cfvid.models.foreign import load_foreign",
            "from cfvid.models.zoo import build_network",
            "",
            f'network = build_network("{config.arch}", num_classes=1, seed=0)',
            'load_foreign(Path("model.safetensors"), network)',
            "features = network.eval().trunk(batch)",
        ]
    )


def _fenced(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```"])
