"""The one training loop: pretraining, retraining and fine-tuning all run through it."""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from cfvid import ranks
from cfvid.data.loader import Batch, SampleLoader, on_device
from cfvid.data.sample_ids import SampleIds
from cfvid.data.skips import SkipLedger
from cfvid.errors import ConfigError, DataError, TrainingError
from cfvid.modalities.base import Modality
from cfvid.models.onednn import avoid_narrow_strides
from cfvid.models.zoo import Network
from cfvid.progress import progress_bar
from cfvid.sections.stages import RuntimeConfig
from cfvid.sections.training import FEWEST, TrainingConfig
from cfvid.seeds import derive, stream
from cfvid.training import interrupts
from cfvid.training.checkpoint import Progress, load_state, save_state
from cfvid.training.device import memory_format
from cfvid.training.metrics import MetricsLog
from cfvid.training.objective import MOST_LOGITS, Examples, Objective, examples_of, loss_in_parts, loss_of, num_right
from cfvid.training.optim import build_optimizer, freeze, learning_rate, set_learning_rate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """Samples with what to learn from them, in a reproducible order.

    Every draw is keyed by (seed, stage, epoch, sample), so that an epoch can be entered in its middle.
    """

    loader: SampleLoader
    objective: Objective
    modality: Modality
    ids: SampleIds
    seed: int
    stage: str
    batch_size: int
    """Of all processes together."""
    groups_N: np.ndarray | None = None
    """With the group of each sample, an epoch draws all groups equally often instead of every sample once."""

    def __post_init__(self) -> None:
        if len(self.ids) < 2:
            raise DataError(
                f"{self.stage}: {len(self.ids)} sample(s) to train on; at least 2 are needed.",
                why="batch normalisation has no statistics over one sample",
                fix="Check the source and its train split.",
            )
        check_batches(self.stage, self.batch_size, num_processes=ranks.count())

    @functools.cached_property
    def batch_sizes(self) -> list[int]:
        """Samples of each batch of an epoch, of all processes together.

        Every sample comes once, in as few batches as hold them, which are of one size or differ by one sample. A last
        batch of what is left over could be of two samples, whose noise would move the weights as far as a whole
        batch does; to leave it out, as is also usual, would take less than each sample per epoch.
        """
        return evenly(len(self.ids), self.batch_size, fewest=FEWEST)

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        return len(self.batch_sizes)

    def epoch(self, number: int, *, first_batch: int) -> Iterator[Batch]:
        """This process' part of the batches of an epoch from `first_batch` on."""
        rng = stream(self.seed, self.stage, "order", number)
        if self.groups_N is None:
            rows = rng.permutation(len(self.ids))
            repeats = np.zeros(len(rows), dtype=np.int8)
        else:
            drawn = balanced(self.groups_N, rng)
            rows = drawn[rng.permutation(len(drawn))]
            repeats = count_repeats(rows)
        ends = itertools.accumulate(self.batch_sizes)
        batches = [*zip(ends, self.batch_sizes, strict=True)][first_batch:]
        parts = [own_places(end - size, size) for end, size in batches]
        own = np.concatenate([np.arange(part.start, part.stop) for part in parts]) if parts else np.arange(0)
        ids, repeats = self.ids.take(rows[own]), repeats[own]
        # Without repeats, which only balanced epochs have, the names of the draw are those they always were.
        seeds = (
            derive(self.seed, self.stage, "augment", number, sample_id, *([int(nth)] if nth else []))
            for sample_id, nth in zip(ids, repeats, strict=True)
        )
        return self.loader.batches(
            ids,
            batch_size=max(1, self.batch_size // ranks.count()),
            look="train",
            seeds=seeds,
            sizes=[len(part) for part in parts],
            epoch=number,
        )


def check_batches(what: str, batch_size: int, *, num_processes: int) -> None:
    """Look whether each process gets enough of each batch.

    Args:
        what: is trained, for the message.
        batch_size: of all processes together.
        num_processes: that divide it.

    Raises:
        ConfigError: when they do not.
    """
    if batch_size < FEWEST * num_processes:
        raise ConfigError(
            f"{what}: batches of {batch_size} cannot be divided among {num_processes} processes.",
            why=f"batch_size counts the samples of all processes, each of which needs at least {FEWEST} of them for "
            "batch normalisation",
            fix="Raise the batch size (of no more samples than there are), or start fewer processes.",
        )


def evenly(num: int, most: int, *, fewest: int = 1) -> list[int]:
    """Sizes of as few parts as `num` things need at `most` in each; they differ by one at most, the larger ones first.

    Where a part would have fewer than `fewest`, there are fewer parts, and these may have more than `most`.
    """
    count = max(1, min(-(-num // most), num // fewest))
    each, rest = divmod(num, count)
    return [each + (place < rest) for place in range(count)]


def own_places(start: int, num: int) -> range:
    """This process' part of a batch of `num` samples, of which the first has the place `start`."""
    own = ranks.own_part(num, smallest=FEWEST)
    return range(start + own.start, start + own.stop)


def balanced(groups_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows as there are samples, with every group equally often, or once more where that does not come out.

    This is how DeepCluster samples its clusters (Caron et al., ECCV 2018): a group's samples are drawn repeatedly
    only when it has fewer than are needed.
    """
    by_group = np.argsort(groups_N, kind="stable")
    _, starts = np.unique(groups_N[by_group], return_index=True)
    members = np.split(by_group, starts[1:])
    each, rest = divmod(len(groups_N), len(members))
    drawn = []
    for place, group in enumerate(rng.permutation(len(members))):
        own, count = members[group], each + (place < rest)
        drawn.append(own[rng.choice(len(own), size=count, replace=count > len(own))])
    return np.concatenate(drawn)


def count_repeats(rows: np.ndarray) -> np.ndarray:
    """How often each row has come before."""
    by_row = np.argsort(rows, kind="stable")
    _, starts, counts = np.unique(rows[by_row], return_index=True, return_counts=True)
    repeats = np.empty_like(rows)
    repeats[by_row] = np.arange(len(rows)) - np.repeat(starts, counts)
    return repeats


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
    """That there will be."""
    num_done: int = 0
    mass: float = 0.0
    """Of the examples so far, of all processes together."""
    first_mass: float = 0.0
    """Of the first batch that had any."""

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
    """Of all gradients together, once they are scaled; they are clipped where that is asked for."""
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
