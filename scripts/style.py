"""How the notebooks read, held by numbers: sizes of cells, functions, modules and notebooks, prose, and the order of imports.

    python scripts/style.py                        # all notebooks; exit status 1 if one is over a limit
    python scripts/style.py nbs/41_forecast.flow.ipynb     # some of them

Lines, complexity and unused code are ruff's business (pyproject.toml); `make check` runs both.
"""

import argparse
import ast
import io
import json
import re
import statistics
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CELL_LINES = 40  # of an exported cell, without directives and blank lines
FUNCTION_LINES = 50
FUNCTION_TOKENS = 600
NESTED_LINES = 5  # of a function within a function
MODULE_LINES = 400
NOTEBOOK_BYTES = 500_000
MEDIAN_CELL = 12  # lines of the median exported cell of the package
P95_CELL = 40
PROSE = 4.0  # words of prose for each exported line of the package
LONG_FUNCTIONS = {"sweep"}  # one Riemann sweep is one loop over a row of cells, and reads best in one piece
LONG_LINES = 0.5  # percent of exported lines over 120 characters, for tables that cannot be folded
NOT_TOKENS = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass
class Cell:
    "One exported cell of a notebook"

    id: str
    source: str
    explained: bool  # prose stands somewhere between the exported cell before and this one

    @property
    def lines(self) -> int:
        return len([line for line in self.source.splitlines() if line.strip() and not line.startswith("#|")])

    @property
    def imports_only(self) -> bool:
        return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(self.source).body)


@dataclass
class Notebook:
    "What the limits need to know of a notebook"

    path: Path
    module: str | None  # as in `default_exp`; none: a page
    cells: list[Cell]
    words: int  # of prose
    size: int

    @property
    def number(self) -> int:
        return int(re.match(r"\d+", self.path.name)[0])

    @property
    def lines(self) -> int:
        return sum(c.lines for c in self.cells)


def read(path: Path) -> Notebook:
    "A notebook, as the limits see it"
    words, cells, module, explained = 0, [], None, False
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            words, explained = words + len(source.split()), True
        elif match := re.match(r"#\| *default_exp +(\S+)", source):
            module, explained = match[1], False
        elif re.search(r"^#\| *export", source, re.M):
            cells.append(Cell(cell["id"], source, explained))
            explained = False
    return Notebook(path, module, cells, words, path.stat().st_size)


def count_tokens(source: str) -> int:
    "Tokens of a piece of code, without comments and layout"
    indented = "if 1:\n" + "\n".join("    " + line for line in source.splitlines())
    return sum(t.type not in NOT_TOKENS for t in tokenize.generate_tokens(io.StringIO(indented).readline))


def functions(tree: ast.AST, inside: bool = False):
    "All functions of a tree, each with whether it stands within another one"
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if is_function:
            yield node, inside
        yield from functions(node, inside or is_function)


def function_faults(source: str, where: str) -> list[str]:
    "Functions that are too long, and `nonlocal`"
    faults, tree, lines = [], ast.parse(source), source.splitlines()
    for node, inside in functions(tree):
        length = node.end_lineno - node.lineno + 1
        tokens = count_tokens("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        if inside and length > NESTED_LINES:
            faults.append(f"{where}: nested function {node.name} has {length} lines, more than {NESTED_LINES}")
        if node.name in LONG_FUNCTIONS:
            continue
        if length > FUNCTION_LINES:
            faults.append(f"{where}: function {node.name} has {length} lines, more than {FUNCTION_LINES}")
        if tokens > FUNCTION_TOKENS:
            faults.append(f"{where}: function {node.name} has {tokens} tokens, more than {FUNCTION_TOKENS}")
    faults += [f"{where}: nonlocal" for n in ast.walk(tree) if isinstance(n, ast.Nonlocal)]
    return faults


def notebook_faults(nb: Notebook) -> list[str]:
    "What is too large, or not explained, in one notebook"
    name, faults = nb.path.name, []
    if nb.size > NOTEBOOK_BYTES:
        faults.append(
            f"{name}: {nb.size / 1000:.0f} kB, more than {NOTEBOOK_BYTES / 1000:.0f} kB: make its figures smaller"
        )
    for cell in nb.cells:
        where = f"{name}: cell {cell.id}"
        if cell.lines > CELL_LINES and not LONG_FUNCTIONS & {n.name for n, _ in functions(ast.parse(cell.source))}:
            faults.append(f"{where}: {cell.lines} exported lines, more than {CELL_LINES}")
        if not cell.explained and not cell.imports_only:
            faults.append(f"{where}: no prose before it")
        faults += function_faults(cell.source, where)
    return faults


def import_faults(notebooks: list[Notebook]) -> list[str]:
    "Modules that import from a larger number"
    numbers = {nb.module: nb.number for nb in notebooks if nb.module}
    faults = []
    for nb in notebooks:
        for cell in nb.cells:
            for node in ast.walk(ast.parse(cell.source)):
                module = (getattr(node, "module", None) or "").removeprefix("wan_well.")
                if isinstance(node, ast.ImportFrom) and numbers.get(module, -1) >= nb.number:
                    faults.append(f"{nb.path.name}: imports {module}, which has no smaller number")
    return faults


def module_faults(notebooks: list[Notebook]) -> list[str]:
    "Modules that are too long, counted as they are exported, and lines that are too long in many places"
    faults, long, total = [], 0, 0
    for nb in notebooks:
        path = ROOT / "wan_well" / (nb.module.replace(".", "/") + ".py")
        lines = path.read_text(encoding="utf-8").splitlines()
        filled = [line for line in lines if line.strip()]
        long, total = long + sum(len(line) > 120 for line in filled), total + len(filled)
        if len(lines) > MODULE_LINES:
            faults.append(f"{path.relative_to(ROOT)}: {len(lines)} lines, more than {MODULE_LINES}")
    if 100 * long > LONG_LINES * total:
        faults.append(f"{long} of {total} exported lines have more than 120 characters, more than {LONG_LINES} %")
    return faults


def figures(notebooks: list[Notebook]) -> dict[str, float]:
    "The numbers of the whole package"
    sizes = sorted(c.lines for nb in notebooks for c in nb.cells)
    lines = sum(nb.lines for nb in notebooks)
    return {
        "exported lines": lines,
        "lines of the median exported cell": statistics.median(sizes),
        "lines of the 95th percentile": sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))],
        "words of prose for each exported line": round(sum(nb.words for nb in notebooks) / max(1, lines), 2),
    }


def package_faults(numbers: dict[str, float]) -> list[str]:
    "What the whole package is over"
    faults = []
    if numbers["lines of the median exported cell"] > MEDIAN_CELL:
        faults.append(f"the median exported cell is longer than {MEDIAN_CELL} lines")
    if numbers["lines of the 95th percentile"] > P95_CELL:
        faults.append(f"5 % of the exported cells are longer than {P95_CELL} lines")
    if numbers["words of prose for each exported line"] < PROSE:
        faults.append(f"fewer than {PROSE:g} words of prose for each exported line")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="only these; none: all, and the package as a whole")
    options = parser.parse_args()
    every = [
        p
        for p in sorted((ROOT / "nbs").rglob("*.ipynb"))
        if not any(part[0] in "._" for part in p.relative_to(ROOT).parts)
    ]
    all_of_them = [read(p) for p in every]
    modules = [nb for nb in all_of_them if nb.module]
    chosen = {p.resolve() for p in options.notebooks}
    picked = [nb for nb in all_of_them if not chosen or nb.path.resolve() in chosen]
    faults = [fault for nb in picked for fault in notebook_faults(nb)]
    numbers = figures([nb for nb in picked if nb.module] or modules)
    if not chosen:
        faults += import_faults(modules) + module_faults(modules) + package_faults(numbers)
    print(*faults, sep="\n")
    print(", ".join(f"{k} {v}" for k, v in numbers.items()))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
