"""Pictures: one random crop for training, even crops for evaluation, 2D networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from cfvid.data import transforms
from cfvid.data.batch_augmentation import changed, drawn
from cfvid.data.loader import Look, Request
from cfvid.media.image import SUFFIXES, read_image
from cfvid.sections.base import Count, Fraction, Positive, Section

Triple = tuple[float, float, float]


class ImageInput(Section):
    """Options of the image modality."""

    crop_size: Count
    """Side of the square that the network sees, in pixels."""
    resize: Count
    """The shorter side before the evaluation crop, in pixels."""
    min_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.35
    """Training crops cover at least this share of the picture's area."""
    max_aspect: Annotated[float, Field(ge=1.0)] = 1.3333
    """Training crops are at most this much wider than high, or higher than wide."""
    flip: bool = True
    """Mirror half of the training crops."""
    color_jitter: Fraction = 0.0
    """Strength of brightness, contrast, saturation (1 +- s) and hue (+- s/2) changes in training."""
    augment_on: Literal["worker", "device"] = "worker"
    """Where training crops are mirrored and their colours changed: each in its decoding process, or whole batches on
    the network's device, by other draws from the same distribution. Decoding processes have less to do then."""
    eval_shape: Literal["crop", "whole"] = "crop"
    """What evaluation looks at: crops of the picture, whose shorter side is scaled to `resize`; or the whole picture,
    squeezed into the square without a crop."""
    extract_crops: Count = 1
    """Evaluation crops whose features are averaged."""
    score_crops: Count = 1
    """Evaluation crops whose softmax outputs are averaged."""
    mean: Triple = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _sizes_agree(self) -> ImageInput:
        if self.resize < self.crop_size:
            raise ValueError(f"resize ({self.resize}) must be at least crop_size ({self.crop_size})")
        if self.eval_shape == "whole" and (self.extract_crops, self.score_crops) != (1, 1):
            raise ValueError("eval_shape: whole is one look at a picture, so that extract_crops and score_crops are 1")
        return self


class ImageModality:
    """See `cfvid.modalities.base.Modality`."""

    name: ClassVar[str] = "image"
    Input: ClassVar[type[Section]] = ImageInput
    suffixes: ClassVar[frozenset[str]] = SUFFIXES
    decoders: ClassVar[tuple[str, ...]] = ("pillow",)
    network_dims: ClassVar[int] = 2
    view_noun: ClassVar[str] = "crop"

    def __init__(self, options: ImageInput) -> None:
        self.options = options

    def load(self, request: Request, decoder: str) -> np.ndarray:  # noqa: ARG002  (there is one decoder)
        """uint8, (V, 3, S, S); the picture itself for `preview`."""
        pixels_HWC = read_image(request.media)
        if request.look == "preview":
            return pixels_HWC
        image_1CHW = transforms.to_tensor(pixels_HWC[None])
        return views_of(image_1CHW, self.options, request.look, request.seed).numpy()

    def augment(self, views: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """See the protocol."""
        return augmented(views, seeds, self.options)

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, S, S) -> float32."""
        return transforms.normalize(batch, mean=self.options.mean, std=self.options.std)

    def example(self, num_samples: int) -> torch.Tensor:
        """uint8 zeros, (N, 3, S, S)."""
        side = self.options.crop_size
        return torch.zeros(num_samples, 3, side, side, dtype=torch.uint8)


def augmented(views: torch.Tensor, seeds: Sequence[int], options: ImageInput) -> torch.Tensor:
    """With `augment_on: device`, training views mirrored and with other colours; else as they are."""
    if options.augment_on == "worker":
        return views
    changes = drawn(seeds, flip=options.flip, color_jitter=options.color_jitter)
    return changed(views, changes, color_jitter=options.color_jitter > 0)


def views_of(image_1CHW: torch.Tensor, options: ImageInput, look: Look, seed: int) -> torch.Tensor:
    """One training crop, or the evaluation crops: uint8, (V, 3, S, S)."""
    if look != "train" and options.eval_shape == "whole":
        return transforms.squeeze(image_1CHW, options.crop_size)
    if look != "train":
        resized = transforms.resize_short_side(image_1CHW, options.resize)
        num_crops = options.extract_crops if look == "extract" else options.score_crops
        return torch.cat(transforms.even_crops(resized, options.crop_size, num_crops=num_crops))
    rng = np.random.default_rng(seed)
    crop = transforms.random_resized_crop(
        image_1CHW,
        options.crop_size,
        scale=(options.min_scale, 1.0),
        ratio=(1 / options.max_aspect, options.max_aspect),
        rng=rng,
    )
    if options.augment_on == "device":
        return crop
    if options.flip:
        crop = transforms.random_flip(crop, rng=rng)
    if options.color_jitter > 0:
        crop = transforms.color_jitter(crop, options.color_jitter, rng=rng)
    return crop
