"""Image files in and out: one guarded way to open what a user may hand in."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image

from open4m.errors import ModalityError

# Formats that Pillow reads by itself; the list leaves out those that start other programs (PostScript).
FORMATS = ("PNG", "JPEG", "JPEG2000", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "TGA")

MAX_PIXELS = 2**26
"""Larger pictures are refused before they are unpacked (a small file may claim to be huge)."""


def open_picture(data: bytes, source: str, modality: str) -> Image.Image:
    """Unpack an image file completely (its first frame).

    Raises:
        ModalityError: empty, not an image, damaged, cut off, or larger than :data:`MAX_PIXELS`.
    """
    with _told(data, source, modality):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        pixels = image.width * image.height
        if pixels <= MAX_PIXELS:
            image.load()
    if pixels > MAX_PIXELS:
        raise _too_large(modality, source, f"{image.width} × {image.height} pixels")
    return image


def upright_shape(data: bytes, source: str, modality: str) -> tuple[int, int]:
    """(rows, columns) of an image file when it is turned upright (EXIF), from its header: nothing is unpacked.

    Raises:
        ModalityError: as :func:`open_picture`, as far as the header shows it.
    """
    with _told(data, source, modality):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        # Called on the base class, as that of PNG files would unpack the picture.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    lies = orientation in _LYING and image.format != "TIFF"  # of which Pillow gives the upright size
    return (image.width, image.height) if lies else (image.height, image.width)


_LYING = (5, 6, 7, 8)
"""EXIF orientations that exchange rows and columns."""


@contextmanager
def _told(data: bytes, source: str, modality: str) -> Iterator[None]:
    """Turns what Pillow raises into a :class:`ModalityError` that tells what is wrong with the file."""
    if not data:
        raise ModalityError(modality, source, "the file is empty.", "Copy or download it again.")
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(modality, source, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise ModalityError(
            modality, source, f"it is not an image (it begins with {data[:12]!r}).", f"Use one of {', '.join(FORMATS)}."
        ) from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise whatever they stumble over
        raise ModalityError(
            modality,
            source,
            f"the image is damaged or cut off ({len(data)} bytes; {error}).",
            "Copy or download it again, or open and save it with an image editor.",
        ) from error


def _too_large(modality: str, source: str, found: str) -> ModalityError:
    limit = f"at most {MAX_PIXELS / 1e6:.0f} million pixels are accepted"
    return ModalityError(modality, source, f"the image is too large ({found}); {limit}.", "Scale it down first.")


def png_bytes(array: np.ndarray) -> bytes:
    """A PNG of (H, W) uint8 or uint16, or (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()
