"""What users install: the wheel, alone in an environment outside of the repository, runs the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LARGEST_MB = 95
"""The package index takes files of up to 100 MB."""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command; on failure its whole output is the message."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (found,) = folder.glob("open4m-*.whl")
    return found


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``open4m`` of a fresh environment that holds the wheel and borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # A path in a .pth file comes after the environment's own packages, and .pth files inside of it are not read:
    # the installed open4m is used, never the one of the repository.
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import open4m; print(open4m.__file__)", cwd=folder).strip()
    assert Path(where).is_relative_to(own)
    return folder / "bin" / "open4m"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST_MB * 1e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"open4m", "recipes"}
    needed = ("config.json", "model.safetensors", "text_tokenizer.json", "README.md")
    assert names >= {f"open4m/assets/scenes-tiny/{name}" for name in needed}
    assert names >= {"open4m/app/page.html.j2", "open4m/assets/scenes-heldout/heldout/rgb/shard-00000.tar"}
    assert not [name for name in names if name.endswith((".pyc", ".tmp", ".pth", ".pkl"))]
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_demo_runs_where_only_the_wheel_is(program: Path, tmp_path: Path) -> None:
    run(program, "demo", "--out", "page", cwd=tmp_path)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "A picture into everything" in page and "Surface normals" in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") > 20
    assert (tmp_path / "page" / "rgb" / "depth.png").is_file()


def test_a_picture_is_generated_from(program: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (300, 200), (90, 120, 60)).save(tmp_path / "photo.jpg")
    summary = run(program, "generate", "photo.jpg", "--to", "depth", "caption", "--json", cwd=tmp_path)
    assert json.loads(summary)["model"] == "scenes-tiny"
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"depth.png", "caption.txt", "index.html", "plan.json"}


def test_the_model_is_scored_on_what_ships_with_it(program: Path, tmp_path: Path) -> None:
    asked = ("--given", "rgb", "--to", "depth", "semseg", "--limit", "8")
    text = run(program, "evaluate", *asked, "--json", "-", cwd=tmp_path)
    report = json.loads(text)
    assert report["samples"] == 8 and {entry["target"] for entry in report["targets"]} == {"depth", "semseg"}


def test_the_model_is_listed_first(program: Path, tmp_path: Path) -> None:
    models = json.loads(run(program, "models", "list", "--json", cwd=tmp_path))
    assert models[0]["name"] == "scenes-tiny"
