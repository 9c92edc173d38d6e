"""Build the documentation in _docs without Quarto, then check it.

nbdev prepares the pages (show_doc, links between symbols), smalldocs renders them, latex2mathml turns formulas into MathML so that a
page asks for nothing from elsewhere. A link that leads nowhere, a page or a figure that is missing is an error. `--quarto` builds the site
with `nbdev-docs` instead, for those who have Quarto; it reads the same `_quarto.yml`. In both cases nbdev works in a scratch copy, in which
examples that import and compute in one cell are marked to keep their stored outputs: nbdev would run them, away from what they need.
"""

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
import yaml

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


def notebooks(root: Path = ROOT) -> list[Path]:
    "The notebooks that become pages"
    found = (p.relative_to(root) for p in (root / "nbs").rglob("*.ipynb"))
    return [root / p for p in sorted(found) if not any(part[0] in "._" for part in p.parts)]


def page_name(nb: Path) -> str:
    "Name of a notebook's page, as nbdev links to it: `nbs/00_config.ipynb` is `config.html`"
    stem = re.sub(r"^\d+[a-z]?\d*_", "", nb.stem)
    return str((nb.parent / f"{stem}.html").relative_to(ROOT / "nbs"))


def mathml(text: str) -> str:
    "Formulas of a markdown cell as MathML; code stays as it is"
    from latex2mathml.converter import convert

    def formula(m):
        if m["code"]:
            return m["code"]
        tex, display = (m["block"], "block") if m["block"] else (m["inline"], "inline")
        return convert(" ".join(tex.split()), display=display)

    return re.sub(
        r"(?P<code>```.*?```|~~~.*?~~~|`[^`\n]+`|\\\$)|\$\$(?P<block>.+?)\$\$|(?<![\w$])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$(?![\w$])",
        formula,
        text,
        flags=re.S,
    )


def without_source_links(text: str) -> str:
    "Drop the links to the lines of the repository, which lead nowhere as long as settings.ini names no git_url"
    return re.sub(r"\[source\]\(/?blob/[^)]*\)(\{[^}]*\})?", "", text)


def page_links(text: str) -> str:
    "Links to notebooks become links to their pages, as Quarto does it: `(00_config.ipynb)` is `(config.html)`"
    return re.sub(r"\]\(((?:\.\./|\w+/)*)(?:\d+[a-z]?\d*_)?(\w+)\.ipynb\)", r"](\1\2.html)", text)


def front_matter(nb: dict) -> tuple[dict | None, dict]:
    "The cell with nbdev's front matter and what it says"
    for cell in nb["cells"][:2]:
        m = re.fullmatch(r"---\n(.*?)\n---\s*", "".join(cell["source"]), re.S)
        if m:
            return cell, yaml.safe_load(m[1])
    return None, {}


def prepare(proc: Path, site: Path):
    "Copy nbdev's `_proc` to `site` in the form smalldocs reads: pages named as the links say, formulas as MathML, only keys it knows"
    shutil.copytree(proc, site)
    repo = yaml.safe_load((site / "nbdev.yml").read_text(encoding="utf-8"))["website"].get("repo-url")
    renamed = {}
    for path in sorted(site.rglob("*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        cell, front = front_matter(nb)
        target = path.with_name(Path(front.pop("output-file", path.stem)).stem + ".ipynb")
        if cell:
            cell["source"] = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n"
        for c in nb["cells"]:
            text = "".join(c["source"])
            if c["cell_type"] == "markdown" and c is not cell:
                c["source"] = mathml(page_links(text if repo else without_source_links(text)))
            for o in c.get("outputs", []):
                if not repo and "text/markdown" in o.get("data", {}):
                    o["data"]["text/markdown"] = without_source_links("".join(o["data"]["text/markdown"]))
        path.unlink()
        target.write_text(json.dumps(nb), encoding="utf-8")
        renamed[str(path.relative_to(site))] = str(target.relative_to(site))

    def edit(name, change):
        data = yaml.safe_load((site / name).read_text(encoding="utf-8"))
        (site / name).write_text(yaml.safe_dump(change(data), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def rename(x):
        if isinstance(x, dict):
            return {k: rename(v) for k, v in x.items()}
        if isinstance(x, list):
            return [rename(v) for v in x]
        return renamed.get(x, x)

    def drop_empty(x):
        return {k: drop_empty(v) if isinstance(v, dict) else v for k, v in x.items() if v not in ("", None)}

    def quarto_only(d):
        d["format"]["html"].pop("html-math-method", None)
        d["format"].pop("commonmark", None)
        if not repo:
            d["website"].pop("repo-actions", None)
        return d

    edit("sidebar.yml", rename)
    edit("nbdev.yml", lambda d: drop_empty({k: v for k, v in d.items() if k != "format-links"}))
    edit("_quarto.yml", quarto_only)


def smalldocs(*args: str):
    "Run smalldocs; its words only if it fails"
    exe = Path(sys.executable).with_name("smalldocs")
    r = subprocess.run(
        [str(exe), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
    )
    if r.returncode:
        sys.exit(f"smalldocs {args[0]} failed:\n{r.stdout}")


def shown_pictures(nb: Path) -> int:
    "How many pictures the visible outputs of a notebook hold"
    cells = [c for c in json.loads(nb.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    visible = [
        c
        for c in cells
        if not re.search(r"^#\|\s*(hide|hide_output|output:\s*false|include:\s*false)\s*$", "".join(c["source"]), re.M)
    ]
    return sum(any(k in o.get("data", {}) for k in PICTURES) for c in visible for o in c.get("outputs", []))


def faults(out: Path) -> list[str]:
    "What is wrong with the built site: missing pages, missing figures, files asked for from elsewhere"
    sidebar = (ROOT / "nbs/sidebar.yml").read_text(encoding="utf-8")
    wrong = [
        f"nbs/sidebar.yml does not list {name}"
        for nb in notebooks()
        if f"- {(name := nb.relative_to(ROOT / 'nbs').as_posix())}\n" not in sidebar
    ]
    for nb in notebooks():
        page = out / page_name(nb)
        if not page.exists():
            wrong.append(f"{page.relative_to(out)}: no page for {nb.relative_to(ROOT)}")
            continue
        html = page.read_text(encoding="utf-8")
        images = re.findall(r"<img\b[^>]*\bsrc=\"([^\"]+)\"", html)
        missing = [
            s
            for s in images
            if not re.match(r"[a-z]+:", s)
            and not (page.parent / s.split("?")[0]).is_file()
            and not (out / s.lstrip("/")).is_file()
        ]
        wrong += [f"{page.name}: picture {s} does not exist" for s in missing]
        have, want = len(images) + len(re.findall(r"<svg\b[^>]*\bclass=\"output", html)), shown_pictures(nb)
        if have < want:
            wrong.append(f"{page.name}: {have} of {want} figures")
        players = sum(
            "".join(o.get("data", {}).get("text/html", "")).count('class="player"')
            for c in json.loads(nb.read_text(encoding="utf-8"))["cells"]
            for o in c.get("outputs", [])
        )
        if (shown := html.count('<figure class="player"')) < players:
            wrong.append(f"{page.name}: {shown} of {players} players")
        title = re.search(r"<h1[^>]*>", html)
        if not title:
            wrong.append(f"{page.name}: no title")
        elsewhere = re.findall(
            r"<(?:script|img|iframe|video|source)\b[^>]*\bsrc=\"(?:https?:)?//([^/\"]+)|<link\b[^>]*rel=\"stylesheet\"[^>]*href=\"(?:https?:)?//([^/\"]+)",
            html,
        )
        wrong += [f"{page.name}: asks for a file from {escape(''.join(e))}" for e in elsewhere]
    return wrong


def spare_examples(nb: dict):
    "nbdev runs every cell with an import to render the docs; mark examples that also do something else, their outputs are stored already"
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or re.search(r"^#\|\s*(export|exec_doc|eval)", source, re.M):
            continue
        try:
            body = ast.parse(source).body
        except SyntaxError:
            continue  # a cell with a magic or a shell line
        imports = [isinstance(x, (ast.Import, ast.ImportFrom)) for x in body]
        if (
            not all(imports)
            and any(isinstance(x, (ast.Import, ast.ImportFrom)) for top in body for x in ast.walk(top))
            and "show_doc(" not in source
        ):
            cell["source"] = "#| eval: false\n" + source


def build(out: Path, quarto: bool = False):
    "Notebooks to a static site in `out`; nbdev works in a scratch copy, because its cache does not notice every change"
    if quarto and not shutil.which("quarto"):
        sys.exit("Quarto is not installed, see quarto.org; without --quarto the site is built without it")
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    os.chdir(ROOT)
    refresh_quarto_yml()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        for name in ("pyproject.toml", "_quarto.yml"):
            shutil.copy2(ROOT / name, tmp / name)
        shutil.copytree(ROOT / "wan_well", tmp / "wan_well", ignore=shutil.ignore_patterns("__pycache__", "assets"))
        shutil.copytree(
            ROOT / "nbs", tmp / "nbs", symlinks=True, ignore=shutil.ignore_patterns(".*", "datasets", "runs", "_docs")
        )
        for path in (tmp / "nbs").rglob("*.ipynb"):
            nb = json.loads(path.read_text(encoding="utf-8"))
            spare_examples(nb)
            path.write_text(json.dumps(nb), encoding="utf-8")
        os.chdir(tmp)
        if quarto:
            for name in ("settings.ini", "setup.py", "README.md", "LICENSE"):
                shutil.copy2(ROOT / name, tmp)
            subprocess.run([str(Path(sys.executable).with_name("nbdev-docs"))], check=True)
            os.chdir(ROOT)
            shutil.rmtree(out, ignore_errors=True)
            shutil.move(str(tmp / "_docs"), out)
            return
        prepare(Path(proc_nbs(n_workers=min(4, os.cpu_count() or 1))), tmp / "site")
        smalldocs("render", "--quiet", str(tmp / "site"))
        smalldocs("check", str(tmp / "site"))
        os.chdir(ROOT)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(str(tmp / "site/_docs"), out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quarto", action="store_true", help="build with nbdev-docs and Quarto")
    out, quarto = ROOT / "_docs", parser.parse_args().quarto
    build(out, quarto)
    if quarto:
        print(f"open {out.relative_to(ROOT)}/index.html")
        return
    wrong = faults(out)
    pages = list(out.rglob("*.html"))
    if wrong:
        sys.exit("\n".join(wrong))
    print(
        f"{len(pages)} pages in {out.relative_to(ROOT)}, every link and figure found: open {out.relative_to(ROOT)}/index.html"
    )


if __name__ == "__main__":
    main()
