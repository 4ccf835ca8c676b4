"""One view of a scene with all its labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from open4m.labeling.edges import canny_edges, sam_edges
from open4m.labeling.metadata import measure_metadata
from open4m.labeling.palette import extract_palettes
from open4m.modalities.coco import panoptic_value
from open4m.scenes.captions import describe
from open4m.scenes.geometry import Hits
from open4m.scenes.grading import Grade, develop
from open4m.scenes.labels import boxes_of, instances_of, people_of, visible_things
from open4m.scenes.scene import FAR_METRES, Camera, Scene
from open4m.scenes.shading import film, shade

_SUBPIXELS = np.array([(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)])
"""Rotated grid of the four extra rays of a pixel on an edge."""

_EDGE_COSINE = 0.93
_EDGE_CONTRAST = 14


def render_view(scene: Scene, view_index: int, size: int = 112, grade: Grade | None = None) -> dict[str, Any]:
    """Everything about one view, pixel-aligned and exact.

    Args:
        view_index: which of ``scene.cameras``.
        size: side of the square picture in pixels.
        grade: how the picture is developed, if not as it is lit. Captions still tell the colours of things.

    Returns:
        One value per modality (see docs/architecture.md), where ``caption`` is a list of sentences and
        ``color_palette`` the list of seven palettes; and ``instance_map`` (H, W) int32, 0 = background, else one
        id per object. Depth is metres along the optical axis up to :data:`FAR_METRES` (sky included); normals are
        in camera axes x right, y down, z towards the viewer; the sky faces the viewer.
    """
    camera = scene.cameras[view_index]
    hits, directions, axial = _primary(scene, camera, size)
    rgb = _picture(scene, camera, hits, directions, size)
    if grade is not None:
        rgb = develop(rgb, grade)
    thing = hits.thing.reshape(size, size)
    is_sky = thing < 0
    depth = np.minimum(hits.distance * axial, FAR_METRES).reshape(size, size)
    depth[is_sky] = FAR_METRES
    normal = (hits.normal @ camera.rotation.T.astype(np.float32)).reshape(size, size, 3)
    normal[..., 2] *= -1
    normal[is_sky] = (0, 0, 1)

    classes = np.array(
        [panoptic_value(t.model.class_name) for t in scene.things] + [panoptic_value("sky-other-merged")]
    )
    ids = np.array([i + 1 if t.model.is_instance else 0 for i, t in enumerate(scene.things)] + [0])
    semseg = classes[thing].astype(np.uint8)
    instance_map = ids[thing].astype(np.int32)

    visible = visible_things(scene, instance_map, depth)
    boxes, people = boxes_of(visible), people_of(visible, camera)
    captions = describe(scene, visible, semseg, view_index)
    metadata = measure_metadata(
        rgb, original_size=(size, size), captions=captions, semseg=semseg, depth=depth, normal=normal,
        instance_map=instance_map, boxes=boxes, n_humans=len(people),
    )  # fmt: skip
    return {
        "rgb": rgb,
        "depth": depth,
        "normal": normal,
        "semseg": semseg,
        "canny_edge": canny_edges(rgb),
        "sam_edge": sam_edges(thing + 1),  # walls and grounds have borders too
        "caption": captions,
        "det": boxes,
        "metadata": metadata,
        "human_poses": people,
        "color_palette": extract_palettes(rgb),
        "sam_instance": instances_of(visible, instance_map),
        "instance_map": instance_map,
    }


def _rays(camera: Camera, x: np.ndarray, y: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origins and unit directions (N, 3) float32 through pixel coordinates, and the cosine to the optical axis (N,)."""
    local = np.stack(
        [(2 * x / size - 1) * camera.tangent, (2 * y / size - 1) * camera.tangent, np.ones_like(x)], axis=1
    )
    axial = 1 / np.linalg.norm(local, axis=1)
    directions = ((local * axial[:, None]) @ camera.rotation).astype(np.float32)
    origins = np.broadcast_to(camera.position.astype(np.float32), directions.shape).copy()
    return origins, directions, axial.astype(np.float32)


def _primary(scene: Scene, camera: Camera, size: int) -> tuple[Hits, np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size].reshape(2, -1) + 0.5
    origins, directions, axial = _rays(camera, x, y, size)
    return scene.geometry.trace(origins, directions), directions, axial


def _picture(scene: Scene, camera: Camera, hits: Hits, directions: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8: a ray per pixel, and four more where things, normals or colours change."""
    linear = shade(scene.geometry, scene.light, hits, directions)
    rough = film(linear, scene.light.exposure).reshape(size, size, 3)
    edge = _edges(hits, rough, size)
    rows, cols = np.nonzero(edge)
    x = (cols[:, None] + 0.5 + _SUBPIXELS[:, 0]).ravel()
    y = (rows[:, None] + 0.5 + _SUBPIXELS[:, 1]).ravel()
    origins, finer, _ = _rays(camera, x, y, size)
    lamp = np.tile(np.arange(4), len(rows))
    extra = shade(scene.geometry, scene.light, scene.geometry.trace(origins, finer), finer, lamp)
    exposed = film(extra, scene.light.exposure).reshape(-1, 4, 3)
    rough[rows, cols] = np.round(exposed.mean(axis=1)).astype(np.uint8)
    return rough


def _edges(hits: Hits, rough: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool: pixels that differ from a neighbour in part, normal or colour."""
    part = np.where(hits.thing < 0, -1, hits.part).reshape(size, size)
    normal = hits.normal.reshape(size, size, 3)
    colour = rough.astype(np.int16)
    edge = np.zeros((size, size), bool)
    for axis in (0, 1):
        a = tuple(slice(None, -1) if i == axis else slice(None) for i in range(2))
        b = tuple(slice(1, None) if i == axis else slice(None) for i in range(2))
        differs = part[a] != part[b]
        differs |= np.einsum("hwc,hwc->hw", normal[a], normal[b]) < _EDGE_COSINE
        differs |= np.abs(colour[a] - colour[b]).max(axis=2) > _EDGE_CONTRAST
        edge[a] |= differs
        edge[b] |= differs
    return edge
