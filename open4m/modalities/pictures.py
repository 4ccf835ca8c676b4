"""Image files in and out: one guarded way to open what a user may hand in."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

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
    if not data:
        raise ModalityError(modality, source, "the file is empty.", "Copy or download it again.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        pixels = image.width * image.height
        if pixels <= MAX_PIXELS:
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(modality, source, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise ModalityError(
            modality, source, f"it is not an image ({_looks_like(data)}).", f"Use one of {', '.join(FORMATS)}."
        ) from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise whatever they stumble over
        raise ModalityError(
            modality,
            source,
            f"the image is damaged or cut off ({len(data)} bytes; {error}).",
            "Copy or download it again, or open and save it with an image editor.",
        ) from error
    if pixels > MAX_PIXELS:
        raise _too_large(modality, source, f"{image.width} × {image.height} pixels")
    return image


def _too_large(modality: str, source: str, found: str) -> ModalityError:
    limit = f"at most {MAX_PIXELS / 1e6:.0f} million pixels are accepted"
    return ModalityError(modality, source, f"the image is too large ({found}); {limit}.", "Scale it down first.")


def _looks_like(data: bytes) -> str:
    start = data[:12]
    return f"it begins with {start!r}"


def png_bytes(array: np.ndarray) -> bytes:
    """A PNG of (H, W) uint8 or uint16, or (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()
