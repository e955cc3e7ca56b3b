"""What every modality promises to the engine."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from support.media import corners_picture, numbered_frame, write_video

from cfvid.data.loader import Look, Request
from cfvid.errors import UnreadableSample
from cfvid.media.guard import GuardedPool
from cfvid.modalities import MODALITIES
from cfvid.modalities.base import Modality
from cfvid.models.zoo import ARCHITECTURES, build_network
from cfvid.sections.base import Section
from cfvid.seeds import derive

SIZE = 32
LOOKS: tuple[Look, ...] = ("train", "extract", "score")

pytestmark = pytest.mark.parametrize("name", MODALITIES)


def options_of(name: str, **changes: object) -> Section:
    """Small inputs; keys that a modality does not have are left out."""
    values = {
        "crop_size": SIZE,
        "resize": SIZE + 8,
        "num_frames": 4,
        "frame_rate_hz": 5.0,
        "color_jitter": 0.3,
        "extract_clips": 2,
        "score_clips": 3,
        "extract_frames": 2,
        "score_frames": 3,
        "extract_crops": 1,
        "score_crops": 2,
        **changes,
    }
    section = MODALITIES[name].Input
    return section(**{key: value for key, value in values.items() if key in section.model_fields})


def modality_of(name: str, **changes: object) -> Modality:
    return MODALITIES[name](options_of(name, **changes))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sample by the ending of its name: a picture or a clip in which no two places or times look alike."""
    folder = tmp_path_factory.mktemp("samples")
    picture = corners_picture() // 2 + numbered_frame(0b101101) // 4
    picture += np.linspace(0, 60, 96, dtype=np.uint8)[None, :, None]
    Image.fromarray(picture).save(folder / "sample.png")
    frames = [np.roll(picture, 3 * number, axis=1) for number in range(30)]
    write_video(folder / "sample.mp4", frames)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture
def request_(name: str, samples: dict[str, Path]) -> Request:
    (path,) = [path for suffix, path in samples.items() if suffix in MODALITIES[name].suffixes]
    return Request("sample", str(path), None, None, "train", 7)


def test_declarations(name: str) -> None:
    kind = MODALITIES[name]
    assert kind.name == name
    assert issubclass(kind.Input, Section)
    assert kind.decoders
    assert kind.network_dims in (2, 3)
    assert kind.view_noun
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in kind.suffixes)


def test_crops_must_fit_into_what_they_are_cut_from(name: str) -> None:
    with pytest.raises(ValidationError, match="resize"):
        options_of(name, resize=SIZE - 1)


@pytest.mark.parametrize("look", LOOKS)
def test_load_gives_views(name: str, look: Look, request_: Request) -> None:
    modality = modality_of(name)
    for decoder in modality.decoders:
        views = modality.load(replace(request_, look=look), decoder)
        assert isinstance(views, np.ndarray)
        assert views.dtype == np.uint8
        assert views.shape[1:] == tuple(modality.example(1).shape[1:])
        assert views.std() > 1
        assert len(views) == 1 if look == "train" else len(views) >= 1


def test_looks_have_as_many_views_as_their_options_say(name: str, request_: Request) -> None:
    counts = {
        key: value for key, value in options_of(name).model_dump().items() if key.startswith(("extract_", "score_"))
    }
    for look in ("extract", "score"):
        wanted = np.prod([value for key, value in counts.items() if key.startswith(look)])
        views = modality_of(name).load(replace(request_, look=look), MODALITIES[name].decoders[0])
        assert len(views) == wanted
        if wanted > 1:
            assert not np.array_equal(views[0], views[-1])


def test_previews_are_pictures(name: str, request_: Request) -> None:
    modality = modality_of(name)
    for decoder in modality.decoders:
        preview = modality.load(replace(request_, look="preview"), decoder)
        assert preview.dtype == np.uint8
        assert preview.ndim == 3
        assert preview.shape[-1] == 3


@pytest.mark.parametrize("look", [*LOOKS, "preview"])
def test_the_same_request_gives_the_same_pixels(name: str, look: Look, request_: Request) -> None:
    decoder = MODALITIES[name].decoders[0]
    torch.manual_seed(1)
    np.random.seed(1)
    first = modality_of(name).load(replace(request_, look=look), decoder)
    again = modality_of(name).load(replace(request_, look=look), decoder)
    np.testing.assert_array_equal(first, again)


def test_seeds_make_the_difference_in_training_alone(name: str, request_: Request) -> None:
    modality, decoder = modality_of(name), MODALITIES[name].decoders[0]
    looks = {
        look: {modality.load(replace(request_, look=look, seed=s), decoder).tobytes() for s in range(6)}
        for look in LOOKS
    }
    assert len(looks["train"]) == 6
    assert len(looks["extract"]) == len(looks["score"]) == 1


def test_global_random_states_are_left_alone(name: str, request_: Request) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    modality_of(name).load(request_, MODALITIES[name].decoders[0])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize("look", LOOKS)
def test_decoders_give_nearly_the_same_pixels(name: str, look: Look, request_: Request) -> None:
    modality = modality_of(name)
    first, *others = [modality.load(replace(request_, look=look), d).astype(int) for d in modality.decoders]
    for other in others:
        assert np.abs(first - other).mean() < 2.0


def test_samples_smaller_than_the_crop(name: str, tmp_path: Path) -> None:
    picture = corners_picture(width=16, height=20)
    if ".png" in MODALITIES[name].suffixes:
        path = tmp_path / "small.png"
        Image.fromarray(picture).save(path)
    else:
        path = write_video(tmp_path / "small.mp4", [picture] * 3)
    modality = modality_of(name)
    for look in LOOKS:
        views = modality.load(Request("small", str(path), None, None, look, 0), modality.decoders[-1])
        assert views.shape[1:] == tuple(modality.example(1).shape[1:])


def test_instances_travel(name: str, request_: Request) -> None:
    modality = modality_of(name)
    copy = pickle.loads(pickle.dumps(modality))
    decoder = modality.decoders[0]
    np.testing.assert_array_equal(copy.load(request_, decoder), modality.load(request_, decoder))


def test_in_a_guarded_child(name: str, request_: Request) -> None:
    modality = modality_of(name)
    requests = [replace(request_, look=look, seed=seed) for look in LOOKS for seed in range(3)]
    requests.insert(4, replace(request_, media=f"{request_.media}.missing"))
    with GuardedPool(modality.load, attempts=modality.decoders, num_workers=1, deadline_s=20) as pool:
        outcomes = list(pool.imap(requests))
    missing = outcomes.pop(4)
    assert missing.value is None
    assert len(missing.reasons) == len(modality.decoders)
    for outcome in outcomes:
        assert outcome.attempt == modality.decoders[0]
        np.testing.assert_array_equal(outcome.value, modality.load(outcome.payload, modality.decoders[0]))


@pytest.mark.parametrize("contents", [None, b"", b"neither picture nor video"])
def test_what_cannot_be_read_is_an_unreadable_sample(name: str, contents: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "sample"
    if contents is not None:
        path.write_bytes(contents)
    for decoder in MODALITIES[name].decoders:
        for look in (*LOOKS, "preview"):
            with pytest.raises(UnreadableSample):
                modality_of(name).load(Request("sample", str(path), None, None, look, 0), decoder)


def test_normalize(name: str) -> None:
    mean, std = (0.5, 0.25, 0.1), (0.5, 0.2, 0.1)
    modality = modality_of(name, mean=mean, std=std)
    batch = modality.example(2)
    assert batch.dtype == torch.uint8
    batch.copy_(torch.randint(0, 256, batch.shape, generator=torch.Generator().manual_seed(0)))
    kept = batch.clone()
    normal = modality.normalize(batch)
    assert normal.dtype == torch.float32
    assert normal.shape == batch.shape
    assert torch.equal(batch, kept)
    for channel in range(3):
        expected = (batch[:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(normal[:, channel].double(), expected, atol=1e-5, rtol=1e-5)


def test_examples_fit_the_networks_of_their_dimensions(name: str) -> None:
    modality = modality_of(name)
    smallest = [arch for arch, known in ARCHITECTURES.items() if known.dims == modality.network_dims][:1]
    assert smallest
    for arch in smallest:
        network = build_network(arch, num_classes=5, seed=0).eval()
        with torch.inference_mode():
            assert network(modality.normalize(modality.example(2))).shape == (2, 5)


def test_segments_are_respected(name: str, tmp_path: Path) -> None:
    """Samples that are parts of a longer video look into their part alone."""
    if ".mp4" not in MODALITIES[name].suffixes:
        pytest.skip("no time in this modality")
    dark, bright = np.full((64, 96, 3), 20, np.uint8), np.full((64, 96, 3), 220, np.uint8)
    path = write_video(tmp_path / "parts.mp4", [dark] * 15 + [bright] * 15 + [dark] * 15)
    modality = modality_of(name, color_jitter=0.0)
    for decoder in modality.decoders:
        for look in LOOKS:
            for seed in range(4 if look == "train" else 1):
                views = modality.load(Request("part", str(path), 1.0, 2.0, look, seed), decoder)
                assert views.min() > 180
        preview = modality.load(Request("part", str(path), 1.0, 2.0, "preview", 0), decoder)
        assert preview.min() > 180


def test_what_decoding_processes_leave_out_is_done_to_the_batch(name: str, request_: Request) -> None:
    """Of a hundred views of one crop half are mirrored; without colour changes nothing else happens to them."""
    quiet = {"augment_on": "device", "color_jitter": 0.0}
    modality, decoder = modality_of(name, **quiet), MODALITIES[name].decoders[0]
    (view,) = modality.load(request_, decoder)
    loaded = [modality_of(name, color_jitter=0.0, flip=False).load(request_, decoder)[0], view]
    np.testing.assert_array_equal(*loaded)
    views = torch.from_numpy(view).repeat(100, *[1] * view.ndim)
    seeds = [derive(0, number) for number in range(100)]
    augmented = modality.augment(views, seeds)
    mirrored = torch.tensor([torch.equal(each, views[0].flip(-1)) for each in augmented])
    assert all(torch.equal(each, views[0]) for each in augmented[~mirrored])
    assert 30 < int(mirrored.sum()) < 70
    coloured = modality_of(name, augment_on="device").augment(views, seeds)
    assert not torch.equal(coloured, augmented)
    assert modality_of(name).augment(views, seeds) is views
