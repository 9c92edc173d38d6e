"""What the campaign of `faults.py` is made of: cases, the sound folder that they damage copies of, and the judging

A case is a name, a family, what is damaged, a command, and what should come of it. Cases are registered by `case` and
`table`, those about the environment by `scene`. Commands run in forked children of one process that has imported the
package and computed nothing: a start of Python with torch would cost ten times what a case does.
"""

import contextlib
import ctypes
import fnmatch
import functools
import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
LIMIT = 90.0  # seconds; a sound command on the small data takes less than ten
EATEN = 3 * GIB  # resident memory that no command on the small data comes near to
ALLOWED = 8 * GIB  # address space beyond what the imports take
LONGEST = 1000  # characters of a line that somebody still reads
MARKER = "EXECUTED"  # the file that smuggled code makes
LOADED = (  # by the process whose children run the commands
    "check download embed_prompt emulator evaluate export generate simulate train training.trainer evaluation.figures"
)
ENV = dict(
    os.environ,
    PYTHONPATH=str(ROOT),
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    WANDB_MODE="offline",
    TQDM_MININTERVAL="5",
    TOKENIZERS_PARALLELISM="false",
)
for name in ("TORCHELASTIC_RESTART_COUNT", "RANK", "WORLD_SIZE", "LD_PRELOAD"):
    ENV.pop(name, None)


# --- what should come of a case


@dataclass(frozen=True)
class Expect:
    "What should come of a case, and what the line that says so must name"

    kind: str
    words: str = ""  # a regular expression, without regard to case

    def __str__(self):
        return self.kind + (f" ({self.words})" if self.words else "")


def refused(words: str = "") -> Expect:
    "One line, a status that is not zero"
    return Expect("refused", words)


def noted(words: str) -> Expect:
    "The command does its work and says what is odd"
    return Expect("noted", words)


def named(words: str) -> Expect:
    "Refused in one line, or done with a note: not passed over in silence"
    return Expect("refused or noted", words)


ACCEPTED = Expect("accepted")


class Wrong(Exception):
    "What was seen instead of what should be"


class Skip(Exception):
    "Why a case cannot be tried here"


# --- cases

DATA = "sets/turbulent_radiative_layer_2D"
SAFE = ("*.lock", "*/lock")  # what a lock leaves behind is no half-written file
RUN = (
    "work/runs/new/*.jsonl",
    "work/runs/new/*.json",
    "work/runs/new/*.yaml",
    "work/latents/*",
)  # whole files of a run


@dataclass(frozen=True)
class Case:
    "One bad input, or one fault of the environment"

    family: str
    name: str
    command: tuple[str, ...] | None = None  # arguments of wan-well, {root}: the case's folder; none: `act` does it all
    act: Callable | None = None  # damages the folder that it is called in; raises Wrong or Skip if it does it all
    expect: Expect = field(default_factory=refused)
    writes: tuple[str, ...] = ()  # new files that are all right, as patterns below the case's folder
    changes: tuple[str, ...] = ()  # files that the command may change or remove
    restores: tuple[str, ...] = ()  # files that are those of the sound folder again, if the command ends well
    limit: float = LIMIT
    short: bool = False  # one of the quick ones that continuous integration runs

    @property
    def title(self) -> str:
        return f"{self.family}: {self.name}"


CASES: list[Case] = []


@dataclass(frozen=True)
class Tried:
    "A command that a damage is tried on, and what should come of it"

    command: tuple[str, ...]
    expect: Expect
    writes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    restores: tuple[str, ...] = ()


def case(family: str, name: str, *tried: Tried, short: bool = False, **more) -> Callable:
    """Register a damage, which is done to a copy before a command runs; several commands are several cases, of which
    the short list has the last"""

    def register(act: Callable) -> Callable:
        for t in tried:
            title = name if len(tried) == 1 else f"{name}, {t.command[0]}"
            brief = short and t is tried[-1]
            files = dict(writes=t.writes, changes=t.changes, restores=t.restores)
            CASES.append(Case(family, title, t.command, act, t.expect, short=brief, **files, **more))
        return act

    return register


def scene(name: str, limit: float = LIMIT, short: bool = False) -> Callable:
    "Register a fault of the environment: a function that makes it, runs commands and judges them"

    def register(act: Callable) -> Callable:
        CASES.append(Case("environment", name, None, act, ACCEPTED, limit=limit, short=short))
        return act

    return register


def table(family: str, rows: dict[str, tuple], short: tuple[str, ...] = (), **more):
    "Register cases without damage: name -> command and expectation; short: names of those for the short list"
    for name, (command, expect) in rows.items():
        CASES.append(Case(family, name, command, None, expect, short=name in short, **more))


# --- commands

QUIET = ("--device", "cpu", "--no-progress")
DIFFUSE = ("--mode=diffuse", "--training.init_from=runs/predict", "--training.field_epochs=0")
EVALUATE = ("--data", DATA, "--num_samples", "2", *QUIET)


def train(*more: str, name: str = "new") -> tuple[str, ...]:
    "Train from the small configuration"
    return ("train", "--config", "small.yaml", "--name", name, *more)


def resume(*more: str, run: str = "predict", config: str = "") -> tuple[str, ...]:
    "Resume a finished run, for one more epoch of its last stage"
    config = config or f"runs/{run}/config.yaml"
    longer = "--num_epochs=2" if run == "diffuse" else "--training.field_epochs=2"
    return ("train", "--config", config, "--resume_from", "latest", longer, *more)


def evaluate(checkpoint: str = "runs/predict", *more: str) -> tuple[str, ...]:
    return ("evaluate", "--checkpoint", checkpoint, *EVALUATE, *more)


def generate(checkpoint: str = "runs/predict", *more: str) -> tuple[str, ...]:
    given = ("--input_data", DATA, "--num_frames", "2", "--trajectory", "0", "--output_dir", "out", *QUIET)
    return ("generate", "--checkpoint", checkpoint, *given, *more)


def export(checkpoint: str = "runs/diffuse", *more: str) -> tuple[str, ...]:
    return ("export", "--checkpoint", checkpoint, "--output_dir", "exported", *more)


CHECK = ("check", DATA)


def simulate(*more: str, t_cools: str = "0.1,1.0", n: str = "2,1,1", frames: str = "20") -> tuple[str, ...]:
    "Simulate what the sound folder has; a list that is given twice would be joined, so it is replaced here"
    given = (f"--t_cools={t_cools}", f"--n_trajectories={n}", f"--n_frames={frames}", "--device=cpu")
    return ("simulate", *given, *more)


def patterns(names: str, *more: str) -> tuple[str, ...]:
    "Simulate the other physics"
    given = (f"--patterns={names}", "--n_trajectories=2,1,1", "--n_frames=20", "--device=cpu")
    return ("simulate", "--dataset", "gray_scott_reaction_diffusion", *given, *more)


SIMULATE = simulate()

SMALL = """
name: predict
output_dir: runs
model: {name: base, temporal_predictor: {hidden_channels: [8]}, decoder: {hidden_dim: 8}}
lora: {rank: 2, alpha: 4}
sampling: {steps: 1}
training: {mode: predict, device: cpu, num_threads: 1, precision: fp32, batch_size: 2, samples_per_epoch: 4,
  num_epochs: 1, adapter_epochs: 0, field_epochs: 1, field_predictor_lr: 0.0, val_samples: 2, log_every: 1,
  warmup_steps: 1, lr: 1.0e-3, forecast_every: 0}
data: {path: sets/turbulent_radiative_layer_2D, cache_dir: latents, n_steps_output: 4, window_stride: 4}
"""


# --- damaging


@contextlib.contextmanager
def json_of(path: str | Path) -> Iterator[dict]:
    "The content of a JSON file, to be changed"
    content = json.loads(Path(path).read_text())
    yield content
    Path(path).write_text(json.dumps(content))


@contextlib.contextmanager
def tensors_of(path: str | Path) -> Iterator[dict]:
    "The tensors of a safetensors file, to be changed; what it says of itself stays"
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as f:
        tensors, about = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()
    yield tensors
    save_file(tensors, path, about)


def about_of(path: str | Path, alter: Callable):
    "Change what a safetensors file says of itself"
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as f:
        tensors, about = {k: f.get_tensor(k) for k in f.keys()}, dict(f.metadata() or {})
    alter(about)
    save_file(tensors, path, about)


class Payload:
    "What runs when it is unpickled: it makes a file, no more"

    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


# --- children


def load_package():
    "Import all that commands need; nothing is computed, so that forks are safe"
    sys.path.insert(0, str(ROOT))
    os.environ.update({k: ENV[k] for k in ("HF_HUB_OFFLINE", "TQDM_MININTERVAL", "OMP_NUM_THREADS", "WANDB_MODE")})
    importlib.import_module("torch").set_num_threads(1)
    for name in LOADED.split():
        importlib.import_module(f"wan_well.{name}")
    for name in ("AutoencoderKLWan", "WanTransformer3DModel", "WanImageToVideoPipeline", "UniPCMultistepScheduler"):
        getattr(importlib.import_module("diffusers"), name)


@dataclass
class Done:
    "How a command ended"

    status: int  # negative: killed by that signal
    out: str = ""
    err: str = ""
    seconds: float = 0.0
    peak: int = 0  # bytes of resident memory
    late: bool = False  # it was stopped

    def last(self, n: int = 300) -> str:
        "The end of what was printed, in one line"
        lines = [line.rpartition("\r")[2] for line in (self.out + self.err).splitlines()]
        return " ".join(line for line in lines if line.strip() and "%|" not in line)[-n:]


def address_space() -> int:
    "Bytes of address space that this process has"
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def _live(act: Callable, folder: Path, streams: tuple[Path, Path]):
    "The life of a forked child; it never comes back"
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        os.chdir(folder)
        for number, path in enumerate(streams, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        limit = address_space() + ALLOWED
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        act()
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 255)


def _wait(pid: int, limit: float) -> tuple[int, int, bool]:
    "Status, peak of memory, and whether a child had to be stopped"
    end = time.monotonic() + limit
    while time.monotonic() < end:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, False
        time.sleep(0.01)
    stop_group(pid)
    _, _, usage = os.wait4(pid, 0)
    return -signal.SIGKILL, usage.ru_maxrss * 1024, True


def stop_group(pid: int):
    "End a process and all that it started"
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(pid, signal.SIGKILL)


def in_child(act: Callable, folder: Path, limit: float = LIMIT) -> Done:
    "Call a function in a forked child that stands in a folder, with bounded time and memory"
    streams = folder.parent / "stdout", folder.parent / "stderr"
    began = time.monotonic()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        _live(act, folder, streams)
    status, peak, late = _wait(pid, limit)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # what it started and left behind
    out, err = (path.read_text(errors="replace") if path.exists() else "" for path in streams)
    return Done(status, out, err, time.monotonic() - began, peak, late)


def run_command(command: tuple[str, ...]):
    "Run a command of the package as its entry point does"
    cli = importlib.import_module("wan_well.cli")
    sys.argv = ["wan-well", *command]
    cli.main(list(command))


# --- real processes, for the environment

WAN_WELL = (sys.executable, "-m", "wan_well.cli")


def start(*command: str, env: dict | None = None, run: tuple = WAN_WELL, **more) -> subprocess.Popen:
    "Start a command as a process of its own; variables that are None are left out"
    streams = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    values = {name: value for name, value in (ENV | (env or {})).items() if value is not None}
    return subprocess.Popen([*run, *command], env=values, text=True, errors="replace", **streams | more)


def finish(process: subprocess.Popen, limit: float = LIMIT) -> Done:
    "Wait for a process"
    began, late = time.monotonic(), False
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        late = True
        stop_group(process.pid)
        out, err = process.communicate()
    return Done(process.returncode, out or "", err or "", time.monotonic() - began, late=late)


def call(*command: str, limit: float = LIMIT, **more) -> Done:
    "Run a command as a process of its own"
    return finish(start(*command, **more), limit)


# --- judging


def error_lines(done: Done, command: tuple[str, ...] = ()) -> list[str]:
    "Lines that say what is wrong; `check` has one for each fault"
    begins = "wan-well: (error|fault):" if command[:1] == ("check",) else "wan-well: error:"
    return [line for line in done.err.splitlines() if re.match(begins, line)]


def traceback_of(done: Done) -> str:
    "The last line of a traceback; empty where there is none"
    if "Traceback (most recent call last)" not in done.err + done.out:
        return ""
    lines = [line for line in done.err.strip().splitlines() if re.match(r"[\w.]+(Error|Exception|Warning|Fault)", line)]
    return (lines or done.err.strip().splitlines() or ["?"])[-1][:200]


def how_it_ended(done: Done) -> str:
    "What no command may do, whatever it is given; empty: nothing of that"
    if done.late:
        return f"hang: stopped after {done.seconds:.0f} s; {done.last()}"
    if found := traceback_of(done):
        return f"traceback: {found}"
    if done.status < 0:
        return f"killed by signal {-done.status}: {done.last()}"
    if done.peak > EATEN:
        return f"memory: {done.peak / GIB:.1f} GiB"
    return ""


def _not_refused(done: Done, words: str, command: tuple[str, ...]) -> str:
    lines = error_lines(done, command)
    if not done.status:
        return f"accepted: {done.last(160) or 'nothing was said'}"
    if not lines:
        return f"no error line, exit status {done.status}: {done.last()}"
    if len(lines) > 1 and command[:1] != ("check",):
        return f"{len(lines)} error lines: {lines[0]}"
    if max(map(len, lines)) > LONGEST:
        return f"a line of {max(map(len, lines))} characters: {lines[0][:160]} …"
    if words and not any(re.search(words, line, re.I) for line in lines):
        return f"refused, but not for what is wrong (should name {words}): {lines[0][:300]}"
    return ""


def plain_lines(done: Done) -> dict[str, str]:
    "Lines that were printed, progress bars left out, by what they are without their numbers"
    lines = [line.rpartition("\r")[2].strip() for line in (done.out + done.err).splitlines()]
    return {re.sub(r"[\d.]+", "0", line): line for line in lines if line and "%|" not in line}


def _not_done(done: Done, words: str, usual: Done) -> str:
    if done.status:
        return f"refused: {done.last()}"
    usually = plain_lines(usual)
    unusual = [line for form, line in plain_lines(done).items() if form not in usually]
    if words and not any(re.search(words, line, re.I) for line in unusual):
        return f"accepted without a word (should say {words}); new: {' | '.join(unusual)[-160:] or 'nothing'}"
    return ""


NOTHING = Done(0)


def judge(done: Done, expect: Expect, command: tuple[str, ...] = (), usual: Done = NOTHING) -> str:
    "What is wrong with how a command ended; usual: how it ends with sound inputs; empty: nothing"
    if fault := how_it_ended(done):
        return fault
    if expect.kind == "refused" or (done.status and expect.kind == "refused or noted"):
        return _not_refused(done, expect.words, command)
    return _not_done(done, expect.words, usual)


def require(done: Done, expect: Expect, what: str = "", command: tuple[str, ...] = ()):
    "Raise Wrong unless a command ended as it should"
    if fault := judge(done, expect, command):
        raise Wrong(f"{what}: {fault}" if what else fault)


# --- what a command did to the files


def _identity(path: Path) -> str:
    "What a file is, for comparison"
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if not path.is_file():
        return f"no file, {os.lstat(path).st_mode}"
    return hashlib.sha1(path.read_bytes()).hexdigest()


def snapshot(folder: Path, leave_out: tuple[str, ...] = ("stdout", "stderr")) -> dict[str, str]:
    "Every file below a folder; folders themselves are not compared"
    found = {}
    for top, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(top, name))]
        for name in [*names, *links]:
            path = Path(top) / name
            found[path.relative_to(folder).as_posix()] = _identity(path)
    return {name: value for name, value in found.items() if name not in leave_out}


def _allowed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def is_leftover(name: str) -> bool:
    "Whether a name is that of a file which was being written"
    parts = Path(name).parts
    hidden = parts[-1].startswith(".") and parts[-1] != ".metadata"
    return hidden or any(part.endswith((".tmp", ".part")) or ".tmp." in part for part in parts)


def file_faults(before: dict, after: dict, writes: tuple[str, ...], changes: tuple[str, ...]) -> str:
    "What a command did to files that it should not have; empty: nothing"
    if f"work/{MARKER}" in after:
        return "code executed"
    gone = [n for n in before if n not in after and not _allowed(n, changes)]
    changed = [n for n in before if n in after and before[n] != after[n] and not _allowed(n, changes)]
    new = [n for n in after if n not in before and not _allowed(n, SAFE)]
    left = [n for n in new if is_leftover(n)]
    wrong = [n for n in new if n not in left and not _allowed(n, writes + changes)]
    found = {"removed": gone, "changed": changed, "half-written": left, "written": wrong}
    return "; ".join(
        f"{what} {names[0]}" + f" and {len(names) - 1} more" * (len(names) > 1)
        for what, names in found.items()
        if names
    )


def not_restored(sound: dict, after: dict, patterns: tuple[str, ...]) -> str:
    "Files that should be the sound ones again, and are not; empty: all are"
    wrong = [name for name in sound if _allowed(name, patterns) and after.get(name) != sound[name]]
    return f"accepted as it was: {wrong[0]} is not what it should be" if wrong else ""


# --- the sound folder


def make_sound(folder: Path):
    "What every case damages a copy of: data, base model, latents and two finished runs, with relative paths only"
    work = folder / "work"
    shutil.copytree(ROOT / "wan_well/assets/wan-tiny", work / "base")
    (work / "small.yaml").write_text(SMALL)
    for command in ((*SIMULATE, "--output_dir", "sets"), train(name="predict"), train(*DIFFUSE, name="diffuse")):
        done = in_child(lambda: run_command(command), work, 300)
        if done.status:
            raise SystemExit(f"the sound folder cannot be made: {' '.join(command)}: {done.err[-2000:]}")


@contextlib.contextmanager
def copy_of(sound: Path, scratch: Path) -> Iterator[Path]:
    "A copy of the sound folder, removed afterwards"
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(sound / "work", scratch / "work", symlinks=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# --- one case


@dataclass
class Result:
    "How a case ended"

    case: Case
    outcome: str  # pass, FAIL or skip
    seconds: float
    seen: str = ""  # what was wrong, or why it was skipped

    def __str__(self):
        line = f"{self.outcome} {self.seconds:7.1f} s  {self.case.title}"
        return f"{line}: {self.seen}" if self.seen else line


def one_line(text: str) -> str:
    "A text in one line, without characters that a terminal would act upon"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _act(act: Callable, folder: Path, limit: float):
    "Do what a case does; raises Wrong or Skip, also if it could not be done"

    def body():
        try:
            act()
        except (Wrong, Skip) as e:
            sys.exit(f"{type(e).__name__}: {one_line(str(e))}")

    done = in_child(body, folder, limit)
    last = (done.err.strip().splitlines() or [""])[-1]
    if last.startswith("Skip: "):
        raise Skip(last.removeprefix("Skip: "))
    if done.late:
        raise Wrong(f"hang: stopped after {done.seconds:.0f} s")
    if done.status:
        raise Wrong(last.removeprefix("Wrong: ") if last.startswith("Wrong: ") else f"the case itself failed: {last}")


@functools.cache
def usual(command: tuple[str, ...], sound: Path, scratch: Path) -> Done:
    "How a command ends with sound inputs; what it says then is no note about a fault"
    with copy_of(sound, scratch) as folder:
        return in_child(lambda: run_command(command), folder / "work")


def _try_command(c: Case, folder: Path, sound: Path):
    "Damage, run, judge; raises Wrong"
    work = folder / "work"
    noted = c.act is not None and "noted" in c.expect.kind
    as_usual = usual(c.command, sound, folder.with_name(f"{folder.name}-sound")) if noted else NOTHING
    if c.act:
        _act(c.act, work, c.limit)
    before = snapshot(folder)
    command = tuple(word.replace("{root}", str(folder)) for word in c.command)
    done = in_child(lambda: run_command(command), work, c.limit)
    fault = judge(done, c.expect, command, as_usual)
    writes = ("*",) if fault.startswith("accepted") else c.writes  # then what it wrote goes without saying
    after = snapshot(folder)
    faults = [fault, file_faults(before, after, writes, c.changes)]
    if not done.status:
        faults.append(not_restored(snapshot(sound), after, c.restores))
    if any(faults):
        raise Wrong("; ".join(filter(None, faults)))


def try_case(c: Case, sound: Path, scratch: Path) -> Result:
    "Try one case on a copy of the sound folder"
    began = time.monotonic()
    outcome, seen = "pass", ""
    try:
        with copy_of(sound, scratch) as folder:
            if c.command:
                _try_command(c, folder, sound)
            else:
                _act(c.act, folder / "work", c.limit)
    except Wrong as e:
        outcome, seen = "FAIL", one_line(str(e).replace(str(scratch / "work") + os.sep, ""))
    except Skip as e:
        outcome, seen = "skip", str(e)
    return Result(c, outcome, time.monotonic() - began, seen)
