"""The task ``detokenize``: a diffusion decoder of random weights, 50 DDIM steps against fewer of a better solver.

How many steps give the same error cannot be told from random weights, which are no denoiser. It is told where the best
denoiser is known: values from a mixture of two normal distributions, under the noise schedule of the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open4m.hub.catalogue import published_configuration
from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import Diffusion, Sampling, ddim, dpm_solver, signal_levels
from open4m.tokenizers.io import build_tokenizer

PUBLISHED = "EPFL-VILAB/4M_tokenizers_rgb_16k_224-448"
SMALL = {"enc_type": "ViT/B_1-Wi_64-H_1", "dec_type": "UNet/B_1-Wi_64-L_3", "image_size": 64}
PLAIN = Sampling(50, solver="ddim")
CANDIDATES = range(4, 50)
_SIDE = 24


@dataclass(frozen=True)
class Choice:
    """How ours samples, and the errors (root mean square) of both sides."""

    sampling: Sampling
    plain_error: float
    open4m_error: float


@dataclass(frozen=True)
class Mixture:
    """Values from two equally likely normal distributions, and their best denoiser."""

    diffusion: Diffusion
    means: tuple[float, float] = (-0.6, 0.5)
    deviation: float = 0.15

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """What the best network predicts at x (B, C, H, W) and levels t (B,)."""
        level = self.diffusion.levels[t].view(-1, 1, 1, 1)
        signal, variance = level.sqrt(), level * self.deviation**2 + 1 - level
        gaps = [x - signal * mean for mean in self.means]
        share = torch.stack([-gap.square() / (2 * variance) for gap in gaps]).softmax(dim=0)
        values = [
            mean + signal * self.deviation**2 / variance * gap for mean, gap in zip(self.means, gaps, strict=True)
        ]
        x0 = (share * torch.stack(values)).sum(dim=0)
        return self.diffusion.target(x0, (x - signal * x0) / (1 - level).sqrt(), t)

    def sample(self, solver: str, steps: int) -> Tensor:
        """Values from a fixed noise."""
        noise = torch.randn(1, 1, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
        if solver == "ddim":
            return ddim(self.diffusion, self.denoise, noise, steps, "trailing")
        return dpm_solver(self.diffusion, self.denoise, noise, steps)

    def error(self, solver: str, steps: int) -> float:
        """Distance (root mean square) from the end of the exact path."""
        exact = self.sample("ddim", len(self.diffusion.levels))
        return float((self.sample(solver, steps) - exact).square().mean().sqrt())


def choose(steps: int | None = None) -> Choice:
    """The fewest steps at equal error; or ``steps``, as ``recipes.solver_report`` finds them for a trained decoder."""
    values = published_configuration(PUBLISHED)
    levels = signal_levels(values["beta_schedule"], values["num_train_timesteps"], values["zero_terminal_snr"])
    mixture = Mixture(Diffusion(levels, values["prediction_type"], clip=False))
    allowed = mixture.error("ddim", PLAIN.steps)
    errors = ((count, mixture.error("dpm++", count)) for count in (CANDIDATES if steps is None else [steps]))
    count, error = next(pair for pair in errors if steps is not None or pair[1] <= allowed)
    return Choice(Sampling(count, solver="dpm++"), allowed, error)


def decoder(size: str, dtype: torch.dtype) -> Tokenizer:
    """The published diffusion tokenizer of pictures, or at size tiny a small one; random weights."""
    torch.manual_seed(0)
    values = published_configuration(PUBLISHED) | (SMALL if size == "tiny" else {})
    tokenizer = build_tokenizer(TokenizerConfig.from_dict(values, PUBLISHED))
    for layer in tokenizer.modules():  # those that start at zero would make every step the same
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.02)
    return tokenizer.to(dtype).eval()


def ids(tokenizer: Tokenizer) -> Tensor:
    """Random ids (1, h, w)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(tokenizer.config.codebook_size, (1, *tokenizer.config.token_shape), generator=generator)
