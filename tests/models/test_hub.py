"""Weights of the Hugging Face Hub, found in either cache. Fault row 32: told at once when they cannot be had."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from safetensors.torch import save_file
from support.tiny import tiny_config, write_pictures
from torchvision.models import resnet18

from cfvid.errors import ConfigError, Interrupted, WeightsError
from cfvid.models.hub import HubFile, is_on_hub, locate, parse
from cfvid.pipeline import run_stages

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's client, of its own."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine without a network: what was tried."""
    tried: list[str] = []

    def blocked(*_args: object, **_options: object) -> None:
        tried.append("socket")
        raise OSError("the network is blocked")

    monkeypatch.setattr(socket, "socket", blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    monkeypatch.setattr(socket, "create_connection", blocked)
    return tried


def cached(hub: Path, repository: str, file: str) -> Path:
    """A file as the Hub's client keeps it, under the revision main."""
    home = hub / f"models--{repository.replace('/', '--')}"
    path = home / "snapshots" / COMMIT / file
    path.parent.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    save_file(resnet18().state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://timm/resnet50.a1_in1k", HubFile("timm/resnet50.a1_in1k", "main", "model.safetensors")),
        ("hf://a/b@v1.0", HubFile("a/b", "v1.0", "model.safetensors")),
        ("hf://a/b/resnet20.th", HubFile("a/b", "main", "resnet20.th")),
        ("hf://a/b/checkpoint.pth.tar", HubFile("a/b", "main", "checkpoint.pth.tar")),
        ("hf://a/b/pytorch_model.bin", HubFile("a/b", "main", "pytorch_model.bin")),
        (f"hf://a/b@{COMMIT}/deep/x.pth", HubFile("a/b", COMMIT, "deep/x.pth")),
    ],
)
def test_the_forms_of_an_id(text: str, expected: HubFile) -> None:
    assert is_on_hub(text)
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["hf://a", "hf://a/b@", "hf:///b", "hf://a/b/../../x.pth", "hf://../b", "hf://a/b@../x.pth", "hf://a/b/run.py"],
)
def test_malformed_ids_are_faults_of_the_configuration(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pretrain.weights"):
        locate(text, cache=tmp_path)


def test_paths_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/x.pth", cache=tmp_path) == tmp_path / "x.pth"
    assert not is_on_hub("some/hf.pth")


def test_offline_and_not_cached_is_one_clear_error(tmp_path: Path, hub: Path, attempts: list[str]) -> None:
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        locate("hf://org/name@v2/model.safetensors", cache=tmp_path / "cache")
    assert time.monotonic() - start < 5
    assert 1 <= len(attempts) <= 4, "one look, no storm of retries"
    text = str(caught.value)
    assert "hf://org/name@v2/model.safetensors is not on this machine" in text
    assert "https://huggingface.co/org/name/resolve/v2/model.safetensors" in text
    assert f"{tmp_path}/cache/hub/org/name@v2 as model.safetensors" in text
    assert list(hub.iterdir()) == []


def test_offline_by_choice_is_the_same_error(
    tmp_path: Path, hub: Path, attempts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="cannot be fetched"):
        locate("hf://org/name", cache=tmp_path)
    assert attempts == []


def test_what_either_cache_has_needs_no_network(tmp_path: Path, hub: Path, attempts: list[str]) -> None:
    path = cached(hub, "org/name", "model.safetensors")
    assert locate("hf://org/name", cache=tmp_path / "cache") == path
    assert locate(f"hf://org/name@{COMMIT}", cache=tmp_path / "cache") == path
    by_hand = tmp_path / "cache" / "hub" / "org" / "name@main" / "model.safetensors"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"mine")
    assert locate("hf://org/name", cache=tmp_path / "cache") == by_hand
    assert attempts == []


def test_a_signal_while_fetching_is_not_hidden(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        raise Interrupted.by_signal(15)

    monkeypatch.setattr(huggingface_hub, "get_session", stopped)
    with pytest.raises(Interrupted):
        locate("hf://org/name", cache=tmp_path)


def test_a_run_takes_weights_of_the_hub(
    tmp_path: Path, hub: Path, attempts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = write_pictures(tmp_path / "pictures", classes=2, train=4, val=2)
    changes = {"pretrain__arch": "resnet18", "runtime__cache": str(tmp_path / "cache")}
    config = tiny_config(data, pretrain__weights="hf://org/name", **changes)
    with pytest.raises(WeightsError, match="hf://org/name is not on this machine"):
        run_stages(config, tmp_path / "run", stages=["pretrain"])
    assert not (tmp_path / "run" / "pretrain").exists()
    cached(hub, "org/name", "model.safetensors")
    with caplog.at_level(logging.INFO, "cfvid"):
        run_stages(config, tmp_path / "run", stages=["pretrain"])
    assert f"snapshots/{COMMIT}" in caplog.text, "the commit is told"
    assert '"hf://org/name"' in (tmp_path / "run" / "pretrain" / "import.json").read_text()
    distilled = tiny_config(data, pretrain__weights="hf://org/name", cluster__method="distillation", **changes)
    with pytest.raises(ConfigError, match="hf://org/name has no last layer"):
        run_stages(distilled, tmp_path / "run", stages=["cluster"])
