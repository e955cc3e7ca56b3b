"""Spatial transforms: shapes, places, bounds, and no randomness but the caller's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cfvid.data import transforms

sides = st.integers(1, 90)


def positions(height: int, width: int) -> torch.Tensor:
    """uint8, (1, 3, H, W): each pixel holds its row and its column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)])[None].to(torch.uint8)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_to_tensor_moves_colours_to_the_front() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
    tensor = transforms.to_tensor(frames)
    assert tensor.shape == (4, 3, 5, 6)
    np.testing.assert_array_equal(tensor.numpy(), frames.transpose(0, 3, 1, 2))
    # Turned frames come with negative strides, which torch does not take.
    np.testing.assert_array_equal(transforms.to_tensor(frames[:, ::-1]).numpy(), frames[:, ::-1].transpose(0, 3, 1, 2))


# torch cannot shrink bytes to one single pixel.
@given(height=sides, width=sides, size=st.integers(2, 64))
def test_resize_keeps_the_aspect(height: int, width: int, size: int) -> None:
    frames = transforms.resize_short_side(torch.full((2, 3, height, width), 77, dtype=torch.uint8), size)
    assert frames.dtype == torch.uint8
    new_height, new_width = frames.shape[-2:]
    assert min(new_height, new_width) == size
    long, short = max(height, width), min(height, width)
    assert abs(max(new_height, new_width) - long * size / short) <= 0.5 + 1e-6
    assert (new_height >= new_width) == (height >= width) or new_height == new_width
    assert (frames == 77).all()


def test_resize_to_its_own_size_changes_nothing() -> None:
    frames = noise(2, 3, 20, 30)
    assert transforms.resize_short_side(frames, 20) is frames


def test_resize_averages_when_it_shrinks() -> None:
    """Without antialiasing, a checkerboard would come out black or white."""
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    small = transforms.resize_short_side(board.to(torch.uint8).expand(1, 3, 64, 64), 8)
    assert 100 < small.float().mean() < 155
    assert small.float().std() < 20


@pytest.mark.parametrize(
    ("shape", "num_crops", "expected"),
    [
        ((8, 20), 1, [(0, 6)]),
        ((8, 20), 3, [(0, 0), (0, 6), (0, 12)]),
        ((20, 8), 3, [(0, 0), (6, 0), (12, 0)]),
        ((12, 20), 2, [(2, 0), (2, 12)]),
        ((8, 8), 1, [(0, 0)]),
        ((9, 20), 3, [(0, 0), (0, 6), (0, 12)]),
        ((12, 12), 3, [(2, 0), (2, 2), (2, 4)]),
    ],
)
def test_even_crops_are_where_they_should_be(
    shape: tuple[int, int], num_crops: int, expected: list[tuple[int, int]]
) -> None:
    crops = transforms.even_crops(positions(*shape), 8, num_crops=num_crops)
    assert [tuple(crop[0, :2, 0, 0].tolist()) for crop in crops] == expected
    assert all(crop.shape == (1, 3, 8, 8) for crop in crops)
    assert [tuple(crop[0, :2, -1, -1].tolist()) for crop in crops] == [(top + 7, left + 7) for top, left in expected]


@given(height=st.integers(8, 60), width=st.integers(8, 60), seed=st.integers(0, 99))
def test_random_crops_are_parts(height: int, width: int, seed: int) -> None:
    frames = noise(2, 3, height, width)
    crop = transforms.random_crop(positions(height, width), 8, rng=np.random.default_rng(seed))
    top, left = crop[0, :2, 0, 0].tolist()
    same = transforms.random_crop(frames, 8, rng=np.random.default_rng(seed))
    assert torch.equal(same, frames[..., top : top + 8, left : left + 8])


def test_random_crops_reach_every_place() -> None:
    rng = np.random.default_rng(0)
    crops = [transforms.random_crop(positions(10, 11), 8, rng=rng)[0, :2, 0, 0] for _ in range(400)]
    assert {tuple(crop.tolist()) for crop in crops} == {(top, left) for top in range(3) for left in range(4)}


@given(height=sides, width=sides, size=st.integers(2, 40), seed=st.integers(0, 99))
def test_random_resized_crops_have_the_size_asked_for(height: int, width: int, size: int, seed: int) -> None:
    crop = transforms.random_resized_crop(
        torch.full((2, 3, height, width), 9, dtype=torch.uint8),
        size,
        scale=(0.2, 1.0),
        ratio=(0.75, 4 / 3),
        rng=np.random.default_rng(seed),
    )
    assert crop.shape == (2, 3, size, size)
    assert (crop == 9).all()


def test_random_resized_crops_cover_the_share_asked_for() -> None:
    """The spans of rows and columns that are seen tell the part's area and aspect."""
    rng = np.random.default_rng(0)
    shares, aspects = [], []
    for _ in range(300):
        crop = transforms.random_resized_crop(
            positions(200, 200), 50, scale=(0.25, 0.5), ratio=(0.8, 1.25), rng=rng
        ).float()
        height = (crop[0, 0, -1, 0] - crop[0, 0, 0, 0]).item() * 50 / 49
        width = (crop[0, 1, 0, -1] - crop[0, 1, 0, 0]).item() * 50 / 49
        shares.append(height * width / 200**2)
        aspects.append(width / height)
    assert 0.23 < min(shares) < 0.28
    assert 0.47 < max(shares) < 0.53
    assert 0.77 < min(aspects) < 0.85
    assert 1.18 < max(aspects) < 1.3


def test_flips_happen_half_of_the_time() -> None:
    frames = noise(2, 3, 4, 5)
    flipped = [
        torch.equal(transforms.random_flip(frames, rng=np.random.default_rng(seed)), frames.flip(-1))
        for seed in range(400)
    ]
    assert 150 < sum(flipped) < 250


def test_all_frames_of_a_clip_are_treated_alike() -> None:
    frames = noise(1, 3, 30, 40).expand(5, 3, 30, 40)
    for transform in RANDOM.values():
        out = transform(frames, np.random.default_rng(3))
        assert torch.equal(out, out[:1].expand_as(out))


RANDOM: dict[str, Callable[[torch.Tensor, np.random.Generator], torch.Tensor]] = {
    "random_crop": lambda x, rng: transforms.random_crop(x, 20, rng=rng),
    "random_flip": lambda x, rng: transforms.random_flip(x, rng=rng),
    "color_jitter": lambda x, rng: transforms.color_jitter(x, 0.4, rng=rng),
    "random_resized_crop": lambda x, rng: transforms.random_resized_crop(
        x, 20, scale=(0.3, 1.0), ratio=(0.75, 1.33), rng=rng
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_callers_generator_is_the_only_source(name: str) -> None:
    frames = noise(2, 3, 30, 40)
    kept = frames.clone()
    torch.manual_seed(0)
    first = RANDOM[name](frames, np.random.default_rng(5))
    torch.manual_seed(1)
    assert torch.equal(first, RANDOM[name](frames, np.random.default_rng(5)))
    assert torch.equal(frames, kept), "the input was changed"
    assert len({RANDOM[name](frames, np.random.default_rng(seed)).numpy().tobytes() for seed in range(12)}) > 1


@given(strength=st.floats(0.0, 1.0), seed=st.integers(0, 999), value=st.integers(0, 255))
def test_jitter_of_grey_stays_within_its_factors(strength: float, seed: int, value: int) -> None:
    """Contrast, saturation and hue leave flat grey as it is: what remains is brightness, by 1 +- strength."""
    grey = torch.full((2, 3, 4, 4), value, dtype=torch.uint8)
    out = transforms.color_jitter(grey, strength, rng=np.random.default_rng(seed))
    assert out.dtype == torch.uint8
    low, high = value * (1 - strength), min(255.0, value * (1 + strength))
    assert low - 3 <= out.float().min()
    assert out.float().max() <= high + 3


def test_jitter_of_no_strength_changes_next_to_nothing() -> None:
    frames = noise(2, 3, 8, 8)
    out = transforms.color_jitter(frames, 0.0, rng=np.random.default_rng(0))
    assert (out.int() - frames.int()).abs().max() <= 2  # hue goes through another colour space and back


def test_jitter_reaches_every_property() -> None:
    """Brightness alone would leave the ratios of colours, contrast their mean, and so on."""
    frames = noise(1, 3, 16, 16)
    outs = torch.stack(
        [transforms.color_jitter(frames, 0.8, rng=np.random.default_rng(s))[0] for s in range(60)]
    ).float()
    assert outs.mean(dim=(1, 2, 3)).std() > 10  # brightness
    assert outs.std(dim=(1, 2, 3)).std() > 5  # contrast
    saturation = outs.amax(1) - outs.amin(1)
    assert saturation.mean(dim=(1, 2)).std() > 5
    assert outs[:, 0].mean(dim=(1, 2)).sub(outs[:, 2].mean(dim=(1, 2))).abs().max() > 0.5  # hue


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 3, 4, 5, 6)])
def test_normalize_is_the_plain_formula(shape: tuple[int, ...]) -> None:
    batch = noise(*shape)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 1.0)
    normal = transforms.normalize(batch, mean=mean, std=std)
    assert normal.dtype == torch.float32
    columns = [((batch[:, c].double() / 255 - mean[c]) / std[c]) for c in range(3)]
    torch.testing.assert_close(normal.double(), torch.stack(columns, dim=1), atol=1e-5, rtol=0)
