"""The embedded world: procedural 3-D scenes with exact ground truth for every modality.

Needs the extra ``open4m[scenes]``.
"""

from importlib.util import find_spec

from open4m.errors import MissingExtraError

for _package in ("trimesh", "embreex", "scipy", "skimage"):
    if find_spec(_package) is None:
        raise MissingExtraError("Rendering scenes", "scenes", _package)

from open4m.scenes.assets import load_assets  # noqa: E402 – only after the check
from open4m.scenes.dataset import render_dataset  # noqa: E402
from open4m.scenes.render import render_view  # noqa: E402
from open4m.scenes.scene import Camera, Scene  # noqa: E402
from open4m.scenes.worlds import VIEWS_PER_SCENE, sample_scene  # noqa: E402

__all__ = ["VIEWS_PER_SCENE", "Camera", "Scene", "load_assets", "render_dataset", "render_view", "sample_scene"]
