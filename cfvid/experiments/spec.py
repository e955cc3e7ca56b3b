"""What an experiment is: arms that are compared, the axis along which something varies, sizes, the paper's numbers.

One YAML file below configs/experiments/ describes one experiment; see any of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cfvid.config_faults import faults_from
from cfvid.errors import ConfigError
from cfvid.loading import read_named
from cfvid.sections.base import Integer, Positive, Section, distinct
from cfvid.sections.data_layers import names_data
from cfvid.yaml_layers import Layer

logger = logging.getLogger(__name__)

SizeName = Literal["smoke", "small", "paper"]
Settings = dict[str, Any]
"""Dotted keys of a run's configuration, or nested sections, with their values."""


class ArmConfig(Section):
    """One way to get a network to score."""

    network: Literal["n_pre", "n_cf", "random"] = "n_cf"
    """Which network of the arm's run is scored."""
    set: Settings = {}
    """What its run is configured differently."""
    scale: dict[str, Positive] = {}
    """Numbers (and lists of them) of its run's configuration that are multiplied, by dotted key: twice the epochs."""
    starts_from: str | None = None
    """The arm whose scored network is this one's N_pre: another round of ClusterFit."""
    teachers: list[str] = []
    """Arms whose N_pre's features are clustered together with this one's."""
    arch_of_n_cf: bool = False
    """Whether its N_pre has the architecture that N_cf has at each point; a random network always has."""


class AxisConfig(Section):
    """What varies along the experiment."""

    name: str
    """As written in tables and under figures."""
    key: str | None = None
    """The dotted key that varies, with `values`."""
    values: list[Any] = []
    points: dict[str, Settings] = {}
    """Or settings by the name of each point."""
    ordered: bool = True
    """Whether there is a way from the first point to the last, along which a gain can grow."""
    scale: dict[str, dict[str, Positive]] = {}
    """Numbers of the runs' configuration that a point multiplies, by the point's name; arms have the same."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.points) == bool(self.key and self.values):
            raise ValueError("an axis has either a key with values, or points")
        unknown = [point for point in self.scale if point not in self.settings()]
        if unknown:
            raise ValueError(f"scale: there is no point {unknown[0]!r}")
        return self

    def settings(self) -> dict[str, Settings]:
        """The settings of each point, by its name."""
        return self.points or {str(value): {str(self.key): value} for value in self.values}


class PlanConfig(Section):
    """Which runs an experiment has."""

    axis: AxisConfig | None = None
    """Instead of the experiment's, where its settings depend on the data."""
    points: list[str] | None = None
    """Only these points of the axis."""
    arms: list[str] | None = None
    """Only these arms."""
    set: Settings = {}
    """Configuration of all its runs."""


class SizeConfig(PlanConfig):
    """How large an experiment is run."""

    seeds: Annotated[list[Integer], Field(min_length=1), AfterValidator(distinct)]
    """Each repeats everything: pretraining, clustering, retraining and transfer."""
    any_data: bool = False
    """Whether all of this also fits other data than those that it names; see `ExperimentConfig.own_data`."""


class PaperTable(Section):
    """Numbers of the paper to be printed beside ours, with where they come from."""

    what: str
    columns: list[str]
    rows: dict[str, list[float | None]]
    mark: Literal["F", "F~"]
    """F: found in a public source; F~: read off a figure, +-0.3. Numbers that are only recalled are never printed."""
    source: str


class ExperimentConfig(Section):
    """A whole experiment."""

    title: str
    question: str
    modality: str
    settings: str | None = None
    """A YAML file, or the name of a shipped one, with configuration of the runs of each size; all else is stronger."""
    axis: AxisConfig | None = None
    arms: Annotated[dict[str, ArmConfig], Field(min_length=1)]
    baseline: str = "n_pre"
    """The arm that gains are measured against."""
    contenders: Annotated[list[str], Field(min_length=1)] = ["clusterfit"]
    """The arms that a verdict is given on."""
    equal_compute: list[list[str]] = []
    """Groups of arms whose training compute is meant to be equal; told when it differs by more than 5 %."""
    set: Settings = {}
    """Configuration of all runs."""
    sizes: dict[SizeName, SizeConfig]
    own_data: PlanConfig = PlanConfig()
    """The runs on data that a user's configuration names. Of a size that names data itself, in its settings or its
    axis, only the seeds are left then: what was chosen for its data would be wrong for others."""
    paper: list[PaperTable] = []

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        named = [("baseline", self.baseline), *(("contenders", name) for name in self.contenders)]
        named += [("equal_compute", name) for group in self.equal_compute for name in group]
        for name, arm in self.arms.items():
            named += [(f"arms.{name}.starts_from", arm.starts_from)] if arm.starts_from else []
            named += [(f"arms.{name}.teachers", teacher) for teacher in arm.teachers]
        for name, size in self.sizes.items():
            named += self._names_in(f"sizes.{name}", size)
        named += self._names_in("own_data", self.own_data)
        for key, arm_name in named:
            if arm_name not in self.arms:
                raise ValueError(f"{key}: there is no arm {arm_name!r}; there are {', '.join(self.arms)}")
        return self

    def _names_in(self, key: str, plan: PlanConfig) -> list[tuple[str, str]]:
        absent = [point for point in plan.points or [] if point not in self.points(plan)]
        if absent:
            raise ValueError(f"{key}.points: the axis has no point {absent[0]!r}")
        return [(f"{key}.arms", arm_name) for arm_name in plan.arms or []]

    def axis_of(self, size: PlanConfig) -> AxisConfig | None:
        """What varies at a size, or on a user's data."""
        return size.axis or self.axis

    def points(self, size: PlanConfig) -> dict[str, Settings]:
        """The settings of each point of the axis; one point without a name where there is no axis."""
        axis = self.axis_of(size)
        return axis.settings() if axis else {"": {}}


def read_experiment(name: str) -> ExperimentConfig:
    """A shipped experiment by its name, or one in a user's file.

    Raises:
        ConfigError: with every fault of the file.
    """
    layer = read_named(name, kind="experiments", dotted=True)
    faults = list(layer.faults)
    if not faults:
        try:
            return ExperimentConfig.model_validate(layer.values)
        except ValidationError as error:
            faults = faults_from(error, model=ExperimentConfig, layers=[layer], values=layer.values)
    raise _refusal(faults, of="experiment")


def _refusal(faults: Sequence[str], *, of: str) -> ConfigError:
    number = f"{len(faults)} fault{'s' * (len(faults) != 1)}"
    return ConfigError(f"The {of} has {number}:\n" + "\n".join(f"    {fault}" for fault in faults))


def read_settings(experiment: ExperimentConfig, size: SizeName) -> Layer:
    """What experiments of a kind have in common at a size; see `ExperimentConfig.settings`.

    Raises:
        ConfigError: when there is no such file, or it has faults.
    """
    if experiment.settings is None:
        return Layer(name="settings", values={})
    layer = read_named(experiment.settings, kind="experiments/settings")
    sizes = get_args(SizeName)
    faults = layer.faults + [
        f"{layer.where(name)}: {name}: should be one of {', '.join(sizes)}, with a section for each"
        for name, section in layer.values.items()
        if name not in sizes or not isinstance(section, dict)
    ]
    if faults:
        raise _refusal(faults, of="file of settings")
    return layer.section(size)


def on_data_of(experiment: ExperimentConfig, size: SizeName, layers: Sequence[Layer]) -> ExperimentConfig:
    """The experiment on the data that a user's layers name, where they name any; see `ExperimentConfig.own_data`.

    Args:
        experiment: as its file has it.
        size: gives the seeds.
        layers: the user's configuration and command line.

    Raises:
        ConfigError: when the experiment's file of settings has faults.
    """
    chosen = experiment.sizes.get(size)
    if chosen is None or chosen.any_data or not any(names_data(layer.values) for layer in layers):
        return experiment
    points = [layer_of(settings, name=point) for point, settings in experiment.points(chosen).items()]
    of_size = [read_settings(experiment, size), layer_of(chosen.set, name=size), *points]
    if not any(names_data(layer.values) for layer in of_size):
        return experiment
    logger.info("experiment: data are named, so that of the size %s only the seeds are used", size)
    own = SizeConfig(seeds=chosen.seeds, any_data=True, **dict(experiment.own_data))
    return experiment.model_copy(update={"settings": None, "sizes": {**experiment.sizes, size: own}})


def narrowed(
    experiment: ExperimentConfig,
    size: SizeName,
    *,
    seeds: Sequence[int] | None = None,
    points: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
) -> ExperimentConfig:
    """The experiment with other seeds, or only some of the points and arms, at one size; None leaves them as they are.

    Raises:
        ConfigError: when there is no such size, point or arm, or the arms leave nothing to compare.
    """
    if size not in experiment.sizes:
        raise ConfigError(f"This experiment has no size {size!r}.", fix=f"It has {', '.join(experiment.sizes)}.")
    if arms is not None and not (experiment.baseline in arms and set(arms) & set(experiment.contenders)):
        raise ConfigError(
            f"The arms {', '.join(arms)} leave nothing to compare.",
            fix=f"Name {experiment.baseline} and one of {', '.join(experiment.contenders)} among them.",
        )
    chosen = {"seeds": seeds, "points": points, "arms": arms}
    values = experiment.model_dump()
    values["sizes"][size] |= {key: list(value) for key, value in chosen.items() if value is not None}
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        faults = faults_from(error, model=ExperimentConfig, layers=[], values=values)
        raise _refusal(faults, of="experiment, so chosen,") from error


def layer_of(settings: Settings, *, name: str) -> Layer:
    """Settings as a configuration layer; dotted keys become sections."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        node = values
        *parents, last = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        if isinstance(value, dict) and isinstance(node.get(last), dict):
            node[last] = {**node[last], **value}
        else:
            node[last] = dict(value) if isinstance(value, dict) else value
    return Layer(name=name, values=values)
