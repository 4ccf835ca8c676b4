"""The embedded world: procedural 3-D scenes with exact ground truth for every modality."""

from open4m.scenes.assets import load_assets
from open4m.scenes.dataset import render_dataset
from open4m.scenes.render import render_view
from open4m.scenes.scene import Camera, Scene
from open4m.scenes.worlds import VIEWS_PER_SCENE, sample_scene

__all__ = ["VIEWS_PER_SCENE", "Camera", "Scene", "load_assets", "render_dataset", "render_view", "sample_scene"]
