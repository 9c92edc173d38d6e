"""Run every notebook and check. One line per check, failures do not stop the rest, the last line counts them.

    python scripts/test.py            # everything: `make test`
    python scripts/test.py --quick    # what takes seconds: `make check`
    python scripts/test.py --git      # also whether cleaning and exporting change a tracked file: a fresh clone

The last line is `N passed, M failed`, and `N passed, M failed, K skipped` where something needed is not there.
"""

import argparse
import ast
import configparser
import contextlib
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
BIN = Path(sys.executable).parent
LIB = ROOT / "wan_well"
CHECKED = ["nbs", "scripts", "benchmarks", "setup.py"]  # by ruff; modules are made from the notebooks
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = max(1, min(4, CPUS))
LIMIT = 2400  # seconds for one run over all notebooks

NBDEV2 = ["nbdev==2.4.14", "execnb==0.1.18", "fastcore==1.14.5", "ghapi==1.1.1"]
VENV2 = ROOT / ".venv-nbdev2"
# The two versions of nbdev differ in export, which is compared for all notebooks, in the runner and its directives, and
# in the fastcore behind `patch` and `expect_fail`. A few quick notebooks have all of these; the rest runs once.
BOTH = (
    "00_errors",
    "01_files",
    "03_options",
    "05_config",
    "12_data.reader",
    "41_forecast.flow",
    "60_evaluation.metrics",
    "78_cli",
    "configuration",
)

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
ENV.setdefault("WAN_WELL_CACHE", str(ROOT / ".cache/wan_well"))  # simulated once, read by all
ENV.pop("PYTHONPATH", None)


# --- counting


class Failed(Exception):
    "A check that did not pass, with what to show"


@dataclass
class Tally:
    "How many checks ended how"

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # phases that run side by side print and count

    def record(self, name: str, outcome: str, seconds: float = 0.0, detail: str = ""):
        "Count one check, `pass`, `FAIL` or `skip`, and print its line; what a failed one has to say comes below"
        lines = [f"{outcome} {seconds:7.1f} s  {name}"]
        if detail and outcome == "FAIL":
            lines += [f"    | {line}" for line in detail.strip().split("\n")[-60:]]
        with self.lock:
            self.passed += outcome == "pass"
            self.failed += outcome == "FAIL"
            self.skipped += outcome == "skip"
            print(*lines, sep="\n", flush=True)

    def __str__(self):
        counts = f"{self.passed} passed, {self.failed} failed"
        return f"{counts}, {self.skipped} skipped" if self.skipped else counts


tally = Tally()


@contextlib.contextmanager
def check(name: str):
    "Everything inside is one check; any exception fails it"
    start = time.monotonic()
    outcome, detail = "pass", ""
    try:
        yield
    except Failed as e:
        outcome, detail = "FAIL", str(e)
    except Exception as e:
        outcome, detail = "FAIL", f"{type(e).__name__}: {e}"
    tally.record(name, outcome, time.monotonic() - start, detail)


def fail_if(faults: list[str], advice: str = ""):
    "`Failed` with a line for each fault"
    if faults:
        raise Failed("\n".join([*faults, advice]).strip())


# --- running


RUNNING: set[subprocess.Popen] = set()


def stop(process: subprocess.Popen):
    "End a process and all that it started"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def start(cmd: tuple, cwd: Path) -> subprocess.Popen:
    "Start a command in a process group of its own, its output in one stream"
    return subprocess.Popen(
        [str(c) for c in cmd],
        cwd=cwd,
        env=ENV,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def read_lines(process: subprocess.Popen, on_line: Callable | None) -> str:
    "All that a process prints; each line is shown to `on_line` as it comes"
    lines = []
    for line in process.stdout:
        lines.append(line)
        if on_line:
            on_line(line.rstrip("\n"))
    process.wait()
    return "".join(lines)


def run(*cmd, cwd: Path = ROOT, limit: float = 300, on_line: Callable | None = None) -> str:
    "Output of a command; `Failed` when it fails or takes longer than `limit` seconds. Nothing it started survives it."
    began, process = time.monotonic(), start(cmd, cwd)
    RUNNING.add(process)
    timer = threading.Timer(limit, stop, [process])
    timer.start()
    try:
        out = read_lines(process, on_line)
    except BaseException:
        stop(process)
        raise
    finally:
        timer.cancel()
        RUNNING.discard(process)
    if process.returncode and time.monotonic() - began >= limit:
        raise Failed(f"{out}\nstopped after {limit:.0f} s")
    if process.returncode:
        raise Failed(f"{out}\n{Path(str(cmd[0])).name}: exit status {process.returncode}")
    return out


def side_by_side(*phases: Callable):
    "Run phases at the same time; where one core would wait, as for a browser, another phase computes"
    with ThreadPoolExecutor(len(phases)) as pool:
        jobs = [pool.submit(phase) for phase in phases]
        try:
            for job in jobs:
                job.result()
        except KeyboardInterrupt:  # it reaches this thread alone; the others would begin their next check
            for process in list(RUNNING):
                stop(process)
            os._exit(130)


def python(script: str, *args: str):
    "Run one of the scripts beside this one"
    run(sys.executable, SCRIPTS / script, *args)


# --- the tree


def visible(p: Path) -> bool:
    return not any(part[0] in "._" for part in p.parts)


def notebooks() -> list[Path]:
    "Every notebook that nbdev tests, relative to the root"
    found = (p.relative_to(ROOT) for p in (ROOT / "nbs").rglob("*.ipynb"))
    return sorted(p for p in found if visible(p))


def files(root: Path, pattern: str) -> set[Path]:
    "Files and folders that match, relative to `root`, but for caches"
    caches = {"__pycache__", ".ipynb_checkpoints"}
    return {p.relative_to(root) for p in root.glob(pattern) if not caches & set(p.parts)}


@contextlib.contextmanager
def copy_of_tree() -> Iterator[Path]:
    "A scratch copy of the sources, so that a check changes nothing here"
    with tempfile.TemporaryDirectory() as tmp:
        for name in COPIED:
            source, target = ROOT / name, Path(tmp) / name
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, ignore=IGNORED)
            elif source.exists():
                shutil.copy2(source, target)
        yield Path(tmp)


def same_files(tmp: Path, pattern: str):
    "`Failed` unless the files that match are the same in the copy and here"
    here, there = files(ROOT, pattern), files(tmp, pattern)
    faults = [f"{p}: has no notebook" for p in sorted(here - there)]
    faults += [f"{p}: is missing" for p in sorted(there - here)]
    differ = [p for p in sorted(here & there) if not filecmp.cmp(ROOT / p, tmp / p, shallow=False)]
    fail_if(faults + [f"{p}: differs" for p in differ], "run `make export`")


# --- quick checks


def metadata_agrees():
    "settings.ini (nbdev 2, pip), pyproject.toml (nbdev 3) and the citation agree; every requirement has a pin"
    ini = configparser.ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    cfg, toml = ini["DEFAULT"], tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pairs = named_twice(cfg, toml["project"], toml["tool"]["nbdev"])
    faults = [f"{key}: settings.ini has {a!r}, elsewhere it is {b!r}" for key, (a, b) in pairs.items() if a != b]
    fail_if(faults + missing_pins(cfg))


def found(pattern: str, path: Path) -> str | None:
    "What stands in the group of a pattern, in a file"
    match = re.search(pattern, path.read_text(encoding="utf-8"), re.M)
    return match and match[1]


def named_twice(cfg: configparser.SectionProxy, project: dict, nbdev: dict) -> dict[str, tuple]:
    "Values of settings.ini beside the same values elsewhere"
    urls = project.get("urls", {})
    pairs = dict(
        name=(cfg["lib_name"], project["name"]),
        description=(cfg["description"], project["description"]),
        python=(f">={cfg['min_python']}", project["requires-python"]),
        git_url=(cfg["git_url"], urls.get("Repository", "")),
        doc_host=(cfg["doc_host"], urls.get("Documentation", "")),
        version=(cfg["version"], found(r'__version__ = "(.+)"', LIB / "__init__.py")),
        cited_version=(cfg["version"], found(r"^version: ['\"]?([^'\"\n]+)", ROOT / "CITATION.cff")),
    )
    for key in ("title", "lib_path", "nbs_path", "doc_path", "branch", "doc_baseurl", "tst_flags"):
        pairs[key] = cfg[key], nbdev[key]
    for key in ("recursive", "put_version_in_init", "clean_ids", "custom_sidebar"):
        pairs[key] = cfg.getboolean(key), nbdev[key]
    return pairs


def package_names(requirements: list[str]) -> set[str]:
    "The names in requirements or pins, in one spelling"
    names = [re.match(r"[\w.-]+", r)[0] for r in requirements]
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def missing_pins(cfg: configparser.SectionProxy) -> list[str]:
    "Requirements that constraints.txt does not pin"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = package_names([line for line in lines if "==" in line and not line.startswith("#")])
    needed = package_names(cfg["requirements"].split() + cfg["dev_requirements"].split())
    return [f"constraints.txt: no pin for {name}" for name in sorted(needed - pins)]


def assertions_assert():
    "No `expect_fail(...)` as a statement of its own: it is a context manager, and without `with` it checks nothing"
    faults = []
    for p in notebooks():
        for cell in json.loads((ROOT / p).read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and "expect_fail" in source:
                faults += [f"{p}: cell {cell['id']}: {call}" for call in idle_expectations(source)]
    fail_if(faults, "write `with expect_fail(Error, 'words'): ...`")


def idle_expectations(source: str) -> list[str]:
    "Calls of `expect_fail` whose result is dropped"
    dropped = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Expr)]
    calls = [value for value in dropped if isinstance(value, ast.Call)]
    return [ast.unparse(call) for call in calls if getattr(call.func, "id", "") == "expect_fail"]


def same_export(export: Path, clean: Path | None = None):
    "`Failed` unless exporting from scratch in a copy gives the modules that are here"
    with copy_of_tree() as tmp:
        for p in (tmp / "wan_well").rglob("*.py"):
            if p.name != "__init__.py" and "AUTOGENERATED!" in p.read_text(encoding="utf-8"):
                p.unlink()
        run(export, cwd=tmp)
        same_files(tmp, "wan_well/**/*.py")
        if clean:
            run(clean, cwd=tmp)
            same_files(tmp, "nbs/**/*.ipynb")


def wheel_is_complete():
    "The wheel holds all modules, every config and asset, and the licence"
    with copy_of_tree() as tmp:
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp / "wheel", ".", cwd=tmp)
        with zipfile.ZipFile(next((tmp / "wheel").glob("*.whl"))) as wheel:
            have = set(wheel.namelist())
        wanted = {str(p) for p in files(tmp, "wan_well/**/*") if (tmp / p).is_file()}
    faults = [f"not in the wheel: {name}" for name in sorted(wanted - have)]
    if not any(name.endswith("LICENSE") for name in have):
        faults.append("no licence in the wheel")
    fail_if(faults)


HELP = """
import contextlib, io, sys
import wan_well
from wan_well.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
heavy = sorted({"torch", "diffusers", "matplotlib", "h5py"} & set(sys.modules))
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""


def help_is_quick():
    "`wan-well --help` and importing the package load neither torch nor matplotlib"
    elsewhere = Path(tempfile.gettempdir())
    run(sys.executable, "-c", HELP, cwd=elsewhere)
    run(BIN / "wan-well", "--help", cwd=elsewhere)


QUICK = {
    "settings.ini, pyproject.toml and constraints.txt agree": metadata_agrees,
    "ruff: lines, complexity, unused code": lambda: run(BIN / "ruff", "check", "--output-format=concise", *CHECKED),
    "ruff: notebooks and scripts are formatted": lambda: run(BIN / "ruff", "format", "--check", "--quiet", *CHECKED),
    "sizes, prose and imports of the notebooks, names of one data set": lambda: python("style.py"),
    "every expected failure is checked": assertions_assert,
    "notebooks are clean, modules are their export": lambda: same_export(BIN / "nbdev-export", BIN / "nbdev-clean"),
    "README.md is the export of index.ipynb": lambda: python("readme.py", "--check"),
    "the wheel is complete": wheel_is_complete,
    "wan-well --help loads no torch": help_is_quick,
}


def git_state() -> str:
    git = ("git", "-c", "safe.directory=*")
    return run(*git, "status", "--porcelain", "-uno") + run(*git, "diff", "--no-ext-diff")


def git_sync():
    "Cleaning and exporting in place change no tracked file"
    before = git_state()
    run(BIN / "nbdev-clean")
    run(BIN / "nbdev-export")
    python("readme.py")
    if (after := git_state()) != before:
        raise Failed(after)


# --- notebooks


@dataclass
class NotebookRun:
    "What one run of nbdev over the notebooks says, as it goes"

    label: str
    began: float = field(default_factory=time.monotonic)
    started: dict[Path, float] = field(default_factory=dict)
    ended: dict[Path, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def see(self, line: str):
        "Take in one line of nbdev, or two that workers wrote at the same time"
        self.lines.append(line)
        for event, path in re.findall(r"(Starting|- Completed) (.+?\.ipynb)(?=Starting|- Completed|\s*$)", line):
            p = Path(path).resolve().relative_to(ROOT)
            if event == "Starting":
                self.started[p] = time.monotonic()
                continue
            self.ended[p] = time.monotonic()
            print(f"     ... {self.label}: {p} ended after {self.seconds(p):.1f} s", flush=True)

    def seconds(self, p: Path) -> float:
        return self.ended.get(p, time.monotonic()) - self.started.get(p, self.began)

    @property
    def bad(self) -> set[str]:
        "Names of the notebooks that nbdev lists as failed"
        _, _, listed = "\n".join(self.lines).partition("nbdev Tests Failed On The Following Notebooks:")
        return set(re.findall(r"^\t(.+\.ipynb)$", listed, re.M))

    def report(self, p: Path) -> str:
        "The part of the output with the error of one notebook"
        progress = ("Starting", "Completed")
        mentions = [i for i, ln in enumerate(self.lines) if p.name in ln and not any(word in ln for word in progress)]
        first = mentions[0] if mentions else 0
        return "\n".join(self.lines[first : first + 60])

    def outcome(self, p: Path, crash: str) -> tuple[str, str]:
        "How a notebook ended, and what to show"
        if p not in self.started:
            return "FAIL", f"was not run\n{crash}"
        if p not in self.ended:
            return "FAIL", f"did not end\n{crash}"
        if p.name in self.bad:
            return "FAIL", self.report(p)
        if crash and not self.bad:
            return "FAIL", crash
        return "pass", ""


def run_notebooks(label: str, paths: list[Path], *command):
    "Run notebooks with one version of nbdev; every one is a check, also one that did not run"
    notebook_run, crash = NotebookRun(label), ""
    try:
        run(*command, limit=LIMIT, on_line=notebook_run.see)
    except Failed as e:
        crash = str(e)
    for p in paths:
        outcome, detail = notebook_run.outcome(p, crash)
        tally.record(f"{label}: {p}", outcome, notebook_run.seconds(p), detail)


def site_packages(python: Path | str) -> Path:
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())


def make_nbdev2() -> Path:
    "A small environment with nbdev 2 in front of everything that is installed here; made again when a pin changes"
    stamp, wanted = VENV2 / ".installed", "\n".join([*NBDEV2, sys.version, str(BIN)])
    if stamp.exists() and stamp.read_text() == wanted:
        return VENV2 / "bin"
    shutil.rmtree(VENV2, ignore_errors=True)
    venv.create(VENV2, with_pip=True)
    python2 = VENV2 / "bin/python"
    run(python2, "-m", "pip", "install", "--quiet", "--no-deps", *NBDEV2)
    rest = f"import site; site.addsitedir({str(site_packages(sys.executable))!r})\n"
    (site_packages(python2) / "zz_main_environment.pth").write_text(rest)
    versions = "import nbdev, fastcore, torch; print(f'nbdev=={nbdev.__version__} fastcore=={fastcore.__version__}')"
    got = run(python2, "-c", versions).split()
    fail_if([f"expected {pin}, got {' '.join(got)}" for pin in (NBDEV2[0], NBDEV2[2]) if pin not in got])
    stamp.write_text(wanted)
    return VENV2 / "bin"


def run_with_nbdev3():
    options = ["--do-print", "--n-workers", WORKERS, "--cell-timeout", 300]
    run_notebooks("nbdev 3", notebooks(), BIN / "nbdev-test", *options)


def run_with_nbdev2():
    "The export of all notebooks, and the runs of a few"
    bin2 = None
    with check("nbdev 2.4.14 is installed"):
        bin2 = make_nbdev2()
    if not bin2:
        return
    with check("nbdev 2.4.14 exports the same modules"):
        same_export(bin2 / "nbdev_export")
    chosen = [p for p in notebooks() if p.stem in BOTH]
    with check("the notebooks for both versions exist"):
        fail_if(sorted(set(BOTH) - {p.stem for p in chosen}))
    pattern = f"^({'|'.join(map(re.escape, BOTH))})\\.ipynb$"
    options = ["--do_print", "--n_workers", WORKERS, "--file_re", pattern]
    run_notebooks("nbdev 2", chosen, bin2 / "nbdev_test", *options)


# --- scripts with checks of their own


def run_checks(label: str, script: str, *args: str):
    "Run a script that prints a line for each of its checks, and count them"
    counted = []

    def see(line):
        if match := re.match(r"(pass|FAIL|skip) +([\d.]+) s  (.+)", line):
            counted.append(match[1])
            name, _, detail = match[3].partition(": ")
            tally.record(f"{label}: {name}", match[1], float(match[2]), detail)

    try:
        out = run(sys.executable, SCRIPTS / script, *args, limit=LIMIT, on_line=see)
    except Failed as e:
        out = str(e)
    ended = rf"^{counted.count('pass')} passed, {counted.count('FAIL')} failed"
    if not counted or not re.search(ended, out, re.M):
        tally.record(f"{label}: {script} did not come to its end", "FAIL", 0, out)


def has_browser() -> bool:
    "Whether there is a Chromium; if not, Playwright's own is tried"
    names = ("chromium", "chromium-browser", "google-chrome")
    if os.environ.get("CHROMIUM") or any(shutil.which(name) for name in names):
        return True
    try:
        run(sys.executable, "-m", "playwright", "install", "chromium", limit=240)
    except Failed:
        return False
    return True


def run_browser():
    if has_browser():
        run_checks("browser", "browser.py")
    else:
        tally.record("browser: no Chromium found or downloaded; install it, or name it in CHROMIUM", "skip")


# --- all of them


def run_quick(git: bool):
    for name, quick_check in QUICK.items():
        with check(name):
            quick_check()
    if git and (ROOT / ".git").exists():
        with check("git: cleaning and exporting change no tracked file"):
            git_sync()
    elif git:
        tally.record("git: this is no checkout", "skip")


def run_distributed():
    run_checks("distributed", "distributed.py", "--short")


def run_from_outside():
    "What users see and do: bad inputs, the documentation, the browser"
    with check("bad inputs, the short list"):
        python("faults.py", "--short")
    with check("documentation builds, no broken link, all pages and figures"):
        python("build_docs.py")
    run_browser()


def run_long():
    before = files(ROOT, "nbs/**/*")
    run_with_nbdev3()
    run_with_nbdev2()
    with check("notebooks leave no file behind"):
        fail_if([str(p) for p in sorted(files(ROOT, "nbs/**/*") - before)])
    side_by_side(run_distributed, run_from_outside)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--git", action="store_true", help="also check that cleaning and exporting change no tracked file"
    )
    parser.add_argument("--quick", action="store_true", help="leave the notebooks and the documentation out")
    options = parser.parse_args()
    began = time.monotonic()
    os.makedirs(ENV["WAN_WELL_CACHE"], exist_ok=True)
    run_quick(options.git)
    if not options.quick:
        run_long()
    print(f"{time.monotonic() - began:.0f} s with {WORKERS} workers on {CPUS} cores")
    print(tally, flush=True)
    return bool(tally.failed)


if __name__ == "__main__":
    sys.exit(main())
