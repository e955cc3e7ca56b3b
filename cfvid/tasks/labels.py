"""Supervised pre-training on the manifest's labels, all of them or some, as they are or with noise."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet
from torch import nn

from cfvid.artifacts import atomic_file
from cfvid.config import RunConfig
from cfvid.data.loader import SampleLoader
from cfvid.data.manifest import Manifest
from cfvid.data.sample_ids import SampleIds
from cfvid.data.sample_labels import SampleLabels
from cfvid.errors import ConfigError, DataError
from cfvid.models.zoo import Network, build_network
from cfvid.sections.stages import PretrainConfig
from cfvid.seeds import derive, stream
from cfvid.tasks import noise
from cfvid.tasks.measure import Device, Measured, label_accuracy
from cfvid.training.targets import Targets

logger = logging.getLogger(__name__)

LABELS_NAME = "labels.parquet"
_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("noisy_labels", pa.list_(pa.string())),
        ("flipped", pa.bool_()),
    ]
)


class Labels:
    """See `cfvid.tasks.base.Task`. Noise is in the labels that are trained on, never in those measured on.

    Raises:
        DataError: when there are no two classes.
        ConfigError: when more labels are asked for than there are.
    """

    dims: ClassVar[frozenset[int]] = frozenset({2, 3})
    needs_labels: ClassVar[bool] = True
    learns_from_pieces: ClassVar[bool] = False

    def __init__(self, config: RunConfig, *, samples: Manifest, held_out: Manifest) -> None:
        self._config = config
        if len(samples.classes) < 2:
            raise DataError(
                f"pretrain: the samples have only one label, {samples.classes[0]!r}.",
                fix="N_pre needs at least two classes; or bring weights with pretrain.weights.",
            )
        self.classes = kept_classes(samples.classes, config.pretrain.num_labels, seed=config.seed)
        self.labels = samples.labels_by_id.among(self.classes)
        self.held_out_labels = held_out.labels_by_id.among(self.classes)
        self.samples, self.held_out = samples.select(self.labels.ids), held_out.select(self.held_out_labels.ids)
        self.chance = 1 / len(self.classes)
        self.input_changes: dict[str, Any] = {}
        self._num_left_out = len(samples) - len(self.samples)

    @functools.cached_property
    def noisy_labels(self) -> SampleLabels:
        """The labels that are trained on."""
        return noisy_labels(self.labels, self.classes, self._config.pretrain, seed=self._config.seed)

    @functools.cached_property
    def objective(self) -> Targets:
        """Class indices of the noisy labels."""
        if self._num_left_out:
            logger.info(
                "pretrain: %d of %d samples have none of the %d labels that were kept",
                self._num_left_out,
                self._num_left_out + len(self.samples),
                len(self.classes),
            )
        return Targets(self.classes, self.noisy_labels)

    def build(self) -> tuple[nn.Module, Network]:
        """N_pre itself."""
        seed = derive(self._config.seed, "pretrain", "weights")
        network = build_network(self._config.pretrain.arch, num_classes=len(self.classes), seed=seed)
        return network, network

    def measure(self, network: nn.Module, loader: SampleLoader, device: Device) -> Measured:
        """Top-1 against the clean labels."""
        return label_accuracy(network, loader, device, labels=self.held_out_labels, classes=self.classes)

    def write(self, folder: Path) -> list[str]:
        """labels.parquet: sample_id, labels, noisy_labels, flipped (a label that it had is missing)."""
        with (
            atomic_file(folder / LABELS_NAME, check=pyarrow.parquet.read_metadata) as temporary,
            pyarrow.parquet.ParquetWriter(temporary, _SCHEMA) as writer,
        ):
            for (ids, clean), (_, noisy) in zip(self.labels.blocks(), self.noisy_labels.blocks(), strict=True):
                pairs = zip(clean.to_pylist(), noisy.to_pylist(), strict=True)
                flipped = pa.array([not set(names) <= set(kept) for names, kept in pairs], pa.bool_())
                writer.write_batch(pa.record_batch([ids, clean, noisy, flipped], schema=_SCHEMA))
        return [LABELS_NAME]


def read_noisy_labels(folder: Path) -> SampleLabels:
    """The labels that N_pre was trained on; none when it was not trained here on labels."""
    path = folder / LABELS_NAME
    if not path.is_file():
        return SampleLabels.of_mapping({})
    table = pyarrow.parquet.read_table(path, columns=["sample_id", "noisy_labels"])
    return SampleLabels.of_column(SampleIds(table["sample_id"]), table["noisy_labels"])


def kept_classes(classes: Sequence[str], num_labels: int | None, *, seed: int) -> list[str]:
    """Some of the classes, in their order; a larger number keeps all that a smaller one keeps.

    Raises:
        ConfigError: when there are not so many.
    """
    if num_labels is None:
        return list(classes)
    if num_labels > len(classes):
        raise ConfigError(
            f"pretrain.num_labels is {num_labels}, the samples have {len(classes)} labels.",
            fix=f"Set it to at most {len(classes)}, or leave it out for all of them.",
        )
    order = stream(seed, "num-labels").permutation(len(classes))
    return [classes[i] for i in sorted(order[:num_labels])]


def noisy_labels(labels: SampleLabels, classes: Sequence[str], options: PretrainConfig, *, seed: int) -> SampleLabels:
    """The labels with the noise that the options ask for, of the same samples in the same order."""
    if options.noise == "tags":
        noisy = noise.tags(labels, classes, share=options.label_noise, extra_tags=options.extra_tags, seed=seed)
        return SampleLabels.of_mapping(noisy)
    if not options.label_noise:
        return labels
    make = {"uniform": noise.uniform, "pair_flip": noise.pair_flip}[options.noise]
    return SampleLabels.of_mapping(make(labels, classes, share=options.label_noise, seed=seed))
