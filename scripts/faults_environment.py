"""Faults of the environment: disks, locks, signals, limits, other processes, other users, missing packages

These run the commands as processes of their own: limits, signals and open files are those of a process.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from faults_data import SET, data_file
from faults_kit import (
    CHECK,
    DIFFUSE,
    GIB,
    ROOT,
    SIMULATE,
    Done,
    Skip,
    Wrong,
    call,
    evaluate,
    export,
    file_faults,
    finish,
    generate,
    how_it_ended,
    is_leftover,
    one_line,
    refused,
    require,
    resume,
    scene,
    snapshot,
    start,
    train,
)

MEASURED = 100.0  # seconds for one process; it needs ten on a quiet machine
LONG = ("--num_epochs=1000", "--training.checkpoint_every=1", "--training.field_epochs=0")
LOG = Path("runs/new/log.jsonl")


def works(done: Done, what: str = ""):
    "Raise Wrong unless a command ended well"
    if fault := how_it_ended(done):
        raise Wrong(f"{what} {fault}".strip())
    if done.status:
        raise Wrong(f"{what} exit status {done.status}: {done.last()}".strip())


def works_or_says(done: Done, words: str, what: str = ""):
    "Raise Wrong unless a command ended well, or in one line that names the reason"
    if done.status:
        require(done, refused(words), what)
    works_not_badly(done, what)


def works_not_badly(done: Done, what: str = ""):
    if fault := how_it_ended(done):
        raise Wrong(f"{what} {fault}".strip())


def untouched(before: dict, writes: tuple[str, ...] = (), changes: tuple[str, ...] = ()):
    "Raise Wrong if a file is gone, changed, or left half written"
    if fault := file_faults(before, snapshot(Path.cwd()), writes, changes):
        raise Wrong(fault)


def until(happens: Callable, process: subprocess.Popen | None = None, limit: float = MEASURED):
    "Wait for something; raises Wrong if the process ends before, or it never happens"
    end = time.monotonic() + limit
    while not happens():
        if process and process.poll() is not None:
            raise Wrong(f"ended too soon: {finish(process).last()}")
        if time.monotonic() > end:
            raise Wrong("nothing happened")
        time.sleep(0.05)


def lines(path: Path = LOG) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def is_trained() -> bool:
    "Whether a run has done a few updates, and has a checkpoint"
    return lines() > 4 and any(Path("runs/new/checkpoints").glob("step-*"))


@contextmanager
def training(*more: str, name: str = "new", **settings):
    "A training run that goes on while something is done"
    process = start(*train(*LONG, *more, name=name), **settings)
    try:
        until(is_trained, process)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def limited(kind: int, value: int) -> Callable:
    "What a process does first to live under a limit"
    return partial(resource.setrlimit, kind, (value, value))


# --- the disk


def _full_disk(command: tuple[str, ...], size: int, changes: tuple[str, ...] = ()):
    before = snapshot(Path.cwd())
    done = call(*command, preexec_fn=limited(resource.RLIMIT_FSIZE, size), limit=MEASURED)
    require(done, refused("write|written|space|large"))
    untouched(
        before, ("runs/new/*.json*", "runs/new/*.yaml", "latents/*", "set/*", "runs/predict/evaluation/*"), changes
    )


FULL = {
    "train": (train(), 30_000),
    "simulate": ((*SIMULATE, "--output_dir", "set"), 100_000),
    "generate": (generate(), 30_000),
    "export": (export(), 5_000),
    "evaluate": (evaluate(), 1_000),
}
for name, (command, size) in FULL.items():
    scene(f"the disk is full, {name}", short=name == "export")(partial(_full_disk, command, size))


@scene("the disk is full while a finished run is resumed")
def _():
    emulator, aside = Path("runs/predict/emulator"), Path("runs/predict/emulator-before-resume")
    valid = snapshot(emulator), snapshot(Path("runs/predict/checkpoints"))
    done = call(*resume(config="small.yaml"), preexec_fn=limited(resource.RLIMIT_FSIZE, 30_000), limit=MEASURED)
    require(done, refused("write|written|space|large"))
    left = snapshot(aside if aside.is_dir() else emulator), snapshot(Path("runs/predict/checkpoints"))
    if left != valid:
        raise Wrong("the emulator or a checkpoint from before is not what it was")
    works(call(*evaluate(), limit=MEASURED), "the run afterwards:")


@scene("standard output is full", limit=200, short=True)
def _():
    for command in (CHECK, ("check", "--help"), ("--help",)):
        with open("/dev/full", "w") as full:
            done = call(*command, stdout=full)
        if not done.status:
            raise Wrong(f"{command[0]}: exit status 0, and nothing was printed")
        works_not_badly(done, command[0])
        if "Exception ignored" in done.err:
            raise Wrong(f"{command[0]}: {done.last()}")


@scene("standard output is a pipe that nobody reads", limit=200)
def _():
    for command in (CHECK, ("--help",), ("train", "--help")):
        reader, writer = os.pipe()
        os.close(reader)
        done = call(*command, stdout=writer)
        os.close(writer)
        works_not_badly(done, command[0])
        if "Exception ignored" in done.err or "Broken pipe" in done.err:
            raise Wrong(f"{command[0]}: {done.last()}")


@scene("standard error is closed", limit=200)
def _():
    for command in (CHECK, train()):
        done = call(*command, preexec_fn=partial(os.close, 2), stderr=None, limit=MEASURED)
        works(done, command[0])


@scene("standard output is closed", limit=200)
def _():
    done = call(*CHECK, preexec_fn=partial(os.close, 1), stdout=None)
    require(done, refused("standard output"), "check", CHECK)


@scene("the current folder is gone")
def _():
    Path("gone").mkdir()
    done = call(*CHECK, preexec_fn=lambda: (os.chdir("gone"), os.rmdir("../gone")))
    require(done, refused(), "check", CHECK)


# --- locks and other processes

NO_LOCKS = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
int flock(int fd, int operation) { (void)fd; (void)operation; errno = ENOLCK; return -1; }
int lockf(int fd, int command, long size) { (void)fd; (void)command; (void)size; errno = ENOLCK; return -1; }
"""
MISJUDGED = (
    "damaged",
    "cut short",
    "not HDF5",
    "fetch or write",
    "another download",
    "another process",
    "copy it again",
)


def no_locks() -> dict[str, str]:
    "An environment in which no file can be locked, as on some network file systems"
    if not shutil.which("cc"):
        raise Skip("no C compiler")
    Path("no_locks.c").write_text(NO_LOCKS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "no_locks.so", "no_locks.c"], check=True)
    return dict(LD_PRELOAD=str(Path("no_locks.so").resolve()))


def not_misjudged(done: Done, what: str):
    "Raise Wrong where a sound file is blamed"
    works_or_says_lock(done, what)
    for words in MISJUDGED:
        if words in done.err:
            raise Wrong(f"{what}: blames the data: {done.err.strip()[-300:]}")


def works_or_says_lock(done: Done, what: str):
    works_not_badly(done, what)
    if done.status and not any(word in done.err.lower() for word in ("lock", "in use", "open")):
        raise Wrong(f"{what}: {done.last()}")


@scene("no file can be locked", limit=400)
def _():
    env, before = no_locks(), snapshot(Path.cwd())
    commands = (CHECK, evaluate(), train(), generate(), (*SIMULATE, "--output_dir", "sets"))
    for command in commands:
        not_misjudged(call(*command, env=env, limit=MEASURED), command[0])
    untouched(before, ("*",))


OPENED = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.readline()"


@scene("another program has a data file open for writing", limit=200)
def _():
    before = snapshot(Path.cwd())
    holder = start("-c", OPENED, str(data_file()), run=(sys.executable,), stdin=subprocess.PIPE)
    holder.stdout.readline()
    try:
        for command in (CHECK, evaluate()):
            not_misjudged(call(*command), command[0])
    finally:
        holder.communicate("\n")
    untouched(before, ("runs/predict/evaluation/*",))


OTHER = "process|another|already|in use|still runs|running"  # that somebody else is at it


@scene("two trainings in one run folder, one after the other", limit=300)
def _():
    with training() as process:
        n = lines()
        require(call(*train(), limit=MEASURED), refused(OTHER), "the second:")
        until(lambda: lines() > n + 2, process)


@scene("two trainings in one run folder, at the same moment", limit=300)
def _():
    both = [start(*train(*LONG)) for _ in range(2)]
    try:
        until(lambda: lines() > 16 or any(p.poll() is not None for p in both))
        ended = [p for p in both if p.poll() is not None]
        if not ended:
            raise Wrong("both go on, and write into one log")
        require(finish(ended[0]), refused(OTHER), "one of them:")
        (other,) = [p for p in both if p not in ended]
        until(is_trained, other)
    finally:
        for p in both:
            p.kill()
    require_increasing()


@scene("a resume while the run goes on", limit=300)
def _():
    with training() as process:
        done = call(*train(*LONG[1:], "--num_epochs=1001", "--resume_from=latest"), limit=MEASURED)
        require(done, refused(OTHER), "the second:")
        n = lines()
        until(lambda: lines() > n + 2, process)


def require_increasing(path: Path = LOG):
    "Raise Wrong where an update stands in the log twice, or after a later one"
    steps = [r["step"] for r in map(json.loads, path.read_text().splitlines()) if "loss" in r]
    wrong = [b for a, b in zip(steps, steps[1:]) if b <= a]
    if wrong:
        raise Wrong(f"{path}: update {wrong[0]} stands behind a later one, {len(wrong)} times")


# --- signals


@scene("SIGINT", limit=200)
def _():
    with training() as process:
        process.send_signal(signal.SIGINT)
        done = finish(process, 60)
    works_not_badly(done)
    if not done.status:
        raise Wrong("exit status 0")


@scene("SIGINT twice", limit=200)
def _():
    with training() as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        done = finish(process, 30)
    works_not_badly(done)
    if not done.status:
        raise Wrong("exit status 0")


@scene("SIGINT while a data set is simulated", limit=300)
def _():
    _stop_simulation(signal.SIGINT)


@scene("SIGKILL while a data set is simulated", limit=300)
def _():
    _stop_simulation(signal.SIGKILL)


def _stop_simulation(number: signal.Signals):
    "Stopped in the middle and started again, a simulation gives the same files"
    command = (*SIMULATE, "--output_dir", "again")
    process = start(*command)
    until(lambda: any(Path("again").rglob("*.npy")) or any(Path("again").rglob("*.hdf5")), process)
    process.send_signal(number)
    done = finish(process, 60)
    if number is signal.SIGINT:
        works_not_badly(done, "stopped:")
    works(call(*command, limit=MEASURED), "again:")
    before, after = (
        {name: value for name, value in snapshot(root).items() if not is_leftover(name)}
        for root in (SET, Path("again") / SET.name)
    )
    if differs := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise Wrong(f"{differs[0]} and {len(differs) - 1} more are others than without the stop")


@scene("SIGKILL while a run is trained, then a resume", limit=300)
def _():
    with training() as process:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    reached = max(int(p.name[5:]) for p in Path("runs/new/checkpoints").glob("step-*"))
    longer = train(*LONG[1:], f"--num_epochs={reached // 2 + 3}", "--resume_from=latest")
    works(call(*longer, limit=MEASURED), "the resume:")
    require_increasing()


# --- limits of a process


@scene("64 open files at most, and 90 data files", limit=300)
def _():
    for k in range(90):
        shutil.copy(data_file("train"), data_file("train").with_name(f"zz_{k:02d}.hdf5"))
    for command in (CHECK, train("--data.window_stride=100")):  # one window of each file
        done = call(*command, preexec_fn=limited(resource.RLIMIT_NOFILE, 64), limit=MEASURED)
        works(done, command[0])


@scene("a long rollout under a limit of memory", limit=150)
def _():
    limit = limited(resource.RLIMIT_AS, 6 * GIB)
    done = call(*generate("runs/predict", "--num_frames", "200000000"), preexec_fn=limit, limit=60)
    require(done, refused("memory|GiB|TiB|num_frames"))


@scene("simulate under a limit of memory", limit=150)
def _():
    limit = limited(resource.RLIMIT_AS, 5 * GIB)
    before = snapshot(Path.cwd())
    command = ("simulate", "--preset", "full", "--n_frames", "20000", "--output_dir", "large", "--device", "cpu")
    require(call(*command, preexec_fn=limit, limit=60), refused("memory|GiB|TiB|GB|space"))
    untouched(before, ("large/*/simulation.json",))


# --- users, places, settings

DAC_OVERRIDE, DAC_READ_SEARCH, DROP = 1, 2, 24  # of linux/capability.h and linux/prctl.h


def obey_permissions():
    "What root does first to be bound by the permissions of files, as everybody else is"
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
        if not os.getuid() and libc.prctl(DROP, capability, 0, 0, 0):
            raise PermissionError("root cannot give up its rights here")


@contextmanager
def read_only(*folders: str):
    "Folders that cannot be written to; raises Skip where permissions do not bind"
    places = [p for folder in folders for p in (Path(folder), *Path(folder).rglob("*"))]
    modes = {p: p.stat().st_mode for p in places}
    for p in places:
        p.chmod(0o555 if p.is_dir() else 0o444)
    try:
        test = call("-c", f"open({folders[0] + '/x'!r}, 'w')", run=(sys.executable,), preexec_fn=obey_permissions)
        if not test.status:
            raise Skip("permissions do not bind here")
        yield dict(preexec_fn=obey_permissions, limit=MEASURED)
    except subprocess.SubprocessError as e:
        raise Skip(one_line(str(e))) from None
    finally:
        for p, mode in modes.items():
            p.chmod(mode)


@scene("data, base model and runs can only be read", limit=400)
def _():
    with read_only("sets", "base", "runs") as settings:
        elsewhere = ("--output_dir=home", "--data.cache_dir=home/latents")
        works(call(*train(*elsewhere), **settings), "train")
        works(call(*evaluate("runs/predict", "--output_dir", "home/scores"), **settings), "evaluate")
        works(call(*CHECK, **settings), "check")


@scene("folders that cannot be written", limit=400)
def _():
    before = snapshot(Path.cwd())
    with read_only("sets", "base", "runs", "latents") as settings:
        into = ("--output_dir", "runs/out")
        commands = (
            train(),
            train("--output_dir=home", "--seed=5"),  # other latents than those that are there
            evaluate(),
            generate("runs/predict", *into),
            export("runs/diffuse", *into),
            (*SIMULATE, *into),
        )
        for command in commands:
            require(call(*command, **settings), refused("writ|permission"), " ".join(command[:3]))
    untouched(before, ("home/*",))


@scene("a data file that may not be read", limit=300)
def _():
    with read_only("sets") as settings:
        data_file().chmod(0)
        for command in (CHECK, evaluate()):
            done = call(*command, **settings)
            require(done, refused("permission|read"), command[0], command)
            if any(words in done.err for words in ("damaged", "cut short", "truncated")):
                raise Wrong(f"{command[0]}: blames the data: {done.err.strip()[-300:]}")


@scene("no HOME", limit=300)
def _():
    for home in (None, "/nonexistent"):
        for command in (CHECK, train(name=f"new{home is None}")):
            works(call(*command, env=dict(HOME=home), limit=MEASURED), f"{command[0]}, HOME={home}:")


@scene("LC_ALL=C", limit=300)
def _():
    for command in (CHECK, evaluate(), ("--help",)):
        works(call(*command, env=dict(LC_ALL="C", LANG="C"), limit=MEASURED), command[0])


@scene("a terminal that knows ASCII only", limit=300)
def _():
    env = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii")
    for command in (CHECK, evaluate(), ("train", "--help"), train("--dry_run")):
        works(call(*command, env=env, limit=MEASURED), " ".join(command[:2]))


@scene("the clock was set back: every file is from the future", limit=300)
def _():
    later = time.time() + 400 * 86400
    for path in Path.cwd().rglob("*"):
        os.utime(path, (later, later))
    for command in (CHECK, evaluate(), resume(config="small.yaml"), train()):
        works(call(*command, limit=MEASURED), command[0])


@scene("TMPDIR is not there", limit=300)
def _():
    for command in (CHECK, evaluate(), train()):
        works_or_says(call(*command, env=dict(TMPDIR="/nonexistent"), limit=MEASURED), "TMPDIR|tmp|writ", command[0])


@scene("WAN_WELL_CACHE is a file")
def _():
    code = (
        "from wan_well.errors import run_main; from wan_well.simulate import cached_dataset; run_main(cached_dataset)"
    )
    done = call("-c", code, run=(sys.executable,), env=dict(WAN_WELL_CACHE=str(Path("small.yaml").resolve())))
    require(done, refused("WAN_WELL_CACHE"))


@scene("a restart by torchrun resumes the run")
def _():
    longer = train("--training.field_epochs=2", name="predict")
    works(call(*longer, env=dict(TORCHELASTIC_RESTART_COUNT="1"), limit=MEASURED))
    require_increasing(Path("runs/predict/log.jsonl"))


RANKS = {
    "a restart count that is no number": dict(TORCHELASTIC_RESTART_COUNT="many"),
    "a rank that is no number": dict(
        RANK="first", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1"
    ),
    "a world without a master": dict(RANK="0", WORLD_SIZE="2", LOCAL_RANK="0"),
    "a world of no process": dict(RANK="0", WORLD_SIZE="0", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0"),
}
for name, env in RANKS.items():

    @scene(name, limit=100)
    def _(env=env):
        done = call(*train("--distributed.timeout_s=10"), env=env, limit=60)
        require(done, refused("RANK|WORLD_SIZE|MASTER|TORCHELASTIC|process|torchrun"))


@scene("the other process never comes", limit=100)
def _():
    env = dict(
        RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29871"
    )
    done = call(*train("--distributed.timeout_s=5"), env=env, limit=60)
    require(done, refused("process|rank|others|timeout"))


@scene("no network, and a base model on the hub", short=True)
def _():
    done = call(*train("--model.name=Wan-AI/Wan2.2-I2V-A14B-Diffusers"), limit=MEASURED)
    require(done, refused("Wan-AI"))


# --- packages that are not there

HIDING = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {names!r} else find(name, path, target)
PathFinder.find_spec = find_spec
"""


def without_packages(*names: str) -> dict[str, str]:
    "An environment in which packages cannot be imported"
    folder = Path("site")
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(HIDING.format(names=names))
    return dict(PYTHONPATH=f"{folder.resolve()}{os.pathsep}{ROOT}")


@scene("TensorBoard is not installed")
def _():
    env = without_packages("tensorboard")
    require(call(*train("--tensorboard"), env=env, limit=MEASURED), refused("tensorboard"))


@scene("Weights & Biases is not installed")
def _():
    env = without_packages("wandb")
    require(call(*train("--wandb_project=x"), env=env, limit=MEASURED), refused(r"wan_well\[wandb\]|pip install"))


@scene("a package that Weights & Biases needs is not installed")
def _():
    env = without_packages("a_package_of_wandb")
    Path("site/wandb.py").write_text("import a_package_of_wandb\n")
    require(call(*train("--wandb_project=x"), env=env, limit=MEASURED), refused("a_package_of_wandb"))


VIEWS = """
from wan_well.errors import run_main
from wan_well.explore.launcher import training_curves
run_main(training_curves, "runs/predict")
"""


@scene("ipywidgets is not installed")
def _():
    env = without_packages("ipywidgets")
    require(call("-c", VIEWS, run=(sys.executable,), env=env, limit=MEASURED), refused("ipywidgets|lab"))


@scene("no ffmpeg for a film")
def _():
    env = without_packages("imageio_ffmpeg", "av") | dict(PATH="/nonexistent")
    done = call(*generate("runs/predict", "--create_animation"), env=env, limit=MEASURED)
    works_or_says(done, "ffmpeg|gif|mp4")


@scene("a run that started from a run which is gone", limit=200)
def _():
    shutil.rmtree("runs/predict")
    works(call(*evaluate("runs/diffuse"), limit=MEASURED), "evaluate")
    require(call(*train(*DIFFUSE), limit=MEASURED), refused("runs/predict|init_from"), "train")
