"""Where samples come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cfvid.sections.base import Count, Fraction, Number, Section

EMBEDDED_PREFIX = "embedded:"
"""Begins the path of a data set that cfvid draws itself."""

SourceKind = Literal["auto", "embedded", "folder", "classes", "manifest", "kinetics", "shards"]


class SourceConfig(Section):
    """One place that samples come from."""

    path: str
    """A folder, a .csv or .parquet manifest, tar shards (`DIR/train-{000..012}.tar`, with wildcards, a folder of them,
    or a URL that fsspec opens), or `embedded:NAME`; relative paths start at `data.root`."""
    kind: SourceKind = "auto"
    """How to read it: class folders, cfvid's own manifest columns, Kinetics' official CSV, or WebDataset shards. In
    `folder`, top folders with usual names of splits are these; in `classes` all of them are classes."""
    media_root: str | None = None
    """Where a manifest's relative paths start; by default the manifest's own folder."""
    label_separator: str | None = None
    """Splits a manifest's label column into several labels per sample (weak tags), e.g. `|`."""
    train_split: str | None = None
    """The source's name of the split that is trained on; by default `train`, or another usual name."""
    val_split: str | None = None
    """The source's name of the split that is scored on; by default `val`, or another usual name, or else `test`."""
    class_share: tuple[Fraction, Fraction] | None = None
    """Only a range of the classes, in an order drawn from their names: [0, 0.5] and [0.5, 1] are two halves."""
    max_samples: Count | None = None
    """At most this many training samples, drawn by their ids."""
    per_class: tuple[Count, Count] | None = None
    """Of an embedded set: files per class in train and in val; by default the set's own numbers."""

    @model_validator(mode="after")
    def _splits_differ(self) -> Self:
        train_split, val_split = self.train_split or "train", self.val_split or "val"
        if train_split == val_split:
            raise ValueError(f"train_split and val_split are both {train_split!r}")
        if self.class_share is not None and self.class_share[0] >= self.class_share[1]:
            raise ValueError(f"class_share goes from {self.class_share[0]} to {self.class_share[1]}")
        if self.per_class is not None and self.kind != "embedded" and not self.path.startswith(EMBEDDED_PREFIX):
            raise ValueError("per_class is for embedded sets; max_samples limits others")
        return self


def _as_source(value: Any) -> Any:
    if not isinstance(value, str | dict | SourceConfig):
        raise ValueError("a source is a path, or a mapping with a path")
    return {"path": value} if isinstance(value, str) else value


def _as_sources(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Source = Annotated[SourceConfig, BeforeValidator(_as_source)]
Sources = Annotated[list[Source], BeforeValidator(_as_sources), Field(min_length=1)]


def _target_name(name: str) -> str:
    if name in ("pretrain", "clusterfit"):
        raise ValueError("no target may have this name, which is that of another source")
    return name


TargetName = Annotated[str, Field(pattern=r"^\w[\w-]*$"), AfterValidator(_target_name)]
"""Names a folder of the run."""


class DataConfig(Section):
    """Where samples come from and how many may be unreadable."""

    root: str | None = None
    """Folder at which relative paths of sources start; by default the working directory."""
    pretrain: Sources
    """D_pre: samples for N_pre, labelled unless `pretrain.task` needs no labels. A path, or a list of sources that are
    put together. By default the same as `clusterfit`."""
    clusterfit: Sources | None = None
    """D_cf: the pool that is clustered and retrained on, labels unused. By default the same as `pretrain`."""
    max_clusterfit: Count | None = None
    """At most this many training samples of D_cf, drawn by their ids."""
    clusterfit_share: Annotated[Number, Field(gt=0.0, le=1.0)] = 1.0
    """This share of the training samples of D_cf, drawn by their ids."""
    targets: dict[TargetName, Sources] = {}
    """Transfer targets by name; each needs labels and both splits. Without any, the run ends with N_cf."""
    skip_budget: Fraction = 0.05
    """Largest share of unreadable samples that a stage accepts."""
    trusted_roots: list[str] = []
    """Folders that manifest paths may lead to besides their own root."""

    @model_validator(mode="before")
    @classmethod
    def _pools_stand_in_for_each_other(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("pretrain") is not None:
            return values
        if values.get("clusterfit") is None:
            raise ValueError(
                "names no samples to learn from; give pretrain, or clusterfit (the pool to be clustered): where data "
                "of your own are named, nothing that cfvid draws stands in for the others"
            )
        return {**values, "pretrain": values["clusterfit"], "clusterfit": None}
