"""Feature teachers: networks whose features stand where CLIP, DINOv2, ImageBind and T5 stood in 4M-21.

The published weights of those four cannot be redistributed with this package, so the data sets rendered here are
labelled by freely licensed stand-ins. They fill the same modalities (same shapes up to the number of channels) and
are good enough to train and show the whole system; scores on them say nothing about the originals.

| modality | stand-in | licence |
|---|---|---|
| clip | small image–text contrastive network, trained on the data set itself | as the data |
| dinov2, dinov2_global | EfficientNet-lite0, ImageNet | Apache-2.0 |
| imagebind, imagebind_global | VGG-16 trunk of an edge detector, ImageNet + BSDS500 | MIT |
| t5_caption | MiniLM-L6 sentence encoder | MIT |
"""

from open4m.labeling.teachers.base import Features, Projection, Teacher
from open4m.labeling.teachers.label import TEACHER_MODALITIES, label_features

__all__ = ["TEACHER_MODALITIES", "Features", "Projection", "Teacher", "label_features"]
