"""The transformer. Knows :class:`~open4m.streams.StreamSpec` and :class:`~open4m.batch.TokenBatch`, no file format."""

from open4m.model.config import ModelConfig
from open4m.model.losses import Loss, masked_loss
from open4m.model.transformer import DecoderCache, Encoded, FourM, StreamPrediction
from open4m.model.vit import ViT

__all__ = ["DecoderCache", "Encoded", "FourM", "Loss", "ModelConfig", "StreamPrediction", "ViT", "masked_loss"]
