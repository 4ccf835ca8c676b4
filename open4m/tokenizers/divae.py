"""DiVAE: a tokenizer whose decoder is a diffusion model conditioned on the codes (spec: tokenizers §1, §4)."""

from __future__ import annotations

import torch
from torch import Tensor

from open4m.errors import CheckpointError
from open4m.tokenizers.base import Tokenizer, TokenizerOutput, initialise
from open4m.tokenizers.config import Backbone, DiffusionConfig
from open4m.tokenizers.diffusion import Diffusion, Sampling, ddim, ddpm, dpm_solver, signal_levels
from open4m.tokenizers.unet import UNet


class DiVAE(Tokenizer):
    """Encoder and codebook of a VQ-VAE; the decoder denoises pictures step by step, with the codes beside them."""

    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__(config)
        self.apply(initialise)
        decoder = Backbone.parse(config.dec_type)
        if decoder.kind != "UNet":
            raise CheckpointError(f"dec_type {config.dec_type!r} is not a diffusion decoder. Expected unet_patched.")
        self.decoder = UNet(decoder, config.n_channels, config.latent_dim)
        self.diffusion = Diffusion(
            signal_levels(config.beta_schedule, config.num_train_timesteps, config.zero_terminal_snr),
            config.prediction_type,
            clip=config.clip_sample or config.thresholding,
        )

    @torch.no_grad()
    def decode_codes(self, codes: Tensor, sampling: Sampling | None = None) -> Tensor:
        """Code vectors (B, d, h, w) → (B, C, h·patch, w·patch) float32, by default in 25 steps with seed 0."""
        sampling = sampling or Sampling()
        batch, _, rows, columns = codes.shape
        patch = self.config.patch_size
        shape = (self.config.n_channels, rows * patch, columns * patch)
        draw = sampling.noise_source(batch, shape, codes.device)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return self.decoder(x, t, codes)

        solver = sampling.solver or self.config.scheduler
        match solver:
            case "ddim":
                x = ddim(self.diffusion, denoise, draw(), sampling.steps, sampling.spacing)
            case "dpm++":
                x = dpm_solver(self.diffusion, denoise, draw(), sampling.steps)
            case _:
                x = ddpm(self.diffusion, denoise, draw(), sampling.steps, draw)
        return x * self.config.input_scale

    def forward(self, x: Tensor) -> TokenizerOutput:
        """Reconstruction: what the network says about x at random noise levels; target: what it should say."""
        prepared = self._prepare(x)
        codes, code_loss, ids = self.quantize(self._latents(prepared))
        t = torch.randint(self.config.num_train_timesteps, (len(x),), device=x.device)
        noise = torch.randn_like(prepared)
        prediction = self.decoder(self.diffusion.noised(prepared, noise, t), t, codes)
        return TokenizerOutput(prediction, self.diffusion.target(prepared, noise, t), code_loss, ids)
