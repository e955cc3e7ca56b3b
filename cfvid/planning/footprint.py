"""The memory that a pass takes, counted from the network's own tensors on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cfvid.data.loader import Batch
from cfvid.planning.work import Pass, optimizer_bytes
from cfvid.training.optim import freeze

_COUNTED = 2
"""Samples that shapes are looked at for: batch normalisation needs as many."""


@dataclass(frozen=True)
class Footprint:
    """Bytes in single precision."""

    fixed: int
    """Weights; of a training also gradients and what the optimiser keeps."""
    per_sample: float
    """Of a batch: what is kept for the backward pass, or else the largest layer."""

    def of_batch(self, size: int, *, precision: str) -> int:
        """Bytes with a batch of this size. Half precision is that of activations alone."""
        return int(self.fixed + self.per_sample * size * (1.0 if precision == "fp32" else 0.5))


def footprint_of(one: Pass) -> Footprint:
    """Count what one pass takes on the device that computes; the workspace of its kernels is not known."""
    with torch.device("meta"):
        module = one.build()
    views = torch.empty(one.looks.modality.example(_COUNTED).shape, dtype=torch.uint8, device="meta")
    inputs = views
    if one.objective is not None:
        ids = ([*one.looks.samples.ids[:_COUNTED]] * _COUNTED)[:_COUNTED]
        inputs = one.objective().examples(views, Batch(ids, views[:, None], [0] * _COUNTED)).inputs
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    if one.training is None:
        return Footprint(weights, _largest_layer(module.eval(), inputs.float()) / _COUNTED)
    freeze(module.train(), one.training.part_lrs)
    gradients = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    kept = _kept_for_backward(module, inputs.float()) / _COUNTED
    return Footprint(weights + gradients + optimizer_bytes(module, one.training), kept)


def _kept_for_backward(module: nn.Module, inputs: torch.Tensor) -> int:
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept = {inputs.untyped_storage()._cdata: inputs.untyped_storage()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(inputs)
    return sum(storage.nbytes() for storage in kept.values())


@torch.no_grad()
def _largest_layer(module: nn.Module, inputs: torch.Tensor) -> int:
    """Bytes of the inputs and outputs of the layer that has most of them."""
    largest = inputs.nbytes

    def note(_: nn.Module, args: tuple[object, ...], output: object) -> None:
        nonlocal largest
        tensors = [tensor for tensor in (*args, output) if isinstance(tensor, torch.Tensor)]
        largest = max(largest, sum(tensor.nbytes for tensor in tensors))

    for layer in module.modules():
        if not list(layer.children()):
            layer.register_forward_hook(note)
    module(inputs)
    return largest
