"""The peers of The Well and ours, trained for the same wall time, with several seeds: one table.

    python benchmarks/peers.py --data demo                        # also small, full, gray_scott; simulated where absent
    python benchmarks/peers.py --data demo --only unet --seed 1   # a piece of it; what is done is kept
    python benchmarks/peers.py --data full --device cuda --seconds 1200

Every forecaster is trained for --seconds on --threads threads (or one GPU), by the trainer of the package. Its cosine
schedule must end when the time does, so a short trial first times its updates, its validation and what comes before
the first update (encoding, decoding), and the numbers of epochs and samples follow from that. What was planned and
what it took stand in the result; a run that is more than 10 % off is named. Each forecaster computes in the precision
that is faster for it, since equal time would be no equal chance otherwise: bf16 helps ours and the U-Net on the CPUs
that have it, and slows CNextU-Net and FNO down, whose configurations say fp32. The row says which it was.

`refine` and `diffuse` start from a run of `ours, U-Net decoder`, whose time has a column of its own. Sampling for their
validation, their choice of settings and the correction of their spread takes longer than the others are trained, so
they get a multiple of --seconds on top. Their one-step scores are of fewer windows (--ensemble_samples).

Runs are made one after the other. With --processes several are trained side by side; then all times, those of the
trials too, are wall time at that load, and the result says so. On a machine that others use as well, a trial says
little about the run that follows; --clock cpu counts the CPU time of the process per thread instead.

Runs lie in --output_dir; a finished one is a row there and is not made again. The result file,
benchmarks/results/peers-<data>-<device>.json, is written after every run. A run that fails is named, the others go on,
and the exit status is 1 at the end.
"""

import argparse
import json
import os
import shutil
import statistics
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from unittest.mock import patch
import torch
from wan_well.options import WanWellError, run_main
from wan_well.files import environment, write_whole
from wan_well.locks import locked
from wan_well.config import Config, load_config
from wan_well.device import pick_device
from wan_well.data.published import GRAY_SCOTT, TURBULENT_LAYER
from wan_well.data.reader import WellSplit, open_split
from wan_well.simulate import simulate
from wan_well.emulator_parts import uses_bf16
from wan_well.forecast.baselines import Ensemble, Persistence
from wan_well.forecast.loading import load_forecaster
from wan_well.evaluation.extent import describe_split
from wan_well.evaluation.protocols import evaluate
from wan_well.evaluation.scoring import load_batch, timed_forecast
from wan_well.evaluation.tables import markdown_table
from wan_well.training.stage_run import StageRun
from wan_well.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
DATA = dict(  # preset and data set of `wan-well simulate`
    demo=("demo", TURBULENT_LAYER.name),
    small=("small", TURBULENT_LAYER.name),
    full=("full", TURBULENT_LAYER.name),
    gray_scott=("demo", GRAY_SCOTT.name),
)
TRIAL_UPDATES = 30  # of each stage
WARM_UP = 3  # of them that are not counted
OFF = 0.1  # share of the planned time that a run may deviate without a note
SCORES = ("vrmse", "crps", "spread_skill")


@dataclass(frozen=True)
class Contender:
    "One forecaster of the table"

    title: str
    config: str  # a shipped configuration; empty: nothing is trained
    overrides: tuple[str, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)  # stage -> share of the time of its updates; none: one stage
    start: str | None = None  # whose run it starts from
    times: float = 1.0  # of --seconds that it is trained
    is_ensemble: bool = False  # whether the mean of its members is scored too


OURS = dict(history=0.8, latent=0.12, field=0.08)  # of the time that encoding and decoding leave
EXPERTS = dict(flow=0.7, field=0.3)  # the second where a decoder is trained on what they draw
LATENT = ("model.decoder.kind=latent", "training.field_predictor_lr=0.1")  # gradients are cheap without the VAE
AT_THE_END = ("training.forecast_every=0",)  # a validation by sampling takes longer than the others: not in between
LONGER = 2.5  # times as long, since what the experts draw has to be sampled
CONTENDERS = dict(
    persistence=Contender("persistence", ""),
    unet=Contender("U-Net (The Well)", "demo_unet"),
    cnextunet=Contender("CNextU-Net (The Well)", "demo_cnextunet"),
    fno=Contender("FNO (The Well)", "demo_fno"),
    ours_gates=Contender("ours, gates", "demo", ("model.decoder.kind=gates",), OURS),
    ours_unet=Contender("ours, U-Net decoder", "demo", ("model.decoder.kind=unet",), OURS),
    ours_latent=Contender("ours, latent decoder", "demo", LATENT, OURS),
    refine=Contender("refine", "demo_refine", AT_THE_END, EXPERTS, "ours_unet", LONGER, True),
    diffuse=Contender("diffuse", "demo_diffuse", AT_THE_END, EXPERTS, "ours_unet", LONGER, True),
)


# Four times the cells cost four times the VAE: fewer windows are encoded, so that something is left for learning.
LARGE = ("data.window_stride=32", "training.field_windows=27", "training.val_samples=3")
OURS_ON = dict(small=LARGE)  # data -> overrides of the runs that encode


@dataclass(frozen=True)
class Settings:
    "What is the same for all runs"

    data: str
    root: str  # of the data set
    output_dir: str
    seconds: float
    device: str
    threads: int
    samples: int
    ensemble_samples: int
    members: int
    batch_size: int
    clock: str
    processes: int  # side by side: the load at which all times are taken
    overrides: tuple[str, ...] = ()

    def now(self) -> float:
        "Seconds of the clock that counts"
        return time.perf_counter() if self.clock == "wall" else time.process_time() / self.threads

    def planned(self, name: str) -> float:
        "Seconds that a contender is trained"
        return self.seconds * CONTENDERS[name].times

    def folder(self, name: str, seed: int) -> Path:
        return Path(self.output_dir) / f"{name}-{seed}"


# --- how long things take


@dataclass
class StageTimes:
    "Seconds of one stage"

    before: float = 0.0  # until its first update: latents are encoded, forecasts decoded
    updates: list[float] = field(default_factory=list)
    validations: list[float] = field(default_factory=list)
    n_windows: int = 0  # that it can draw from
    batch_size: int = 0  # windows of one update


@contextmanager
def timed_method(cls: type, name: str, now, note) -> Iterator[None]:
    "Call `note(object, seconds)` after each call of a method"
    plain = getattr(cls, name)

    def timed(self, *args, **kw):
        began = now()
        result = plain(self, *args, **kw)
        note(self, now() - began)
        return result

    with patch.object(cls, name, timed):
        yield


@contextmanager
def stage_times(now) -> Iterator[dict[str, StageTimes]]:
    "Times of all stages that are trained inside, by their names"
    times = defaultdict(StageTimes)

    def began(run: StageRun, seconds: float):
        of_stage = times[run.stage.name]
        of_stage.before, of_stage.n_windows = seconds, run.sampler.n
        of_stage.batch_size = run.sampler.per_update

    updated = lambda run, seconds: times[run.stage.name].updates.append(seconds)  # noqa: E731
    validated = lambda run, seconds: times[run.stage.name].validations.append(seconds)  # noqa: E731
    with timed_method(StageRun, "__init__", now, began), timed_method(StageRun, "update", now, updated):
        with timed_method(StageRun, "validate", now, validated):
            yield times


def train_timed(s: Settings, cfg: Config) -> tuple[float, dict[str, StageTimes]]:
    "Train; the seconds of the whole, and those of its stages"
    with stage_times(s.now) as times:
        began = s.now()
        Trainer(cfg, progress=False).run()
        return s.now() - began, dict(times)


# --- the plan of a run


@dataclass(frozen=True)
class StagePlan:
    "How long a stage is trained"

    epochs: int
    samples_per_epoch: int
    update_seconds: float
    validation_seconds: float


EPOCHS = dict(
    history="training.history_epochs", field="training.field_epochs"
)  # stage -> its key; the others share one
SAMPLES = dict(history="training.history_samples_per_epoch", field="training.field_samples_per_epoch")


def pace(stage: str, epochs: int, samples: int) -> list[str]:
    "Overrides that give a stage its length"
    keys = EPOCHS.get(stage, "training.num_epochs"), SAMPLES.get(stage, "training.samples_per_epoch")
    return [f"{keys[0]}={epochs}", f"{keys[1]}={samples}"]


def configure(s: Settings, name: str, seed: int, folder: Path, more: list[str]) -> Config:
    "The configuration of a run"
    c = CONTENDERS[name]
    place = [f"data.path={s.root}", f"--output_dir={folder.parent}", f"--name={folder.name}", f"--seed={seed}"]
    start = [f"--training.init_from={s.folder(c.start, seed)}"] if c.start else []
    how = [f"--device={s.device}", f"training.num_threads={s.threads}", "training.checkpoint_every=0"]
    size = OURS_ON.get(s.data, ()) if c.shares else ()
    return load_config(c.config, [*place, *start, *how, *size, *c.overrides, *s.overrides, *more])


def own_epochs(cfg: Config) -> dict[str, int]:
    "Epochs of the stages that have a key of their own"
    return {stage: getattr(cfg.training, key.removeprefix("training.")) for stage, key in EPOCHS.items()}


def update_seconds(times: StageTimes) -> float:
    "Of one update, without the first ones"
    return statistics.mean(times.updates[WARM_UP:] or times.updates)


def plan_stage(times: StageTimes, seconds: float, epochs: int) -> StagePlan:
    "Epochs and samples that fill the time of a stage; each epoch ends with a validation"
    update, validation = update_seconds(times), statistics.mean(times.validations)
    most = max(1, times.n_windows // times.batch_size)  # updates of an epoch
    epochs = min(epochs, max(1, int(0.2 * seconds / max(validation, 1e-9))))  # validation takes a fifth at most
    fewest = -(-seconds // (most * update + validation))
    epochs = max(epochs, int(fewest))
    updates = min(most, max(1, round((seconds / epochs - validation) / update)))
    return StagePlan(epochs, updates * times.batch_size, update, validation)


def trial_epochs(times: dict[str, StageTimes]) -> dict[str, int]:
    "Epochs of a second trial, where the windows of one epoch were too few; nothing if one was enough"
    if all(len(t.updates) > WARM_UP for t in times.values()):
        return {}
    return {stage: -(-TRIAL_UPDATES // len(t.updates)) for stage, t in times.items()}


def make_trial(s: Settings, name: str, seed: int, folder: Path, full: Config) -> tuple[float, dict[str, StageTimes]]:
    "A short training with updates enough to time those after the first ones: seconds of the whole, and of its stages"
    samples = TRIAL_UPDATES * max(full.training.batch_size, full.training.field_batch_size or 0)
    epochs = dict(latent=1) | {stage: 1 for stage, n in own_epochs(full).items() if n}
    while epochs:
        shutil.rmtree(folder, ignore_errors=True)
        short = [key for stage, n in epochs.items() for key in pace(stage, n, samples)]
        total, times = train_timed(s, configure(s, name, seed, folder, short))
        epochs = trial_epochs(times)
    return total, times


def plan_run(s: Settings, name: str, seed: int) -> dict:
    "Time a short trial of a run, and say how long its stages can be"
    folder = Path(s.output_dir) / f"trial-{name}"
    full = configure(s, name, seed, folder, [])
    total, times = make_trial(s, name, seed, folder, full)
    moving = sum(update_seconds(t) * len(t.updates) + sum(t.validations) for t in times.values())
    rest = s.planned(name) - (total - moving)
    if rest < 0.2 * s.planned(name):
        raise WanWellError(f"{name}: {total - moving:.0f} s pass before and after the updates; raise --seconds")
    shares = {stage: CONTENDERS[name].shares.get(stage, 1.0) for stage in times}
    epochs = own_epochs(full)
    stages = {
        stage: plan_stage(t, rest * shares[stage] / sum(shares.values()), epochs.get(stage, full.training.num_epochs))
        for stage, t in times.items()
    }
    shutil.rmtree(folder)
    fixed = {stage: t.before for stage, t in times.items()}
    planned = {stage: asdict(p) for stage, p in stages.items()}
    return dict(fixed_seconds=total - moving, before_seconds=fixed, shares=shares, stages=planned)


# --- one run


def scores_of(entry: dict) -> dict:
    "What is kept of the scores of one forecaster"
    places = dict(one_step=entry["one_step"]) | entry["rollout"]
    kept = {
        place: {m: {f: v if v is None else round(v, 5) for f, v in found[m].items()} for m in SCORES if m in found}
        for place, found in places.items()
    }
    return kept


def seconds_per_frame(s: Settings, forecaster, test: WellSplit) -> float:
    "Median of three forecasts of eight frames, after a first one"
    device = pick_device(s.device, "--device")
    frames, given = load_batch(test, [(0, 0)], getattr(forecaster, "n_steps_input", 4), device)
    times = []
    for _ in range(4):
        began = s.now()
        timed_forecast(forecaster, frames, given, 8)  # waits for the device
        times.append(s.now() - began)
    return statistics.median(times[1:]) / 8


def score(s: Settings, forecasters: list, samples: int) -> dict:
    "Scores of the test split, with this many windows of the one-step protocol, and the time of a forecast frame"
    torch.set_num_threads(s.threads)
    test, settings = open_split(s.root, "test"), dict(num_samples=samples, batch_size=s.batch_size)
    results = evaluate(forecasters, test, progress=False, device=pick_device(s.device, "--device"), **settings)
    seconds = {f.name: seconds_per_frame(s, f, test) for f in forecasters}
    scored = results["forecasters"].items()
    return {name: scores_of(entry) | dict(seconds_per_frame=seconds[name]) for name, entry in scored}


def load_scored(s: Settings, name: str, folder: Path) -> tuple[list, int]:
    "The forecasters of a run that are scored, and how many trained parameters they have"
    one = load_forecaster(folder, device=s.device)
    return [one, Ensemble(one, s.members)] if CONTENDERS[name].is_ensemble else [one], one.n_parameters


def precision_of(cfg: Config) -> str:
    "What `auto` comes to on this device"
    return "bf16" if uses_bf16(cfg.training.precision, pick_device(cfg.training.device, "--device")) else "fp32"


def settings_of(cfg: Config) -> dict:
    "The whole configuration of a run, without where it lies and without its seed"
    sections = cfg.model_dump(mode="json")
    place = dict(training=("seed", "init_from"), data=("path",))
    return {
        name: {key: value for key, value in section.items() if key not in place.get(name, ())}
        for name, section in sections.items()
        if isinstance(section, dict)
    }


def seconds_of_stages(times: dict[str, StageTimes]) -> dict:
    "Where the time of a run went"
    return {
        stage: dict(before=t.before, updates=sum(t.updates), validation=sum(t.validations), n_updates=len(t.updates))
        for stage, t in times.items()
    }


def validations_of(folder: Path) -> dict[str, dict[str, float]]:
    "Stage -> its best VRMSE on the validation split: after `history`, what observed frames alone are good for"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found = {}
    for line in lines:
        if "val_vrmse_mean" in line:
            found.setdefault(line["stage"], []).append((line["val_vrmse_mean"], line["val_vrmse_one_step"]))
    best = {stage: min(scores) for stage, scores in found.items()}
    return {stage: dict(val_vrmse_mean=mean, val_vrmse_one_step=one_step) for stage, (mean, one_step) in best.items()}


def make_run(s: Settings, name: str, seed: int) -> dict:
    "Train and score one run: a row"
    folder, c = s.folder(name, seed), CONTENDERS[name]
    samples = s.ensemble_samples if c.is_ensemble else s.samples
    if not c.config:
        return dict(name=name, seed=seed, scores=score(s, [Persistence()], samples))
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run has left
    plan = json.loads(plan_path(s, name).read_text())
    lengths = [key for stage, p in plan["stages"].items() for key in pace(stage, p["epochs"], p["samples_per_epoch"])]
    cfg = configure(s, name, seed, folder, lengths)
    precision = precision_of(cfg)
    seconds, times = train_timed(s, cfg)
    shutil.rmtree(folder / "latents", ignore_errors=True)
    forecasters, parameters = load_scored(s, name, folder)
    row = dict(name=name, seed=seed, seconds=seconds, planned_seconds=s.planned(name), parameters=parameters)
    row |= dict(precision=precision, windows=samples, config=settings_of(cfg))
    if c.start:
        row["start_seconds"] = json.loads(row_path(s, c.start, seed).read_text())["seconds"]
    names = {f.name: f.name.replace(forecasters[0].name, "", 1).lstrip(", ") for f in forecasters}
    scored = {names[f]: entry for f, entry in score(s, forecasters, samples).items()}
    return row | dict(stages=seconds_of_stages(times), validation=validations_of(folder), scores=scored)


# --- all of them


def row_path(s: Settings, name: str, seed: int) -> Path:
    return Path(s.output_dir) / f"row-{name}-{seed}.json"


def plan_path(s: Settings, name: str) -> Path:
    return Path(s.output_dir) / f"plan-{name}.json"


def store(path: Path, content: dict):
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def require_start(s: Settings, name: str, seed: int):  # raises WanWellError
    "Check that what a run starts from was finished"
    start = CONTENDERS[name].start
    if start and not row_path(s, start, seed).exists():
        raise WanWellError(f"it starts from {start}, seed {seed}, which is not finished")


def do_plan(s: Settings, name: str, seed: int) -> str:
    "A plan, unless it is there"
    with locked(Path(s.output_dir) / f".plan-{name}.lock", f"{name} is planned here", "wait for it"):
        if CONTENDERS[name].config and not plan_path(s, name).exists():
            require_start(s, name, seed)
            store(plan_path(s, name), plan_run(s, name, seed))
    return f"{name}: planned"


def do_run(s: Settings, name: str, seed: int) -> str:
    "A row, unless it is there"
    made_with = environment()
    with locked(Path(s.output_dir) / f".{name}-{seed}.lock", f"{name}, seed {seed}, is made here", "wait for it"):
        if row_path(s, name, seed).exists():
            return f"{name}, seed {seed}: is there"
        require_start(s, name, seed)
        row = make_run(s, name, seed) | dict(commit=made_with["commit"])
        store(row_path(s, name, seed), row)
    words = f"{name}, seed {seed}: done"
    if "seconds" in row:
        words = f"{name}, seed {seed}: {row['seconds']:.0f} s of training"
        off = row["seconds"] / row["planned_seconds"] - 1
        words += f", {off:+.0%} of what was planned" if abs(off) > OFF else ""
    return words


def end_with_parent():
    "In the process of a run: end when the one that started it has ended, however it did"

    def wait():
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def in_own_process(job: Callable, *args):
    "What a function returns or raises; a process that is killed takes no other with it"
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
        return pool.submit(job, *args).result()


def outcome(future: Future) -> tuple[str, bool]:  # what a job has to say, and whether it failed
    "Of a job that has ended"
    try:
        return future.result(), False
    except WanWellError as e:
        return str(e), True
    except Exception as e:
        traceback.print_exception(e)
        return type(e).__name__, True


def do_all(s: Settings, job: Callable, runs: list[tuple[str, int]], after_each: Callable) -> dict[tuple[str, int], str]:
    "Do a job for all runs, go on where one fails; which failed, and why"
    failed = {}
    with ThreadPoolExecutor(s.processes) as pool:
        started = {pool.submit(in_own_process, job, s, *run): run for run in runs}
        try:
            for done in as_completed(started):
                (name, seed), (words, is_failure) = started[done], outcome(done)
                if is_failure:
                    words = failed[name, seed] = f"{name}, seed {seed}, failed: {words}"
                print(words, flush=True)
                after_each()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C ends all of them
    return failed


def in_turn(s: Settings, names: list[str], seeds: list[int], after_each: Callable) -> list[str]:  # what failed
    "Plan and make runs, each in a process of its own"
    jobs = [(name, seed) for seed in seeds for name in names if not row_path(s, name, seed).exists()]
    trials = list(dict(reversed(jobs)).items())  # a plan is made with the first seed
    unplanned = do_all(s, do_plan, trials, lambda: None)
    without = {name for name, seed in unplanned}
    failed = do_all(s, do_run, [job for job in jobs if job[0] not in without], after_each)
    return [*unplanned.values(), *failed.values()]


# --- the table


def line_title(name: str, scored: str) -> str:
    "A contender, or the mean of its members"
    return ", ".join(filter(None, [CONTENDERS[name].title, scored]))


def columns_of(row: dict, scored: str) -> dict[str, float | None]:
    "The values of one line of the table, of one seed"
    scores = row["scores"][scored]
    values = {f"one step {f}": v for f, v in scores["one_step"]["vrmse"].items()}
    windows = [place for place in scores if place not in ("one_step", "seconds_per_frame")]
    values |= {window: scores[window]["vrmse"]["mean"] for window in windows}
    for metric, title in (("crps", "CRPS"), ("spread_skill", "spread/skill")):
        values |= {f"{title} {w}": scores[w][metric]["mean"] for w in windows if metric in scores[w]}
    values["s per frame"] = scores["seconds_per_frame"]
    costs = {"parameters": "parameters", "training s": "seconds", "start s": "start_seconds"}
    return values | {title: row[key] for title, key in costs.items() if key in row}


def mean_and_spread(values: list[float | None]) -> list[float | None]:  # mean, standard deviation over seeds
    "Of the seeds that have a column. None where one of them has no finite score; the spread of one seed is not known"
    if None in values:
        return [None, None]
    return [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None]


def lines_of(rows: list[dict]) -> dict[str, list[dict]]:
    "Line of the table -> the columns of each of its seeds"
    lines = defaultdict(list)
    for row in sorted(rows, key=lambda row: list(CONTENDERS).index(row["name"])):
        for scored in row["scores"]:
            lines[line_title(row["name"], "" if scored == Persistence.name else scored)].append(columns_of(row, scored))
    return lines


def seeds_by_column(found: list[dict]) -> dict[str, list[float | None]]:
    "Column -> the values of the seeds that have it"
    names = dict.fromkeys(name for values in found for name in values)
    return {name: [values[name] for values in found if name in values] for name in names}


def summarize(rows: list[dict]) -> dict[str, dict]:
    "Line of the table -> column -> mean and spread over seeds"
    return {
        title: dict(seeds=len(found))
        | {column: mean_and_spread(values) for column, values in seeds_by_column(found).items()}
        for title, found in lines_of(rows).items()
    }


def as_text(column: str, value: list | None) -> str:
    "Mean ± spread, in as many digits as the column needs"
    if value is None:
        return ""
    mean, spread = value
    if mean is None:
        return "not finite"
    if column in ("parameters", "training s", "start s"):
        return f"{mean:.0f}"
    if column == "s per frame":
        return f"{mean:.2g}"
    return f"{mean:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def text_table(summary: dict[str, dict]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    "Columns and rows of texts, for terminal and pages"
    found = dict.fromkeys(column for line in summary.values() for column in line if column != "seeds")
    last = ["parameters", "training s", "start s", "s per frame"]
    columns = [c for c in found if c not in last] + [c for c in last if c in found]
    rows = [(title, [as_text(c, line.get(c)) for c in columns]) for title, line in summary.items()]
    return columns, rows


def commits_of(rows: list[dict]) -> list[str]:
    "A note where rows were made by different code"
    commits = sorted({str(row["commit"])[:7] for row in rows})
    return [f"rows of commits {', '.join(commits)}"] if len(commits) > 1 else []


def flat(values: dict, above: str = "") -> dict:
    "Nested keys, joined by dots"
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def other_configurations(rows: list[dict]) -> list[str]:
    "Notes where the seeds of a contender were not trained by one configuration"
    notes = []
    for name in dict.fromkeys(row["name"] for row in rows):
        first, *others = [flat(row["config"]) for row in rows if row["name"] == name and "config" in row] or [{}]
        keys = sorted({key for other in others for key in first.keys() | other if first.get(key) != other.get(key)})
        notes += [f"{name}: seeds were trained with different {', '.join(keys)}"] if keys else []
    return notes


def fewer_windows(rows: list[dict], usual: int) -> list[str]:
    "A note where lines were scored one step ahead on fewer windows than others"
    few = {row["name"]: row["windows"] for row in rows if row.get("windows", usual) < usual}
    return [f"one step of {', '.join(few)}: of {min(few.values())} windows, the others of {usual}"] if few else []


def gaps_of(rows: list[dict]) -> list[str]:
    "Notes on columns that not all seeds of a line have"
    return [
        f"{title}, {column}: of {len(values)} of {len(found)} seeds"
        for title, found in lines_of(rows).items()
        for column, values in seeds_by_column(found).items()
        if len(values) < len(found)
    ]


def notes_of(rows: list[dict], s: Settings) -> list[str]:
    "What a reader of the table should know"
    notes = []
    for row in rows:
        off = row["seconds"] / row["planned_seconds"] - 1 if "seconds" in row else 0
        if abs(off) > OFF:
            notes.append(f"{row['name']}, seed {row['seed']}: trained {off:+.0%} of the planned time")
    if s.clock == "cpu":
        notes.append("times are CPU time of the process per thread, since the machine was not idle")
    elif s.processes > 1:
        notes.append(f"{s.processes} runs side by side: times are wall time at that load")
    if any("start_seconds" in row for row in rows):
        notes.append(
            f"refine and diffuse start from a run of ours with the U-Net decoder, whose time comes on top, and are "
            f"trained {LONGER} times as long"
        )
    return [*notes, *commits_of(rows), *other_configurations(rows), *fewer_windows(rows, s.samples), *gaps_of(rows)]


def require_encoding(s: Settings):  # raises WanWellError
    "Check that no run takes latents that another has encoded"
    if configure(s, "ours_unet", 0, s.folder("ours_unet", 0), []).data.cache_dir:
        raise WanWellError("--set data.cache_dir: the time of encoding counts, so no cache may be shared; leave it out")


def require_same_settings(s: Settings):
    "Rows of one folder were made in one way"
    path, now = Path(s.output_dir) / "settings.json", json.loads(json.dumps(asdict(s)))
    if not path.exists():
        store(path, now)
    then = json.loads(path.read_text())
    other = [f"{key} was {then.get(key)}, and is {now[key]} now" for key in now if then.get(key) != now[key]]
    if other:
        raise WanWellError(f"{s.output_dir}: holds runs of other settings ({other[0]}); choose another --output_dir")


def write_results(a: argparse.Namespace, s: Settings, made_with: dict):
    "The result file, of all rows that are there"
    rows = [json.loads(path.read_text()) for path in sorted(Path(s.output_dir).glob("row-*.json"))]
    plans = {name: json.loads(plan_path(s, name).read_text()) for name in CONTENDERS if plan_path(s, name).exists()}
    data = {key: value for key, value in describe_split(open_split(s.root, "test")).items() if key != "path"}
    summary = summarize(rows)
    columns, texts = text_table(summary)
    content = dict(
        benchmark="forecasters trained for the same wall time, test split",
        model="wan-tiny",
        preset=a.data,
        data=data,
        settings={k: v for k, v in asdict(s).items() if k not in ("root", "output_dir")},
        ours=OURS_ON.get(s.data, ()),
        notes=notes_of(rows, s),
        table=dict(columns=columns, rows=texts),
        summary=summary,
        plans=plans,
        rows=rows,
        environment=made_with,
    )
    store(a.results, content)


def data_root(a: argparse.Namespace) -> str:
    "The data set, simulated where it is absent"
    if a.root:
        return a.root
    preset, dataset = DATA[a.data]
    cache = Path(os.environ.get("WAN_WELL_CACHE", "~/.cache/wan_well")).expanduser()
    return str(simulate(preset, cache / "presets" / a.data, dataset=dataset))


def parse() -> argparse.Namespace:
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=DATA, default="demo")
    p.add_argument("--root", help="a data set that is there already, in the place of the simulated one")
    p.add_argument("--seconds", type=float, default=300, help="of training, for each run")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--seed", type=int, help="only this one")
    p.add_argument("--only", choices=CONTENDERS, nargs="+", help="only these, and what they start from")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--processes", type=int, default=1, help="runs side by side")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that is not idle")
    p.add_argument("--samples", type=int, default=216, help="test windows of the one-step protocol")
    p.add_argument("--ensemble_samples", type=int, default=18, help="the same for ensembles, whose sampling takes long")
    p.add_argument("--members", type=int, default=8)
    p.add_argument("--batch_size", type=int, default=9, help="windows per call where forecasts are scored")
    p.add_argument("--output_dir", help="where runs lie; none: runs/peers-<data>-<device>-<seconds>")
    p.add_argument("--results", type=Path, help="result file; none: benchmarks/results/peers-<data>-<device>.json")
    p.add_argument("--set", nargs="*", default=[], help="overrides of all configurations, key=value")
    a = p.parse_args()
    if (a.clock, a.device) == ("cpu", "cuda"):
        raise WanWellError("--clock cpu does not count the time of a GPU; give --clock wall")
    a.output_dir = a.output_dir or f"runs/peers-{a.data}-{a.device}-{a.seconds:.0f}"
    a.results = a.results or RESULTS / f"peers-{a.data}-{a.device}.json"
    return a


def main():
    a, made_with = parse(), environment()
    made_with["threads"] = a.threads
    names = (
        "data",
        "output_dir",
        "seconds",
        "device",
        "threads",
        "samples",
        "ensemble_samples",
        "members",
        "batch_size",
        "clock",
        "processes",
    )
    s = Settings(root=data_root(a), overrides=tuple(a.set), **{name: getattr(a, name) for name in names})
    require_encoding(s)
    require_same_settings(s)
    wanted = a.only or list(CONTENDERS)
    starts = {CONTENDERS[name].start for name in wanted} - {None}
    first = [name for name in CONTENDERS if CONTENDERS[name].start is None and name in {*wanted, *starts}]
    after = [name for name in wanted if CONTENDERS[name].start]
    seeds = range(a.seeds) if a.seed is None else [a.seed]
    failed = []
    for names in (first, after):
        failed += in_turn(s, names, list(seeds), lambda: write_results(a, s, made_with))
    write_results(a, s, made_with)
    columns, rows = text_table(summarize(json.loads(a.results.read_text())["rows"]))
    print(markdown_table(columns, rows), f"wrote {a.results}", sep="\n")
    if failed:
        raise WanWellError("; ".join(failed))


if __name__ == "__main__":
    run_main(main)
