"""From what a user names (a modality, a file, a shipped name, overrides) to a validated configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from cfvid.config import RunConfig, load_config
from cfvid.errors import ConfigError
from cfvid.modalities import MODALITIES
from cfvid.models.zoo import ARCHITECTURES
from cfvid.sections.data_layers import names_data, names_own_data
from cfvid.shipped import unknown_name, yaml_files
from cfvid.yaml_layers import Layer, from_overrides, read_yaml

logger = logging.getLogger(__name__)


def load(
    overrides: Sequence[str],
    *,
    modality: str | None = None,
    config: str | None = None,
    stored: Path | None = None,
    flags: Sequence[str] = (),
) -> RunConfig:
    """The configuration that a command line names.

    Args:
        overrides: `--section.key VALUE` tokens.
        modality: starts from its shipped defaults.
        config: a YAML file, or the name of a shipped one; without a modality, its own decides the defaults.
        stored: a run folder's own configuration, taken when neither is given.
        flags: of the command line, without dashes, to tell misspelt ones from keys.

    Raises:
        ConfigError: with every fault of every layer.
    """
    last = from_overrides(overrides, flags=flags)
    layers = []
    if config:
        layers.append(read_named(config))
    elif modality is None and stored is not None and stored.is_file():
        layers.append(read_yaml(stored))  # a run folder knows its own configuration, defaults included
    elif modality is None:
        faults = "".join(f"\n    {fault}" for fault in last.faults)
        raise ConfigError(
            f"Which modality?{faults}", fix=f"Give --modality {{{','.join(MODALITIES)}}}, or --config FILE."
        )
    if modality is not None:
        last.values["modality"] = modality
    chosen = modality if modality is not None else layers[0].values.get("modality")
    if not any(names_data(layer.values) for layer in (*layers, last)):
        logger.info("no data are named: the run is the shipped quick-%s, on small data that cfvid draws itself", chosen)
    return resolve_layers(chosen, [*layers, last])


def resolve_layers(modality: object, layers: Sequence[Layer]) -> RunConfig:
    """Layers on top of a modality's shipped defaults as a validated configuration.

    The defaults are for data of the user's own. Where the layers name none, those of the small drawn data lie over
    them.

    Raises:
        ConfigError: with every fault of every layer.
    """
    defaults = []
    if isinstance(modality, str) and modality in MODALITIES:
        defaults.append(read_yaml(shipped(modality)))
        if not any(names_own_data(layer.values) for layer in layers):
            defaults.append(read_yaml(shipped(f"quick-{modality}")))
    dims = {name: architecture.dims for name, architecture in ARCHITECTURES.items()}
    return load_config([*defaults, *layers], modalities=MODALITIES, architectures=dims)


def read_named(name: str, *, kind: str = "", dotted: bool = False) -> Layer:
    """The layer of a user's file, or of a shipped one by its name; see `read_yaml` and `shipped`."""
    path = Path(name)
    return read_yaml(path if path.suffix or path.is_file() else shipped(name, kind=kind), dotted=dotted)


def shipped(name: str, *, kind: str = "") -> Path:
    """A shipped YAML file by its name.

    Args:
        name: without suffix.
        kind: the folder below configs/; by default configs/ itself, with whole runs.

    Raises:
        ConfigError: listing those that exist.
    """
    files = shipped_files(kind)
    if name not in files:
        noun = Path(kind).name.rstrip("s") or "configuration"
        raise unknown_name(name, files, noun=noun, fix="Name a file, or")
    return files[name]


def shipped_files(kind: str = "") -> dict[str, Path]:
    """All shipped configurations of a kind by name."""
    return yaml_files(f"configs/{kind}".rstrip("/"))
