"""An experiment at a size -> its runs: one for each point of the axis, seed and arm.

OUT/
  stages/STAGE/DIGEST/            the work, kept by what it is made from: equal work of several runs is done once
  runs/POINT/seedS/ARM/           a run folder (see cfvid.stages.context) that links to its work
  results.json, report.md, figures/
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfvid.config import RunConfig
from cfvid.errors import ConfigError
from cfvid.experiments.spec import (
    ArmConfig,
    ExperimentConfig,
    Settings,
    SizeName,
    layer_of,
    on_data_of,
    read_settings,
)
from cfvid.loading import resolve_layers
from cfvid.stages.estimate import can_estimate
from cfvid.yaml_layers import Layer

_STAGES = {
    "n_pre": ["pretrain", "transfer"],
    "n_cf": ["pretrain", "extract", "cluster", "retrain", "transfer"],
    "random": ["transfer"],
}
_OWN_KEYS = {"seed", "modality", "transfer.seeds", "transfer.networks"}
"""Every run has its own."""
NETWORK_FOLDERS = {"n_pre": "pretrain/network", "n_cf": "retrain/network"}


@dataclass(frozen=True)
class Cell:
    """One run of an experiment."""

    point: str
    seed: int
    arm: str
    network: str
    """Which of its networks is scored."""
    config: RunConfig
    stages: list[str]
    folder: Path
    shared: Path
    starts_from: str | None = None
    """The arm whose scored network is this one's N_pre."""
    teachers: tuple[str, ...] = ()
    """The arms whose features are clustered together with this one's."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The class of a configuration is made while running, and has no name that it could be pickled by.
        return _unpickled, ({**vars(self), "config": self.config.plain()},)


def _unpickled(values: dict[str, Any]) -> Cell:
    plain = values["config"]
    return Cell(**{**values, "config": resolve_layers(plain["modality"], [Layer("pickled", plain)])})


@dataclass(frozen=True)
class Group:
    """The runs of one point and seed, in an order in which each finds what it starts from."""

    point: str
    seed: int
    cells: list[Cell]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.point + ', ' if self.point else ''}seed {self.seed}"


def expand(
    experiment: ExperimentConfig,
    *,
    size: SizeName,
    output: Path,
    config: Layer | None = None,
    overrides: Layer | None = None,
) -> list[Group]:
    """All runs of an experiment.

    Args:
        experiment: what is compared.
        size: how large.
        output: its folder.
        config: of other data, say: stronger than the size, weaker than points and arms.
        overrides: of every run's configuration, stronger than all else.

    Raises:
        ConfigError: when the size does not exist, or a run's configuration has faults.
    """
    experiment = on_data_of(experiment, size, [layer for layer in (config, overrides) if layer is not None])
    chosen = experiment.sizes.get(size)
    if chosen is None:
        raise ConfigError(f"This experiment has no size {size!r}.", fix=f"It has {', '.join(experiment.sizes)}.")
    wanted = [name for name in experiment.arms if chosen.arms is None or name in chosen.arms]
    points = {p: s for p, s in experiment.points(chosen).items() if chosen.points is None or p in chosen.points}
    if config is not None and config.values.get("modality", experiment.modality) != experiment.modality:
        raise ConfigError(
            f"{config.name} is for {config.values['modality']}; this experiment is {experiment.modality}."
        )
    if overrides is not None:
        _refuse_contradictions(overrides, experiment, points)
    shared = read_settings(experiment, size)
    groups: list[Group] = []
    # Seed by seed: an experiment that is stopped has whole tables over fewer seeds.
    for seed, (point, settings) in itertools.product(chosen.seeds, points.items()):
        common = [
            shared,
            layer_of(experiment.set, name="experiment"),
            layer_of(chosen.set, name=f"size {size}"),
            *([config] if config else []),
            layer_of(settings, name=f"point {point}"),
        ]
        axis = experiment.axis_of(chosen)
        maker = _Maker(experiment, common, point, axis.scale.get(point, {}) if axis else {}, seed, output, overrides)
        groups.append(Group(point, seed, list(maker.cells(wanted))))
    _check_folders(groups)
    return groups


@dataclass(frozen=True)
class _Maker:
    """Makes the cells of one point and seed."""

    experiment: ExperimentConfig
    common: Sequence[Layer]
    point: str
    scale: Mapping[str, float]
    """What the point multiplies."""
    seed: int
    output: Path
    overrides: Layer | None

    def cells(self, wanted: Sequence[str]) -> Iterator[Cell]:
        """The wanted arms, after the arms that they need."""
        arms, done = self.experiment.arms, set()
        teachers = {teacher for name in wanted for teacher in arms[name].teachers}

        def visit(name: str, path: tuple[str, ...]) -> Iterator[Cell]:
            if name in path:
                raise ConfigError(f"The arms {' -> '.join([*path, name])} need one another.")
            if name in done:
                return
            done.add(name)
            arm = arms[name]
            for other in [*([arm.starts_from] if arm.starts_from else []), *arm.teachers]:
                yield from visit(other, (*path, name))
            yield self._cell(name, arm, is_teacher=name in teachers)

        for name in wanted:
            yield from visit(name, ())

    def _cell(self, name: str, arm: ArmConfig, *, is_teacher: bool) -> Cell:
        layers = self._layers(name, arm)
        config = resolve_layers(self.experiment.modality, layers)
        if (arm.network == "random" or arm.arch_of_n_cf) and config.retrain.arch is not None:
            alike = layer_of({"pretrain.arch": config.retrain.arch}, name=f"arm {name}")
            config = resolve_layers(self.experiment.modality, [*layers, alike])
        stages = list(_STAGES[arm.network])
        if is_teacher and "extract" not in stages:
            stages.insert(stages.index("transfer"), "extract")
        if "cluster" in stages and can_estimate(config):
            stages.insert(stages.index("retrain"), "estimate")
        return Cell(
            point=self.point,
            seed=self.seed,
            arm=name,
            network=arm.network,
            config=config,
            stages=stages,
            folder=self._folder(name),
            shared=self.output / "stages",
            starts_from=arm.starts_from,
            teachers=tuple(arm.teachers),
        )

    def _layers(self, name: str, arm: ArmConfig) -> list[Layer]:
        own: Settings = dict(arm.set)
        if arm.starts_from:
            other = self.experiment.arms[arm.starts_from]
            if other.network not in NETWORK_FOLDERS:
                raise ConfigError(f"The arm {name} cannot start from {arm.starts_from}, which trains no network.")
            own["pretrain.weights"] = str(self._folder(arm.starts_from) / NETWORK_FOLDERS[other.network])
            own["pretrain.weights_prefix"] = None  # of weights that the user brings
        if arm.teachers:
            own["cluster.more_features"] = [str(self._folder(teacher) / "extract") for teacher in arm.teachers]
        layers = [*self.common, layer_of(own, name=f"arm {name}")]
        fixed = {"seed": self.seed, "transfer.seeds": [self.seed], "transfer.networks": [arm.network]}
        layers += [layer_of(fixed, name="experiment"), *([self.overrides] if self.overrides else [])]
        keys = dict.fromkeys([*self.scale, *arm.scale])
        if keys:
            factors = {key: self.scale.get(key, 1.0) * arm.scale.get(key, 1.0) for key in keys}
            values = resolve_layers(self.experiment.modality, layers).plain()
            layers.append(layer_of(_scaled(values, factors, name), name=f"arm {name}"))
        return layers

    def _folder(self, arm: str) -> Path:
        point = re.sub(r"[^\w.+-]", "-", self.point) or "all"
        return self.output.absolute() / "runs" / point / f"seed{self.seed}" / arm


def _scaled(values: dict[str, Any], scale: dict[str, float], arm: str) -> Settings:
    """The scaled numbers; whole ones stay whole."""
    result = {}
    for key, factor in scale.items():
        node: Any = values
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        numbers = node if isinstance(node, list) else [node]
        if any(not isinstance(number, int | float) or isinstance(number, bool) for number in numbers):
            raise ConfigError(f"The arm {arm} scales {key}, which is {node!r} and no number.")
        scaled = [round(number * factor) if isinstance(number, int) else number * factor for number in numbers]
        result[key] = scaled if isinstance(node, list) else scaled[0]
    return result


def _refuse_contradictions(overrides: Layer, experiment: ExperimentConfig, points: Mapping[str, Settings]) -> None:
    """Look whether overrides leave the points, arms and seeds what they say they are.

    Raises:
        ConfigError: naming the keys that they may not set.
    """
    arms = [arm.set for arm in experiment.arms.values()]
    varied = {key for settings in (*points.values(), *arms) for key in _leaves(settings)}
    taken = [key for key in sorted(varied | _OWN_KEYS) if overrides.holds(key)]
    if taken:
        raise ConfigError(
            f"The experiment itself sets {', '.join(taken)}.",
            why="its points, arms or seeds would not be what the report calls them",
            fix="Leave it out, or write an experiment of your own: a YAML file like the shipped ones.",
        )


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _check_folders(groups: Sequence[Group]) -> None:
    folders: dict[Path, str] = {}
    for group in groups:
        for cell in group.cells:
            if cell.folder in folders and folders[cell.folder] != cell.point:
                raise ConfigError(
                    f"The points {folders[cell.folder]!r} and {cell.point!r} would share the folder {cell.folder}.",
                    fix="Give them names that differ in letters or digits.",
                )
            folders[cell.folder] = cell.point
