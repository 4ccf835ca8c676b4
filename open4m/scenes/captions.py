"""Captions of a view in simple English: every statement holds for what is visible and labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from open4m.modalities.coco import panoptic_value
from open4m.scenes.labels import Visible
from open4m.scenes.scene import Scene

Rng = np.random.Generator

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

WORDS = {
    "sports ball": "ball", "table-merged": "small table", "cabinet-merged": "cabinet", "tree-merged": "tree",
    "fence-merged": "fence", "building-other-merged": "building", "window-other": "window", "door-stuff": "door",
    "rug-merged": "rug", "light": "lamp", "mirror-stuff": "mirror", "flower": "flower bush", "rock-merged": "rock",
}  # fmt: skip
"""What captions call a class, where it is not its COCO name."""

_PLURALS = {"person": "people", "shelf": "shelves"}
_NO_COLOUR = frozenset({"potted plant", "orange", "tv", "person", "tree-merged", "rock-merged", "fence-merged"})
_SHARE_TO_MENTION = 0.004
_PLACE_SHOWN_BY = {
    "living room": ("couch",), "bedroom": ("bed",), "kitchen": ("refrigerator", "oven"),
    "dining room": ("dining table",), "office": ("laptop", "shelf"), "yard": ("house", "fence-merged"),
}  # fmt: skip
_GROUND_CLASSES = {
    "wooden floor": "floor-wood", "checkered floor": "floor-other-merged", "tiled floor": "floor-other-merged",
    "grass": "grass-merged", "gray road": "road", "sand": "sand",
}  # fmt: skip
_WALLS = {"wall-brick": "brick wall", "wall-tile": "tiled wall", "wall-wood": "wooden wall"}
_LIGHTS = {"sunny": "sunny", "cloudy": "cloudy", "bright": "bright", "dim": "dim"}


def describe(scene: Scene, visible: list[Visible], semseg: np.ndarray, view_index: int) -> list[str]:
    """One to three different sentences; the first says what is there."""
    rng = np.random.default_rng((*scene.seed, 0xCA97, view_index))
    teller = _Teller(scene, visible, semseg, rng)
    sentences = [teller.contents()]
    others: list[Callable[[], str | None]] = [teller.relation, teller.person, teller.surroundings, teller.count]
    for index in rng.permutation(len(others))[: int(rng.integers(0, 3))]:
        sentence = others[index]()
        if sentence and sentence not in sentences:
            sentences.append(sentence)
    return sentences


def with_article(phrase: str) -> str:
    """``a`` or ``an`` before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural(word: str) -> str:
    """Plural of a caption word."""
    if word in _PLURALS:
        return _PLURALS[word]
    return word + ("es" if word.endswith(("s", "ch", "sh", "x")) else "s")


def _word(item: Visible) -> str:
    return WORDS.get(item.name, item.name)


def _noun(item: Visible) -> str:
    """The thing with its colour where it has one to speak of."""
    colour = item.thing.model.colour
    return _word(item) if item.name in _NO_COLOUR or not colour else f"{colour} {_word(item)}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _listing(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


class _Teller:
    """Makes sentences about one view."""

    def __init__(self, scene: Scene, visible: list[Visible], semseg: np.ndarray, rng: Rng) -> None:
        self.scene, self.visible, self.rng = scene, visible, rng
        self.counts = Counter(item.name for item in visible)
        self.shares = np.bincount(semseg.ravel(), minlength=134) / semseg.size
        self.big = [v for v in visible if v.pixels >= _SHARE_TO_MENTION * semseg.size]
        self.place = self._place()

    def _choose(self, *options: str) -> str:
        return options[int(self.rng.integers(len(options)))]

    def _place(self) -> str:
        place = self.scene.place
        shown_by = _PLACE_SHOWN_BY.get(place)
        if shown_by and not any(self.counts[name] for name in shown_by):
            return "garden" if place == "yard" else "room"
        return place

    def _ground(self) -> str:
        """The ground in words if enough of it is seen, else ""."""
        words = self.scene.ground
        return words if self.shares[panoptic_value(_GROUND_CLASSES[words])] > 0.05 else ""

    def _light(self) -> str:
        return _LIGHTS.get(self.scene.light.name, "")

    def _where(self) -> str:
        preposition = "on" if self.place in ("street", "beach") else "in"
        return f"{preposition} {with_article(self.place)}"

    # -- sentences ------------------------------------------------------------------------------------------------
    def contents(self) -> str:
        """The largest kinds of things with their numbers."""
        order = {}
        for item in sorted(self.big, key=lambda v: -v.pixels):
            order.setdefault(item.name, item)
        groups = [self._group(item) for item in list(order.values())[: int(self.rng.integers(2, 5))]]
        light = self._light()
        place = f"{light} {self.place}" if light and self.rng.random() < 0.5 else self.place
        if not groups:
            return _sentence(self._choose(f"an empty {self.place}", f"a view of {with_article(place)}"))
        things = _listing(groups)
        return _sentence(
            self._choose(
                f"{with_article(place)} with {things}",
                f"{things} {self._where()}",
                f"a picture of {with_article(place)} with {things}",
                f"{things}",
            )
        )

    def _group(self, item: Visible) -> str:
        count = self.counts[item.name]
        if count == 1:
            return with_article(_noun(item))
        number = NUMBERS[count] if count < len(NUMBERS) else "many"
        return f"{number} {plural(_word(item))}"

    def count(self) -> str | None:
        """How many of one kind there are."""
        names = sorted({item.name for item in self.big})
        if not names:
            return None
        name = names[int(self.rng.integers(len(names)))]
        number = self.counts[name]
        if number >= len(NUMBERS):
            return None
        word = WORDS.get(name, name)
        verb, noun = ("is", word) if number == 1 else ("are", plural(word))
        return _sentence(f"there {verb} {NUMBERS[number]} {noun} {self._choose('in the picture', self._where())}")

    def person(self) -> str | None:
        """Clothes and doing of one of the people."""
        people = [item for item in self.big if item.name == "person"]
        if not people:
            return None
        item = people[int(self.rng.integers(len(people)))]
        model = item.thing.model
        who = f"a person in {with_article(model.colour)} shirt"
        seat = self._support(item)
        if model.activity == "sitting":
            return (
                _sentence(f"{who} is sitting on {with_article(_noun(seat))}")
                if seat
                else _sentence(f"{who} is sitting")
            )
        ground = self._ground()
        where = f"on the {ground}" if ground and self.rng.random() < 0.4 else self._where()
        return _sentence(f"{who} is {model.activity} {where}")

    def surroundings(self) -> str | None:
        """Ground, walls and light."""
        seen = [self._ground()] + [words for name, words in _WALLS.items() if self.shares[panoptic_value(name)] > 0.08]
        seen = [words if words in ("grass", "sand") else with_article(words) for words in seen if words]
        light = self.scene.light
        if light.is_sun and self.shares[panoptic_value("sky-other-merged")] > 0.05:
            sky = {"sunny": "a blue sky", "cloudy": "a gray sky", "evening": "an evening sky"}[light.name]
            seen.append(sky)
        if not seen:
            return None
        opening = self._choose(f"{with_article(self.place)} with", f"this is {with_article(self.place)} with")
        return _sentence(f"{opening} {_listing(seen)}")

    def relation(self) -> str | None:
        """Where one thing is with respect to another."""
        found = []
        for a in self.big:
            support = self._support(a)
            if support and a.name != "person":
                found.append(f"{with_article(_noun(a))} is on {with_article(_noun(support))}")
            for b in self.big:
                if a is not b and a.thing.support is None and b.thing.support is None:
                    words = relative(a, b)
                    if words and _noun(a) != _noun(b):
                        found.append(f"{with_article(_noun(a))} is {words} {with_article(_noun(b))}")
        return _sentence(found[int(self.rng.integers(len(found)))]) if found else None

    def _support(self, item: Visible) -> Visible | None:
        return next((other for other in self.visible if other.index == item.thing.support), None)


def relative(a: Visible, b: Visible) -> str:
    """Left and right as seen in the picture, before and behind by depth, beside by distance; "" if unclear."""
    gap = np.linalg.norm(a.thing.pose[:2, 3] - b.thing.pose[:2, 3])
    reach = sum(float(np.ptp(v.thing.model.bounds[:, :2], axis=0).max()) / 2 for v in (a, b))
    overlap = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    if overlap > 0.05 and abs(a.depth - b.depth) > 1.0:
        return "in front of" if a.depth < b.depth else "behind"
    if gap < reach + 0.35 and abs(a.depth - b.depth) < 0.7:
        return "next to"
    if overlap < 0.02 and abs(a.box[[0, 2]].mean() - b.box[[0, 2]].mean()) > 0.2:
        return "to the left of" if a.box[0] < b.box[0] else "to the right of"
    return ""
