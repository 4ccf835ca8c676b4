"""Drawing helpers that modalities, pages and reports share: colour maps, labels, cards, contact sheets."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

GROUND: Colour = (38, 38, 42)
"""Fills what a picture does not cover."""

# Every fifteenth colour of the Turbo map (A. Mikhailov, Google, 2019, Apache-2.0).
_TURBO = np.array(
    [
        *[(48, 18, 59), (63, 61, 156), (70, 102, 221), (68, 140, 253), (47, 177, 243), (25, 211, 207)],
        *[(34, 235, 169), (81, 249, 121), (139, 254, 75), (182, 247, 53), (218, 226, 54), (244, 196, 58)],
        *[(254, 161, 47), (248, 116, 28), (232, 75, 12), (206, 45, 4), (169, 21, 1), (122, 4, 2)],
    ]
)
_DIVERGING = np.array([[33, 102, 172], [146, 197, 222], [247, 247, 247], [244, 165, 130], [178, 24, 43]])


def turbo(values: np.ndarray) -> np.ndarray:
    """Turbo colours (…, 3) uint8 of values in [0, 1] (others are clamped)."""
    return _interpolate(values, np.linspace(0.0, 1.0, len(_TURBO)), _TURBO)


def heat_map(values: np.ndarray, low: float, high: float) -> Image.Image:
    """(H, W) numbers in Turbo colours, from blue at ``low`` to red at ``high``; NaN is dark grey."""
    known = np.isfinite(values)
    scaled = (np.where(known, values, low) - low) / max(high - low, 1e-6)
    return Image.fromarray(np.where(known[..., None], turbo(scaled), np.array(GROUND, dtype=np.uint8)))


def diverging(values: np.ndarray) -> np.ndarray:
    """Blue – white – red colours (…, 3) uint8 of values in [-1, 1] (others are clamped)."""
    return _interpolate(values, np.linspace(-1.0, 1.0, len(_DIVERGING)), _DIVERGING)


def _interpolate(values: np.ndarray, stops: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return np.rint(np.stack([np.interp(values, stops, colours[:, c]) for c in range(3)], axis=-1)).astype(np.uint8)


def principal_colours(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first three principal components of feature maps as red, green and blue.

    The components are fitted on all maps together, so that equal features have equal colours in all of them. Each
    is scaled by its 1st and 99th percentile: a few outliers do not wash out the rest. The sign of a component is
    fixed by its largest loading, so that equal maps give equal pictures.

    Args:
        maps: (C, h, w) float each, C alike.

    Returns:
        (h, w, 3) uint8 each; components that do not vary are middle grey.
    """
    points = np.concatenate([m.reshape(len(m), -1).T for m in maps]).astype(np.float64)
    points -= points.mean(axis=0)
    left, strength, loadings = np.linalg.svd(points, full_matrices=False)
    count = min(3, len(strength))
    largest = np.abs(loadings[:count]).argmax(axis=1)
    signs = np.where(loadings[np.arange(count), largest] < 0, -1.0, 1.0)
    components = np.zeros((len(points), 3))
    components[:, :count] = left[:, :count] * strength[:count] * signs
    low, high = np.percentile(components, [1, 99], axis=0)
    varies = high - low > 1e-9 * max(float(strength.max()), 1.0)
    scaled = np.where(varies, (components - low) / np.where(varies, high - low, 1.0), 0.5)
    colours = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    ends = np.cumsum([m[0].size for m in maps])[:-1]
    return [part.reshape(*m.shape[1:], 3) for part, m in zip(np.split(colours, ends), maps, strict=True)]


def distinct_colours(count: int) -> list[Colour]:
    """``count`` bright colours, neighbours far apart: hues a golden angle after each other, in three tones."""
    tones = ((0.75, 1.0), (0.45, 0.95), (0.9, 0.75))
    hues = [(0.03 + 0.618034 * number) % 1.0 for number in range(count)]
    mixed = [colorsys.hsv_to_rgb(hue, *tones[number % 3]) for number, hue in enumerate(hues)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in mixed]


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at ``size`` pixels."""
    return ImageFont.load_default(size)


def fit_square(image: Image.Image, size: int, smooth: bool = True) -> Image.Image:
    """``image`` in RGB, scaled to fit a ``size`` × ``size`` picture and centred on :data:`GROUND`.

    Args:
        smooth: bicubic scaling; False keeps the borders of classes and cells sharp (nearest).
    """
    scale = size / max(image.size)
    target = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.convert("RGB")
    if image.size != target:
        image = image.resize(target, Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST)
    if target == (size, size):
        return image
    square = Image.new("RGB", (size, size), GROUND)
    square.paste(image, ((size - target[0]) // 2, (size - target[1]) // 2))
    return square


def readable_on(ground: Colour) -> Colour:
    """Black or white, whichever is easier to read on ``ground``."""
    luminance = 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


def label(image: Image.Image, xy: tuple[float, float], text: str, ground: Colour, size: float = 11) -> None:
    """Write ``text`` on a box of colour ``ground`` whose top left corner is ``xy``, moved to stay inside."""
    draw = ImageDraw.Draw(image)
    left, _, right, _ = draw.textbbox((0, 0), text, font=font(size))
    _, top, _, bottom = draw.textbbox((0, 0), "Åg", font=font(size))  # one height for all labels
    width, height = right - left + 4, bottom - top + 2
    x = max(0.0, min(xy[0], image.width - width))
    y = max(0.0, min(xy[1], image.height - height))
    draw.rectangle((x, y, x + width, y + height), fill=ground)
    draw.text((x + 2 - left, y + 1 - top), text, fill=readable_on(ground), font=font(size))


def legend(image: Image.Image, entries: Sequence[tuple[str, Colour]]) -> None:
    """List ``entries`` (name, colour) from the lower left corner of the picture upwards, the first on top."""
    size = max(9.0, image.height / 20)
    step = round(size * 1.45)
    shown = entries[: max(1, (image.height - 4) // step)]
    for row, (name, colour) in enumerate(shown):
        label(image, (2, image.height - 2 - step * (len(shown) - row)), name, colour, size)


def text_card(text: str, size: int = 224, ink: Colour = (20, 20, 24), ground: Colour = (250, 250, 247)) -> Image.Image:
    """``text`` (with its line breaks) wrapped on a ``size`` × ``size`` card, in the largest letters that fit.

    What does not fit even in the smallest letters is cut and marked with an ellipsis.
    """
    card = Image.new("RGB", (size, size), ground)
    draw = ImageDraw.Draw(card)
    margin = round(size * 0.06)
    room = size - 2 * margin
    smallest, letters = 7, max(8, round(size / 11))
    while True:
        lines = _wrap(draw, text, font(letters), room)
        height = round(letters * 1.3)
        if len(lines) * height <= room or letters <= smallest:
            break
        letters -= 1
    fitting = max(1, room // height)
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], _shorten(draw, lines[fitting - 1] + " …", font(letters), room)]
    top = margin + max(0, room - len(lines) * height) // 2
    for row, line in enumerate(lines):
        draw.text((margin, top + row * height), line, fill=ink, font=font(letters))
    return card


def _wrap(
    draw: ImageDraw.ImageDraw, text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    """Break ``text`` into lines no wider than ``width`` pixels; a longer word is broken inside."""
    measured: dict[str, float] = {}

    def wide(piece: str) -> float:
        if piece not in measured:
            measured[piece] = draw.textlength(piece, font=face)
        return measured[piece]

    lines: list[str] = []
    for paragraph in text.split("\n"):
        line, used = "", 0.0
        for word in paragraph.split():
            pieces = [word] if wide(word) <= width else list(word)
            for number, piece in enumerate(pieces):
                space = " " if line and number == 0 else ""
                if line and used + wide(space + piece) > width:
                    lines.append(line)
                    line, used, space = "", 0.0, ""
                line += space + piece
                used += wide(space + piece)
        lines.append(line)
    return lines


def contact_sheet(pictures: Sequence[tuple[str, Image.Image]], columns: int = 0, size: int = 224) -> Image.Image:
    """Titled pictures on a grid.

    Args:
        pictures: (title, picture) in reading order; at least one.
        columns: pictures in a row; 0 = about as many as there are rows.
        size: side of a cell in pixels; pictures are scaled to fit.
    """
    if not pictures:
        raise ValueError("contact_sheet needs at least one picture")
    columns = columns or int(np.ceil(len(pictures) ** 0.5))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    gap, letters = max(4, size // 28), max(10, size // 16)
    bar = round(letters * 1.6)
    sheet = Image.new("RGB", (gap + columns * (size + gap), gap + rows * (size + bar + gap)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for index, (title, picture) in enumerate(pictures):
        x = gap + index % columns * (size + gap)
        y = gap + index // columns * (size + bar + gap)
        draw.text((x, y), _shorten(draw, title, font(letters), size), fill=(20, 20, 24), font=font(letters))
        sheet.paste(fit_square(picture, size, smooth=max(picture.size) > size), (x, y + bar))
    return sheet


def _shorten(
    draw: ImageDraw.ImageDraw, text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    """``text``, cut with an ellipsis where it is wider than ``width`` pixels."""
    if draw.textlength(text, font=face) <= width:
        return text
    text = text.rstrip(" …")
    while text and draw.textlength(text + "…", font=face) > width:
        text = text[:-1]
    return text + "…"
