"""Training over several processes: the same losses however many there are, exact resume, and faults that are inflicted.

    python scripts/distributed.py                      # one line per check
    python scripts/distributed.py --short              # as `make test` runs it
    python scripts/distributed.py --kills 20 --output benchmarks/results/faults.json     # the long version, counted

Processes are real: gloo ranks, forked from this one (which has imported everything and computed nothing), or started by
torchrun.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch
import psutil
import torch
from safetensors.torch import load_file, save_file
from wan_well.options import WanWellError, run_main, validate, write_yaml
from wan_well.files import environment, write_whole
from wan_well.config import Config
from wan_well.data.published import TURBULENT_LAYER
from wan_well.data.samples import write_sample
from wan_well.latents.base_model import ASSETS
from wan_well.latents.checkpoints import list_checkpoints, load_tensors, read_state, stored_tensors
from wan_well.latents.loading import WEIGHTS
from wan_well.forecast.sharding import is_sharded
from wan_well.training.distributed import leave
from wan_well.training.stage_run import StageRun
from wan_well.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = tempfile.TemporaryDirectory()
RUNS = Path(SCRATCH.name)  # the output_dir of all runs
LIMIT = 480.0  # seconds for a run, generous: these are some seconds of work
SAME = 1e-3  # relative difference of losses that another order of sums explains


class Tally:
    "Checks that were run, and how many passed"

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name: str, f: Callable):
        "Run one check and print its line; what it returns is a remark"
        began = time.monotonic()
        try:
            remark, passed = f() or "", True
        except Exception as e:
            remark, passed = f"{type(e).__name__}: {e}", False
        self.passed, self.failed = self.passed + passed, self.failed + (not passed)
        line = f"{'pass' if passed else 'FAIL'} {time.monotonic() - began:7.1f} s  {name}"
        print(f"{line}: {remark}" if remark else line, flush=True)


# ---- runs

MODEL = dict(name="wan-tiny", temporal_predictor=dict(hidden_channels=[8]), decoder=dict(kind="none"))
TRAINING = dict(
    lr=2e-3,
    adapter_epochs=0,
    field_epochs=0,
    val_samples=3,
    warmup_steps=1,
    log_every=1,
    forecast_every=0,
    device="cpu",
    num_threads=1,
    precision="fp32",  # a processor with bf16 would round so coarsely that the order of sums shows
)


@functools.cache
def dataset() -> Path:
    "Waves on few cells: how processes share their work does not depend on what they learn, and encoding takes long"
    return write_sample(RUNS / "data", TURBULENT_LAYER.name, cells=(16, 32), at_most=18)


def config(
    name: str, ranks: int, mode: str = "predict", *, updates: int = 4, sections: dict | None = None, **training
) -> Config:
    "A small real run: an update is four windows, whatever the number of processes"
    length = dict(num_epochs=max(1, updates // 8), samples_per_epoch=4 * min(updates, 8))
    values = dict(
        name=name,
        output_dir=str(RUNS),
        seed=1,
        model=dict(MODEL),
        peer=dict(init_features=8, blocks_per_stage=1),
        lora=dict(rank=4, alpha=8),
        sampling=dict(steps=1),
        data=dict(path=str(dataset()), n_steps_output=4, cache_dir=str(RUNS / "latents")),
        training=dict(TRAINING, mode=mode, batch_size=4 // ranks) | length | training,
    )
    if mode == "reconstruct":
        values["model"]["channel_adapter"] = dict(kind="conv", hidden_dim=8)
    for section, options in (sections or {}).items():
        values[section] = values.get(section, {}) | options
    return validate(Config, values, name)


class ActingTrainer(Trainer):
    "A trainer that does something once, when update number `step` begins"

    def __init__(self, cfg: Config, step: int, act: Callable):
        super().__init__(cfg)
        self.acts = {step: act}

    def run(self) -> Path:
        plain = StageRun.update

        def update(stage_run, batches):
            if act := self.acts.pop(self.step, None):
                act(self)
            return plain(stage_run, batches)

        with patch.object(StageRun, "update", update):
            folder = super().run()
        assert not self.acts, "the update at which something was to be done never began"
        return folder


def at_update(step: int, act: Callable) -> Callable:
    "What makes a trainer that calls `act` with itself when an update begins"
    return partial(ActingTrainer, step=step, act=act)


def send(number: signal.Signals, trainer: Trainer):
    "Send this process a signal"
    os.kill(os.getpid(), number)


terminate = partial(send, signal.SIGTERM)


def run_trainer(make: Callable, cfg: Config):
    "Train, in a process of its own"
    trainer = make(cfg)
    if cfg.distributed.sharding in ("shard", "hybrid"):
        experts = trainer.emulator.forecaster.frozen_experts
        assert experts and all(map(is_sharded, experts))
    trainer.run()
    leave()


def become_rank(variables: dict[str, str], output: Path, make: Callable, cfg: Config):
    "The life of a forked process: what it prints goes to a file, its environment is that of torchrun"
    os.environ.update(variables)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    torch.set_num_threads(1)
    run_main(run_trainer, make, cfg)


def free_port() -> int:
    "A port of this machine that nobody listens on"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fork_ranks(n: int, local: int, cfg: Config, make: Callable, outputs: list[Path]) -> list:
    "Start `n` processes, `local` of them on what passes for a machine"
    fork, port, processes = multiprocessing.get_context("fork"), free_port(), []
    for rank, output in enumerate(outputs):
        variables = dict(
            RANK=str(rank),
            WORLD_SIZE=str(n),
            LOCAL_RANK=str(rank % local),
            LOCAL_WORLD_SIZE=str(local),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        processes.append(fork.Process(target=become_rank, args=(variables, output, make, cfg)))
        processes[-1].start()
    return processes


def join_all(processes: list) -> bool:
    "Wait until all have ended; kill those that have not, and say whether there were any"
    end = time.monotonic() + LIMIT
    for p in processes:
        p.join(max(0.1, end - time.monotonic()))
    late = [p for p in processes if p.is_alive()]
    for p in late:
        p.kill()
    return bool(late)


def train(
    n: int,
    cfg: Config,
    make: Callable = Trainer,  # Config -> Trainer
    expect: int | None = 0,  # exit status of all processes; none: any
    meanwhile: Callable | None = None,  # gets the processes while they run
    local: int | None = None,  # processes on what passes for a machine; none: all
) -> list[str]:  # what each printed
    "Train with `n` processes"
    outputs = [RUNS / f"{cfg.name}-{rank}.txt" for rank in range(n)]
    processes = fork_ranks(n, local or n, cfg, make, outputs)
    try:
        if meanwhile:
            meanwhile(processes)
    finally:
        late = join_all(processes)
    printed = [output.read_text(errors="replace") for output in outputs]
    if late:
        raise AssertionError(f"did not end in {LIMIT:.0f} s: " + " | ".join(text[-300:] for text in printed))
    codes = [p.exitcode for p in processes]
    if expect is not None and codes != [expect] * n:
        raise AssertionError(f"exit codes {codes}: " + " | ".join(text[-1500:] for text in printed))
    return printed


# ---- what runs have left behind


def records(name: str) -> list[dict]:
    "The lines of a run's log"
    path, found = RUNS / name / "log.jsonl", []
    if not path.exists():
        return found
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # a line that a kill cut off
            found.append(json.loads(line))
    return found


def losses(name: str) -> dict:
    "Loss and gradient norm of every update, and every validation, the last time it was done"
    found = {}
    for record in records(name):
        if "loss" in record:
            found[record["step"]] = record["loss"], record["grad_norm"]
        scores = {key: value for key, value in record.items() if key.startswith("val_")}
        if scores:
            found[f"{record['step']} {next(iter(scores))}"] = tuple(scores.values())
    return found


def difference(a: dict, b: dict) -> float:
    "The largest relative difference of two runs' losses, norms and validations"
    assert a.keys() == b.keys(), (list(a), list(b))
    return max(abs(x - y) / max(abs(x), 1e-6) for key in a for x, y in zip(a[key], b[key]))


def require_same(a: dict, b: dict, what: str = "") -> str:
    "Two runs differ by no more than another order of sums explains; by how much"
    d = difference(a, b)
    assert d < SAME, f"{what}off by {d:.1e}"
    return f"{d:.0e}"


def checkpoints(name: str, kind: str = "step") -> list[Path]:
    "Checkpoints of a run, newest first"
    return list_checkpoints(RUNS / name / "checkpoints", kind)


def weights(name: str, starts: tuple[str, ...]) -> dict:
    "Whole tensors of the newest checkpoint, of those whose names start so"
    path = checkpoints(name)[0]
    chosen = {key: about for key, about in stored_tensors(path).items() if key.startswith(starts)}
    tensors = {key: torch.empty(about.size, dtype=about.properties.dtype) for key, about in chosen.items()}
    load_tensors(path, tensors)
    return tensors


def damaged(name: str) -> int:
    "How many checkpoints with a name are not whole"
    n = 0
    for path in checkpoints(name) + checkpoints(name, "best"):
        try:
            read_state(path)
        except WanWellError:
            n += path.exists()  # else it has just been removed, as the oldest
    return n


def error_line(printed: str) -> str:
    "The one line that says what went wrong"
    lines = [line for line in printed.splitlines() if "wan-well: error" in line]
    assert lines, printed[-1500:]
    return lines[0]


# ---- the same losses


def one_process(mode: str, updates: int = 3) -> dict:
    "Losses of one process, which the others are compared with"
    name = f"{mode}-one" if updates == 3 else f"{mode}-one-{updates}"
    if not records(name):
        train(1, config(name, 1, mode, updates=updates))
    return losses(name)


SIZES = dict(replicate=((2, 2), (4, 4)), shard=((1, 1), (2, 2)), hybrid=((4, 2),))  # processes, on a machine


def same_losses(mode: str, sharding: str = "replicate", **more) -> str:
    "Another number of processes computes the same"
    remarks = []
    for n, local in SIZES[sharding]:
        name = f"{mode}-{sharding}-{n}"
        sections = dict(distributed=dict(sharding=sharding, **more))
        train(n, config(name, n, mode, updates=3, sections=sections), local=local)
        d = require_same(one_process(mode), losses(name), f"{n} processes: ")
        remarks.append(f"{n}: {d}")
    return "losses and gradient norms against one process, relative: " + ", ".join(remarks)


def accumulated() -> str:
    "Two processes, two batches of one window each against one process with four at once, experts taking turns"
    sharded = dict(distributed=dict(sharding="shard"))
    batches = dict(batch_size=1, gradient_accumulation_steps=2)
    train(2, config("accumulated", 2, "diffuse", updates=3, sections=sharded, **batches))
    return f"off by {require_same(one_process('diffuse'), losses('accumulated'))}"


@dataclass(frozen=True)
class Way:
    "What a mode can be combined with"

    name: str
    mode: str
    sections: dict  # beside those of a plain run
    training: dict = field(default_factory=dict)
    ranks: int = 2
    local: int = 2  # ranks on what passes for a machine


WAYS = (
    Way(
        "one expert, averaged, scalars dropped",
        "diffuse",
        dict(distributed=dict(sharding="shard")),
        dict(experts="low", ema_decay=0.5, scalar_dropout=0.5),
    ),
    Way("refine", "refine", dict(distributed=dict(sharding="shard")), dict(init_from=str(RUNS / "predict-one"))),
    Way("joint", "diffuse", dict(model=dict(channel_adapter=dict(kind="shuffle", hidden_dim=8))), dict(joint=True)),
    Way(
        "field stage, noise on latents",
        "predict",
        dict(model=dict(decoder=dict(kind="gates", hidden_dim=8))),
        dict(field_epochs=1, latent_noise=0.1),
    ),
)


def other_ways() -> str:
    "What the modes can be combined with, two or four processes against one"
    one_process("diffuse")
    one_process("predict")
    remarks = []
    for i, way in enumerate(WAYS):
        plain = {name: options for name, options in way.sections.items() if name != "distributed"}
        make = partial(config, mode=way.mode, updates=2, **way.training)
        train(1, make(f"way{i}-one", 1, sections=plain))
        train(way.ranks, make(f"way{i}", way.ranks, sections=way.sections), local=way.local)
        d = require_same(losses(f"way{i}-one"), losses(f"way{i}"), f"{way.name}: ")
        remarks.append(f"{way.name} {d}")
    return ", ".join(remarks)


FIELD_WAYS = (  # forecasts are kept, of an odd number of windows
    Way(
        "refine, sharded",
        "refine",
        dict(distributed=dict(sharding="shard"), model=dict(decoder=dict(kind="unet", widths=[8, 8], stem=8))),
        dict(init_from=str(RUNS / "predict-one"), field_epochs=1, field_windows=5, ema_decay=0.5),
    ),
    Way(
        "predict, from observed frames first, predictor frozen",
        "predict",
        dict(model=dict(decoder=dict(kind="unet", widths=[8, 8], stem=8))),
        dict(history_epochs=1, history_samples_per_epoch=8, field_epochs=1, field_windows=7, field_predictor_lr=0),
    ),
)


def kept_forecasts() -> str:
    "Two processes share the forecasts that are kept for the field stage, and come to the losses of one"
    one_process("predict")
    remarks = []
    for i, way in enumerate(FIELD_WAYS):
        plain = {name: options for name, options in way.sections.items() if name != "distributed"}
        make = partial(config, mode=way.mode, updates=2, **way.training)
        data = dict(window_stride=3)  # a third of the windows: each of the two encodes them for itself
        caches = [dict(data=dict(data, cache_dir=str(RUNS / f"kept{i}-{n}"))) for n in (1, way.ranks)]
        train(1, make(f"kept{i}-one", 1, sections=plain | caches[0]))
        train(way.ranks, make(f"kept{i}", way.ranks, sections=way.sections | caches[1]), local=way.local)
        d = require_same(losses(f"kept{i}-one"), losses(f"kept{i}"), f"{way.name}: ")
        remarks.append(f"{way.name} {d}")
    return ", ".join(remarks)


class SummingTrainer(Trainer):
    "Prints what its weights add up to"

    def run(self) -> Path:
        folder = super().run()
        parameters = [p for part in self.emulator.parts().values() for p in part.parameters()]
        sums = torch.tensor([p.double().sum().item() for p in parameters], dtype=torch.float64)
        print("SUM", sums.sum().item().hex(), sums.abs().sum().item().hex())
        return folder


def equal_ranks():
    "Replicated weights stay the same bits in all processes, without ever being sent"
    printed = train(2, config("summing", 2, "diffuse", updates=3), SummingTrainer)
    a, b = ([line for line in text.splitlines() if "SUM" in line][-1] for text in printed)
    assert a == b, (a, b)


# ---- resume


def resume_same(n: int, mode: str, sharding: str) -> str:
    "Stopped by SIGTERM in the second of three epochs, after a validation, and resumed: the same bits"
    name, straight = f"resume-{mode}-{n}", f"resume-{mode}-{n}-straight"
    sections = dict(distributed=dict(sharding=sharding))
    make = partial(config, ranks=n, mode=mode, updates=2, num_epochs=3, ema_decay=0.5, sections=sections)
    train(n, make(straight))
    printed = train(n, make(name), at_update(2, terminate))
    assert "go on with --resume_from latest" in printed[0], printed[0][-500:]
    train(n, make(name, resume_from="latest"))
    assert losses(name) == losses(straight), (losses(name), losses(straight))
    a, b = (weights(run, ("parts.", "optimizer.", "ema.", "best.")) for run in (name, straight))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    return f"{len(losses(name))} losses and validations, {len(a)} tensors, all equal"


LEGS = ((1, 2), (2, 4), (4, 6), (1, None))  # processes, and the update at which they are stopped


def resume_other(sharding: str) -> str:
    "1 → 2 → 4 → 1 processes"
    name, straight, resumed = f"elastic-{sharding}", one_process("diffuse", 8), {}
    for n, stop in LEGS:
        sections = dict(distributed=dict(sharding=sharding))
        cfg = config(name, n, "diffuse", updates=8, sections=sections, **resumed)
        train(n, cfg, at_update(stop, terminate) if stop else Trainer)
        resumed = dict(resume_from="latest")
    return f"8 updates, losses and norms off by {require_same(losses(name), straight)}"


def resume_accumulates() -> str:
    "A run of four processes is resumed by one that has memory for one window at a time: it accumulates four"
    train(4, config("shrunk", 4, "diffuse"), at_update(2, terminate))
    train(1, config("shrunk", 1, "diffuse", batch_size=1, resume_from="latest"))
    train(1, config("shrunk-straight", 1, "diffuse"))
    d = require_same(losses("shrunk"), losses("shrunk-straight"))
    printed = train(1, config("shrunk", 1, "diffuse", batch_size=3, resume_from="latest"), expect=1)
    assert "cannot make that" in printed[0], printed[0][-300:]
    return f"off by {d}"


# ---- torchrun


def printed_by(name: str) -> str:
    "What a run of torchrun has printed"
    return (RUNS / f"{name}.out").read_text(errors="replace")


@contextlib.contextmanager
def started(command: list, label: str, **variables: str) -> Iterator[subprocess.Popen]:
    "A command that starts processes; they are killed if it has not ended when this is left"
    variables = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", **variables)
    with open(RUNS / f"{label}.out", "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=variables)
    try:
        yield process
    except AssertionError as e:
        raise AssertionError(f"{e}: {printed_by(label)[-2500:]}") from None
    finally:
        if process.poll() is None:
            kill_all(process)


def kill_all(process: subprocess.Popen):
    "What it has started, and itself, as if its machine went away"
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()


def torchrun(cfg: Config, *options: str, label: str | None = None):  # as `started`
    "A run that is started by torchrun"
    file = RUNS / f"{cfg.name}.yaml"
    write_yaml(cfg, file)
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "wan_well.train", "--config", str(file)]
    return started(command, label or cfg.name)


def workers(agent: subprocess.Popen) -> list[psutil.Process]:
    "The ranks that torchrun has started"
    try:
        children = psutil.Process(agent.pid).children()
        return [child for child in children if "wan_well.train" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def wait_until(condition: Callable, what: str):
    "Until something has happened"
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen in {LIMIT:.0f} s")
        time.sleep(0.02)


def progress(name: str, n: int, process: subprocess.Popen):
    "Wait until a run has written so many records, or has ended"
    wait_until(lambda: len(records(name)) >= n or process.poll() is not None, "progress")


# ---- a day on the cluster


def slurm_job(cfg: Config, label: str, **variables: str):  # as `started`
    "scripts/slurm.sh, as Slurm starts it on the first of two machines"
    file, rehearsal = RUNS / f"{cfg.name}.yaml", ROOT / "scripts/rehearsal"
    write_yaml(cfg, file)
    variables = dict(
        PATH=os.pathsep.join([str(rehearsal), str(Path(sys.executable).parent), os.environ["PATH"]]),
        REHEARSAL_QUEUE=str(RUNS / f"{cfg.name}.queue"),
        SLURM_JOB_ID=str(os.getpid()),
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_JOB_NUM_NODES="2",
        SLURM_GPUS_ON_NODE="1",
        **variables,
    )
    return started(["bash", str(ROOT / "scripts/slurm.sh"), "--config", str(file)], label, **variables)


def cluster_day(counts: dict) -> str:
    "The time of a job is over: all save, and the job goes back into the queue; started again, it trains to the end"
    sections = dict(data=dict(num_workers=1))  # a loader process gets the signal too
    cfg = config("cluster", 2, "diffuse", updates=24, checkpoint_every=0, sections=sections)
    straight = one_process("diffuse", 24)
    with slurm_job(cfg, "cluster-0") as job:
        progress("cluster", 2, job)
        job.send_signal(signal.SIGUSR1)  # to the script alone, which is what B: means
        code = job.wait(LIMIT)
        printed, queue = printed_by("cluster-0"), RUNS / "cluster.queue"
        assert code == 0 and "stopped by SIGUSR1" in printed and "SIGKILL" not in printed, code
        assert queue.read_text() == f"requeue {os.getpid()}\n", queue.read_text()
    done = max(record["step"] for record in records("cluster") if "loss" in record)
    lost = done - read_state(checkpoints("cluster")[0])["step"]
    assert lost == 0 and done < 24, (lost, done)
    with slurm_job(cfg, "cluster-1", SLURM_RESTART_COUNT="1") as job:
        assert job.wait(LIMIT) == 0
        assert "resumed flow at epoch" in printed_by("cluster-1")
    counts["time of a Slurm job is over"] = dict(injected=1, updates_lost=lost, files_damaged=damaged("cluster"))
    d = require_same(straight, losses("cluster"))
    return f"two agents, saved at update {done} of 24, put into the queue, resumed; losses off by {d} from one process"


def machine_lost(counts: dict) -> str:
    "--nnodes=1:2: a machine goes away, and the run goes on with the other; nothing was said of resuming"
    port, cfg = free_port(), config("shrinking", 2, "diffuse", updates=24, checkpoint_every=1)
    straight, agents = one_process("diffuse", 24), []
    with contextlib.ExitStack() as running:
        for is_host in (1, 0):  # the other one must not be that of the rendezvous
            conf = f"is_host={is_host},last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=2"
            options = ("--nnodes=1:2", "--nproc_per_node=1", "--max_restarts=2", f"--rdzv_id={port}")
            options += ("--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", f"--rdzv_conf={conf}")
            label = f"shrinking-{is_host}"
            agents.append(running.enter_context(torchrun(cfg, *options, "--local_addr=127.0.0.1", label=label)))
        first, second = agents
        progress("shrinking", 3, first)
        kill_all(second)
        killed_at = len(records("shrinking"))
        code = first.wait(LIMIT)
    printed = printed_by("shrinking-1")
    assert code == 0 and "2 processes then, 1 now" in printed, printed[-2500:]
    counts["machine lost"] = dict(injected=1, runs_continued=1, files_damaged=damaged("shrinking"))
    d = require_same(straight, losses("shrinking"))
    return f"after {killed_at} updates; one process went on, losses off by {d} from one that did all"


# ---- faults; each adds what was inflicted and counted to `counts`


def kill_one(agent: subprocess.Popen, dice: random.Random) -> tuple[bool, int]:
    "SIGKILL one rank at a random moment: whether a save was going on, and checkpoints that are damaged now"
    seen = len(records("killed"))
    wait_until(lambda: len(records("killed")) > seen + 2 or agent.poll() is not None, "progress")
    assert agent.poll() is None, "the run ended before all kills: make it longer"
    time.sleep(dice.random() * 0.5)
    ranks = workers(agent)
    saving = any((RUNS / "killed/checkpoints").glob(".*.tmp"))
    assert len(ranks) == 2, ranks
    dice.choice(ranks).kill()
    return saving, damaged("killed")


def killed(kills: int, counts: dict) -> str:
    "One of two ranks is killed, many times during a save; torchrun starts them again, and they resume by themselves"
    cfg, dice = config("killed", 2, "diffuse", updates=16 * kills + 16, checkpoint_every=1), random.Random(4)
    train(2, cfg.model_copy(update=dict(name="killed-straight")))
    with torchrun(cfg, "--standalone", "--nproc_per_node=2", f"--max_restarts={kills}") as agent:
        outcomes = [kill_one(agent, dice) for _ in range(kills)]
        code = agent.wait(LIMIT)
    saving, broken = sum(saving for saving, _ in outcomes), sum(n for _, n in outcomes) + damaged("killed")
    printed = printed_by("killed")
    assert code == 0, printed[-1500:]
    assert losses("killed") == losses("killed-straight")
    refused = train(2, cfg, StartedAgain, expect=1)[0]
    assert "killed: holds a run already" in error_line(refused), refused  # torchrun tries again what it was refused
    continued = printed.count("resumed flow at epoch")
    assert not broken and continued == kills and saving, (broken, continued, saving)
    steps = [record["step"] for record in records("killed") if "loss" in record]
    updates, repeated = len(set(steps)), len(steps) - len(set(steps))
    counts["kills"] = dict(
        injected=kills,
        during_a_save=saving,
        runs_continued=continued,
        updates=updates,
        updates_repeated=repeated,
        files_damaged=broken,
        losses_equal_to_an_uninterrupted_run=True,
    )
    return (
        f"{kills} kills, {saving} during a save, {continued} times continued, {repeated} of {updates} updates "
        "repeated, 0 files damaged, all losses those of an uninterrupted run"
    )


def one_rank_lost(counts: dict) -> str:
    "Without restarts: the other rank ends with a clear line"
    times = []

    def kill(processes):
        wait_until(lambda: len(records("lost")) > 2, "progress")
        times.append(time.monotonic())
        processes[1].kill()
        processes[0].join(60)
        times.append(time.monotonic())

    printed = train(2, config("lost", 2, "diffuse", updates=40), expect=None, meanwhile=kill)
    seconds, line = times[1] - times[0], error_line(printed[0])
    assert seconds < 60 and "another process of this run has ended" in line, (seconds, line)
    counts["one rank killed"] = dict(
        injected=1, seconds_until_the_other_ended=round(seconds, 1), files_damaged=damaged("lost")
    )
    return f"after {seconds:.1f} s: {line.split('error: ')[1]}"


def limit_files(size: int):
    "No file of this process may grow beyond so many bytes"
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class FullDisk:
    "Saves checkpoints, on a disk that is full when that of update 3 is written"

    def __init__(self, trainer: Trainer):
        self.checkpoints, self.save = trainer.checkpoints, trainer.checkpoints.save
        trainer.checkpoints.save = self

    def __call__(self, kind: str, step: int, *args, **options):
        limit_files(20_000 if (kind, step) == ("step", 3) else resource.RLIM_INFINITY)
        self.save(kind, step, *args, **options)
        self.checkpoints.wait()
        limit_files(resource.RLIM_INFINITY)


def disk_full(counts: dict) -> str:
    "No file may grow beyond 20 kB while one checkpoint is written"
    cfg = config("full", 2, updates=6, checkpoint_every=1, keep_checkpoints=9)
    printed = train(2, cfg, at_update(0, FullDisk))
    assert "step-00000003: the checkpoint could not be written" in printed[0], printed[0][-1500:]
    saved = [read_state(path)["step"] for path in checkpoints("full")]
    assert saved == [6, 5, 4, 2, 1], saved
    assert not any((RUNS / "full/checkpoints").glob(".*"))
    counts["disk full during a save"] = dict(
        injected=1, runs_continued=1, checkpoints_missed=1, files_damaged=damaged("full")
    )
    return "said, the checkpoint is missing, those before and after are whole, training went on"


def corrupted(counts: dict) -> str:
    "The newest checkpoint is damaged: the one before is taken, with a note"
    make = partial(config, ranks=2, mode="diffuse", updates=5)
    train(2, make("corrupted-straight"))
    train(2, make("corrupted", checkpoint_every=1), at_update(3, terminate))
    newest, before = checkpoints("corrupted")[:2]
    lost = read_state(newest)["step"] - read_state(before)["step"]
    file = next(newest.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    printed = train(2, make("corrupted", checkpoint_every=1, resume_from="latest"))
    assert "damaged checkpoint" in printed[0] and f"from {before.name}" in printed[0], printed[0][-1500:]
    assert losses("corrupted") == losses("corrupted-straight")
    counts["newest checkpoint corrupted"] = dict(injected=1, runs_continued=1, updates_lost=lost)
    return f"went on from {before.name}, the losses are those of an undisturbed run"


class StartedAgain(Trainer):
    "As another job of torchrun starts it, for the first time or for the second"

    def __init__(self, cfg: Config):
        os.environ["TORCHELASTIC_RUN_ID"] = "another"
        super().__init__(cfg)


def poison(trainer: Trainer):
    "The next gradient of one rank is not a number"
    if trainer.world.rank != 1:
        return
    parameter = next(iter(trainer.emulator.parts()["predictor"].parameters()))

    def spoil(gradient):
        handle.remove()
        return gradient * float("nan")

    handle = parameter.register_hook(spoil)


def nan_gradient(counts: dict) -> str:
    "One rank's gradient is not a number once: every rank skips the update"
    printed = train(2, config("nan", 2, updates=5), at_update(2, poison))
    assert "update skipped, 1 in all" in printed[0], printed[0][-800:]
    assert all(torch.isfinite(tensor).all() for tensor in weights("nan", ("parts.", "optimizer.")).values())
    counts["NaN gradient"] = dict(injected=1, runs_continued=1, updates_skipped=1)
    return "skipped and counted; weights and optimizer are finite"


def hurt_loaders(number: signal.Signals, trainer: Trainer):
    "Send the loader processes of this one a signal"
    for child in psutil.Process().children():
        child.send_signal(number)


class OwnCopy(Trainer):
    "Process 1 reads a base model of its own, as on a machine with a copy"

    def __init__(self, cfg: Config, copy: Path):
        cfg = cfg.model_copy(deep=True)
        if os.environ["RANK"] == "1":
            cfg.model.name = str(copy)
        super().__init__(cfg)


def bad_weight(counts: dict) -> str:
    "A weight of the base model is not finite on one machine, each process has whole experts: all end, with one line"
    base = shutil.copytree(ASSETS / "wan-tiny", RUNS / "bad-base", dirs_exist_ok=True)
    file, name = base / "transformer_2" / WEIGHTS, "blocks.2.attn1.to_q.weight"
    stored = load_file(file)
    stored[name][-1, -1] = float("nan")
    save_file(stored, file)
    began, cfg = time.monotonic(), config("bad-weight", 2, "diffuse")
    printed = train(2, cfg, partial(OwnCopy, copy=base), expect=1)
    seconds, lines = (
        time.monotonic() - began,
        [line for text in printed for line in text.splitlines() if "error" in line],
    )
    assert seconds < 60, seconds
    assert len(lines) == 1 and f"{WEIGHTS}: {name} has values that are not finite" in error_line(printed[0]), lines
    counts["weight that is not finite"] = dict(injected=1, ended_with_a_clear_line=1)
    return f"all ended within {seconds:.0f} s, with the line of the one that met it"


LOADER_FAULTS = {signal.SIGSTOP: "a loader process does not answer", signal.SIGKILL: "a loader process has ended"}


def hung_worker(counts: dict) -> str:
    "A loader process is stopped, another killed"
    remarks = []
    for number, words in LOADER_FAULTS.items():
        sections = dict(data=dict(num_workers=1, timeout_s=5))
        cfg = config(f"worker-{number.name}", 1, updates=20, sections=sections)
        line = error_line(train(1, cfg, at_update(6, partial(hurt_loaders, number)), expect=1)[0])
        assert words in line and len(losses(cfg.name)) >= 6, line  # a loader that was slow to start says the same
        remarks.append(line.split("error: ")[1])
    counts["loader process hung, killed"] = dict(injected=2, ended_with_a_clear_line=len(remarks))
    return " | ".join(remarks)


# ---- all of it


def all_checks(kills: int, counts: dict) -> dict[str, Callable]:
    "Every check by its name; faults are counted in `counts`"
    return {
        "1, 2 and 4 ranks, reconstruct": partial(same_losses, "reconstruct"),
        "1, 2 and 4 ranks, predict": partial(same_losses, "predict"),
        "1, 2 and 4 ranks, peer": partial(same_losses, "peer"),
        "1, 2 and 4 ranks, diffuse": partial(same_losses, "diffuse"),
        "1 and 2 ranks, diffuse, sharded": partial(same_losses, "diffuse", "shard"),
        "accumulation, sharded": accumulated,
        "other ways to train": other_ways,
        "kept forecasts": kept_forecasts,
        "replicas stay equal": equal_ranks,
        "2 machines of 2 ranks, diffuse, hybrid, offloaded": partial(
            same_losses, "diffuse", "hybrid", cpu_offload=True
        ),
        "a day on the cluster": partial(cluster_day, counts),
        "one of two machines is lost": partial(machine_lost, counts),
        "resume, 1 rank, predict": partial(resume_same, 1, "predict", "replicate"),
        "resume, 2 ranks, diffuse, sharded": partial(resume_same, 2, "diffuse", "shard"),
        "resume, 1 → 2 → 4 → 1": partial(resume_other, "replicate"),
        "resume, 1 → 2 → 4 → 1, sharded": partial(resume_other, "shard"),
        "resume on fewer, smaller": resume_accumulates,
        f"SIGKILL, {kills} times": partial(killed, kills, counts),
        "one rank is killed": partial(one_rank_lost, counts),
        "disk full": partial(disk_full, counts),
        "newest checkpoint corrupted": partial(corrupted, counts),
        "NaN gradient": partial(nan_gradient, counts),
        "loader hangs, loader dies": partial(hung_worker, counts),
        "a weight is not finite on one machine": partial(bad_weight, counts),
    }


COVERED = (  # by other checks, at less cost
    "1, 2 and 4 ranks, diffuse",
    "accumulation, sharded",
    "other ways to train",
    "replicas stay equal",
    "resume, 1 → 2 → 4 → 1",
    "resume on fewer, smaller",
)


def write_counts(path: str, counts: dict, made_with: dict):
    "What was inflicted and counted, as JSON"
    benchmark = "faults inflicted on training runs of two gloo ranks"
    content = dict(benchmark=benchmark, faults=counts, environment=made_with)
    write_whole(path, json.dumps(content, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="leave out what another check covers at less cost")
    parser.add_argument("--only", default="", help="part of the name of the checks to run")
    parser.add_argument("--output", default=None, help="JSON with what was inflicted and counted")
    options = parser.parse_args()
    made_with, counts, tally = environment(), {}, Tally()
    dataset()
    for name, f in all_checks(options.kills, counts).items():
        if options.only in name and not (options.short and name in COVERED):
            tally.check(name, f)
    if options.output and not tally.failed and not options.only:
        write_counts(options.output, counts, made_with)
    print(f"{tally.passed} passed, {tally.failed} failed", flush=True)
    return bool(tally.failed)


if __name__ == "__main__":
    sys.exit(main())
