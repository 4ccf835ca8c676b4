"""Diffusion decoders: schedules, forward passes, chains (golden: ``diffusion_schedules``, ``divae_unet``)."""

from __future__ import annotations

import re
from typing import cast

import torch
from torch import Tensor

from open4m.tokenizers.diffusion import Diffusion, Spacing, ddim, ddpm, signal_levels, time_steps
from open4m.tokenizers.divae import DiVAE
from open4m.verify.options import Options
from open4m.verify.recorded import Entries, Recorded
from open4m.verify.report import Report
from open4m.verify.tokenizers import load_recorded_tokenizer

TOTAL = 1000
"""Noise levels of every recording."""
STEPS_OF_SINGLE_STEPS = 10
"""Single DDIM steps were recorded on a grid of so many (README of ``diffusion_schedules``), with zero terminal SNR."""

_CHAIN = re.compile(r"(?P<case>\w+\.)?ddim(?P<steps>\d+)(?:_(?P<spacing>\w+))?\.decoded(?:_from_tokens)?")
_LEVEL = re.compile(r"denoiser\.t(?P<t>\d+)(?P<masked>_cond_mask)?")
_STEP = re.compile(r"(?P<chain>ddim\d+)\.step\d+\.next")


def check_noise_schedules(folder: Recorded, options: Options, report: Report) -> None:
    """Signal levels, lists of time steps, single DDIM steps."""
    del options  # pure functions of a few numbers, made on the CPU
    expected = folder.tensors("expected.safetensors")
    for key, wanted in expected.below("alphas_cumprod").items():
        schedule, _, zero = key.rpartition(".zero_snr=")
        report.close("signal levels", signal_levels(schedule, len(wanted), zero == "True"), wanted, "levels", key)
    for key, wanted in folder.json("expected.json")["timesteps"].items():
        spacing, _, count = key.partition("/")
        steps = time_steps(int(count), TOTAL, cast(Spacing, spacing))
        short = [steps[0], steps[-1], len(steps)]  # of the longest lists only these were recorded
        report.equal("time steps", short if count == str(TOTAL) else steps, wanted, key)
    for case in [key.removesuffix(".sample") for key in expected if key.endswith(".sample")]:
        _check_step(case, expected.below(case), report)


def _check_step(case: str, wanted: Entries, report: Report) -> None:
    _, prediction, threshold, rest = case.split(".", 3)
    schedule, _, time = rest.rpartition(".t")
    diffusion = Diffusion(signal_levels(schedule, TOTAL, True), prediction, clip=threshold == "threshold=True")
    x, output = wanted["sample"], wanted["model_output"]
    t = torch.full((len(x),), int(time))
    after = diffusion.ddim_step(output, x, t, (t - TOTAL // STEPS_OF_SINGLE_STEPS).clamp(min=-1))
    report.close("predicted values", diffusion.estimate(output, x, t)[0], wanted["pred_x0"], "steps", case)
    report.close("DDIM steps", after, wanted["prev_sample"], "steps", case)


@torch.no_grad()
def check_diffusion_tokenizer(folder: Recorded, options: Options, report: Report) -> None:
    """Tokens, single forward passes of the network, training targets, and chains from the recorded noise."""
    model = load_recorded_tokenizer(folder, options)
    assert isinstance(model, DiVAE)
    _Check(model, folder.tensors("expected.safetensors"), torch.device(options.device), report).everything()


class _Check:
    def __init__(self, model: DiVAE, expected: Entries, device: torch.device, report: Report) -> None:
        self.model, self.expected, self.device, self.report = model, expected, device, report

    def recorded(self, key: str) -> Tensor:
        return self.expected[key].to(self.device)

    def codes(self, case: str = "") -> Tensor:
        return self.model.quantize.lookup(self.recorded(f"{case}tokens"))

    def close(self, item: str, found: Tensor, key: str, tolerance: str) -> None:
        self.report.close(item, found, self.expected[key], tolerance, key)

    def everything(self) -> None:
        self.report.equal("quantized", self.codes(), self.expected["quantized"])
        for key in list(self.expected):
            if key.endswith("tokens") and "decoded" not in key:
                case = key.removesuffix("tokens")
                self.report.equal("tokens", self.model.tokenize(self.recorded(f"{case}input")), self.expected[key], key)
            elif match := _LEVEL.fullmatch(key):
                self.forward_pass(key, int(match["t"]), masked=bool(match["masked"]))
            elif match := _CHAIN.fullmatch(key):
                self.chain(key, match)
        self.close(
            "forward passes", self.denoise("x_t", self.recorded("t_per_sample")), "denoiser.t_per_sample", "forwards"
        )
        for chain in dict.fromkeys(match["chain"] for key in self.expected if (match := _STEP.fullmatch(key))):
            self.steps(chain)
        self.training()
        for key in self.expected:
            if re.fullmatch(r"ddpm\d+\.decoded", key):
                self.ancestral(key.removesuffix(".decoded"))

    def denoise(self, x: str, t: Tensor) -> Tensor:
        return self.model.decoder(self.recorded(x), t, self.codes())

    def forward_pass(self, key: str, time: int, masked: bool) -> None:
        x, codes = self.recorded("x_t"), self.codes()
        if masked:  # a dropped condition is zero
            codes = codes * ~self.recorded("cond_mask")[:, None]
        t = torch.full((len(x),), time, device=self.device)
        self.close("forward passes", self.model.decoder(x, t, codes), key, "forwards")

    def chain(self, key: str, match: re.Match[str]) -> None:
        """DDIM from the recorded noise; other spacings start from the same noise."""
        case, steps = match["case"] or "", int(match["steps"])
        codes, own = self.codes(case), f"{case}ddim{steps}.initial_noise"
        noise = self.recorded(own if own in self.expected else f"{case}initial_noise")
        spacing = cast(Spacing, match["spacing"] or "trailing")
        found = ddim(self.model.diffusion, lambda x, t: self.model.decoder(x, t, codes), noise, steps, spacing)
        self.close("DDIM chains", found, key, "chains")

    def steps(self, chain: str) -> None:
        """A DDIM chain step by step."""
        x, codes, diffusion = self.recorded(f"{chain}.initial_noise"), self.codes(), self.model.diffusion
        count = int(chain.removeprefix("ddim"))
        for number, time in enumerate(time_steps(count, TOTAL, "trailing")):
            t = torch.full((len(x),), time, device=self.device)
            output = self.model.decoder(x, t, codes).float()
            predicted = diffusion.estimate(output, x, t)[0]
            x = diffusion.ddim_step(output, x, t, (t - TOTAL // count).clamp(min=-1))
            for part, found in (("model_output", output), ("pred_x0", predicted), ("next", x)):
                self.close("DDIM step by step", found, f"{chain}.step{number}.{part}", "chains")

    def ancestral(self, chain: str) -> None:
        """DDPM with the recorded noises."""
        codes, start = self.codes(), self.recorded(f"{chain}.initial_noise")
        noises = iter(self.recorded(key) for key in self.expected if key.startswith(f"{chain}.noise"))
        steps = int(chain.removeprefix("ddpm"))
        found = ddpm(
            self.model.diffusion, lambda x, t: self.model.decoder(x, t, codes), start, steps, lambda: next(noises)
        )
        self.close("DDPM chain", found, f"{chain}.decoded", "chains")

    def training(self) -> None:
        """What the network is trained on, and what it says about it."""
        x0, noise, t = (self.recorded(key) for key in ("input", "train.noise", "train.t"))
        diffusion = self.model.diffusion
        velocity = Diffusion(diffusion.levels, "v_prediction", clip=False).target(x0, noise, t)
        self.close("noised values", diffusion.noised(x0, noise, t), "train.noised", "steps")
        self.close("velocities", velocity, "train.velocity", "steps")
        self.close("forward passes", self.denoise("train.noised", t), "train.prediction", "forwards")
