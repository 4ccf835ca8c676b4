"""Exact labels of one view: what is visible, boxes, outlines, people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours

from open4m.modalities.coco import THING_CLASSES
from open4m.modalities.det import Box
from open4m.modalities.human_poses import Person
from open4m.modalities.polygons import without_collinear
from open4m.modalities.sam_instance import Instance
from open4m.modalities.smpl_skeleton import shaped_joints
from open4m.scenes.model import Thing
from open4m.scenes.scene import Camera, Scene

MASK_SIDE = 64
_MIN_VISIBLE = 12 / 112**2
"""Share of the picture below which an object is not labelled: 12 pixels at 112 × 112."""

_THINGS = frozenset(THING_CLASSES)


@dataclass(frozen=True, eq=False)
class Visible:
    """A thing as seen in one view.

    Attributes:
        index: place in ``scene.things``; the instance map holds ``index + 1``.
        box: (4,) xmin ymin xmax ymax of its visible pixels, relative to the picture.
        window: the same as slices of the picture.
        pixels: number of visible pixels.
        depth: median metres along the optical axis.
    """

    index: int
    thing: Thing
    box: np.ndarray
    window: tuple[slice, slice]
    pixels: int
    depth: float

    @property
    def name(self) -> str:
        """COCO-panoptic class."""
        return self.thing.model.class_name

    @property
    def is_coco(self) -> bool:
        """Whether detectors of the 80 COCO classes would name it."""
        return self.name in _THINGS


def visible_things(scene: Scene, instance_map: np.ndarray, depth: np.ndarray) -> list[Visible]:
    """Objects with enough visible pixels, in the order of the scene."""
    rows, cols = instance_map.shape
    found = []
    for label, window in enumerate(ndimage.find_objects(instance_map), start=1):
        if window is None:
            continue
        mask = instance_map[window] == label
        pixels = int(mask.sum())
        if pixels < _MIN_VISIBLE * rows * cols:
            continue
        y, x = window
        box = np.array([x.start / cols, y.start / rows, x.stop / cols, y.stop / rows])
        middle = float(np.median(depth[window][mask]))
        found.append(Visible(label - 1, scene.things[label - 1], box, (y, x), pixels, middle))
    return found


def boxes_of(visible: list[Visible]) -> list[Box]:
    """Detections: visible extent, certain."""
    return [_box(item) for item in visible if item.is_coco]


def _box(item: Visible) -> Box:
    xmin, ymin, xmax, ymax = item.box.tolist()
    return Box(xmin, ymin, xmax, ymax, item.name)


def instances_of(visible: list[Visible], instance_map: np.ndarray) -> list[Instance]:
    """Outline and mask of the largest connected part of every object."""
    size = np.array([instance_map.shape[1], instance_map.shape[0]], dtype=np.float64)
    return [_instance(instance_map[item.window] == item.index + 1, item.window, size) for item in visible]


def _instance(mask: np.ndarray, window: tuple[slice, slice], size: np.ndarray) -> Instance:
    parts = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=parts)
    mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    mask = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    corner = np.array([window[1].start + cols[0], window[0].start + rows[0]], dtype=np.float64)
    # Contours run halfway between pixel centres; one pixel of frame and half a pixel of centre give the shift.
    outline = max(find_contours(np.pad(mask, 1).astype(np.float32), 0.5), key=len)[:, ::-1] - 0.5
    outline = without_collinear(outline[:-1])
    box = np.concatenate([corner, corner + np.array((mask.shape[1], mask.shape[0]))]).reshape(2, 2) / size
    pick_rows = (np.arange(MASK_SIDE) + 0.5) * mask.shape[0] / MASK_SIDE
    pick_cols = (np.arange(MASK_SIDE) + 0.5) * mask.shape[1] / MASK_SIDE
    stretched = mask[np.ix_(pick_rows.astype(int), pick_cols.astype(int))].astype(np.float32)
    return Instance((outline + corner) / size, box.ravel(), stretched)


def people_of(visible: list[Visible], camera: Camera) -> list[Person]:
    """Pose, shape and camera of every visible person."""
    return [_person(item, camera) for item in visible if item.thing.model.body is not None]


def _person(item: Visible, camera: Camera) -> Person:
    """Weak-perspective camera that agrees with the real one at the depth of the body's origin.

    In units of the picture's side: focal length f = 1 / (2 tangent), box side b and centre c, body origin (X, Y, Z)
    in camera axes, projected to u = f (X, Y) / Z + 1/2. Then scale = 2 f / (b Z), shift = 2 (u - c) / (b scale):
    the rule by which 4D-Humans goes from its crop to the whole image (spec: from predictions back to the modality).
    """
    body = item.thing.model.body
    assert body is not None
    pose = item.thing.pose
    orient = camera.rotation @ pose[:3, :3] @ body.global_orient
    pelvis = camera.rotation @ (pose[:3, :3] @ body.pelvis + pose[:3, 3] - camera.position)
    origin = pelvis - shaped_joints(body.betas)[0]
    centre, extent = (item.box[:2] + item.box[2:]) / 2, item.box[2:] - item.box[:2]
    side, focal = float(extent.max()), 0.5 / camera.tangent
    scale = 2 * focal / (side * origin[2])
    shift = 2 * (focal * origin[:2] / origin[2] + 0.5 - centre) / (side * scale)
    return Person(
        item.box.copy(),
        orient.astype(np.float32),
        body.body_pose.astype(np.float32),
        body.betas.astype(np.float32),
        np.array([scale, *shift], dtype=np.float32),
    )
