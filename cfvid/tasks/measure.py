"""Held-out accuracy: of labels, and of questions that a task makes of the samples themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from cfvid import ranks
from cfvid.data.loader import SampleLoader
from cfvid.data.sample_labels import SampleLabels
from cfvid.evaluation.inference import forward_views
from cfvid.modalities.base import Modality
from cfvid.seeds import derive
from cfvid.training import interrupts
from cfvid.training.device import memory_format
from cfvid.training.objective import Objective, examples_of, num_right


@dataclass(frozen=True)
class Device:
    """What forward passes need besides a network and samples."""

    modality: Modality
    accelerator: Accelerator
    batch_size: int


@dataclass(frozen=True)
class Measured:
    """The share of right answers over the samples that could be read."""

    accuracy: float | None
    """None when nothing could be read."""
    num_samples: int


def label_accuracy(
    network: nn.Module,
    loader: SampleLoader,
    device: Device,
    *,
    labels: SampleLabels,
    classes: Sequence[str],
) -> Measured:
    """Top-1 over the look `extract`, logits averaged over views; any of a sample's labels counts.

    Args:
        network: normalised float input -> (N, C) logits.
        loader: reads the samples.
        device: modality, device, samples per forward pass.
        labels: of the samples to be measured on.
        classes: names of the network's outputs.
    """
    hits = count = 0
    for ids, logits_NVC in forward_views(
        network,
        loader,
        list(labels.ids[ranks.own_part(len(labels))]),
        look="extract",
        batch_size=device.batch_size,
        modality=device.modality,
        accelerator=device.accelerator,
    ):
        said = logits_NVC.mean(axis=1).argmax(axis=1)
        hits += sum(classes[c] in names for names, c in zip(labels.of(ids), said, strict=True))
        count += len(ids)
    hits, count = map(int, ranks.summed([hits, count]))
    return Measured(hits / count if count else None, count)


@torch.inference_mode()
def question_accuracy(
    network: nn.Module, loader: SampleLoader, device: Device, *, objective: Objective, seed: int
) -> Measured:
    """The share of an objective's questions that are answered rightly, over the look `train`.

    The same for every network: each sample's view and question are drawn from (seed, "held-out", sample id).

    Args:
        network: normalised float input -> logits.
        loader: reads the samples, all of which are measured on.
        device: modality, device, samples per forward pass.
        objective: makes the questions.
        seed: of the random draws.

    Raises:
        Interrupted: after a signal.
    """
    accelerator, modality = device.accelerator, device.modality
    network = network.to(memory_format=memory_format(modality.network_dims + 2)).to(accelerator.device).eval()
    ids = loader.manifest.ids[ranks.own_part(len(loader.manifest))]
    seeds = [derive(seed, "held-out", sample_id) for sample_id in ids]
    hits = num_questions = num_samples = 0
    for batch in loader.batches(ids, batch_size=device.batch_size, look="train", seeds=seeds):
        interrupts.stop_if_requested()
        if not len(batch):
            continue
        examples = examples_of(batch, objective, modality, accelerator.device)
        inputs = modality.normalize(examples.inputs)
        with accelerator.autocast():
            logits = network(inputs.to(memory_format=memory_format(inputs.ndim)))
        hits += int(num_right(logits, examples.target))
        num_questions += len(examples.target)
        num_samples += len(batch)
    hits, num_questions, num_samples = map(int, ranks.summed([hits, num_questions, num_samples]))
    return Measured(hits / num_questions if num_questions else None, num_samples)
