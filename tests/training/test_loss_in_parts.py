"""The loss of very many outputs, in parts: the same as at once, gradients included, and never all logits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.team_jobs import stages
from support.tiny import tiny_values, write_pictures
from torch import nn

from cfvid.training import loop, objective
from cfvid.training.metrics import read_metrics
from cfvid.training.objective import Examples, loss_in_parts, loss_of, num_right

NUM, DIM, OUTPUTS = 13, 6, 40


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("temperature", "smoothing"), [(1.0, 0.0), (3.0, 0.1)])
def test_gradients_are_exact(
    monkeypatch: pytest.MonkeyPatch, weighted: bool, temperature: float, smoothing: float
) -> None:
    monkeypatch.setattr(objective, "_PART_LOGITS", 4 * OUTPUTS)
    rng = torch.Generator().manual_seed(0)
    head = nn.Linear(DIM, OUTPUTS)
    features = torch.randn(NUM, DIM, generator=rng, requires_grad=True)
    target = torch.randint(OUTPUTS, (NUM,), generator=rng)
    weights = torch.rand(NUM, generator=rng) if weighted else None
    examples, how = Examples(features, target, weights), {"temperature": temperature, "label_smoothing": smoothing}
    sizes: list[int] = []
    handle = head.register_forward_hook(lambda _module, _inputs, outputs: sizes.append(outputs.numel()))

    loss, right = loss_in_parts(features, head, examples, num_outputs=OUTPUTS, **how)
    found = torch.autograd.grad(2 * loss, [features, *head.parameters()])
    assert max(sizes) == 4 * OUTPUTS
    handle.remove()

    logits = head(features)
    expected = loss_of(logits, examples, **how)
    torch.testing.assert_close(loss, expected)
    assert int(right) == num_right(logits, target)
    for ours, plain in zip(found, torch.autograd.grad(2 * expected, [features, *head.parameters()]), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_a_training_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = tiny_values(write_pictures(tmp_path / "pictures"), precision="fp32")
    (tmp_path / "config.json").write_text(json.dumps(values))
    stages(str(tmp_path / "config.json"), str(tmp_path / "whole"), ["pretrain"])
    monkeypatch.setattr(loop, "MOST_LOGITS", 1)
    monkeypatch.setattr(objective, "_PART_LOGITS", 8)
    stages(str(tmp_path / "config.json"), str(tmp_path / "parts"), ["pretrain"])
    losses = [[line["loss"] for line in read_metrics(tmp_path / run / "pretrain")] for run in ("whole", "parts")]
    assert len(losses[0]) > 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
