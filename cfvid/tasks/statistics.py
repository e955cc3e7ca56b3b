"""Statistics of normalisation over whole samples, for a trunk that has learnt from pieces of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from cfvid.data.loader import SampleLoader, on_device
from cfvid.data.manifest import Manifest
from cfvid.errors import DataError
from cfvid.parts import evenly
from cfvid.sections.training import FEWEST
from cfvid.seeds import stream
from cfvid.tasks.measure import Device
from cfvid.training import interrupts
from cfvid.training.device import memory_format

_MOST_SAMPLES = 8192
"""Over which statistics are taken: means over so many change little with more (Wu & Johnson, 2021)."""


def samples_for_statistics(samples: Manifest, *, seed: int) -> Manifest:
    """The samples that statistics are taken over, drawn by the seed."""
    return samples.take(np.sort(stream(seed, "pretrain", "statistics").permutation(len(samples))[:_MOST_SAMPLES]))


def take_statistics(trunk: nn.Module, loader: SampleLoader, device: Device, *, seed: int) -> int:
    """Replace the running statistics of batch normalisation by those of the loader's samples, as features see them.

    They are means over batches of about equal size, in training mode, with the weights as they are (the `update_bn`
    of stochastic weight averaging, Izmailov et al., 2018; "precise BN" of Wu & Johnson, 2021). Each batch is
    normalised by its own statistics, so that those of a layer are of what the layers before it will give.

    Args:
        trunk: changed in place; normalised float input -> features.
        loader: reads the samples, all views of their look `extract`.
        device: modality, device, samples per forward pass.
        seed: of the order: neighbours of a manifest are alike, and a batch of them is no sample of all.

    Returns:
        The number of samples that could be read.

    Raises:
        DataError: when no batch could be read.
        Interrupted: after a signal.
    """
    num_samples = 0

    def inputs() -> Iterator[torch.Tensor]:
        nonlocal num_samples
        ids = loader.manifest.ids
        order = stream(seed, "pretrain", "statistics", "order").permutation(len(ids))
        sizes = evenly(len(ids), device.batch_size, fewest=FEWEST)
        batches = loader.batches(ids.take(order), batch_size=max(sizes), look="extract", sizes=sizes)
        for batch in on_device(batches, device.accelerator.device):
            interrupts.stop_if_requested()
            if len(batch) < FEWEST:
                continue
            num_samples += len(batch)
            for views in batch.inputs.unbind(1):
                yield device.modality.normalize(views).to(memory_format=memory_format(views.ndim))

    trunk = trunk.to(memory_format=memory_format(device.modality.network_dims + 2)).to(device.accelerator.device)
    with device.accelerator.autocast():
        update_bn(inputs(), trunk)
    if not num_samples:
        raise DataError(
            "pretrain: none of the samples could be read whole, so that N_pre's normalisation has no statistics."
        )
    return num_samples
