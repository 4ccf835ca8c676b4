"""Which kind of recording a folder is – told by its files, not by its name – and how it is verified."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from open4m.errors import DataError
from open4m.verify.diffusion import check_diffusion_tokenizer, check_noise_schedules
from open4m.verify.generation import check_generation
from open4m.verify.layouts import check_layouts, check_positions
from open4m.verify.options import Options, full_precision
from open4m.verify.recorded import Recorded, unpacked
from open4m.verify.report import Report
from open4m.verify.text import check_masking, check_text
from open4m.verify.tokenizers import check_codebook_training, check_tokenizer
from open4m.verify.transformer import check_transformer

EXPECTED = "expected.safetensors"


@dataclass(frozen=True)
class Kind:
    """A kind of recording.

    Attributes:
        name: what it pins.
        file: a file that only this kind has, or ``expected.safetensors``.
        entry: of ``expected.safetensors`` a pattern that some entry matches.
        check: recomputes a folder and adds to a report.
    """

    name: str
    file: str
    check: Callable[[Recorded, Options, Report], None]
    entry: str = ""

    def fits(self, folder: Recorded) -> bool:
        """Whether ``folder`` is of this kind."""
        if not folder.has(self.file):
            return False
        return not self.entry or any(re.fullmatch(self.entry, key) for key in folder.tensors(EXPECTED))


KINDS = (
    Kind("transformer", "batch.safetensors", check_transformer),
    Kind("generation", "schedules.json", check_generation),
    Kind("text tokenizer", "text.json", check_text),
    Kind("masking", "masking.json", check_masking),
    Kind("published layouts", "modalities.json", check_layouts),
    Kind("diffusion tokenizer", EXPECTED, check_diffusion_tokenizer, r"denoiser\..+"),
    Kind("noise schedules", EXPECTED, check_noise_schedules, r"alphas_cumprod\..+"),
    Kind("tokenizer", EXPECTED, check_tokenizer, r".+\.latent_before_quantizer"),
    Kind("codebook training", EXPECTED, check_codebook_training, "embed_before"),
    Kind("position tables", EXPECTED, check_positions, r"fm_[12]d\..+"),
)


def verify(folder: str | Path, options: Options | None = None) -> Report:
    """Recompute a folder of recorded outputs with open4m.

    Args:
        folder: one of those in ``tests/golden``, or another that the same writer made with other sizes or seeds.
        options: device, number format, and what some kinds need beside the folder.

    Raises:
        DataError: the folder is of no known kind, a file is missing or damaged, or entries do not fit together; the
            message names it.
        CheckpointError: its weights cannot be loaded.
    """
    folder = Path(folder)
    with unpacked(folder) as path, full_precision():
        recorded = Recorded(path, folder)
        kind = next((kind for kind in KINDS if kind.fits(recorded)), None)
        if kind is None:
            files = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
            known = ", ".join(kind.name for kind in KINDS)
            raise DataError(f"{folder}: not a folder of recorded outputs; it holds {files}. Known kinds: {known}.")
        report = Report(folder.resolve().name, kind.name)
        try:
            kind.check(recorded, options or Options(), report)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:  # what tensors of other shapes lead to
            raise DataError(
                f"{folder}: this {kind.name} could not be recomputed ({type(error).__name__}: {error}). Is the folder "
                "complete, and are its files of one run?"
            ) from error
        report.unread += recorded.unread()
    if not report.checks:
        raise DataError(f"{folder}: recognised as {kind.name}, but it holds nothing to compare with.")
    return report
