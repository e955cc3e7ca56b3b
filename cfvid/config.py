"""The whole configuration of a run: one typed section per stage, validated before any work.

Layers, later ones win: the modality's shipped YAML, the user's YAML, dotted command-line overrides. Lists are replaced
as a whole, never merged item by item; what a layer replaces of the weaker ones' data is said in
`sections/data_layers`. Every fault of every layer is listed in one `ConfigError`, with the nearest known name and, for
a file, the line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from pydantic import ConfigDict, SerializeAsAny, ValidationError, create_model, model_validator

from cfvid.artifacts import user_path
from cfvid.config_faults import faults_from
from cfvid.errors import ConfigError
from cfvid.sections.base import Integer, Section
from cfvid.sections.data import DataConfig
from cfvid.sections.data_layers import without_replaced
from cfvid.sections.stages import (
    ClusterConfig,
    ExtractConfig,
    HealthConfig,
    PretrainConfig,
    ReportConfig,
    RetrainConfig,
    RuntimeConfig,
)
from cfvid.sections.transfer import TransferConfig
from cfvid.yaml_layers import Layer, merge, place


class RunConfig(Section):
    """Everything that decides the outcome of a run."""

    modality: str
    seed: Integer = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of all forward and backward passes. `auto`: bf16 on a GPU that has it, else fp32."""
    compile: bool = False
    """Networks are compiled by torch.compile, which takes a minute or more for each, once: worth it for long trainings
    on a GPU. A dry run estimates without it."""
    input: SerializeAsAny[Section]
    """How samples are decoded and looked at; each modality has its own keys."""
    data: DataConfig
    pretrain: PretrainConfig
    extract: ExtractConfig = ExtractConfig()
    cluster: ClusterConfig = ClusterConfig()
    health: HealthConfig = HealthConfig()
    retrain: RetrainConfig
    transfer: TransferConfig
    report: ReportConfig = ReportConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _pretrain_input_is_valid(self) -> Self:
        _told_in("pretrain.input", lambda: self.pretrain_input)
        return self

    @model_validator(mode="after")
    def _inputs_of_targets_are_valid(self) -> Self:
        for name in self.transfer.input.by_target:
            _told_in(f"transfer.input.by_target.{name}", functools.partial(self.input_of, name))
        return self

    @model_validator(mode="after")
    def _leaks_are_of_targets(self) -> Self:
        for name in self.report.leaks:
            if name not in self.data.targets:
                raise ValueError(f"report.leaks: data.targets has no {name!r}")
        return self

    @model_validator(mode="after")
    def _folds_are_targets(self) -> Self:
        for name, folds in self.transfer.folds.items():
            unknown = [fold for fold in folds if fold not in self.data.targets]
            if unknown:
                raise ValueError(f"transfer.folds.{name}: data.targets has no {unknown[0]!r}")
            if name in self.data.targets:
                raise ValueError(f"transfer.folds.{name}: this is the name of a target in data.targets")
        return self

    @property
    def pretrain_input(self) -> Section:
        """`input` while N_pre is trained."""
        return type(self.input).model_validate({**self.input.model_dump(), **self.pretrain.input})

    def input_of(self, target: str) -> Section:
        """`input` for the samples of one target."""
        own = self.transfer.input.by_target.get(target, {})
        return type(self.input).model_validate({**self.input.model_dump(), **own})

    @property
    def retrain_arch(self) -> str:
        """N_cf's architecture."""
        return self.retrain.arch or self.pretrain.arch

    def plain(self, *sections: str) -> dict[str, Any]:
        """The named sections (all without names) as JSON-like values, for records and files."""
        dumped = self.model_dump(mode="json")
        return {name: dumped[name] for name in sections} if sections else dumped


def _told_in(section: str, validate: Callable[[], object]) -> None:
    """Validate keys of `input` that stand elsewhere; the first fault is told with the place where it stands.

    Raises:
        ValueError: with that fault.
    """
    try:
        validate()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, (section, *first["loc"])))
        what = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
        raise ValueError(f"unknown key {key}" if first["type"] == "extra_forbidden" else f"{key}: {what}") from None


class ModalityKeys(Protocol):
    """What the configuration needs to know of a modality."""

    Input: type[Section]
    network_dims: int


def load_config(
    layers: list[Layer], *, modalities: Mapping[str, ModalityKeys], architectures: Mapping[str, int]
) -> RunConfig:
    """Merge the layers and validate the result as a whole.

    Args:
        layers: from weakest to strongest.
        modalities: all of them, by name.
        architectures: the dimensions (2 or 3) of each known network, by its name.

    Raises:
        ConfigError: one message with every fault of every layer.
    """
    faults = [fault for layer in layers for fault in layer.faults]
    values = merged(layers)
    config = None
    if not any(layer.faults and not layer.values for layer in layers):
        # Otherwise a whole layer is missing, and most of what would be found has that one cause.
        config, found = _validate(values, layers, modalities, architectures)
        faults += found
    if faults or config is None:
        raise ConfigError(
            f"The configuration has {len(faults)} fault{'s' * (len(faults) != 1)}:\n"
            + "\n".join(f"    {fault}" for fault in faults),
            fix="Mend them and run again; --print-config shows what a configuration resolves to.",
        )
    return config


def merged(layers: Iterable[Layer]) -> dict[str, Any]:
    """The layers' values, later ones over earlier ones."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = merge(without_replaced(values, layer.values), layer.values)
    return values


def _validate(
    values: dict[str, Any],
    layers: Sequence[Layer],
    modalities: Mapping[str, ModalityKeys],
    architectures: Mapping[str, int],
) -> tuple[RunConfig | None, list[str]]:
    """The configuration, or None; and every fault."""
    name = values.get("modality")
    modality = modalities.get(name) if isinstance(name, str) else None
    faults = []
    if "modality" not in values:
        faults.append(f"modality is missing; it is one of {', '.join(modalities)}")
    elif modality is None and isinstance(name, str):
        faults.append(f"{place(layers, 'modality')}modality: {_not_one_of(name, modalities)}")
    elif modality is not None:
        faults += _architecture_faults(values, layers, modality.network_dims, architectures)
    model = schema(modality.Input if modality else _AnyInput)
    try:
        return model.model_validate(values), faults
    except ValidationError as error:
        found = faults_from(error, model=model, layers=layers, values=values)
    # Without a modality its shipped defaults are not there, so that nearly every key is missing.
    return None, faults + [fault for fault in found if modality or not fault.endswith("is missing")]


class _AnyInput(Section):
    """Stands in for the input keys of a modality that nobody knows."""

    model_config = ConfigDict(extra="allow")


def _architecture_faults(
    values: Mapping[str, Any], layers: Sequence[Layer], dims: int, architectures: Mapping[str, int]
) -> list[str]:
    faults = []
    fitting = [name for name, its_dims in architectures.items() if its_dims == dims]
    for key in ("pretrain.arch", "retrain.arch"):
        section, _, leaf = key.partition(".")
        part = values.get(section)
        arch = part.get(leaf) if isinstance(part, Mapping) else None
        if isinstance(arch, str) and arch not in fitting:
            faults.append(f"{place(layers, key)}{key}: {_not_one_of(arch, fitting)}")
    return faults


def _not_one_of(name: object, known: Iterable[str]) -> str:
    near = get_close_matches(str(name), list(known), n=1)
    return f"{name!r} is not one of {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else "")


@functools.cache
def schema(input_section: type[Section]) -> type[RunConfig]:
    """`RunConfig` with the input keys of one modality."""
    return create_model("RunConfig", __base__=RunConfig, input=(input_section, ...))


def resolve(path: str, *, root: str | None) -> Path:
    """A source's path: absolute, from the home folder, or relative to `root`."""
    expanded = user_path(path)
    return expanded if expanded.is_absolute() else user_path(root or ".") / expanded
