"""Data mixtures: the published ones and that of the embedded model (spec: masking §7-8).

Published mixtures use the published stream names; :func:`scenes` takes the image size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

from open4m.data.mixture import Component, Keep, Mixture
from open4m.modalities.grammar import number_word
from open4m.modalities.metadata import FIELDS

_DENSE_7 = ("rgb", "depth", "normal", "semseg", "clip")
_DENSE_21 = (*_DENSE_7, "dinov2", "imagebind", "canny_edge", "sam_edge")
_GLOBALS = ("tok_dinov2_global", "tok_imagebind_global")
_WORDS = ("caption", "det", "metadata", "human_poses", "color_palette", "sam_instance")


def _tokens(bases: Iterable[str], size: int) -> tuple[str, ...]:
    return tuple(f"tok_{base}@{size}" for base in bases)


def _same(streams: Iterable[str], alpha: float) -> dict[str, float]:
    return dict.fromkeys(streams, alpha)


def _words_of(*fields: str) -> tuple[str, ...]:
    return tuple(number_word(1, list(FIELDS).index(field)) for field in fields)


_SHOWN_FIELDS = _words_of("brightness", "saturation", "contrast", "colorfulness", "walkability", "semantic_diversity")
"""What shows all over a picture. A model that sees a few of all fields, in any order, learns them many times slower."""
_COUNTING_FIELDS = _words_of("n_humans", "n_coco_instances", "coco_instance_diversity", "semantic_diversity")
"""What can be counted in boxes and classes."""

_TARGETS_7 = (*_tokens(_DENSE_7, 224), "caption", "det")
_STREAMS_7 = ("rgb@224", *_TARGETS_7)


def mod21() -> Mixture:
    """4M-21, CC12M part: four symmetric any-to-any components, RGB-only, caption- and T5-biased; 256 + 256 tokens."""
    # T5 states cannot be predicted, yet the published mixture gives them a share of the targets, which is lost.
    targets = (*_WORDS, "t5_caption", *_tokens(_DENSE_21, 224), *_GLOBALS)
    streams = ("rgb@224", *targets)
    keep = {"color_palette": Keep.BINARY}
    symmetric = (
        Component(f"any to any, {alpha}", _same(streams, alpha), _same(targets, alpha), keep)
        for alpha in (0.01, 0.1, 1.0, 10.0)
    )
    rgb = Component("rgb", {"rgb@224": 1000.0}, _same(targets, 0.5), keep)
    biased = (
        Component(
            prompt,
            {**_same(streams, 0.05), other: 0.0, prompt: 5.0},
            {**_same(targets, 0.5), prompt: 0.0},
            {**keep, prompt: Keep.ALL},
            weight=0.5,
        )
        for prompt, other in (("caption", "t5_caption"), ("t5_caption", "caption"))
    )
    return Mixture((*symmetric, rgb, *biased))


def mod7() -> Mixture:
    """4M-7: RGB to all and all to all; 128 + 128 tokens."""
    targets, budget = _same(_TARGETS_7, 0.5), (128, 128)
    return Mixture(
        (
            Component("rgb to all", {"rgb@224": 1000.0}, targets, input_tokens=budget, target_tokens=budget),
            Component("all to all", _same(_STREAMS_7, 0.5), targets, input_tokens=budget, target_tokens=budget),
        )
    )


def mod7_caption_bias() -> Mixture:
    """4M-7 streams: four symmetric any-to-any components, RGB-only and caption-biased; 256 + 256 tokens."""
    symmetric = (
        Component(f"any to any, {alpha}", _same(_STREAMS_7, alpha), _same(_TARGETS_7, alpha))
        for alpha in (0.01, 0.1, 1.0, 10.0)
    )
    targets = _same(_TARGETS_7, 0.5)
    rgb = Component("rgb", {"rgb@224": 1000.0}, targets)
    caption = Component("caption", {**_same(_STREAMS_7, 0.05), "caption": 5.0}, targets, {"caption": Keep.ALL})
    return Mixture((*symmetric, rgb, caption))


def text_to_image() -> Mixture:
    """Adaptation of 4M-7 to generation from captions; 64…256 visible, 256 predicted tokens."""
    targets, visible = _same(_TARGETS_7, 1.0), (64, 256)
    biased = {**_same(_STREAMS_7, 0.05), "caption": 5.0}
    return Mixture(
        (
            Component("caption", biased, targets, {"caption": Keep.ALL}, input_tokens=visible),
            Component("any to any, 0.2", _same(_STREAMS_7, 0.2), targets, input_tokens=visible),
            Component("any to any, 1", _same(_STREAMS_7, 1.0), targets, input_tokens=visible),
        )
    )


def super_resolution() -> Mixture:
    """224 → 448 pixels: everything in, the tokens at 448 out; 64…1024 visible, 1024 predicted tokens."""
    targets = _tokens(_DENSE_7, 448)
    streams = (*_STREAMS_7, "rgb@448", *targets)
    rgb_in = {**_same(streams, 0.05), "tok_rgb@224": 5.0, "tok_rgb@448": 5.0}
    rgb_out = {**_same(targets, 0.05), "tok_rgb@448": 5.0}
    caption_in = {**_same(streams, 0.05), "caption": 5.0}
    all_out, visible, predicted = _same(targets, 1.0), (64, 1024), (1024, 1024)
    return Mixture(
        (
            Component("rgb tokens", rgb_in, rgb_out, {}, visible, predicted),
            Component("caption", caption_in, all_out, {"caption": Keep.ALL}, visible, predicted),
            Component("any to 448, 0.2", _same(streams, 0.2), all_out, {}, visible, predicted),
            Component("any to 448, 1", _same(streams, 1.0), all_out, {}, visible, predicted),
        )
    )


def _descriptions_to_globals(lengths: Mapping[str, int], often: str, keep: Mapping[str, Keep]) -> tuple[Component, ...]:
    """Global features of what a picture may be described by: any of it, and every pair, half of it to all.

    Args:
        lengths: stream → tokens of a whole one.
        often: the stream whose pairs come more often, being the one that is hardest to add to.
        keep: see :class:`Component`.
    """
    features = _same(_GLOBALS, 10.0)
    mixed = Component("descriptions to globals", _same(lengths, 0.15), features, keep, (32, 280), (32, 32), weight=0.2)
    pairs = (
        Component(
            f"{a} and {b} to globals",
            _same((a, b), 10.0),
            features,
            keep,
            (whole // 2, whole),
            (32, 32),
            weight=0.25 if often in (a, b) else 0.1,
        )
        for a, b in combinations(lengths, 2)
        for whole in [lengths[a] + lengths[b]]
    )
    return (mixed, *pairs)


def scenes(image_size: int = 112) -> Mixture:
    """The embedded model (19 streams): RGB to everything, any to any, words to everything, layout to picture.

    Hardly any padding (``component_per_batch``, ``redistribute``), which small machines cannot afford. What the
    picture is turned into comes in kinds of batches: grids; all short sequences of a sample at once, so that each is
    learnt whole, to its end; boxes and instances, which take most samples to learn. Geometry and classes are predicted
    more often than RGB tokens, whose loss hardly falls in a short training. Nearly half of the batches show nothing but
    a few controls (fields of metadata, a palette, boxes, a caption), or also a part of the picture, and ask for the
    picture, its boxes or its classes: it is slow to learn to follow them, fields beside a caption above all, which must
    really be there and be few of a kind. Numbers of things are learnt as boxes and classes, in which they can be
    counted. Three tenths ask for the global features of a picture from what it may be described by, mostly from two
    things at once, which is what retrieval does. All that is for a model which knows the rest: ``scenes-tiny`` began
    without these batches (its card). A few batches show next to nothing, with which guidance contrasts.
    """
    rgb, tok_rgb = f"rgb@{image_size}", f"tok_rgb@{image_size}"
    depth, normal, semseg = geometry = _tokens(("depth", "normal", "semseg"), image_size)
    others = _tokens(("clip", "dinov2", "imagebind", "canny_edge", "sam_edge"), image_size)
    grids = {**_same(geometry, 0.3), **_same(others, 0.12), **_same(_GLOBALS, 0.05), tok_rgb: 0.08}
    little = _same(grids, 0.01)  # what the sequences leave over goes to one of the grids
    lengths = {"caption": 6.0, "det": 10.0, "metadata": 14.0, "human_poses": 13.0, "color_palette": 6.0}
    sentences = {**lengths, **little}
    boxes = {"det": 10.0, **little}
    instances = {"sam_instance": 10.0, "det": 0.5, **little}
    targets = {**grids, **_same(_WORDS, 0.18)}
    to_picture = {**_same(targets, 0.05), tok_rgb: 1.0}
    everything = (rgb, "t5_caption", *targets)
    whole = {"caption": Keep.ALL, "color_palette": Keep.ALL, "t5_caption": Keep.ALL}
    few = {**_same(everything, 0.05), "caption": 5.0, tok_rgb: 0.5}
    layout = {depth: 5.0, normal: 0.25, semseg: 0.5, tok_rgb: 1.0, "color_palette": 1.0, "caption": 0.5}
    picture = {rgb: 10.0, **_same(_WORDS, 0.05)}  # now and then the first sentinel of a sequence, as when generating
    controls = {"metadata": 0.6, "color_palette": 0.4, "caption": 0.4, "det": 0.25}
    # Large concentrations, so that each of them is there: beside small shares of metadata no field would fit.
    fields = {"caption": 10.0, "metadata": 6.0}
    colours = {"caption": 10.0, "color_palette": 10.0, "metadata": 2.0}
    shown, counting = {"metadata": _SHOWN_FIELDS}, {"metadata": _COUNTING_FIELDS}
    begun = {**_same(fields, 4.0), "color_palette": 1.0, "det": 0.5, tok_rgb: 4.0}  # as in later steps of generation
    to_layout = {**little, semseg: 1.0, depth: 0.3, normal: 0.2, "det": 0.1}
    mostly, given = {**little, tok_rgb: 1.0}, {**whole, "det": Keep.ALL, "metadata": Keep.PREFIX}
    to_classes, to_both = {**little, semseg: 1.0}, {**little, tok_rgb: 1.0, semseg: 0.4}
    boxed, painted = {"caption": 6.0, "det": 10.0, "metadata": 2.0}, {semseg: 10.0, "caption": 2.0, "metadata": 1.0}
    described = {"caption": 40, depth: 196, semseg: 196, "det": 60, "metadata": 44, "color_palette": 24}
    seen, predicted = (196, 202), (128, 128)
    components = (
        Component("rgb to grids", picture, grids, {}, seen, (160, 160), weight=0.7),
        Component("rgb to sentences", picture, sentences, {}, seen, (192, 192), weight=0.4),
        Component("rgb to boxes", picture, boxes, {}, seen, (64, 64), weight=0.3),
        Component("rgb to instances", picture, instances, {}, seen, (212, 212), weight=0.3),
        Component("any to any", _same(everything, 0.3), targets, {}, predicted, predicted, weight=0.06),
        Component("one to any", _same(everything, 0.01), targets, whole, seen, predicted, weight=0.07),
        Component("caption to all", {"caption": 1.0}, targets, whole, (64, 64), predicted, weight=0.05),
        Component("caption and more to picture", few, to_picture, whole, (32, 96), predicted, weight=0.03),
        *_descriptions_to_globals(described, semseg, {**given, "metadata": Keep.ALL}),
        Component("T5 to all", {"t5_caption": 1.0}, targets, whole, (77, 77), predicted, weight=0.01),
        Component("caption and fields to picture", fields, mostly, given, (30, 50), (160, 160), 0.5, shown),
        Component("fields to picture", {"metadata": 1.0}, mostly, given, (3, 9), (160, 160), 0.2, shown),
        Component("controls and parts to picture", begun, mostly, given, (32, 128), (128, 128), 0.3, shown),
        Component("caption and colours to picture", colours, mostly, given, (30, 64), (160, 160), 0.3),
        Component("caption and counts to boxes", fields, boxes, given, (30, 50), (64, 64), 0.35, counting),
        Component("counts to boxes", {"metadata": 1.0}, boxes, given, (3, 9), (64, 64), 0.35, counting),
        Component("caption and counts to classes", fields, to_classes, given, (30, 50), (160, 160), 0.4, counting),
        Component("counts to classes", {"metadata": 1.0}, to_classes, given, (3, 9), (160, 160), 0.3, counting),
        Component("boxes and more to picture", boxed, to_both, given, (40, 110), (160, 160), 0.5, counting),
        Component("classes and more to picture", painted, mostly, given, (150, 240), (160, 160), 0.15, counting),
        Component("controls to picture", controls, mostly, given, (4, 56), (160, 160), weight=0.2),
        Component("controls to layout", controls, to_layout, given, (3, 40), (160, 160), weight=0.1),
        Component("layout to picture", layout, to_picture, whole, (128, 196), predicted, weight=0.03),
        Component("hardly anything to all", _same(everything, 0.3), targets, whole, (0, 8), predicted, weight=0.01),
    )
    return Mixture(components, component_per_batch=True, redistribute=True)
