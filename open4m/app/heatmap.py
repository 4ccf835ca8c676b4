"""The any-to-any matrix as a picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from open4m.evaluation.matrix import Matrix
from open4m.evaluation.tables import number
from open4m.modalities.drawing import Colour, diverging, font, readable_on

_CELL, _ROW, _MARGIN, _HEAD = 64, 30, 170, 170
_PAPER, _INK, _SOFT = (255, 255, 255), (20, 20, 24), (110, 115, 122)


def draw_matrix(matrix: Matrix) -> Image.Image:
    """Rows: what is given; columns: what is predicted, with its metric. In the cells, the raw scores.

    Colours: white = the constant of the report, full blue = its tokenizer bound; red = worse than the constant.
    """
    width, height = _MARGIN + _CELL * len(matrix.targets) + 60, _HEAD + _ROW * len(matrix.given) + 34
    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    for column, target in enumerate(matrix.targets):
        _slanted(picture, (_MARGIN + column * _CELL + _CELL // 2, _HEAD - 6), target, matrix.metric[target])
    for row, name in enumerate(matrix.given):
        top = _HEAD + row * _ROW
        draw.text((_MARGIN - 8, top + _ROW / 2), name, fill=_INK, font=font(14), anchor="rm")
        for column, (value, share) in enumerate(zip(matrix.values[row], matrix.shares[row], strict=True)):
            left, ground = _MARGIN + column * _CELL, cell_colour(share)
            draw.rectangle((left, top, left + _CELL - 2, top + _ROW - 2), fill=ground)
            middle = (left + _CELL / 2 - 1, top + _ROW / 2 - 1)
            text = "" if math.isnan(value) else number(value)
            draw.text(middle, text, fill=readable_on(ground), font=font(13), anchor="mm")
    legend = f"{matrix.count} samples. White: the constant; blue: the tokenizer bound; red: worse than the constant."
    draw.text((_MARGIN, height - 18), legend, fill=_SOFT, font=font(13), anchor="lm")
    return picture


def cell_colour(share: float) -> Colour:
    """White at 0, blue towards 1, red towards -1, grey for what does not exist."""
    if math.isnan(share):
        return (225, 227, 230)
    red, green, blue = diverging(np.array(-share)).tolist()
    return red, green, blue


def _slanted(picture: Image.Image, foot: tuple[int, int], name: str, metric: str) -> None:
    """Two lines of text that rise from ``foot`` to the upper right."""
    size, angle = 150, 55
    text = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(text)
    draw.text((size, size - 2), name, fill=255, font=font(14), anchor="lb")
    draw.text((size, size), metric, fill=150, font=font(11), anchor="lt")
    turned = text.rotate(angle, Image.Resampling.BICUBIC)
    picture.paste(_INK, (foot[0] - size, foot[1] - size), turned)
