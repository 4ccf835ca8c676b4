"""Colour of ray hits: patterns, lamps or sun with shadows, light from everywhere, sky. Linear RGB, float32."""

from __future__ import annotations

import numpy as np

from open4m.scenes.geometry import Geometry, Hits
from open4m.scenes.materials import Pattern, pattern_weight, value_noise
from open4m.scenes.scene import Light

GAMMA = 2.2
"""Power between the displayed and the exposed picture."""

_LIFT = 2e-3
"""Metres that shadow rays start above the surface."""

_PLANE_AXES = np.array([(1, 2), (0, 2), (0, 1)])
"""The two coordinates of a pattern, by the axis that the surface faces."""


def shade(
    geometry: Geometry, light: Light, hits: Hits, directions: np.ndarray, lamp: np.ndarray | None = None
) -> np.ndarray:
    """(N, 3) linear RGB seen along unit ``directions``.

    Args:
        lamp: (N,) which sample of the light each ray uses (stratified supersampling); None = all, averaged.
    """
    colour = sky(light, directions)
    hit = np.flatnonzero(hits.thing >= 0)
    if hit.size:
        surface = Hits(*(getattr(hits, name)[hit] for name in Hits.__dataclass_fields__))
        chosen = None if lamp is None else lamp[hit]
        colour[hit] = _surface(geometry, light, surface, directions[hit], chosen)
    return colour


def film(linear: np.ndarray, exposure: float) -> np.ndarray:
    """Linear RGB → uint8: exponential shoulder, then power 1/:data:`GAMMA`."""
    exposed = 1.0 - np.exp(-1.7 * exposure * linear)
    return np.round(255 * exposed ** (1 / GAMMA)).astype(np.uint8)


def sky(light: Light, directions: np.ndarray) -> np.ndarray:
    """(N, 3) gradient from horizon to zenith with soft clouds."""
    up = np.maximum(directions[:, 2], 0.0)
    blend = (up / (up + 0.22))[:, None] * 1.2
    colour = light.horizon + (light.zenith - light.horizon) * np.minimum(blend, 1.0)
    if light.clouds > 0:
        scale = 2.2 / (up + 0.25)
        noise = value_noise(directions[:, 0] * scale, directions[:, 1] * scale)
        noise = 0.65 * noise + 0.35 * value_noise(directions[:, 0] * scale * 2.3 + 7, directions[:, 1] * scale * 2.3)
        cover = np.clip((noise - (1 - light.clouds) * 0.8) * 3, 0, 1)[:, None] * 0.75
        colour = colour + (0.5 * light.horizon + 0.5 - colour) * cover
    return colour.astype(np.float32)


def _surface(
    geometry: Geometry, light: Light, hits: Hits, directions: np.ndarray, lamp: np.ndarray | None
) -> np.ndarray:
    table = geometry.looks
    base = _base_colour(geometry, hits)
    gloss, glow = table.gloss[hits.part], table.glow[hits.part]
    up = (0.5 + 0.5 * hits.normal[:, 2])[:, None]
    ambient = light.ground.astype(np.float32) * (1 - up) + light.sky.astype(np.float32) * up
    diffuse, shine = _lamps(geometry, light, hits, directions, lamp)
    lit = base * (ambient + diffuse[:, None] * light.colour.astype(np.float32))
    lit += (gloss * shine * 0.5)[:, None] * light.colour.astype(np.float32)
    return lit * (1 - glow)[:, None] + base * glow[:, None]


def _lamps(
    geometry: Geometry, light: Light, hits: Hits, directions: np.ndarray, lamp: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Unshadowed light (N,) and highlight (N,), averaged over the samples of the light."""
    count = len(hits.thing)
    samples = np.arange(len(light.points))[:, None] * np.ones(count, np.int64) if lamp is None else lamp[None]
    target = light.points[samples]
    if light.is_sun:
        toward, reach = target, np.full(samples.shape, 200.0, np.float32)
        strength = np.ones(samples.shape, np.float32)
    else:
        toward = target - hits.point
        reach = np.sqrt(np.einsum("snc,snc->sn", toward, toward))
        toward = toward / reach[..., None]
        strength = 1.7 / (1 + 0.15 * reach * reach)
    cosine = np.einsum("snc,nc->sn", toward, hits.normal)
    cosine *= np.einsum("snc,nc->sn", toward, hits.face) > 0
    facing = cosine > 0
    row, column = np.nonzero(facing)
    start = hits.point[column] + hits.face[column] * _LIFT
    free = ~geometry.blocked(start, toward[row, column], reach[row, column] - 2 * _LIFT)
    light_on = np.zeros(samples.shape, np.float32)
    light_on[row[free], column[free]] = strength[row[free], column[free]]
    halfway = toward - directions
    halfway /= np.sqrt(np.einsum("snc,snc->sn", halfway, halfway))[..., None]
    shine = np.maximum(np.einsum("snc,nc->sn", halfway, hits.normal), 0) ** 40
    return (np.maximum(cosine, 0) * light_on).mean(axis=0), (shine * light_on).mean(axis=0)


def _base_colour(geometry: Geometry, hits: Hits) -> np.ndarray:
    """(N, 3) colours with patterns; a pattern finer than a pixel fades to its mean."""
    table = geometry.looks
    colour = table.colour[hits.part]
    kinds = table.pattern[hits.part]
    for kind in np.unique(kinds):
        if kind == Pattern.PLAIN:
            continue
        rows = np.flatnonzero(kinds == kind)
        pose = geometry.poses[hits.thing[rows]]
        local = np.einsum("nc,ncd->nd", hits.point[rows] - pose[:, :3, 3], pose[:, :3, :3])
        facing = np.abs(np.einsum("nc,ncd->nd", hits.face[rows], pose[:, :3, :3])).argmax(axis=1)
        scale = table.scale[hits.part[rows]]
        axes = _PLANE_AXES[facing]
        index = np.arange(len(rows))
        # The shift keeps the borders of a pattern off the planes of symmetry of models.
        u, v = local[index, axes[:, 0]] / scale + 0.013, local[index, axes[:, 1]] / scale + 0.013
        weight = pattern_weight(Pattern(int(kind)), u, v).astype(np.float32)
        keep = np.clip(scale / (0.016 * hits.distance[rows]) - 1.0, 0, 1)
        weight = (weight * keep + 0.4 * (1 - keep))[:, None]
        colour[rows] += (table.second[hits.part[rows]] - colour[rows]) * weight
    return colour
