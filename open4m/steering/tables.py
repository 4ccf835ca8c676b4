"""What was measured, as tables: for the terminal, for Markdown, for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from open4m.evaluation.measures import DETAIL, metrics
from open4m.evaluation.tables import number
from open4m.steering.chains import Comparison, Search
from open4m.steering.ensembles import EnsembleStudy
from open4m.steering.paths import PathStudy
from open4m.steering.sweep import Sweep

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Header and rows; the first two columns are words."""


def sweep_table(sweeps: Sequence[Sweep]) -> Rows:
    """One row per measure: does it follow?"""
    header = ("control", "measure", "rank correlation", "chance", "pooled", "at the ends", "follows")
    found = []
    for one in sweeps:
        for check in one.checks:
            lowest, highest = (f(range(len(check.asked)), key=check.asked.__getitem__) for f in (min, max))
            ends = " … ".join(f"{number(check.found[i])} (asked {number(check.asked[i])})" for i in (lowest, highest))
            cells = (number(check.correlation), f"{check.chance:.4f}", number(check.pooled), ends)
            left_out = f" ({check.unmeasured} pictures left out: nothing to measure)" if check.unmeasured else ""
            beside = f"{one.control} with {' and '.join(one.given)}" if one.given else f"{one.control} alone"
            beside += f", via {' and '.join(one.via)}" if one.via else ""
            beside += f", best of {one.best_of}" if one.best_of > 1 else ""
            found.append((beside, check.measure + left_out, *cells, "yes" if check.follows else "no"))
    return header, found


def reading_table(readings: Mapping[tuple[str, str], float]) -> Rows:
    """(Control, measure) → how well the model reads it from real pictures."""
    return ("control", "measure", "rank correlation"), [(*names, number(value)) for names, value in readings.items()]


def ensemble_table(study: EnsembleStudy) -> Rows:
    """One row per target and metric."""
    sizes = list(study.targets[0].merged)
    header = ("target", "score", "best guess", "one sample", *(f"{size} merged" for size in sizes), "count")
    found = [
        (
            entry.target,
            f"{name}{f' [{how.unit}]' if how.unit else ''} {'↑' if how.higher_is_better else '↓'}",
            *(number(scores[name]) for scores in (entry.best_guess, entry.single, *entry.merged.values())),
            str(entry.count),
        )
        for entry in study.targets
        for name, how in metrics(entry.target).items()
        if DETAIL not in name
    ]
    return header, found


def uncertainty_table(study: EnsembleStudy) -> Rows:
    """Whether the spread shows the true error, by target."""
    header = ("target", "unit of the spread", "pixels", "pictures", "error of the surest half")
    found = []
    for entry in study.targets:
        known = entry.uncertainty
        numbers = (number(known.pixels), number(known.pictures), number(known.surest_half))
        found.append((entry.target, study.items[entry.target][0][1].unit, *numbers))
    return header, found


def path_table(study: PathStudy) -> Rows:
    """One row per path, and one for all of them merged."""
    names = [name for name in metrics(study.target) if DETAIL not in name]
    header = ("target", "path", *names, "difference to straight", "pixels", "pictures")
    found = [
        (
            *(study.target, path.path, *(number(path.scores[name]) for name in names)),
            *(number(path.disagreement), number(path.pixels), number(path.pictures)),
        )
        for path in study.paths
    ]
    return header, [*found, (study.target, "all merged", *(number(study.merged[name]) for name in names), "", "", "")]


def trial_table(search: Search) -> Rows:
    """Every plan that was tried, in order; only those that saw all scenes can be the best."""
    metric = next(iter(metrics(search.target)))
    header = ("change", "chain", metric, "on the first part", "scenes", "seconds", "best")
    best = search.best
    found = [
        (
            trial.change,
            " → ".join(target.modality for target in trial.plan.targets),
            *(number(trial.score), number(trial.first), str(trial.scenes), f"{trial.seconds:.1f}"),
            "✓" if trial is best else "",
        )
        for trial in search.trials
    ]
    return header, found


def comparison_table(target: str, comparison: Comparison) -> Rows:
    """Default and tuned plan on the scenes of the report."""
    header = ("target", "score", "default", "tuned", "count")
    found = [
        (
            target,
            f"{name} {'↑' if how.higher_is_better else '↓'}",
            *(number(side[name]) for side in (comparison.before, comparison.after)),
            str(comparison.count),
        )
        for name, how in metrics(target).items()
        if DETAIL not in name
    ]
    return header, found
