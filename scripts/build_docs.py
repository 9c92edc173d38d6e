"""Build the documentation in _docs without Quarto, then check it.

nbdev prepares the pages (show_doc, links between symbols), smalldocs renders them, latex2mathml turns formulas into
MathML, so that a page asks for nothing from elsewhere. A link that leads nowhere, a page or a figure that is missing is
an error. `--quarto` builds the site with `nbdev-docs` instead, for those who have Quarto; it reads the same
`_quarto.yml`. In both cases nbdev works in a scratch copy, in which examples that import and compute in one cell are
marked to keep their stored outputs: nbdev would run them, away from what they need.
"""

import argparse
import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
import yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
FORMULA = re.compile(
    r"""
    (?P<code> ```.*?``` | ~~~.*?~~~ | `[^`\n]+` | \\\$ )                      # code and an escaped dollar: no formula
    | \$\$ (?P<block> .+? ) \$\$
    | (?<![\w$]) \$ (?P<inline> [^\s$] (?: [^$\n]* [^\s$] )? ) \$ (?![\w$])
    """,
    re.S | re.X,
)
ELSEWHERE = re.compile(
    r"""
    <(?: script | img | iframe | video | source )\b [^>]* \bsrc=" (?:https?:)? // ([^/"]+)
    | <link\b [^>]* rel="stylesheet" [^>]* href=" (?:https?:)? // ([^/"]+)
    """,
    re.X,
)
HIDDEN = re.compile(r"^#\|\s*(hide|hide_output|output:\s*false|include:\s*false)\s*$", re.M)


# --- notebooks and their pages


def notebooks() -> list[Path]:
    "The notebooks that become pages"
    found = sorted((ROOT / "nbs").rglob("*.ipynb"))
    return [p for p in found if not any(part[0] in "._" for part in p.relative_to(ROOT).parts)]


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def page_name(nb: Path) -> str:
    "Where nbdev puts a notebook's page: `nbs/13_data.windows.ipynb` is `data.windows.html`"
    name = re.sub(r"^\d+[a-z]?\d*_", "", nb.name).removesuffix(".ipynb")
    return str((nb.parent / f"{name}.html").relative_to(ROOT / "nbs"))


# --- Markdown as smalldocs needs it


def mathml(text: str) -> str:
    "Formulas of a markdown cell as MathML; code stays as it is"
    from latex2mathml.converter import convert

    def formula(m):
        tex, display = (m["block"], "block") if m["block"] else (m["inline"], "inline")
        return m["code"] or convert(" ".join(tex.split()), display=display)

    return FORMULA.sub(formula, text)


def without_source_links(text: str) -> str:
    "Drop links to lines of the repository, which lead nowhere as long as settings.ini names no git_url"
    return re.sub(r"\[source\]\(/?blob/[^)]*\)(\{[^}]*\})?", "", text)


def page_links(text: str) -> str:
    "Links to notebooks become links to their pages, as Quarto does it: `(05_config.ipynb)` is `(config.html)`"
    return re.sub(r"\]\(((?:\.\./|\w+/)*)(?:\d+[a-z]?\d*_)?([\w.]+)\.ipynb(#[^)]*)?\)", r"](\1\2.html\3)", text)


# --- from nbdev's pages to those that smalldocs reads


def front_matter(nb: dict) -> tuple[dict | None, dict]:
    "The cell with nbdev's front matter, and what it says"
    for cell in nb["cells"][:2]:
        if match := re.fullmatch(r"---\n(.*?)\n---\s*", "".join(cell["source"]), re.S):
            return cell, yaml.safe_load(match[1])
    return None, {}


def to_yaml(data: dict) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def rewrite(nb: dict, header: dict | None, has_repository: bool):
    "Formulas and links of a notebook in the form that smalldocs reads"
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown" and cell is not header:
            text = "".join(cell["source"])
            cell["source"] = mathml(page_links(text if has_repository else without_source_links(text)))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data and not has_repository:
                data["text/markdown"] = without_source_links("".join(data["text/markdown"]))


def rename_page(path: Path, has_repository: bool) -> Path:
    "Write one of nbdev's pages anew, under the name that links use"
    nb = read(path)
    header, front = front_matter(nb)
    name = front.pop("output-file", path.name).removesuffix(".html").removesuffix(".ipynb")
    if header:
        header["source"] = f"---\n{to_yaml(front)}---\n"
    rewrite(nb, header, has_repository)
    path.unlink()
    target = path.with_name(f"{name}.ipynb")
    target.write_text(json.dumps(nb), encoding="utf-8")
    return target


def renamed(data, names: dict[str, str]):
    "Nested values with other names for pages"
    if isinstance(data, dict):
        return {k: renamed(v, names) for k, v in data.items()}
    if isinstance(data, list):
        return [renamed(v, names) for v in data]
    return names.get(data, data)


def without_empty(data: dict) -> dict:
    "Nested values without those that say nothing"
    return {k: without_empty(v) if isinstance(v, dict) else v for k, v in data.items() if v not in ("", None)}


def edit(path: Path, change: Callable[[dict], dict]):
    "Change a YAML file"
    path.write_text(to_yaml(change(yaml.safe_load(path.read_text(encoding="utf-8")))), encoding="utf-8")


def prepare(proc: Path, site: Path):
    "Copy nbdev's `_proc` to `site` in the form smalldocs reads: pages named as links say, MathML, only keys it knows"
    shutil.copytree(proc, site)
    nbdev = yaml.safe_load((site / "nbdev.yml").read_text(encoding="utf-8"))
    has_repository = bool(nbdev["website"].get("repo-url"))
    names = {}
    for path in sorted(site.rglob("*.ipynb")):
        target = rename_page(path, has_repository)
        names[str(path.relative_to(site))] = str(target.relative_to(site))

    def known(data):
        data["format"] = {"html": {k: v for k, v in data["format"]["html"].items() if k != "html-math-method"}}
        if not has_repository:
            data["website"].pop("repo-actions", None)
        return data

    edit(site / "sidebar.yml", lambda data: renamed(data, names))
    edit(site / "nbdev.yml", lambda data: without_empty({k: v for k, v in data.items() if k != "format-links"}))
    edit(site / "_quarto.yml", known)


# --- building


def imports(tree: ast.AST) -> list[ast.AST]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


def would_run(source: str) -> bool:
    "Whether nbdev would run a cell to render the docs, though it does more than import and its output is stored"
    if re.search(r"^#\|\s*(export|exec_doc|eval)", source, re.M) or "show_doc(" in source:
        return False
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False  # a cell with a magic or a shell line
    return bool(imports(tree)) and not all(isinstance(n, ast.Import | ast.ImportFrom) for n in tree.body)


def spare_examples(path: Path):
    "Mark the cells of a notebook that nbdev should not run"
    nb = read(path)
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and would_run(source):
            cell["source"] = "#| eval: false\n" + source
    path.write_text(json.dumps(nb), encoding="utf-8")


def copy_sources(target: Path, quarto: bool):
    "What nbdev needs to make the pages; `nbdev-docs` needs more, as it also writes the README"
    names = ["pyproject.toml", "_quarto.yml"]
    if quarto:
        names += ["settings.ini", "setup.py", "README.md", "LICENSE"]
    for name in names:
        shutil.copy2(ROOT / name, target / name)
    no_assets = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(ROOT / "wan_well", target / "wan_well", ignore=no_assets)
    no_data = shutil.ignore_patterns(".*", "datasets", "runs", "_docs")
    shutil.copytree(ROOT / "nbs", target / "nbs", symlinks=True, ignore=no_data)
    for path in (target / "nbs").rglob("*.ipynb"):
        spare_examples(path)


def call(command: str, *args: str):
    "Run a command of the environment; its words only if it fails"
    output = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    done = subprocess.run([str(BIN / command), *args], **output)
    if done.returncode:
        sys.exit(f"{command} {' '.join(args[:1])} failed:\n{done.stdout}")


def render(tmp: Path, quarto: bool) -> Path:
    "The site, made in a scratch copy of the sources"
    if quarto:
        call("nbdev-docs")
        return tmp / "_docs"
    from nbdev.serve import proc_nbs

    prepare(Path(proc_nbs(n_workers=min(4, os.cpu_count() or 1))), tmp / "site")
    call("smalldocs", "render", "--quiet", str(tmp / "site"))
    call("smalldocs", "check", str(tmp / "site"))
    return tmp / "site/_docs"


def build(out: Path, quarto: bool):
    "Notebooks to a static site in `out`; nbdev works in a copy, because its cache does not notice every change"
    if quarto and not shutil.which("quarto"):
        sys.exit("Quarto is not installed, see quarto.org; without --quarto the site is built without it")
    from nbdev.quarto import refresh_quarto_yml

    with contextlib.chdir(ROOT):
        refresh_quarto_yml()
    with tempfile.TemporaryDirectory() as tmp:
        copy_sources(Path(tmp), quarto)
        with contextlib.chdir(tmp):
            made = render(Path(tmp), quarto)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(str(made), out)


# --- checking


def shown_pictures(nb: dict) -> int:
    "How many pictures the visible outputs of a notebook hold"
    cells = [c for c in nb["cells"] if c["cell_type"] == "code" and not HIDDEN.search("".join(c["source"]))]
    outputs = [o.get("data", {}) for c in cells for o in c.get("outputs", [])]
    return sum(any(kind in data for kind in PICTURES) for data in outputs)


def players(nb: dict) -> int:
    "How many animations with buttons the outputs of a notebook hold"
    outputs = [o.get("data", {}) for c in nb["cells"] for o in c.get("outputs", [])]
    return sum("".join(data.get("text/html", "")).count('class="player"') for data in outputs)


def is_missing(source: str, page: Path, out: Path) -> bool:
    "Whether a picture's address leads nowhere"
    if re.match(r"[a-z]+:", source):
        return False
    return not (page.parent / source.split("?")[0]).is_file() and not (out / source.lstrip("/")).is_file()


def page_faults(page: Path, nb: dict, out: Path) -> Iterator[str]:
    "What is wrong with one page: a figure, a title or an animation that is missing, files asked for from elsewhere"
    html = page.read_text(encoding="utf-8")
    images = re.findall(r"<img\b[^>]*\bsrc=\"([^\"]+)\"", html)
    yield from (f"picture {source} does not exist" for source in images if is_missing(source, page, out))
    drawn, wanted = len(images) + len(re.findall(r"<svg\b[^>]*\bclass=\"output", html)), shown_pictures(nb)
    if drawn < wanted:
        yield f"{drawn} of {wanted} figures"
    playing, wanted = html.count('<figure class="player"'), players(nb)
    if playing < wanted:
        yield f"{playing} of {wanted} players"
    if "<h1" not in html:
        yield "no title"
    yield from (f"asks for a file from {escape(''.join(names))}" for names in ELSEWHERE.findall(html))


def sidebar_faults() -> Iterator[str]:
    "Notebooks that the sidebar does not list, and entries that are no notebook"
    sidebar = (ROOT / "nbs/sidebar.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ *- (\S+\.ipynb)$", sidebar, re.M))
    present = {nb.relative_to(ROOT / "nbs").as_posix() for nb in notebooks()}
    yield from (f"nbs/sidebar.yml does not list {name}" for name in sorted(present - listed))
    yield from (f"nbs/sidebar.yml lists {name}, which is not there" for name in sorted(listed - present))


def faults(out: Path) -> Iterator[str]:
    "What is wrong with the built site"
    yield from sidebar_faults()
    for nb in notebooks():
        page = out / page_name(nb)
        if page.exists():
            yield from (f"{page.relative_to(out)}: {fault}" for fault in page_faults(page, read(nb), out))
        else:
            yield f"{page.relative_to(out)}: no page for {nb.relative_to(ROOT)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quarto", action="store_true", help="build with nbdev-docs and Quarto")
    quarto, out = parser.parse_args().quarto, ROOT / "_docs"
    build(out, quarto)
    where = f"open {out.relative_to(ROOT)}/index.html"
    if quarto:
        print(where)
    elif wrong := list(faults(out)):
        sys.exit("\n".join(wrong))
    else:
        pages = len(list(out.rglob("*.html")))
        print(f"{pages} pages in {out.relative_to(ROOT)}, every link and figure found: {where}")


if __name__ == "__main__":
    main()
