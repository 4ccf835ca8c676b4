"""``open4m scenes``: make data from the embedded world."""

from __future__ import annotations

from pathlib import Path

from tyro.extras import SubcommandApp

app = SubcommandApp()


@app.command
def render(
    out: Path,
    count: int = 1000,
    split: str = "train",
    size: int = 112,
    seed: int = 0,
    workers: int | None = None,
    shard_size: int = 500,
    assets: Path | None = None,
    graded: float = 0.0,
) -> None:
    """Render scenes with every label, in the published on-disk layout OUT/SPLIT/<modality>/shard-00000.tar.

    The same seed gives the same data, whatever the number of workers. Finished shards are kept, so that an
    interrupted run goes on where it stopped.

    Args:
        out: root of the data set.
        count: number of views.
        split: name of the split; use another seed for another split.
        size: side of the square pictures in pixels.
        seed: the world's seed.
        workers: processes; by default one per core.
        shard_size: views per tar file.
        assets: a folder of OBJ/GLB models with classes.json, added to the object library.
        graded: share of the views that are developed darker, brighter, paler, more vivid or in another tint, so that
            a model can learn to follow brightness, saturation and palettes.
    """
    from open4m.scenes import render_dataset

    render_dataset(
        out,
        count=count,
        seed=seed,
        size=size,
        workers=workers,
        split=split,
        shard_size=shard_size,
        assets=assets,
        graded=graded,
    )
