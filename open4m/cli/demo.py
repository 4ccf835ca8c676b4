"""``open4m demo``: see what it does, on a scene that the model has never seen."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape


def demo(out: Path = Path("out/demo"), model: str = "scenes-tiny", scene: int = 0, seed: int = 0) -> None:
    """Turn one held-out scene into every modality and write a page: OUT/index.html.

    Args:
        out: folder of the page and of the generated files.
        model: name or folder of the model.
        scene: which of the held-out scenes that ship with the package.
        seed: of the generation.
    """
    import open4m
    from open4m.app.demo import run_demo

    console = Console()
    with console.status("loading the model") as status:
        loaded = open4m.load(model)
        page = run_demo(loaded, out, scene, seed, lambda title: status.update(escape(f"generating: {title}")))
    console.print(f"[bold green]done[/] open {escape(str(page))} in a browser", highlight=False, soft_wrap=True)
