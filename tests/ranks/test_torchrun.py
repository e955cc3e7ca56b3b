"""The real launcher: a dead rank is started again, and several nodes find each other through the SLURM script."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from support.tiny import configure, tiny_values, write_pictures

from cfvid.artifacts import Record
from cfvid.pipeline import run_stages
from cfvid.training.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict:
    data = write_pictures(tmp_path_factory.mktemp("data") / "pictures")
    return tiny_values(data, retrain__training__epochs=30, transfer__finetune__epochs=2)


def environment() -> dict[str, str]:
    """With the variable that restarts need: torchrun would keep the addresses of processes that died."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def rank_1(launcher: subprocess.Popen) -> psutil.Process:
    """The process that the launcher has started as rank 1."""
    for child in psutil.Process(launcher.pid).children(recursive=True):
        if child.environ().get("RANK") == "1":
            return child
    raise AssertionError("there is no rank 1")


def test_a_dead_rank_is_started_again(values: dict, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run_stages(configure(values), output, stages=["pretrain", "extract", "cluster"])
    arguments = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = [*TORCHRUN, *arguments, "-m", "cfvid", "retrain", "--output", str(output)]
    with open(tmp_path / "log", "w") as log, subprocess.Popen(command, env=environment(), stderr=log) as launcher:
        deadline = time.monotonic() + 120
        while len(read_metrics(output / "retrain")) < 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        rank_1(launcher).kill()
        code = launcher.wait(timeout=180)
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert "resuming at epoch" in said
    epochs = [line["epoch"] for line in read_metrics(output / "retrain") if line["event"] == "epoch"]
    assert epochs == [float(epoch) for epoch in range(1, 31)]
    Record.read(output / "retrain", kind="retrain").verify(output / "retrain")


def test_two_nodes_by_the_slurm_script(values: dict, tmp_path: Path) -> None:
    """With commands in SLURM's place that start both nodes' tasks on this machine."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {
        "scontrol": "echo 127.0.0.1\necho other-node",
        "srun": 'SLURM_NODEID=0 "$@" & first=$!\nSLURM_NODEID=1 "$@" & second=$!\nwait $first && wait $second',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "cfvid": f'exec {sys.executable} -m cfvid "$@"',
    }.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(stat.S_IRWXU)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
    slurm = {"SLURM_JOB_NODELIST": "nodes", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
    ours = {"CFVID_PROCESSES_PER_NODE": "1", "CFVID_PORT": str(free_port())}
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [
            bash,
            str(ROOT / "tools/slurm/cfvid.sbatch"),
            "pretrain",
            "--config",
            str(config),
            "--output",
            str(tmp_path / "run"),
        ],
        env={**environment(), **slurm, **ours, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes take part" in done.stderr
    Record.read(tmp_path / "run" / "pretrain", kind="pretrain").verify(tmp_path / "run" / "pretrain")
