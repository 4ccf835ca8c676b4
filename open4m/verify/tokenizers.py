"""Tokenizers in the published format: tokens, codes, reconstructions, codebook training (golden: ``vq_*``)."""

from __future__ import annotations

import torch
from torch import Tensor

from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.io import load_tokenizer
from open4m.tokenizers.quantizers import CosineQuantizer
from open4m.verify.options import Options
from open4m.verify.recorded import Entries, Recorded
from open4m.verify.report import Report
from open4m.weights import CONFIG, WEIGHTS


def load_recorded_tokenizer(folder: Recorded, options: Options) -> Tokenizer:
    """The tokenizer of a folder, loaded as users do.

    Recorded tokenizers are tiny: their encoders and decoders are called ``vit_t`` and ``unet_t``, which are no presets
    of the reference; ``expected.json`` says what they are.
    """
    folder.tensors(WEIGHTS).whole()
    numbers, config = folder.json("expected.json"), dict(folder.json(CONFIG))
    names: dict[str, str] = {}
    if vit := numbers.get("vit_t"):
        names["vit_t"] = f"ViT/B_{vit['depth']}-Wi_{vit['dim_tokens']}-H_{vit['num_heads']}-E_{vit['mlp_ratio']}"
    if unet := numbers.get("unet_t"):
        levels = len(unet["channel_mult"])
        names["unet_t"] = f"UNet/B_{unet['num_res_blocks']}-Wi_{unet['model_channels']}-L_{levels}"
    for side in ("enc_type", "dec_type"):
        recorded = str(config.get(side)).removesuffix("_enc").removesuffix("_dec")
        if recorded in names:
            config[side] = names[recorded]
    return load_tokenizer(folder.path, options.device, options.dtype, config)


@torch.no_grad()
def check_tokenizer(folder: Recorded, options: Options, report: Report) -> None:
    """Every recorded case, from its input to its reconstruction."""
    expected = folder.tensors("expected.safetensors")
    model = load_recorded_tokenizer(folder, options)
    for case in dict.fromkeys(key.partition(".")[0] for key in expected):
        _check_case(case, model, expected.below(case), options.device, report)


def _check_case(case: str, model: Tokenizer, wanted: Entries, device: torch.device | str, report: Report) -> None:
    x = wanted["input"].to(device)

    def close(item: str, found: Tensor, key: str, part: str = "") -> None:
        report.close(item, found, wanted[key], "tokenizers", f"{case} {part}".strip())

    close("encoder output", model.encoder(_channels(model, x)), "encoder_output")
    close("latent", model.encode(x), "latent_before_quantizer")
    ids, output = model.tokenize(x), model(x)
    report.equal("tokens", ids, wanted["tokens"], case)
    report.equal("tokens", output.ids, wanted["tokens"], f"{case} in a whole pass")
    codes = model.quantize.lookup(wanted["tokens"].to(device))
    if model.config.quant_type == "lucid":
        report.equal("quantized", codes, wanted["quantized"], case)
    else:
        close("quantized", codes, "quantized")
    close("decoded", model.decode_tokens(wanted["tokens"].to(device)), "decoded", "from tokens")
    close("decoded", model.autoencode(x), "decoded", "from the input")
    close("decoded", output.reconstruction, "decoded", "in a whole pass")
    report.equal("code loss", float(output.code_loss), 0.0, case)


def _channels(model: Tokenizer, x: Tensor) -> Tensor:
    """What the encoder sees of an input: class ids are embedded."""
    if model.cls_emb is not None:
        return model.cls_emb(x).permute(0, 3, 1, 2)
    return x.to(model.quant_proj.weight.dtype)


def check_codebook_training(folder: Recorded, options: Options, report: Report) -> None:
    """Training steps of the cosine codebook: EMA update, commitment loss, straight-through gradient.

    Settings as recorded (README of the folder): decay 0.99, commitment weight 1, no replacement of dead codes.
    """
    expected = folder.tensors("expected.safetensors")
    size, width = expected["embed_before"].shape
    quantizer = CosineQuantizer(
        size, width, decay=0.99, dead_below=0.0, commitment=1.0, norm_latents=False, started=True
    ).to(options.device)
    book = quantizer.train()._codebook
    book.embed.copy_(expected["embed_before"])
    book.cluster_size.copy_(expected["cluster_size_before"])
    for step in sorted({key.partition(".")[0] for key in expected if key.startswith("step")}):
        wanted = expected.below(step)
        x = wanted["x"].to(options.device, copy=True).requires_grad_()
        codes, loss, ids = quantizer(x)
        (0.1 * codes.square().sum() + loss).backward()
        assert x.grad is not None
        report.equal("tokens", ids, wanted["tokens"], step)
        report.close("quantized", codes, wanted["quantized"], "codebook", step)
        report.close("loss", loss.view(1), wanted["loss"], "codebook", step)
        report.close("gradient", x.grad, wanted["grad_x_of_0.1*sum(q^2)+loss"], "codebook", step)
        report.close("codes after the step", book.embed, wanted["embed_after"], "codebook", step)
        report.close("counts after the step", book.cluster_size, wanted["cluster_size_after"], "codebook", step)
