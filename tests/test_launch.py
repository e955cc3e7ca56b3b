"""A process is one of several only where torchrun's variables are complete; what other launchers set is no matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from support.tiny import DEVICE, tiny_config

from cfvid import launch
from cfvid.cli import main
from cfvid.errors import ConfigError, RankLost
from cfvid.training import device

FULL = {"LOCAL_RANK": "0", "RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
NO_LAUNCHER = [
    {"WORLD_SIZE": "8", "RANK": "3"},
    {"WORLD_SIZE": "8", "RANK": "3", "MASTER_ADDR": "nowhere"},
    {"LOCAL_RANK": "0"},
    {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere"},
    {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere", "MASTER_PORT": ""},
    {"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": ""},
    {"WORLD_SIZE": "many", "RANK": "first", "LOCAL_RANK": "none"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
    {"PMI_SIZE": "2", "PMI_RANK": "0"},
    {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_LOCAL_RANK": "1"},
    {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2", "SLURM_JOB_ID": "7"},
    {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "1"},
    {"ACCELERATE_USE_CPU": "maybe", "ACCELERATE_MIXED_PRECISION": "fp8", "ACCELERATE_DEBUG_MODE": "2"},
    {"ACCELERATE_USE_DEEPSPEED": "true"},
    {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    {"ACCELERATE_USE_MEGATRON_LM": "true"},
    {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"},
    {"ACCELERATE_TORCH_DEVICE": "meta", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto"},
    {"ACCELERATE_USE_SAGEMAKER": "true", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "DATA_PARALLEL"},
]
PROBE = """
import json, os, sys
from pathlib import Path
from support.tiny import tiny_config
from cfvid.training.device import build_accelerator

clean = dict(os.environ)
for variables in json.loads(sys.argv[1]):
    os.environ.clear()
    os.environ.update(clean | variables)
    accelerator = build_accelerator(tiny_config(Path("anywhere")))
    assert {name: os.environ.get(name) for name in variables} == variables
    found = [accelerator.num_processes, accelerator.device.type, accelerator.mixed_precision]
    print(json.dumps([*found, str(accelerator.distributed_type)]), flush=True)
"""


def test_variables_without_torchrun_mean_one_process() -> None:
    """They were a traceback of Accelerate's, or waiting for a host for ever."""
    home = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(NO_LAUNCHER)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(home), str(home.parent)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [[1, DEVICE, "no", "DistributedType.NO"]] * len(NO_LAUNCHER)


@pytest.mark.parametrize("missing", FULL)
def test_only_a_full_set_counts(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name, value in FULL.items():
        monkeypatch.setenv(name, value)
    assert (launch.num_processes(), launch.rank(), launch.num_on_this_machine()) == (4, 2, 1)
    monkeypatch.delenv(missing)
    assert (launch.num_processes(), launch.rank(), launch.num_on_this_machine()) == (1, 0, 1)


def test_what_is_not_looked_at_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("PMI_SIZE", "2")
    with caplog.at_level("INFO", logger="cfvid"), launch.only_own_variables():
        assert "RANK" not in os.environ
        assert "PMI_SIZE" not in os.environ
    assert os.environ["RANK"] == "3"
    [told] = [message for message in caplog.messages if message.startswith("not looked at")]
    assert "PMI_SIZE, RANK (one process: torchrun would set LOCAL_RANK, WORLD_SIZE" in told


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("RANK", "4", "RANK is 4, WORLD_SIZE 4"),
        ("RANK", "-1", "RANK is '-1', not a number from 0 on"),
        ("WORLD_SIZE", "0", "WORLD_SIZE is '0', not a number from 1 on"),
        ("LOCAL_RANK", "first", "LOCAL_RANK is 'first'"),
        ("MASTER_PORT", "http", "MASTER_PORT is 'http'"),
        ("LOCAL_WORLD_SIZE", "0", "LOCAL_WORLD_SIZE is '0'"),
    ],
)
def test_numbers_that_are_none_are_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, told: str
) -> None:
    for variable, number in (FULL | {name: value}).items():
        monkeypatch.setenv(variable, number)
    assert main(["train", "--modality", "image"]) == 2
    assert told in capsys.readouterr().err


def test_a_main_process_that_nobody_knows_is_an_error_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full set of variables with MASTER_ADDR=nowhere waited for ever."""
    monkeypatch.setattr(launch, "_PATIENCE_S", 1.0)
    for variable, value in (FULL | {"MASTER_ADDR": "nowhere.invalid"}).items():
        monkeypatch.setenv(variable, value)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"MASTER_ADDR is 'nowhere\.invalid', which this machine does not know"):
        launch.find_main()
    assert time.monotonic() - start < 30


def test_others_that_are_not_there_in_time_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(**_: object) -> None:
        raise dist.DistStoreError("timed out after 1800000ms waiting for clients\nframe #0")

    monkeypatch.setattr(device, "Accelerator", nobody)
    for variable, value in FULL.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(RankLost, match="Rank 2 has not found the other 3 processes") as caught:
        device.build_accelerator(tiny_config(Path("anywhere")))
    assert caught.value.why == "timed out after 1800000ms waiting for clients"
