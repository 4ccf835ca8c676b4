"""The house is as docs/architecture.md says: one-way imports, short files, whole modalities, no unsafe loading."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from open4m.modalities.registry import all_modalities

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "open4m").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST = 450


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


# -- imports ----------------------------------------------------------------------------------------------------------
@cache
def may_import() -> dict[str, frozenset[str]]:
    """Room → rooms that it may import, directly or through another one: the table of docs/architecture.md."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## The few types")[0]
    reach: dict[str, set[str]] = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3:
            names = re.findall(r"[\w.]+", " ".join(re.findall("`.*?`", cells[0])))
            allowed = set(re.findall(r"\w+", re.sub(r"\(.*?\)|;.*", "", cells[2])))
            reach |= {name.removesuffix(".py"): {name.removesuffix(".py"), *allowed} for name in names}
    words = {name for name in reach if (ROOT / "open4m" / f"{name}.py").is_file()}
    for _ in reach:  # as often as a chain can be long
        reach = {room: {far for near in rooms for far in reach.get(near, ())} | rooms for room, rooms in reach.items()}
    return {room: frozenset(set(reach) if "all" in rooms else rooms | words) for room, rooms in reach.items()}


def is_script(path: Path) -> bool:
    """Recipes that are run, not imported, use everything."""
    return room_of(path) == "recipes" and "__main__" in path.read_text(encoding="utf-8")


def room_of(path: Path) -> str:
    """``open4m/model/config.py`` → model; ``open4m/errors.py`` → errors; ``recipes/models.py`` → recipes."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "recipes" else parts[1]


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of this project, also inside functions and for type checking."""
    for node in ast.walk(tree(path)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative import"
            bare = node.module in ("open4m", "recipes")
            modules = [f"{node.module}.{alias.name}" for alias in node.names] if bare else [node.module or ""]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "recipes":
                yield node.lineno, "recipes"
            elif parts[0] == "open4m" and len(parts) > 1:
                yield node.lineno, parts[1]


def test_the_table_names_every_room() -> None:
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms == set(may_import())
    assert may_import()["model"] == {"model", "errors", "files", "streams", "batch", "precision", "weights"}
    assert not {"scenes", "recipes"} & may_import()["training"] and "modalities" in may_import()["scenes"]


def test_imports_point_one_way() -> None:
    wrong = [
        f"{relative(path)}:{line}: {room_of(path)} imports {room}"
        for path in SOURCES
        if room_of(path) != "__init__" and not is_script(path)
        for line, room in imported_rooms(path)
        if room not in may_import()[room_of(path)]
    ]
    assert not wrong, "\n".join(wrong)


# -- form -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=relative)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_public_things_are_documented(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module) or not module.body, "the module has no docstring"
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inherited = isinstance(node, ast.ClassDef) and node.bases  # says what it is by its base and its card
            assert ast.get_docstring(node) or inherited, f"{node.name} (line {node.lineno}) has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_is_left_unfinished(path: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", path.read_text(encoding="utf-8"))


# -- safety -----------------------------------------------------------------------------------------------------------
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "torch.hub.load", "os.system", "yaml.load"}
FOREIGN_WEIGHTS = "open4m/labeling/teachers/efficientnet.py"
"""The one file that may read a .pth: that of an installed package, which has no other format; tensors only."""


def unsafe(module: ast.Module) -> Iterator[str]:
    """What in a file could run code that came with data."""
    for node in ast.walk(module):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (f"line {node.lineno}: {n}" for n in names if n.partition(".")[0] in UNSAFE_MODULES)  # type: ignore[attr-defined]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in UNSAFE_CALLS or options.get("shell", "False") != "False":
                yield f"line {node.lineno}: {called}"
            if called == "torch.load" and options.get("weights_only") != "True":
                yield f"line {node.lineno}: {called} without weights_only=True"
            if called in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
                yield f"line {node.lineno}: {called} without allow_pickle=False"
            if options.get("allow_pickle", "False") != "False":
                yield f"line {node.lineno}: {called} with allow_pickle"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_code_comes_with_data(path: Path) -> None:
    assert not list(unsafe(tree(path)))
    assert "torch.load" not in path.read_text(encoding="utf-8") or relative(path) == FOREIGN_WEIGHTS


def test_the_check_of_safety_finds_what_it_looks_for() -> None:
    bad = (
        *("import pickle", "from joblib import load", "eval('1')", "torch.load(p)", "np.load(p)"),
        *("np.load(p, allow_pickle=True)", "np.save(p, x, allow_pickle=True)", "subprocess.run(c, shell=True)"),
    )
    for line in bad:
        assert list(unsafe(ast.parse(line))), line
    assert not list(unsafe(ast.parse("np.load(p, allow_pickle=False); model.eval(); re.compile('x')")))


# -- modalities -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(all_modalities()))
def test_every_modality_is_whole(name: str) -> None:
    modality = all_modalities()[name]
    assert modality.name == name and modality.card.title and modality.card.description.endswith(".")
    assert modality.card.metrics and modality.card.source
    assert modality.extensions and all(e == e.lower().lstrip(".") for e in modality.extensions)
    for size, patch in ((224, 16), (112, 8)):
        streams = modality.streams(size, patch)
        assert streams and all(spec.modality == name and spec.max_tokens > 0 for spec in streams)
        assert any(spec.is_input for spec in streams)
    assert type(modality).__doc__ or type(modality).__mro__[1].__doc__


def test_the_21_modalities_are_there() -> None:
    expected = {
        *("rgb", "depth", "normal", "semseg", "canny_edge", "sam_edge", "clip", "dinov2", "imagebind"),
        *("dinov2_global", "imagebind_global", "caption", "t5_caption", "det", "metadata", "human_poses"),
        *("color_palette", "sam_instance"),
    }
    assert expected == set(all_modalities())
    assert len({modality.card.title for modality in all_modalities().values()}) == len(expected)
