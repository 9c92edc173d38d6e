"""How the notebooks read, held by numbers: sizes of cells, functions and modules, prose, and the order of imports.
And that no module but a few names the fields or parameters of a single data set.

    python scripts/style.py                                # all notebooks; exit status 1 if one is over a limit
    python scripts/style.py nbs/41_forecast.flow.ipynb     # only these, without the numbers of the whole package

Lines, complexity and unused code are the business of ruff (pyproject.toml). `make check` runs both.
"""

import argparse
import ast
import io
import json
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# of one thing
CELL_LINES = 40  # of an exported cell, without directives and blank lines
FUNCTION_LINES = 50
FUNCTION_TOKENS = 600
NESTED_LINES = 5  # of a function within a function
MODULE_LINES = 400
NOTEBOOK_BYTES = 500_000
LINE = 140  # characters that no exported line has; ruff holds 120, and a rare table line may ask it for an exception

# of the whole package
MEDIAN_CELL = 12  # lines of the median exported cell
P95_CELL = 40
PROSE = 4.0  # words of prose for each exported line
LONG_LINES = 0.5  # percent of lines over 120 characters
DECISIONS = 10  # lines that ask for a mode, a stage or a part, outside of the modules that are there for it

DECIDERS = {"training.stages", "forecast.latent"}
DECISION = re.compile(
    r"(mode|stage(\.name)?|training\.experts)\s*(==|!=|in|not in)\s|\.stochastic|(predictor|wan|decoder) is (not )?None"
)

# Fields and parameters are what the headers of a data set say. These names of a single set may stand only here:
ONE_SET = re.compile(r"density|velocity_x|t_?cool", re.IGNORECASE)
NAMED_IN = {
    "data.fields": "which names are positive, and of which figures draw the logarithm",
    "data.identity": "reads what earlier versions wrote",
    "data.published": "the published sets",
    "demo": "options of the simulation it starts from",
    "evaluation.physics_tables": "physics: what the terminal shows of the radiative layer",
    "evaluation.report": "reads what earlier versions wrote",
    "forecast.diffusion": "the density of noise levels",
    "forecast.flow": "the density of noise levels",
    "generate": "an example in a comment",
    "model_sections": "the density of noise levels",
    "physics.euler": "physics",
    "physics.gas": "physics",
    "physics.layer": "physics",
    "physics.mixing_layer": "physics",
    "physics.quantities": "physics",
    "physics.trajectories": "physics",
    "simulate": "options of the simulation of the radiative layer",
}
NOT_TOKENS = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Cell:
    "One exported cell of a notebook"

    id: str
    source: str
    explained: bool  # prose stands between the exported cell before and this one

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def lines(self) -> int:
        return sum(bool(line.strip()) and not line.startswith("#|") for line in self.source.splitlines())

    @property
    def imports_only(self) -> bool:
        "Imports, also those under `if TYPE_CHECKING:`"
        inner = [n for top in self.tree.body for n in (top.body if isinstance(top, ast.If) else [top])]
        return all(isinstance(n, ast.Import | ast.ImportFrom) for n in inner)


@dataclass
class Notebook:
    "What the limits need to know of a notebook"

    path: Path
    module: str | None  # as in `default_exp`; none: a page
    cells: list[Cell]
    words: int  # of prose

    @property
    def number(self) -> int:
        return int(re.match(r"\d+", self.path.name)[0])

    @property
    def lines(self) -> int:
        return sum(cell.lines for cell in self.cells)

    @property
    def exported(self) -> Path:
        return ROOT / "wan_well" / (self.module.replace(".", "/") + ".py")


def notebook_paths() -> list[Path]:
    "Every notebook under nbs/, but for those in hidden folders"
    found = sorted((ROOT / "nbs").rglob("*.ipynb"))
    return [p for p in found if not any(part[0] in "._" for part in p.relative_to(ROOT).parts)]


def read(path: Path) -> Notebook:
    "A notebook, as the limits see it"
    nb, explained = Notebook(path, None, [], 0), False
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            nb.words, explained = nb.words + len(source.split()), True
        elif match := re.match(r"#\| *default_exp +(\S+)", source):
            nb.module, explained = match[1], False
        elif re.search(r"^#\| *export", source, re.M):
            nb.cells.append(Cell(cell["id"], source, explained))
            explained = False
    return nb


def functions(tree: ast.AST, inside: bool = False) -> Iterator[tuple[Function, bool]]:
    "All functions of a tree, each with whether it stands within another one"
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, Function)
        if is_function:
            yield node, inside
        yield from functions(node, inside or is_function)


def count_tokens(function: Function, source: str) -> int:
    "Tokens of a function, without comments and layout"
    lines = source.splitlines()[function.lineno - 1 : function.end_lineno]
    indented = "if 1:\n" + "\n".join("    " + line for line in lines)
    return sum(t.type not in NOT_TOKENS for t in tokenize.generate_tokens(io.StringIO(indented).readline))


def function_faults(cell: Cell) -> Iterator[str]:
    "Functions of a cell that are too long, and `nonlocal`"
    for function, inside in functions(cell.tree):
        name, lines = function.name, function.end_lineno - function.lineno + 1
        if inside and lines > NESTED_LINES:
            yield f"nested function {name} has {lines} lines, more than {NESTED_LINES}"
        if lines > FUNCTION_LINES:
            yield f"function {name} has {lines} lines, more than {FUNCTION_LINES}"
        if (tokens := count_tokens(function, cell.source)) > FUNCTION_TOKENS:
            yield f"function {name} has {tokens} tokens, more than {FUNCTION_TOKENS}"
    for node in ast.walk(cell.tree):
        if isinstance(node, ast.Nonlocal):
            yield "nonlocal: return the value, or make it an attribute"


def cell_faults(cell: Cell) -> Iterator[str]:
    "What is too large, or not explained, in one cell"
    if cell.lines > CELL_LINES:
        yield f"{cell.lines} exported lines, more than {CELL_LINES}"
    if not cell.explained and not cell.imports_only:
        yield "no prose before it"
    yield from function_faults(cell)


def notebook_faults(nb: Notebook) -> Iterator[str]:
    "What is wrong in one notebook"
    size = nb.path.stat().st_size
    if size > NOTEBOOK_BYTES:
        limit = f"{NOTEBOOK_BYTES / 1000:.0f} kB"
        yield f"{nb.path.name}: {size / 1000:.0f} kB, more than {limit}: make its figures smaller"
    for cell in nb.cells:
        yield from (f"{nb.path.name}: cell {cell.id}: {fault}" for fault in cell_faults(cell))


def imported(tree: ast.AST) -> Iterator[str]:
    "The modules of this package that a piece of code imports, in any of the three ways"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name.removeprefix("wan_well.") for name in names if name.startswith("wan_well."))


def import_faults(modules: list[Notebook]) -> Iterator[str]:
    "Modules that import from a number that is not smaller"
    numbers = {nb.module: nb.number for nb in modules}
    for nb in modules:
        wrong = {m for cell in nb.cells for m in imported(cell.tree) if numbers.get(m, -1) >= nb.number}
        yield from (f"{nb.path.name}: imports {module}, which has no smaller number" for module in sorted(wrong))


def module_faults(modules: list[Notebook]) -> Iterator[str]:
    "Exported files that are too long, and lines that are"
    lines = []
    for nb in modules:
        own = nb.exported.read_text(encoding="utf-8").splitlines()
        name = nb.exported.relative_to(ROOT)
        if len(own) > MODULE_LINES:
            yield f"{name}: {len(own)} lines, more than {MODULE_LINES}"
        for i, line in enumerate(own):
            if len(line) > LINE:
                yield f"{name}:{i + 1}: {len(line)} characters, more than {LINE}"
        lines += [line for line in own if line.strip()]
    long = sum(len(line) > 120 for line in lines)
    if 100 * long > LONG_LINES * len(lines):
        yield f"{long} of {len(lines)} exported lines have more than 120 characters, more than {LONG_LINES} %"


def decisions(modules: list[Notebook]) -> int:
    "Lines that ask for a mode, a stage or a part, where an object should know"
    sources = [cell.source for nb in modules if nb.module not in DECIDERS for cell in nb.cells]
    return sum(bool(DECISION.search(line)) for source in sources for line in source.splitlines())


def named_lines(nb: Notebook) -> list[str]:
    "Exported lines that name a field or a parameter of a single data set"
    return [line.strip() for cell in nb.cells for line in cell.source.splitlines() if ONE_SET.search(line)]


def name_faults(modules: list[Notebook]) -> Iterator[str]:
    "Names of a single data set outside of the modules that are there for it"
    for nb in modules:
        for line in named_lines(nb) if nb.module not in NAMED_IN else ():
            yield f"{nb.path.name}: `{line}` names what one data set has: ask the spec, or give a reason in NAMED_IN"


def idle_reasons(modules: list[Notebook]) -> Iterator[str]:
    "Modules that may name them and do not"
    named = {nb.module for nb in modules if named_lines(nb)}
    yield from (
        f"NAMED_IN: {module} names nothing of one data set any more" for module in NAMED_IN if module not in named
    )


def figures(modules: list[Notebook]) -> dict[str, float]:
    "The numbers of the whole package"
    sizes = sorted(cell.lines for nb in modules for cell in nb.cells)
    lines = sum(nb.lines for nb in modules)
    return {
        "exported lines": lines,
        "lines of the median exported cell": statistics.median(sizes),
        "of the 95th percentile": sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))],
        "words of prose for each line": round(sum(nb.words for nb in modules) / max(1, lines), 2),
        "lines that decide by mode or part": decisions(modules),
    }


def package_faults(numbers: dict[str, float]) -> Iterator[str]:
    "What the whole package is over"
    _, median, p95, prose, deciding = numbers.values()
    if median > MEDIAN_CELL:
        yield f"the median exported cell has {median:g} lines, more than {MEDIAN_CELL}"
    if p95 > P95_CELL:
        yield f"5 % of the exported cells are longer than {P95_CELL} lines"
    if prose < PROSE:
        yield f"{prose:g} words of prose for each exported line, fewer than {PROSE:g}"
    if deciding > DECISIONS:
        yield f"{deciding} lines decide by a mode, a stage or a part, more than {DECISIONS}: ask the object"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="only these; none: all, and the package as a whole")
    chosen = parser.parse_args().notebooks
    notebooks = [read(p) for p in chosen or notebook_paths()]
    modules = [nb for nb in notebooks if nb.module and nb.cells]
    numbers = figures(modules) if modules else {}
    faults = [fault for nb in notebooks for fault in notebook_faults(nb)] + [*name_faults(modules)]
    if not chosen:
        faults += [*import_faults(modules), *module_faults(modules), *package_faults(numbers), *idle_reasons(modules)]
    for fault in faults:
        print(fault)
    print(", ".join(f"{name} {number:g}" for name, number in numbers.items()))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
