"""``open4m verify``: tables for what fits, and a failure that names what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from open4m.cli import main
from open4m.verify.recorded import unpack
from tests.reference import golden


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    unpack(golden("vq_quantizer_training"), folder)
    tensors = load_file(folder / "expected.safetensors")
    tensors["step1.tokens"][0, 0, 0] += 1
    tensors["step1.embed_after"][0, 0] = torch.nan
    save_file(tensors, folder / "expected.safetensors")
    return folder


def run(*arguments: str | Path) -> int:
    return main(["verify", *map(str, arguments)])


def test_what_fits_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run(golden("vq_quantizer_training"), golden("position_embeddings")) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("pass") == 6 + 6 and "FAIL" not in out
    assert "vq_quantizer_training: codebook training" in out and "1e-05" in out
    assert "not compared (1): vit_2d.h2_w3_dim8" in out


def test_what_does_not_fit_fails_and_is_named(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(damaged, damaged.parent / "nowhere", golden("position_embeddings")) == 2
    out, err = capsys.readouterr()
    assert out.count("FAIL") == 2 and "position_embeddings" in out  # the others are still verified
    assert "3 problems" in err and "nowhere: there is no such folder" in err
    assert "copy: tokens (step1): 1 differ, tolerance: equal" in err
    assert "copy: codes after the step (step1): inf" in err and "vq_quantizer_training/README.md" in err


def test_json(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(damaged, "--json") == 2
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["folder"], report["kind"], report["not_compared"]) == ("copy", "codebook training", [])
    passed = {check["item"]: check["passed"] for check in report["checks"]}
    assert [item for item, fine in passed.items() if not fine] == ["tokens", "codes after the step"]


def test_other_number_formats_are_beyond_the_tolerance(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(golden("vq_human_poses_memcodes"), "--dtype", "bfloat16") == 2
    assert "vq_human_poses_memcodes: latent" in capsys.readouterr().err


def test_without_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "No folder is given" in capsys.readouterr().err
