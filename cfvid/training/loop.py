"""The one training loop: pretraining, retraining and fine-tuning all run through it."""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from cfvid import ranks
from cfvid.data.loader import Batch, on_device
from cfvid.data.skips import SkipLedger
from cfvid.errors import DataError, TrainingError
from cfvid.models.onednn import avoid_narrow_strides
from cfvid.models.zoo import Network
from cfvid.parts import evenly
from cfvid.progress import progress_bar
from cfvid.sections.stages import RuntimeConfig
from cfvid.sections.training import FEWEST, TrainingConfig
from cfvid.training import interrupts
from cfvid.training.batches import TrainingData
from cfvid.training.checkpoint import Progress, load_state, save_state
from cfvid.training.device import memory_format
from cfvid.training.metrics import MetricsLog
from cfvid.training.objective import MOST_LOGITS, Examples, examples_of, loss_in_parts, loss_of, num_right
from cfvid.training.optim import build_optimizer, freeze, learning_rate, set_learning_rate

logger = logging.getLogger(__name__)


def train(
    network: nn.Module,
    data: TrainingData,
    *,
    config: TrainingConfig,
    folder: Path,
    accelerator: Accelerator,
    runtime: RuntimeConfig,
    part_lrs: Mapping[str, float] | None = None,
) -> nn.Module:
    """Train a network; a run that was cut short continues from its last state.

    Args:
        network: float input -> logits; trained in place.
        data: what to train on.
        config: optimiser, schedule, length.
        folder: takes states (removed at the end), metrics.jsonl and tensorboard/.
        accelerator: device and precision.
        runtime: how often to log and to save.
        part_lrs: peak learning rates of parts of the network, as `build_optimizer` takes them; 0 freezes a part.

    Returns:
        The trained network, unwrapped, on the accelerator's device.

    Raises:
        TrainingError: when a loss or gradient is not finite; the last state is kept.
        SkipBudgetExceeded: when too many samples could not be read, by all processes together.
        Interrupted: after a signal; the state was saved.
    """
    avoid_narrow_strides(network)
    if config.channels_last:
        network = network.to(memory_format=memory_format(data.modality.network_dims + 2))
    freeze(network, part_lrs or {})
    # Accelerate saves and loads all that it ever prepared: forget the networks of earlier stages.
    accelerator.free_memory()
    prepared, optimizer = accelerator.prepare(network, build_optimizer(network, config, part_lrs))
    progress = load_state(accelerator, folder)
    log = MetricsLog(folder, resumed_step=progress.step)
    num_steps = config.epochs * data.num_batches
    bar = progress_bar(total=num_steps, initial=progress.step, desc=data.stage, unit="batch")
    clock = _Clock(runtime.checkpoint_minutes, progress.step)
    # Batches of one update are about equally many, too, and never those of two epochs.
    updates = [*itertools.accumulate(evenly(data.num_batches, config.gradient_accumulation))]
    prepared.train()
    freeze(accelerator.unwrap_model(prepared), part_lrs or {})
    with contextlib.closing(log), bar, interrupts.graceful():
        while progress.epoch < config.epochs:
            window = _Window(0)
            for batch in on_device(data.epoch(progress.epoch, first_batch=progress.batch), accelerator.device):
                epoch = progress.epoch + progress.batch / data.num_batches
                lr = learning_rate(config, epoch=epoch, step_epochs=1 / data.num_batches)
                set_learning_rate(optimizer, lr)
                if window.is_complete:
                    window = _Window(updates[bisect.bisect(updates, progress.batch)] - progress.batch)
                progress.batch, progress.step = progress.batch + 1, progress.step + 1
                totals = _step(prepared, optimizer, batch, data, config, accelerator, window=window, progress=progress)
                for name in _SUMS:
                    progress.sums[name] = progress.sums.get(name, 0.0) + totals[name]
                bar.update()
                if totals["examples"] and progress.step % runtime.log_every_steps == 0:
                    means = {name: totals[name] / totals["examples"] for name in _MEANS}
                    log.log(step=progress.step, event="step", epoch=epoch, lr=lr, **means)
                if window.is_complete:
                    _save_if_asked(accelerator, folder, progress, clock, data.loader.ledger)
            data.loader.ledger.join()
            _end_epoch(progress, data, log, clock, num_steps)
            save_state(accelerator, folder, progress)
    trained = accelerator.unwrap_model(prepared)
    ranks.copy_buffers(trained)
    return trained


def _save_if_asked(
    accelerator: Accelerator, folder: Path, progress: Progress, clock: _Clock, ledger: SkipLedger
) -> None:
    """Save when it is time to, or a signal came to any of the processes; all end together then.

    Raises:
        SkipBudgetExceeded: when all processes together could not read too many samples.
    """
    told = [interrupts.requested(), ranks.is_main() and clock.checkpoint_is_due(), ledger.num_untold]
    must_stop, is_due, num_untold = ranks.summed(told)
    if must_stop or is_due or ledger.may_exceed(num_untold):
        ledger.join()
    if must_stop or is_due:
        save_state(accelerator, folder, progress)
    if must_stop:
        ranks.barrier()
        interrupts.stop()


@dataclass
class _Window:
    """The batches of one update, whose gradient is that of the mean over all of their examples."""

    num_batches: int
    """How many batches there will be."""
    num_done: int = 0
    mass: float = 0.0
    """The mass of the examples so far, of all processes together."""
    first_mass: float = 0.0
    """The mass of the first batch that had any."""

    @property
    def is_complete(self) -> bool:
        return self.num_done == self.num_batches

    def add(self, mass: float) -> float:
        """How much a batch of this mass counts; right when all are like the first, and corrected in the end."""
        self.num_done, self.mass = self.num_done + 1, self.mass + mass
        self.first_mass = self.first_mass or mass
        return mass / self.first_mass if mass else 0.0

    @property
    def correction(self) -> float:
        """What the sum of all gradients, each divided by `num_batches`, lacks: 1 for batches of equal mass."""
        return self.num_batches * self.first_mass / self.mass


_MEANS = ("loss", "accuracy")
_SUMS = ("examples", *_MEANS)


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    data: TrainingData,
    config: TrainingConfig,
    accelerator: Accelerator,
    *,
    window: _Window,
    progress: Progress,
) -> dict[str, float]:
    """Forward, backward and, after the window's last batch, one optimiser step.

    Returns:
        Sums over the examples of all processes.
    """
    # Gradients of all but the last of the accumulated batches stay on their rank.
    is_last = window.num_done + 1 == window.num_batches
    with contextlib.nullcontext() if is_last else accelerator.no_sync(network):
        loss, mass, sums = _forward(network, batch, data, config, accelerator)
        [total_mass] = ranks.summed([mass])
        weight = window.add(total_mass)
        if loss is not None:
            # What is averaged over processes is a mean over examples, of which these may have unequally many.
            share = ranks.count() * mass / total_mass if total_mass else 0.0
            accelerator.backward(loss * (share * weight) / window.num_batches)
    # Even when this batch gave nothing: gradients of those before it must not leak into the next update.
    update = is_last and window.mass > 0
    norm = _gradient_norm(network, config, accelerator, scale=window.correction) if update else torch.zeros(())
    # The one time in a step that a GPU is waited for.
    *own, norm_now = torch.stack([*sums, norm.to(sums.device, sums.dtype)]).tolist()
    totals = ranks.summed(own)
    if not math.isfinite(totals[1]):
        raise _not_finite("loss", totals[1], data.stage, progress)
    # With fp16, infinite gradients are usual: the scaler leaves the step out and lowers its scale.
    if accelerator.scaler is None and not math.isfinite(norm_now):
        raise _not_finite("gradient norm", norm_now, data.stage, progress)
    if update:
        optimizer.step()
    if is_last:
        optimizer.zero_grad()
    return dict(zip(_SUMS, map(float, totals), strict=True))


def _forward(
    network: nn.Module, batch: Batch, data: TrainingData, config: TrainingConfig, accelerator: Accelerator
) -> tuple[torch.Tensor | None, float, torch.Tensor]:
    """The loss of this process' examples, their mass (the sum of their weights), and sums over them (see `_SUMS`).

    Where there are too few, because the others could not be read, there is no loss, or one of nothing.
    """
    if len(batch) < FEWEST:
        # Other processes wait for this one's forward pass and gradients.
        nothing = _nothing(network, data, config, accelerator) if ranks.count() > 1 else None
        return nothing, 0.0, torch.zeros(len(_SUMS), dtype=torch.float64)
    examples = examples_of(batch, data.objective, data.modality, accelerator.device)
    count = len(examples.target)
    how: dict[str, Any] = {"temperature": data.objective.temperature, "label_smoothing": config.label_smoothing}
    plain = accelerator.unwrap_model(network)
    if isinstance(plain, Network) and count * plain.num_classes > MOST_LOGITS and examples.target.ndim == 1:
        finish = functools.partial(loss_in_parts, examples=examples, num_outputs=plain.num_classes, **how)
        loss, right = _outputs(network, examples, data, config, accelerator, finish=finish)
    else:
        logits = _outputs(network, examples, data, config, accelerator)
        loss, right = loss_of(logits, examples, **how), num_right(logits, examples.target)
    # Only several processes, or several batches of an update, compare their masses: else none waits for the sum.
    is_compared = ranks.count() > 1 or config.gradient_accumulation > 1
    mass = float(examples.weights.sum() if examples.weights is not None and is_compared else count)
    total = loss.detach().double() * count
    sums = torch.stack([torch.full_like(total, count), total, right.double()])
    return loss, mass, sums


def _nothing(network: nn.Module, data: TrainingData, config: TrainingConfig, accelerator: Accelerator) -> torch.Tensor:
    """A loss of 0 that leaves running statistics alone: its gradients take part in the average over processes."""
    two = list(data.ids[:FEWEST])
    views = torch.zeros(data.modality.example(len(two)).shape, dtype=torch.uint8, device=accelerator.device)
    examples = data.objective.examples(views, Batch(two, views[:, None], [0] * len(two)))
    modes = {module: module.training for module in network.modules()}
    network.eval()
    loss = 0.0 * _outputs(network, examples, data, config, accelerator).sum()
    for module, training in modes.items():
        module.training = training
    return loss


def _outputs(
    network: nn.Module,
    examples: Examples,
    data: TrainingData,
    config: TrainingConfig,
    accelerator: Accelerator,
    **options: Any,
) -> Any:
    inputs = data.modality.normalize(examples.inputs)
    if config.channels_last:
        inputs = inputs.to(memory_format=memory_format(inputs.ndim))
    with accelerator.autocast():
        return network(inputs, **options)


def _gradient_norm(
    network: nn.Module, config: TrainingConfig, accelerator: Accelerator, *, scale: float
) -> torch.Tensor:
    """The norm of all gradients together, once they are scaled; they are clipped where that is asked for."""
    if scale != 1:
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
    if config.clip_grad_norm is not None:
        norm: torch.Tensor = accelerator.clip_grad_norm_(network.parameters(), config.clip_grad_norm)
        return norm
    return torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])


def _not_finite(what: str, value: float, stage: str, progress: Progress) -> TrainingError:
    return TrainingError(
        f"{stage}: the {what} is {value} in epoch {progress.epoch + 1}, step {progress.step}.",
        why="training diverged, or the input is broken; the weights were not updated",
        fix="Lower the learning rate, lengthen the warm-up or clip gradients. The last good state is kept.",
    )


def _end_epoch(progress: Progress, data: TrainingData, log: MetricsLog, clock: _Clock, num_steps: int) -> None:
    sums = progress.sums
    if not sums.get("examples"):
        raise DataError(
            f"{data.stage}: not a single batch of epoch {progress.epoch + 1} could be read.",
            why=f"in none of them were there {FEWEST} samples that could be decoded, as batch normalisation needs",
            fix="Look at the stage's skips.jsonl, and at the files with `cfvid data check`.",
        )
    means = {name: sums[name] / sums["examples"] for name in ("loss", "accuracy")}
    progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
    log.log(step=progress.step, event="epoch", epoch=float(progress.epoch), **means)
    logger.info(
        "%s epoch %d: loss %.3f, training accuracy %.3f, about %s left",
        data.stage,
        progress.epoch,
        means["loss"],
        means["accuracy"],
        clock.time_left(progress.step, num_steps),
    )


class _Clock:
    """When the next checkpoint is due, and how long the rest will take at the pace so far."""

    def __init__(self, checkpoint_minutes: float, first_step: int) -> None:
        self._every_s, self._first_step = checkpoint_minutes * 60, first_step
        self._start = self._last = time.monotonic()

    def checkpoint_is_due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._every_s:
            return False
        self._last = now
        return True

    def time_left(self, step: int, num_steps: int) -> str:
        pace = (time.monotonic() - self._start) / max(1, step - self._first_step)
        return tqdm.format_interval(pace * (num_steps - step))
