"""Colours of a scanner to sRGB by the ICC profile that its slides carry."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
from PIL import Image, ImageCms

from lowmag import tiff
from lowmag.errors import UserError

ABSENT = "absent"
Transform = Callable[[np.ndarray], np.ndarray]


def read_profile(path: Path) -> bytes | None:
    """The ICC profile of a slide, None where it has none: a TIFF's own, else what OpenSlide finds."""
    file = tiff.open_tiff(path)
    if file is not None:
        with file:
            for directory in file.directories[:1]:
                if profile := directory.content(tiff.ICC_PROFILE):
                    return profile
    try:
        with openslide.OpenSlide(path) as slide:
            found = slide.color_profile
    except (openslide.OpenSlideError, ImageCms.PyCMSError, OSError):
        return None
    return None if found is None else found.tobytes()


def digest(profile: bytes | None) -> str:
    """What a record says of a profile: the start of its SHA-256, or "absent"."""
    return ABSENT if profile is None else hashlib.sha256(profile).hexdigest()[:16]


def to_srgb(profile: bytes) -> Transform:
    """A function from pixels (h, w, 3) uint8 to the same in sRGB, by the intent the profile asks for.

    Raises UserError when the profile is damaged or not one of RGB.
    """
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(own))
        transform = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), "RGB", "RGB", intent)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise UserError(
            f"the ICC profile of {len(profile)} bytes cannot be used ({error}); set tiles.icc to keep"
        ) from error

    def converted(pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(ImageCms.applyTransform(image, transform))

    return converted
