"""Device, precision and the run's processes, decided once per process through Accelerate and logged with the reason."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from cfvid import launch, ranks
from cfvid.config import RunConfig
from cfvid.errors import ConfigError, RankLost

logger = logging.getLogger(__name__)

_ACCELERATE_NAME = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def build_accelerator(config: RunConfig) -> Accelerator:
    """The process' Accelerator for this configuration.

    Raises:
        ConfigError: when a GPU is asked for and there is none, or fp16 on a CPU, or the main process' machine is
            not known.
        RankLost: when the other processes of the run are not there.
    """
    device, has_cuda = config.runtime.device, torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError("runtime.device is cuda, but torch sees no GPU.", fix="`cfvid doctor` says what is there.")
    on_cpu = device == "cpu" or not has_cuda
    precision, reason = _precision(config, on_cpu)
    # Accelerate keeps one global state; another run in this process may have asked for another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    # Running statistics need not be copied in each step: those of the main process are taken in the end.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    with launch.only_own_variables(), _connecting():
        accelerator = Accelerator(cpu=on_cpu, mixed_precision=_ACCELERATE_NAME[precision], kwargs_handlers=handlers)
    # Accelerate does not know the option's new name yet.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*deprecated", category=FutureWarning)
    ranks.join()
    why = "asked for" if device != "auto" else ("the only one" if on_cpu else "a GPU is there")
    logger.info("device %s (%s), precision %s (%s)", accelerator.device, why, precision, reason)
    # The same configuration gives the same numbers: no algorithm choice by timing.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    _compute_as_said()
    return accelerator


@contextlib.contextmanager
def _connecting() -> Iterator[None]:
    """Where Accelerate connects several processes: tell of those that do not find each other.

    Raises:
        ConfigError: when the main process' machine is not known.
        RankLost: when the others are not there in time.
    """
    if launch.num_processes() > 1 and not dist.is_initialized():
        launch.find_main()
    try:
        yield
    except dist.DistError as error:
        raise RankLost(
            f"Rank {launch.rank()} has not found the other {launch.num_processes() - 1} processes of this run.",
            why=str(error).strip().partition("\n")[0],
            fix="See whether all of them were started, with the same MASTER_ADDR and MASTER_PORT.",
        ) from error


def _compute_as_said() -> None:
    """What is in single precision is computed in single precision, whatever torch's defaults are and the process set.

    Convolutions on a GPU would otherwise be computed with ten bits after the point (TF32). Where these suffice, bf16
    is faster still.
    """
    backends: Any = torch.backends
    # The old switch alone yields to a new one for all; without it, torch refuses to tell what is on.
    backends.cudnn.allow_tf32 = False
    for operations in (backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.conv):
        operations.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")


def _precision(config: RunConfig, on_cpu: bool) -> tuple[str, str]:
    if config.precision == "fp16" and on_cpu:
        raise ConfigError("precision is fp16, which needs a GPU.", fix="Use fp32 or bf16 on a CPU.")
    if config.precision == "bf16" and on_cpu and "AVX512" not in torch.backends.cpu.get_cpu_capability():
        logger.warning(
            "precision bf16 is emulated on this CPU (no AVX-512) and may be a hundred times slower than fp32"
        )
    if config.precision != "auto":
        return config.precision, "asked for"
    if on_cpu:
        return "fp32", "the default on a CPU"
    if torch.cuda.is_bf16_supported():
        return "bf16", "the GPU has it"
    return "fp32", "the GPU has no bf16"


def check_compiler(device: torch.device) -> None:
    """Compile something small.

    Raises:
        ConfigError: when that does not work here.
    """
    # Forward and backward of what is not done by libraries alone: those would need no compiler.
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.GELU()).to(device)
    module.compile()
    try:
        module(torch.ones(2, 1, 2, 2, device=device)).sum().backward()
    except Exception as error:  # of many kinds, from the compilers below
        raise ConfigError(
            "compile is true, but torch.compile does not work on this machine.",
            why=str(error).strip().partition("\n")[0],
            fix="Install a C++ compiler (on Debian: apt install g++) and Python's headers, or set compile: false.",
        ) from error


def memory_format(batch_or_dims: int) -> torch.memory_format:
    """The channels-last format for batches of 2D (4) or 3D (5) inputs."""
    return torch.channels_last if batch_or_dims == 4 else torch.channels_last_3d
