"""Pictures of every kind come in as RGB; everything else is refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities import pictures
from open4m.modalities.registry import get_modality
from open4m.modalities.rgb import Rgb
from open4m.modalities.view import View

rgb = Rgb()
COLOURS = np.array([[[200, 30, 10], [0, 255, 0]], [[1, 2, 3], [90, 90, 200]], [[0, 0, 0], [255, 255, 255]]], np.uint8)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_png_round_trip() -> None:
    np.testing.assert_array_equal(rgb.decode(rgb.encode(COLOURS), "x"), COLOURS)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "TGA", "WEBP", "JPEG2000"])
def test_lossless_formats(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    large = np.kron(COLOURS, np.ones((8, 8, 1), np.uint8))
    np.testing.assert_array_equal(rgb.decode(file_of(Image.fromarray(large), kind, **options), "x"), large)


def test_jpeg_is_close() -> None:
    smooth = np.full((16, 16, 3), (200, 90, 40), np.uint8)
    seen = rgb.decode(file_of(Image.fromarray(smooth), "JPEG", quality=95), "x")
    assert np.abs(seen.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    # How a camera stores an upright picture for each orientation tag (EXIF 2.3, 0th row/column table).
    stored = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: np.rot90(COLOURS, 1),
        7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOURS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(rgb.decode(data, "x"), COLOURS)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        data = file_of(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
        assert pictures.upright_shape(data, "x", "rgb") == (3, 2) == rgb.decode(data, "x").shape[:2]


def test_shapes_of_damaged_files_are_refused() -> None:
    for data in (b"", b"hello, I am a text", file_of(Image.fromarray(COLOURS))[:20]):
        with pytest.raises(ModalityError, match=r"photo\.png"):
            pictures.upright_shape(data, "photo.png", "rgb")


def test_grey_and_bilevel() -> None:
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    np.testing.assert_array_equal(rgb.decode(file_of(Image.fromarray(grey)), "x"), np.repeat(grey[..., None], 3, 2))
    bits = Image.fromarray(grey > 50)
    assert bits.mode == "1"
    np.testing.assert_array_equal(rgb.decode(file_of(bits), "x")[..., 0], [[0, 255], [255, 255]])


def test_sixteen_bit_grey_keeps_its_scale() -> None:
    deep = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    np.testing.assert_array_equal(rgb.decode(file_of(Image.fromarray(deep)), "x")[..., 0], [[0, 100], [200, 255]])


def test_sixteen_bit_colour_keeps_its_scale() -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOURS.astype(np.uint16) * 257)
    data = png(struct.pack(">IIBBBBB", 2, 3, 16, 2, 0, 0, 0), rows)
    np.testing.assert_array_equal(rgb.decode(data, "x"), COLOURS)


def test_transparency_lies_on_white() -> None:
    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], np.uint8)
    expected = [[[255, 255, 255], [10, 20, 30], [204, 204, 204]]]
    np.testing.assert_array_equal(rgb.decode(file_of(Image.fromarray(clear)), "x"), expected)
    grey = Image.fromarray(clear).convert("LA")
    np.testing.assert_array_equal(rgb.decode(file_of(grey), "x")[0, 0], [255, 255, 255])


def test_palettes_with_and_without_a_transparent_entry() -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(3):
        picture.putpixel((x, 0), x)
    np.testing.assert_array_equal(rgb.decode(file_of(picture), "x"), [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    seen = rgb.decode(file_of(picture, transparency=1), "x")
    np.testing.assert_array_equal(seen, [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]])
    np.testing.assert_array_equal(rgb.decode(file_of(picture, "GIF"), "x")[0, 2], [0, 0, 255])


def test_cmyk_jpeg() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    seen = rgb.decode(file_of(red, "JPEG", quality=95), "x")
    assert np.abs(seen.astype(int) - [255, 0, 0]).max() <= 8


def png(header: bytes, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 60_000, 2**31 - 1])
def test_pictures_that_claim_to_be_huge_are_refused_unread(side: int) -> None:
    bomb = png(struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"\0")
    with pytest.raises(ModalityError, match=r"photo\.png.*too large|photo\.png.*damaged"):
        rgb.decode(bomb, "photo.png")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (
            file_of(Image.fromarray(np.kron(COLOURS, np.ones((20, 20, 1), np.uint8))), "JPEG")[:400],
            "damaged or cut off",
        ),
        (file_of(Image.fromarray(COLOURS))[:-30], "damaged or cut off"),
        (file_of(Image.new("F", (2, 2)), "TIFF"), "not known"),
    ],
)
def test_what_is_no_whole_picture_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ModalityError, match=reason) as caught:
        rgb.decode(data, "somewhere/photo.jpg")
    assert "somewhere/photo.jpg" in str(caught.value)
    assert caught.value.modality == "rgb"


@settings(max_examples=150)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
def test_damaged_files_never_escape_the_error_type(kind: str, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(file_of(Image.fromarray(np.kron(COLOURS, np.ones((6, 6, 1), np.uint8))), kind))
    for place, byte in changes:
        data[place % len(data)] = byte
    data = data[: max(0, len(data) - cut)]
    for name in ("rgb", "depth", "normal", "semseg", "canny_edge"):
        try:
            value = get_modality(name).decode(bytes(data), "x")
        except ModalityError:
            continue
        assert value.ndim in (2, 3)


def test_coerce_takes_pictures_and_arrays() -> None:
    assert rgb.coerce(Image.new("LA", (3, 2), (0, 0))).tolist() == np.full((2, 3, 3), 255).tolist()
    assert rgb.coerce(COLOURS) is COLOURS


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (COLOURS / 255, r"255 \* array"),
        (COLOURS / 127.5 - 1, r"127.5 \* \(array \+ 1\)"),
        (rgb.pixels_for_model(COLOURS).transpose(1, 2, 0), "ImageNet-standardised.*0.229"),
        (rgb.pixels_for_model(COLOURS).transpose(1, 2, 0) * 3, "not a usual one"),
        (COLOURS.astype(np.float32), r"0…255: use numpy.rint\(array\)"),
        (COLOURS.astype(np.int64), "int64"),
        (COLOURS.astype(np.uint16) * 257, r"array / 257"),
        (COLOURS > 99, r"bool in \[0, 1\].*255 \* array"),
        (COLOURS // 255, "largest value is 1"),
        (COLOURS * np.nan, "NaN"),
        (COLOURS[..., 0], r"\(H, W, 3\).*dstack"),
        (np.dstack([COLOURS, COLOURS[..., :1]]), "PIL.Image.fromarray"),
        (COLOURS[None], "a batch as a list"),
        (COLOURS.transpose(2, 0, 1), "transpose"),
        (COLOURS[:0], "empty"),
        ("photo.jpg", "found str"),
    ],
)
def test_wrongly_scaled_or_shaped_arrays_are_refused(value: Any, reason: str) -> None:
    for refuse in (lambda: rgb.coerce(value), lambda: rgb.validate(value, "input")):
        with pytest.raises(ModalityError, match=reason):
            refuse()


def test_reading_names_the_missing_file() -> None:
    with pytest.raises(ModalityError, match=r"nowhere/a\.png"):
        rgb.read("nowhere/a.png")


def test_normalisations() -> None:
    tokenizer = rgb.to_array(COLOURS)
    assert tokenizer.shape == (3, 3, 2)
    assert tokenizer.dtype == np.float32
    assert tokenizer.min() == -1
    assert tokenizer.max() == 1
    np.testing.assert_array_equal(rgb.from_array(tokenizer), COLOURS)
    np.testing.assert_array_equal(rgb.from_array(tokenizer * 3)[2], COLOURS[2])
    model = rgb.pixels_for_model(COLOURS)
    assert model.dtype == np.float32
    np.testing.assert_allclose(model[:, 0, 1], [-0.485 / 0.229, (1 - 0.456) / 0.224, -0.406 / 0.225], rtol=1e-6)


def test_scores() -> None:
    assert rgb.score([COLOURS], [COLOURS]) == {"psnr": 100, "l1": 0}
    off = rgb.score([np.full((4, 4, 3), 51, np.uint8)], [np.zeros((4, 4, 3), np.uint8)])
    assert off["l1"] == pytest.approx(0.2)
    assert off["psnr"] == pytest.approx(-20 * np.log10(0.2))


def test_apply_crops_flips_and_blackens_the_outside() -> None:
    seen = rgb.apply(COLOURS, View(-1, 0, 2, 2, True, (2, 2), (3, 2)))
    np.testing.assert_array_equal(seen, [[[0] * 3, [0] * 3], [[0, 255, 0], [200, 30, 10]]])


def test_the_size_limit_leaves_room_for_cameras() -> None:
    assert pictures.MAX_PIXELS >= 8_000 * 8_000
