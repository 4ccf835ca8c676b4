"""The scenes tokenizers: within the size budget, every one trains with its loss."""

from __future__ import annotations

import pytest
import torch

from open4m.errors import UnknownNameError
from open4m.tokenizers.io import build_tokenizer
from open4m.tokenizers.vqvae import VQVAE
from open4m.training.recipe import TokenizerRecipe
from recipes.tokenizers import DIFFUSION_TOKENIZERS, SCENES_TOKENIZERS, tokenizer_recipe

FEATURES = {"clip": 64, "dinov2": 64, "imagebind": 64, "dinov2_global": 1280, "imagebind_global": 512}


def resolved(name: str) -> TokenizerRecipe:
    recipe = tokenizer_recipe(name)
    return recipe.for_data(FEATURES[name], 2.0) if name in FEATURES else recipe


def test_all_together_stay_within_seven_million() -> None:
    sizes = {
        name: sum(v.numel() for v in VQVAE(resolved(name).config).state_dict().values()) for name in SCENES_TOKENIZERS
    }
    assert sum(sizes.values()) <= 7_000_000, sizes


@pytest.mark.parametrize("name", SCENES_TOKENIZERS)
def test_a_step_before_and_after_quantization(name: str) -> None:
    torch.manual_seed(0)
    recipe = resolved(name)
    config = recipe.config
    model = VQVAE(config).train()
    shape = {"sam_instance": (64, 64), "human_poses": (1, 1)}.get(name, (112, 112))
    if not config.patch_proj:
        shape = config.token_shape if config.quant_type == "lucid" else (1, 1)
    count = max(2, config.codebook_size // max(1, shape[0] * shape[1] // config.patch_size**2) + 1)
    count = count if config.quant_type == "lucid" and config.patch_proj else 4
    x = (torch.rand(count, config.n_channels, *shape) > 0.5).float()
    if config.n_labels:
        x = torch.randint(config.n_labels, (count, *shape))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x[:2])
        loss = model.loss(output) + output.code_loss
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        model.begin_quantization([x])
    assert model.tokenize(x[:2]).shape == (2, *config.token_shape)


@pytest.mark.parametrize("name", DIFFUSION_TOKENIZERS)
def test_diffusion_recipes_speak_the_tokens_of_another(name: str) -> None:
    recipe = tokenizer_recipe(name)
    assert recipe.encoder_of is not None
    source = VQVAE(tokenizer_recipe(recipe.encoder_of).config)
    source.begin_quantization([torch.randn(4, source.config.n_channels, 112, 112)])
    model = build_tokenizer(recipe.config)
    model.load_encoder(source)
    x = torch.randn(2, source.config.n_channels, 112, 112)
    assert torch.equal(model.tokenize(x), source.tokenize(x))
    assert model.loss(model.train()(x)).isfinite()


def test_names() -> None:
    served = {modality for recipe in SCENES_TOKENIZERS.values() for modality in recipe.modalities}
    assert {"canny_edge", "sam_edge", "human_poses", "sam_instance"} <= served
    with pytest.raises(UnknownNameError, match="normal"):
        tokenizer_recipe("normals")
