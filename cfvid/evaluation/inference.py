"""Forward passes over samples: extraction and scoring both run through here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from cfvid.data.loader import Look, SampleLoader, on_device
from cfvid.modalities.base import Modality
from cfvid.training import interrupts
from cfvid.training.device import memory_format


@torch.inference_mode()
def forward_views(
    module: nn.Module,
    loader: SampleLoader,
    ids: Sequence[str],
    *,
    look: Look,
    batch_size: int,
    modality: Modality,
    accelerator: Accelerator,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """The module's outputs for every readable sample: ids and float32 (N, V, D), batch by batch.

    Args:
        module: normalised float input -> (N, D); put in evaluation mode.
        loader: reads the samples.
        ids: which ones.
        look: `extract` or `score`; decides V.
        batch_size: samples per batch, and views per forward pass.
        modality: normalises.
        accelerator: device and precision.

    Raises:
        Interrupted: after a signal.
    """
    module = module.to(memory_format=memory_format(modality.network_dims + 2)).to(accelerator.device).eval()
    for batch in on_device(loader.batches(ids, batch_size=batch_size, look=look), accelerator.device):
        interrupts.stop_if_requested()
        if not len(batch):
            continue
        num_samples, num_views = batch.inputs.shape[:2]
        outputs = []
        for views in batch.inputs.flatten(0, 1).split(batch_size):
            inputs = modality.normalize(views)
            with accelerator.autocast():
                outputs.append(module(inputs.to(memory_format=memory_format(inputs.ndim))).float())
        yield batch.sample_ids, torch.cat(outputs).view(num_samples, num_views, -1).cpu().numpy()
