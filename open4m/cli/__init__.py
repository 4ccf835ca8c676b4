"""The command line. Every command is one file here; heavy imports happen inside the commands."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from tyro.conf import FlagCreatePairsOff
from tyro.extras import SubcommandApp

from open4m.cli import (
    demo,
    edit,
    ensemble,
    evaluate,
    generate,
    modality,
    models,
    retrieve,
    scenes,
    sweep,
    tokenize,
    train,
    tune_chain,
    verify,
)
from open4m.errors import Open4MError


def build() -> SubcommandApp:
    """The tree of commands."""
    app = SubcommandApp()
    app.command(demo.demo)
    app.command(generate.generate)
    app.command(edit.edit)
    app.command(edit.repeat)
    app.command(evaluate.evaluate)
    app.command(sweep.sweep)
    app.command(ensemble.ensemble)
    app.command(tune_chain.tune_chain)
    app.command(retrieve.index)
    app.command(retrieve.search)
    app.command(models.app, name="models", help="What can be loaded by name.")
    app.command(modality.app, name="modality", help="What the kinds of data are: values, files, scores.")
    app.command(scenes.app, name="scenes", help="Make data from the embedded world.")
    app.command(train.app, name="train", help="Label features, train tokenizers, pre-train.")
    app.command(tokenize.tokenize)
    app.command(verify.verify)
    return app


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``open4m``. Returns 0, 2 for an error the user can mend, 130 when interrupted."""
    try:
        build().cli(
            prog="open4m",
            description="Any-to-any vision: predict any modality from any others. Start with: open4m demo",
            args=arguments,
            config=(FlagCreatePairsOff,),
        )
    except (Open4MError, OSError) as error:  # OSError: no permission, disk full, a file where a folder should be
        Console(stderr=True).print(f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; finished files are kept")
        return 130
    return 0


def entry() -> None:
    """Console script."""
    sys.exit(main())
