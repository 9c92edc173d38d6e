"""Run every notebook and check. One line per check, failures do not stop the rest, the last line is `N passed, M failed`.

`--git` adds the check for a fresh clone: cleaning and exporting in place leave the checkout as it was committed.
"""

import argparse
import ast
import configparser
import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import venv
import zipfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LIB = ROOT / "wan_well"
NBDEV2 = "nbdev==2.4.14 execnb==0.1.18 fastcore==1.14.5 ghapi==1.1.1".split()
VENV2 = ROOT / ".venv-nbdev2"
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = max(1, min(4, CPUS))
LIMIT = 2400  # seconds for one run over all notebooks; they take 300 to 900
LONG = (
    "01_simulate",
    "04a_wan_tiny",
    "06_wan",
    "06c_wan_tiny_experts",
    "07_emulator",
    "08_distributed",
    "08a_checkpoint",
    "08c_trainer",
    "09_train",
    "11_evaluate",
    "12_generate",
    "13_explore",
    "14_demo",
    "fine_tune",
    "first_forecast",
    "own_data",
    "real_model",
    "small_gpu",
    "nodes",
    "install",
    "limits",
    "troubleshooting",
)  # run once only: the nbdev versions differ in export and runner, not in the code
LARGEST = 500_000  # bytes of a notebook
COPIED = ["nbs", "wan_well", "settings.ini", "setup.py", "pyproject.toml", "_quarto.yml", "README.md", "LICENSE"]
IGNORED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "datasets", "runs", "_docs", "_proc")

ENV = dict(
    os.environ,
    PYTHONUNBUFFERED="1",
    OMP_NUM_THREADS=str(max(1, CPUS // WORKERS)),
    MKL_NUM_THREADS=str(max(1, CPUS // WORKERS)),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    WANDB_MODE="offline",
    PIP_DISABLE_PIP_VERSION_CHECK="1",
    PIP_NO_INPUT="1",
    TQDM_MININTERVAL="5",
    TOKENIZERS_PARALLELISM="false",
)
ENV.setdefault("WAN_WELL_CACHE", str(ROOT / ".cache/wan_well"))  # simulated once, read by both nbdev versions
ENV.pop("PYTHONPATH", None)


class Failed(Exception):
    "A check that did not pass, with what to show"


passed = failed = 0


def record(name: str, ok: bool, seconds: float, detail: str = ""):
    "Count one check and print its line"
    global passed, failed
    passed, failed = passed + ok, failed + (not ok)
    print(f"{'pass' if ok else 'FAIL'} {seconds:7.1f} s  {name}", flush=True)
    if detail and not ok:
        print("\n".join("    | " + line for line in detail.strip().split("\n")[-60:]), flush=True)


@contextmanager
def check(name: str):
    "Everything inside is one check; any exception fails it"
    start = time.monotonic()
    try:
        yield
    except Failed as e:
        record(name, False, time.monotonic() - start, str(e))
    except Exception as e:
        record(name, False, time.monotonic() - start, f"{type(e).__name__}: {e}")
    else:
        record(name, True, time.monotonic() - start)


def run(*cmd, cwd: Path = ROOT, limit: float = 300, on_line=None, env: dict = ENV) -> str:
    "Output of a command; `Failed` when it fails or takes longer than `limit` seconds. The whole process group ends with it."
    p = subprocess.Popen(
        [str(c) for c in cmd],
        cwd=cwd,
        env=env,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    late = threading.Event()

    def stop():
        late.set()
        os.killpg(p.pid, signal.SIGKILL)

    timer = threading.Timer(limit, stop)
    timer.start()
    lines = []
    try:
        for line in p.stdout:
            lines.append(line)
            if on_line:
                on_line(line.rstrip("\n"))
        p.wait()
    except BaseException:
        os.killpg(p.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()
    out = "".join(lines)
    if late.is_set():
        raise Failed(f"{out}\nstopped after {limit:.0f} s")
    if p.returncode:
        raise Failed(f"{out}\n{Path(str(cmd[0])).name}: exit status {p.returncode}")
    return out


def notebooks() -> list[Path]:
    "Every notebook that nbdev tests, relative to the root"
    found = (p.relative_to(ROOT) for p in (ROOT / "nbs").rglob("*.ipynb"))
    return sorted(p for p in found if not any(part[0] in "._" for part in p.parts))


@contextmanager
def copy_of_tree():
    "A scratch copy of the sources, so that a check changes nothing here"
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        for name in COPIED:
            src = ROOT / name
            if src.is_dir():
                shutil.copytree(src, tmp / name, symlinks=True, ignore=IGNORED)
            elif src.exists():
                shutil.copy2(src, tmp / name)
        yield tmp


def same_files(tmp: Path, pattern: str, advice: str):
    "`Failed` unless the files that match are the same in the copy and here"
    here, there = (
        {p.relative_to(r) for p in r.glob(pattern) if not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)}
        for r in (ROOT, tmp)
    )
    wrong = [
        f"{p}: {'differs' if p in here & there else 'has no notebook' if p in here else 'is missing'}"
        for p in sorted(here | there)
        if p not in here & there or not filecmp.cmp(ROOT / p, tmp / p, shallow=False)
    ]
    if wrong:
        raise Failed("\n".join(wrong) + f"\n{advice}")


def same_export(export: Path, clean: Path | None = None):
    "`Failed` unless exporting from scratch in a copy gives the modules that are here"
    with copy_of_tree() as tmp:
        for p in (tmp / "wan_well").glob("*.py"):
            if p.name != "__init__.py" and "AUTOGENERATED!" in p.read_text(encoding="utf-8"):
                p.unlink()
        run(export, cwd=tmp)
        same_files(tmp, "wan_well/*.py", "run `make export`")
        if clean:
            run(clean, cwd=tmp)
            same_files(tmp, "nbs/**/*.ipynb", "run `make export`")


def metadata_agrees():
    "settings.ini (nbdev 2, pip) and pyproject.toml (nbdev 3) say the same, and every requirement has a pin"
    ini = configparser.ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    cfg, toml = ini["DEFAULT"], tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, nbdev = toml["project"], toml["tool"]["nbdev"]
    version = re.search(r'__version__ = "(.+)"', (LIB / "__init__.py").read_text(encoding="utf-8"))
    pairs = dict(
        name=(cfg["lib_name"], project["name"]),
        description=(cfg["description"], project["description"]),
        python=(f">={cfg['min_python']}", project["requires-python"]),
        version=(cfg["version"], version and version[1]),
        git_url=(cfg["git_url"], project.get("urls", {}).get("Repository", "")),
        doc_host=(cfg["doc_host"], project.get("urls", {}).get("Documentation", "")),
        **{
            k: (cfg[k], nbdev[k])
            for k in ("title", "lib_path", "nbs_path", "doc_path", "branch", "doc_baseurl", "tst_flags")
        },
        **{
            k: (cfg.getboolean(k), nbdev[k])
            for k in ("recursive", "put_version_in_init", "clean_ids", "custom_sidebar")
        },
    )
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    pairs["cited version"] = (cfg["version"], cited and cited[1].strip("'\""))
    wrong = [
        f"{k}: settings.ini has {a!r}, pyproject.toml or the package has {b!r}" for k, (a, b) in pairs.items() if a != b
    ]

    def canonical(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    pins = {
        canonical(m[1])
        for m in re.finditer(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    }
    needed = {
        canonical(re.match(r"[\w.-]+", r)[0]) for key in ("requirements", "dev_requirements") for r in cfg[key].split()
    }
    wrong += [f"constraints.txt: no pin for {n}" for n in sorted(needed - pins)]
    if wrong:
        raise Failed("\n".join(wrong))


def wheel_is_complete():
    "The wheel holds all modules, every config and asset, and the licence"
    with copy_of_tree() as tmp:
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp / "wheel", ".", cwd=tmp)
        with zipfile.ZipFile(next((tmp / "wheel").glob("*.whl"))) as z:
            have = {n for n in z.namelist()}
        want = {
            str(p.relative_to(tmp))
            for p in (tmp / "wan_well").rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }
        if missing := sorted(want - have):
            raise Failed("not in the wheel: " + ", ".join(missing))
        if not any(n.endswith("LICENSE") for n in have):
            raise Failed("no licence in the wheel")


def help_is_quick():
    "`wan-well --help` and importing the package load neither torch nor matplotlib"
    code = (
        "import contextlib, io, sys\nimport wan_well\nfrom wan_well.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])\n"
        "heavy = sorted({'torch', 'diffusers', 'matplotlib', 'h5py'} & set(sys.modules))\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    run(sys.executable, "-c", code, cwd=tempfile.gettempdir())
    run(BIN / "wan-well", "--help", cwd=tempfile.gettempdir())


def sizes():
    wrong = [
        f"{p}: {n / 1000:.0f} kB, more than {LARGEST / 1000:.0f} kB: make its figures smaller"
        for p in notebooks()
        if (n := (ROOT / p).stat().st_size) > LARGEST
    ]
    if wrong:
        raise Failed("\n".join(wrong))


def assertions_assert():
    "No `expect_fail(...)` as a statement of its own: it is a context manager, and without `with` it checks nothing"
    wrong = []
    for p in notebooks():
        for cell in json.loads((ROOT / p).read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or "expect_fail" not in source:
                continue
            calls = [
                n.value
                for n in ast.walk(ast.parse(source))
                if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)
            ]
            wrong += [
                f"{p}: cell {cell['id']}: {ast.unparse(c)}" for c in calls if getattr(c.func, "id", "") == "expect_fail"
            ]
    if wrong:
        raise Failed("\n".join(wrong) + "\nwrite `with expect_fail(Error, 'words'): ...`")


def run_notebooks(label: str, command: Path, *args: str, but: tuple[str, ...] = ()):
    "Run all notebooks with one version of nbdev, but for some; every notebook that ran is a check, so is every one that did not"
    started, ended, out = {}, {}, []
    t0 = time.monotonic()

    def on_line(line):
        out.append(line)
        if m := re.fullmatch(r"(Starting|- Completed) (.+\.ipynb)", line.strip()):
            p = Path(m[2]).resolve().relative_to(ROOT)
            (started if m[1] == "Starting" else ended)[p] = time.monotonic()
            if m[1] == "- Completed":
                print(f"     ... {label}: {p} ended after {ended[p] - started[p]:.1f} s", flush=True)

    crash = ""
    try:
        run(command, "--do_print" if "_" in command.name else "--do-print", *args, limit=LIMIT, on_line=on_line)
    except Failed as e:
        crash = str(e)
    text = "\n".join(out)
    listed = text.split("nbdev Tests Failed On The Following Notebooks:")
    bad = set(re.findall(r"^\t(.+\.ipynb)$", listed[1], re.M)) if len(listed) > 1 else set()
    clean_exit = not crash or bool(bad)
    for p in notebooks():
        if p.stem in but:
            continue
        seconds = ended.get(p, time.monotonic()) - started.get(p, t0)
        if p not in started:
            record(f"{label}: {p}", False, 0, f"was not run\n{crash}")
        elif p not in ended:
            record(f"{label}: {p}", False, seconds, f"did not end\n{crash}")
        elif p.name in bad:
            record(f"{label}: {p}", False, seconds, traceback_of(p, text))
        else:
            record(f"{label}: {p}", clean_exit, seconds, crash)


def run_checks(label: str, script: Path, *args: str):
    "Run a script that prints a line for each of its checks, and count them"
    counted = []

    def on_line(line):
        if m := re.match(r"(pass|FAIL) +([\d.]+) s  (.+)", line):
            counted.append(m[3])
            name, _, detail = m[3].partition(": ")
            record(f"{label}: {name}", m[1] == "pass", float(m[2]), detail)

    try:
        out = run(sys.executable, script, *args, limit=LIMIT, on_line=on_line)
    except Failed as e:
        out = str(e)
    if not counted or not re.search(rf"^{len(counted)} passed, 0 failed|^\d+ passed, [1-9]\d* failed", out, re.M):
        record(f"{label}: {script.name} did not come to its end", False, 0, out)


def traceback_of(p: Path, text: str) -> str:
    "The part of nbdev's output that reports the error of one notebook"
    reports = [
        m.start()
        for m in re.finditer(rf"^.*{re.escape(p.name)}.*$", text, re.M)
        if "Starting" not in m[0] and "Completed" not in m[0]
    ]
    return "\n".join(text[reports[0] if reports else 0 :].split("\n")[:60])


def make_nbdev2() -> Path:
    "A small environment with nbdev 2 in front of everything that is installed here; made again when a pin changes"
    stamp, want = VENV2 / ".installed", "\n".join([*NBDEV2, sys.version, str(BIN)])
    if not (stamp.exists() and stamp.read_text() == want):
        shutil.rmtree(VENV2, ignore_errors=True)
        venv.create(VENV2, with_pip=True)
        python = VENV2 / "bin/python"
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", *NBDEV2)
        site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        main = run(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        (Path(site) / "zz_main_environment.pth").write_text(f"import site; site.addsitedir({main!r})\n")
        got = run(python, "-c", "import nbdev, fastcore, torch; print(nbdev.__version__, fastcore.__version__)").strip()
        if got != "2.4.14 1.14.5":
            raise Failed(f"expected nbdev 2.4.14 and fastcore 1.14.5, got {got}")
        stamp.write_text(want)
    return VENV2 / "bin"


def has_browser() -> bool:
    "Whether there is a Chromium; if not, Playwright's own is tried"
    if os.environ.get("CHROMIUM") or any(shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome")):
        return True
    try:
        run(sys.executable, "-m", "playwright", "install", "chromium", limit=240)
    except Failed:
        return False
    return True


def tree() -> set[str]:
    "Files under nbs/, to see what a run leaves behind"
    return {
        str(p.relative_to(ROOT))
        for p in (ROOT / "nbs").rglob("*")
        if not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)
    }


def git_sync():
    "Cleaning and exporting in place change no tracked file"

    def state():
        return run("git", "-c", "safe.directory=*", "status", "--porcelain", "-uno") + run(
            "git", "-c", "safe.directory=*", "diff", "--no-ext-diff"
        )

    before = state()
    run(BIN / "nbdev-clean")
    run(BIN / "nbdev-export")
    run(sys.executable, ROOT / "scripts/readme.py")
    if (after := state()) != before:
        raise Failed(after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--git", action="store_true", help="also check that cleaning and exporting change no tracked file"
    )
    parser.add_argument("--quick", action="store_true", help="leave the notebooks and the documentation out")
    options = parser.parse_args()
    start = time.monotonic()
    os.makedirs(ENV["WAN_WELL_CACHE"], exist_ok=True)

    with check("settings.ini, pyproject.toml and constraints.txt agree"):
        metadata_agrees()
    with check(f"every notebook is smaller than {LARGEST // 1000} kB"):
        sizes()
    with check("every expected failure is checked"):
        assertions_assert()
    with check("notebooks are clean, modules are their export"):
        same_export(BIN / "nbdev-export", BIN / "nbdev-clean")
    with check("README.md is the export of index.ipynb"):
        run(sys.executable, ROOT / "scripts/readme.py", "--check")
    if options.git:
        if (ROOT / ".git").exists():
            with check("git: cleaning and exporting change no tracked file"):
                git_sync()
        else:
            print("             git: this is no checkout, not checked", flush=True)
    with check("the wheel is complete"):
        wheel_is_complete()
    with check("wan-well --help loads no torch"):
        help_is_quick()
    if not options.quick:
        before = tree()
        run_notebooks("nbdev 3", BIN / "nbdev-test", "--n-workers", str(WORKERS), "--cell-timeout", "300")
        bin2 = None
        with check("nbdev 2.4.14 is installed"):
            bin2 = make_nbdev2()
        if bin2:
            with check("nbdev 2.4.14 exports the same modules"):
                same_export(bin2 / "nbdev_export")
            run_notebooks(
                "nbdev 2",
                bin2 / "nbdev_test",
                "--n_workers",
                str(WORKERS),
                "--skip_file_re",
                f"^({'|'.join(LONG)})",
                but=LONG,
            )
        with check("notebooks leave no file behind"):
            if extra := sorted(tree() - before):
                raise Failed("\n".join(extra))
        run_checks("distributed", ROOT / "scripts/distributed.py", "--short")
        with check("documentation builds, no broken link, all pages and figures"):
            run(sys.executable, ROOT / "scripts/build_docs.py")
        if has_browser():
            run_checks("browser", ROOT / "scripts/browser.py")
        elif options.git:
            record("browser: no Chromium here, and it could not be downloaded", False, 0)
        else:
            print(
                "             browser: no Chromium here, and it could not be downloaded; not checked: install it, or name it in CHROMIUM",
                flush=True,
            )

    print(f"{time.monotonic() - start:.0f} s with {WORKERS} workers on {CPUS} cores")
    print(f"{passed} passed, {failed} failed", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
