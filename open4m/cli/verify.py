"""``open4m verify``: recorded outputs of the public reference implementation, recomputed here."""

from __future__ import annotations

import json as json_module
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tyro.conf import Positional, arg

from open4m.errors import Open4MError, VerificationError

if TYPE_CHECKING:
    from open4m.verify import Check, Report

_SHOWN = 4


def verify(
    folders: Positional[Annotated[tuple[Path, ...], arg(metavar="DIR ...", help_behavior_hint="")]],
    *,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    weights: Path | None = None,
    text_tokenizer: Path | None = None,
    json: bool = False,
) -> None:
    """Check this installation, and a device, against outputs of the reference implementation.

    Ends with an error when anything differs by more than its tolerance.

    For example, from a copy of the repository:

    open4m verify tests/golden/fm_mod21_swiglu tests/golden/vq_image --device cuda

    Args:
        folders: recorded outputs with the small checkpoints that made them.
        device: where to compute.
        dtype: number format; the tolerances are meant for float32.
        weights: folder of the transformer that made a recorded generation; default: fm_mod21_swiglu beside it.
        text_tokenizer: the published WordPiece file, for recorded texts; default: the fetched one.
        json: print JSON instead of tables.
    """
    import torch

    from open4m.verify import Options
    from open4m.verify import verify as recompute

    if not folders:
        raise VerificationError("No folder is given. Try: open4m verify tests/golden/fm_mod21_swiglu")
    options = Options(device, getattr(torch, dtype), weights, text_tokenizer)
    console, reports, problems = Console(), [], []
    for folder in folders:
        try:
            report = recompute(folder, options)
        except Open4MError as error:
            problems.append(str(error))
            continue
        reports.append(report)
        problems += [_problem(report, check) for check in report.failed]
        if not json:
            _show(report, console)
    if json:
        print(json_module.dumps([_as_dict(report) for report in reports], indent=2))
    if problems:
        raise VerificationError(
            "\n".join([f"{len(problems)} problems:" if len(problems) > 1 else "", *problems]).strip()
        )


def _show(report: Report, console: Console) -> None:
    from open4m.verify import TOLERANCES

    columns = ("parts", "largest error", "tolerance", "used", "")
    table = Table(Column("item", overflow="fold"), *(Column(name, justify="right", no_wrap=True) for name in columns))
    table.title = escape(f"{report.name}: {report.kind}")
    for check in report.checks.values():
        limits = TOLERANCES[check.tolerance]
        used = "" if check.tolerance == "equal" else f"{check.share:.0%}" if check.share < 10 else "> 999%"
        verdict = "[green]pass[/]" if check.passed else "[bold red]FAIL[/]"
        table.add_row(escape(check.item), str(check.parts), _error(check), str(limits), used, verdict)
    console.print(table)
    if report.unread:
        shown = ", ".join(report.unread[:_SHOWN]) + (" …" if len(report.unread) > _SHOWN else "")
        console.print(escape(f"not compared ({len(report.unread)}): {shown}"), highlight=False)


def _error(check: Check) -> str:
    if check.tolerance != "equal":
        return f"{check.error:.1e}"
    return f"{check.error:g} differ" if check.error else "equal"


def _problem(report: Report, check: Check) -> str:
    from open4m.verify import TOLERANCES

    limits, where = TOLERANCES[check.tolerance], f" ({check.worst})" if check.worst else ""
    return f"{report.name}: {check.item}{where}: {_error(check)}, tolerance: {limits} ({limits.source})"


def _as_dict(report: Report) -> dict[str, object]:
    checks = [
        {k: v if v != math.inf else None for k, v in asdict(check).items()} | {"passed": check.passed}
        for check in report.checks.values()
    ]
    return {"folder": report.name, "kind": report.kind, "checks": checks, "not_compared": report.unread}
