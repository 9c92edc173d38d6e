"""Training over several processes: the same losses however many there are, exact resume, and faults that are really inflicted.

    python scripts/distributed.py                      # one line per check
    python scripts/distributed.py --short              # as `make test` runs it
    python scripts/distributed.py --kills 20 --output benchmarks/results/faults.json     # the long version, counted

Processes are real: gloo ranks, forked from this one (which has imported everything and computed nothing) or started by torchrun.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
import psutil
import torch
from torch.distributed.checkpoint import FileSystemReader
from wan_well.latents.stored import load_tensors, list_checkpoints, read_state
from wan_well.training.checkpoint import Checkpoints
from wan_well.options import WanWellError, run_main, validate, write_yaml
from wan_well.config import Config
from wan_well.forecast.sharding import is_sharded
from wan_well.training.distributed import leave
from wan_well.simulate import cached_dataset
from wan_well.files import environment
from wan_well.training.trainer import Trainer

WORK = tempfile.TemporaryDirectory()
ROOT = Path(__file__).resolve().parent.parent
passed = failed = 0


def check(name: str, f):
    "Run one check and print its line"
    global passed, failed
    tic = time.monotonic()
    try:
        said, ok = f() or "", True
    except Exception as e:
        said, ok = f"{type(e).__name__}: {e}", False
    passed, failed = passed + ok, failed + (not ok)
    print(
        f"{'pass' if ok else 'FAIL'} {time.monotonic() - tic:7.1f} s  {name}" + (f": {said}" if said else ""),
        flush=True,
    )


def config(
    name: str, ranks: int, mode: str = "predict", *, updates: int = 4, sections: dict = {}, **training
) -> Config:
    "A small real run: an update is four windows, whatever the number of processes"
    values = dict(
        name=name,
        output_dir=WORK.name,
        seed=1,
        model=dict(name="wan-tiny", temporal_predictor=dict(hidden_channels=[8]), decoder=dict(anchored=False)),
        lora=dict(rank=4, alpha=8),
        sampling=dict(steps=1),
        data=dict(path=str(DATA), n_steps_output=4, window_stride=4, cache_dir=f"{WORK.name}/latents"),
        training=dict(
            mode=mode,
            batch_size=4 // ranks,
            lr=2e-3,
            num_epochs=max(1, updates // 8),
            adapter_epochs=0,
            field_epochs=0,
            samples_per_epoch=4 * min(updates, 8),
            val_samples=3,
            warmup_steps=1,
            log_every=1,
            forecast_every=0,
            device="cpu",
            num_threads=1,
            precision="fp32",
        ),
    )  # a processor with bf16 would round so coarsely that the order of sums shows
    values["training"] |= training
    if mode == "reconstruct":
        values["model"]["channel_adapter"] = dict(kind="conv", hidden_dim=8)
    for k, v in sections.items():
        values[k] = {**values.get(k, {}), **v}
    return validate(Config, values, name)


def at_update(step: int, what):
    "A trainer that does something when an update begins"

    class Acting(Trainer):
        def run(self):
            import wan_well.trainer as module

            real = module.pick_expert if self.emulator.wan is not None else module.objectives

            def acting(*args, **kw):
                if self.step == step and not getattr(self, "acted", False):
                    self.acted = True
                    what(self)
                return real(*args, **kw)

            name = real.__name__
            setattr(module, name, acting)
            try:
                return super().run()
            finally:
                setattr(module, name, real)

    return Acting


def terminate(trainer):
    os.kill(os.getpid(), signal.SIGTERM)


def _rank(rank: int, size: int, local: int, port: int, cfg: Config, cls, said: str):
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK=str(rank % local),
        LOCAL_WORLD_SIZE=str(local),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    fd = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    torch.set_num_threads(1)

    def go():
        trainer = cls(cfg)
        if cfg.distributed.sharding == "shard":
            assert all(is_sharded(e) for e in trainer.emulator.wan.experts.values())
        trainer.run()
        leave()

    run_main(go)


def ranks(
    n: int, cfg: Config, cls=Trainer, expect: int | None = 0, after=None, limit: float = 240, local: int | None = None
) -> list[str]:
    "Train with `n` processes, `local` of them on what passes for a machine; what each said. `after` gets the processes while they run"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    files = [f"{WORK.name}/{cfg.name}-{r}.txt" for r in range(n)]
    fork = multiprocessing.get_context("fork")
    ps = [fork.Process(target=_rank, args=(r, n, local or n, port, cfg, cls, files[r])) for r in range(n)]
    for p in ps:
        p.start()
    if after:
        after(ps)
    end = time.monotonic() + limit
    for p in ps:
        p.join(max(0.1, end - time.monotonic()))
    late = [p.kill() for p in ps if p.is_alive()]
    out = [Path(f).read_text(errors="replace") for f in files]
    if late:
        raise AssertionError(f"did not end in {limit:.0f} s: " + " | ".join(o[-300:] for o in out))
    codes = [p.exitcode for p in ps]
    if expect is not None and codes != [expect] * n:
        raise AssertionError(f"exit codes {codes}: " + " | ".join(o[-1500:] for o in out))
    return out


def losses(name: str) -> dict:
    "Loss and gradient norm of every update, and every validation, the last time it was done"
    out = {r["step"]: (r["loss"], r["grad_norm"]) for r in records(name) if "loss" in r}
    for r in records(name):  # and every validation
        if any(k.startswith("val_") for k in r):
            out[f"{r['step']} {next(k for k in r if k.startswith('val_'))}"] = tuple(
                v for k, v in r.items() if k.startswith("val_")
            )
    return out


def records(name: str) -> list[dict]:
    path = Path(WORK.name) / name / "log.jsonl"
    out = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            out.append(json.loads(line))
        except ValueError:
            pass  # a line that a kill cut off
    return out


def off(a: dict, b: dict) -> float:
    assert a.keys() == b.keys(), (list(a), list(b))
    return max(abs(x - y) / max(abs(x), 1e-6) for k in a for x, y in zip(a[k], b[k]))


def weights(name: str, *starts) -> dict:
    "Whole tensors of the newest checkpoint"
    path = list_checkpoints(Path(WORK.name) / name / "checkpoints", "step")[0]
    meta = FileSystemReader(path).read_metadata().state_dict_metadata
    out = {k: torch.empty(m.size, dtype=m.properties.dtype) for k, m in meta.items() if k.startswith(starts)}
    load_tensors(path, out)
    return out


def damaged(name: str) -> int:
    "Checkpoints with a name that are not whole"
    n = 0
    for kind in ("step", "best"):
        for p in list_checkpoints(Path(WORK.name) / name / "checkpoints", kind):
            try:
                read_state(p)
            except WanWellError:
                n += p.exists()  # else it has just been parted with
    return n


# ---- the same losses


def one_process(mode: str) -> dict:
    "Losses of three updates of one process, which the others are compared with"
    if not records(f"{mode}-one"):
        ranks(1, config(f"{mode}-one", 1, mode, updates=3))
    return losses(f"{mode}-one")


def same_losses(mode: str, sharding: str = "replicate"):
    said = []
    for n in (2, 4) if sharding == "replicate" else (1, 2, 4):
        name = f"{mode}-{sharding}-{n}"
        ranks(n, config(name, n, mode, updates=3, sections=dict(distributed=dict(sharding=sharding))))
        d = off(one_process(mode), losses(name))
        assert d < 1e-3, f"{n} processes: off by {d:.1e}"
        said.append(f"{n}: {d:.0e}")
    return "losses and gradient norms against one process, relative: " + ", ".join(said)


def accumulated():
    "Two processes, two batches of one window each against one process with four at once, experts taking turns"
    ranks(
        2,
        config(
            "accumulated",
            2,
            "diffuse",
            updates=3,
            batch_size=1,
            gradient_accumulation_steps=2,
            sections=dict(distributed=dict(sharding="shard")),
        ),
    )
    d = off(one_process("diffuse"), losses("accumulated"))
    assert d < 1e-3, d
    return f"off by {d:.0e}"


def other_ways():
    "What the modes can be combined with, two or four processes against one"
    one_process("diffuse")
    one_process("predict")
    ways = {
        "hybrid, two machines of two": (4, 2, "diffuse", {}, dict(distributed=dict(sharding="hybrid"))),
        "weights wait on the host": (2, 2, "diffuse", {}, dict(distributed=dict(sharding="shard", cpu_offload=True))),
        "one expert, averaged, scalars dropped": (
            2,
            2,
            "diffuse",
            dict(experts="low", ema_decay=0.5, scalar_dropout=0.5),
            dict(distributed=dict(sharding="shard")),
        ),
        "refine": (
            2,
            2,
            "refine",
            dict(init_from=f"{WORK.name}/predict-one"),
            dict(distributed=dict(sharding="shard")),
        ),
        "joint": (
            2,
            2,
            "diffuse",
            dict(joint=True),
            dict(model=dict(channel_adapter=dict(kind="shuffle", hidden_dim=8))),
        ),
        "field stage, noise on latents": (
            2,
            2,
            "predict",
            dict(field_epochs=1, latent_noise=0.1),
            dict(model=dict(decoder=dict(anchored=True, hidden_dim=8))),
        ),
    }
    said = []
    for i, (name, (n, local, mode, training, sections)) in enumerate(ways.items()):
        same = {k: v for k, v in sections.items() if k != "distributed"}

        def made(run, size, sections):
            return config(run, size, mode, updates=2, sections=sections, **training)

        ranks(1, made(f"way{i}-one", 1, same))
        ranks(n, made(f"way{i}", n, sections), local=local)
        d = off(losses(f"way{i}-one"), losses(f"way{i}"))
        assert d < 1e-3, f"{name}: off by {d:.1e}"
        said.append(f"{name} {d:.0e}")
    return ", ".join(said)


def equal_ranks():
    "Replicated weights stay the same bits in all processes, without ever being sent"

    class Telling(Trainer):
        def run(self):
            out = super().run()
            sums = torch.tensor(
                [p.double().sum().item() for m in self.emulator.parts().values() for p in m.parameters()],
                dtype=torch.float64,
            )
            print("SUM", sums.sum().item().hex(), sums.abs().sum().item().hex())
            return out

    out = ranks(2, config("telling", 2, "diffuse", updates=3), Telling)
    a, b = ([l for l in o.splitlines() if "SUM" in l][-1] for o in out)
    assert a == b, (a, b)


# ---- resume


def resume_same(n: int, mode: str, sharding: str):
    "Stopped by SIGTERM in the middle and resumed with as many processes: the same bits"
    name, sections = f"resume-{mode}-{n}", dict(distributed=dict(sharding=sharding))
    more = dict(
        ema_decay=0.5, updates=2, num_epochs=3, sections=sections
    )  # stopped in the second of three epochs, after a validation
    ranks(n, config(name + "-straight", n, mode, **more))
    out = ranks(n, config(name, n, mode, **more), at_update(2, terminate))
    assert "go on with --resume_from latest" in out[0], out[0][-500:]
    ranks(n, config(name, n, mode, resume_from="latest", **more))
    assert losses(name) == losses(name + "-straight"), (losses(name), losses(name + "-straight"))
    a, b = (
        weights(name, "parts.", "optimizer.", "ema.", "best."),
        weights(name + "-straight", "parts.", "optimizer.", "ema.", "best."),
    )
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    return f"{len(losses(name))} losses and validations, {len(a)} tensors, all equal"


def resume_other(sharding: str):
    "1 → 2 → 4 → 1 processes"
    name = f"elastic-{sharding}"
    ranks(1, config(name + "-straight", 1, "diffuse", updates=8))
    for i, (n, until) in enumerate(((1, 2), (2, 4), (4, 6), (1, None))):
        cfg = config(
            name,
            n,
            "diffuse",
            updates=8,
            sections=dict(distributed=dict(sharding=sharding)),
            **(dict(resume_from="latest") if i else {}),
        )
        ranks(n, cfg, at_update(until, terminate) if until else Trainer)
    d = off(losses(name), losses(name + "-straight"))
    assert d < 1e-3, d
    return f"8 updates, losses and norms off by {d:.0e}"


def resume_accumulates():
    "A run of four processes goes on with one that can hold one window at a time: it accumulates four"
    ranks(4, config("shrunk", 4, "diffuse"), at_update(2, terminate))
    ranks(1, config("shrunk", 1, "diffuse", batch_size=1, resume_from="latest"))
    ranks(1, config("shrunk-straight", 1, "diffuse"))
    d = off(losses("shrunk"), losses("shrunk-straight"))
    assert d < 1e-3, d
    out = ranks(1, config("shrunk", 1, "diffuse", batch_size=3, resume_from="latest"), expect=1)
    assert "cannot make that" in out[0], out[0][-300:]
    return f"off by {d:.0e}"


# ---- faults


def torchrun(cfg: Config, *more: str, nproc: int = 2) -> subprocess.Popen:
    write_yaml(cfg, f"{WORK.name}/{cfg.name}.yaml")
    env = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={nproc}",
            *more,
            "-m",
            "wan_well.train",
            "--config",
            f"{WORK.name}/{cfg.name}.yaml",
        ],
        stdout=open(f"{WORK.name}/{cfg.name}.out", "w"),
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=env,
    )


def workers(p: subprocess.Popen) -> list[psutil.Process]:
    try:
        return [c for c in psutil.Process(p.pid).children() if "wan_well.train" in " ".join(c.cmdline())]
    except psutil.Error:
        return []


def until(condition, limit: float, what: str):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen in {limit:.0f} s")
        time.sleep(0.02)


def killed(kills: int, found: dict):
    "SIGKILL one of two ranks at random moments, many of them during a save; torchrun starts the run again, and it goes on by itself"
    updates, dice = 8 * kills + 8, random.Random(4)
    cfg = config("killed", 2, "diffuse", updates=updates, checkpoint_every=1)
    ranks(2, cfg.model_copy(update=dict(name="killed-straight")))
    p, saving, broken = torchrun(cfg, f"--max_restarts={kills}"), 0, 0
    try:
        for k in range(kills):
            seen = len(records("killed"))
            until(lambda: len(records("killed")) > seen + 2 or p.poll() is not None, 120, "progress")
            assert p.poll() is None, "the run ended before all kills: make it longer"
            time.sleep(dice.random() * 0.5)
            ws = workers(p)
            saving += bool(list((Path(WORK.name) / "killed/checkpoints").glob(".*.tmp")))
            assert len(ws) == 2, ws
            dice.choice(ws).kill()
            broken += damaged("killed")
        code = p.wait(240)
    except AssertionError as e:
        raise AssertionError(f"{e}: {Path(f'{WORK.name}/killed.out').read_text(errors='replace')[-2500:]}") from None
    finally:
        if p.poll() is None:
            p.kill()
    said = Path(f"{WORK.name}/killed.out").read_text(errors="replace")
    assert code == 0, said[-1500:]
    steps = [r["step"] for r in records("killed") if "loss" in r]
    assert losses("killed") == losses("killed-straight")
    n, continued = broken + damaged("killed"), said.count("resumed flow at epoch")
    assert not n and continued == kills and saving, (n, continued, saving)
    found["kills"] = dict(
        injected=kills,
        during_a_save=saving,
        runs_continued=continued,
        updates=len(set(steps)),
        updates_repeated=len(steps) - len(set(steps)),
        files_damaged=n,
        losses_equal_to_an_uninterrupted_run=True,
    )
    return f"{kills} kills, {saving} during a save, {continued} times continued, {len(steps) - len(set(steps))} of {len(set(steps))} updates repeated, 0 files damaged, all losses those of an uninterrupted run"


def one_rank_lost(found: dict):
    "Without restarts: the other rank ends with a clear line"
    cfg = config("lost", 2, "diffuse", updates=40)
    took = []

    def kill(ps):
        until(lambda: len(records("lost")) > 2, 120, "progress")
        took.append(time.monotonic())
        ps[1].kill()
        ps[0].join(60)
        assert not ps[0].is_alive()
        took.append(time.monotonic())

    out = ranks(2, cfg, expect=None, after=kill)
    line = [l for l in out[0].splitlines() if "wan-well: error" in l]
    assert line and "another process of this run has ended" in line[0], out[0][-800:]
    found["one rank killed"] = dict(
        injected=1, seconds_until_the_other_ended=round(took[1] - took[0], 1), files_damaged=damaged("lost")
    )
    return f"after {took[1] - took[0]:.1f} s: {line[0].split('error: ')[1]}"


def torchrun_signal(found: dict):
    "SIGTERM to torchrun: both ranks save and end"
    cfg = config(
        "preempted", 2, "diffuse", updates=40, checkpoint_every=0, sections=dict(data=dict(num_workers=1))
    )  # the loader processes get the signal too
    p = torchrun(cfg)
    try:
        until(lambda: len(records("preempted")) > 1 or p.poll() is not None, 120, "progress")
        p.send_signal(signal.SIGTERM)
        p.wait(60)
    finally:
        if p.poll() is None:
            p.kill()
    said = Path(f"{WORK.name}/preempted.out").read_text(errors="replace")
    last = list_checkpoints(Path(WORK.name) / "preempted/checkpoints", "step")
    assert "stopped by SIGTERM" in said and last and "SIGKILL" not in said, said[-1500:]
    done = max(r["step"] for r in records("preempted") if "loss" in r)
    assert read_state(last[0])["step"] == done
    found["SIGTERM to torchrun"] = dict(
        injected=1, updates_lost=done - read_state(last[0])["step"], files_damaged=damaged("preempted")
    )
    return f"saved at update {done}"


def usr1(found: dict):
    def signal_it(trainer):
        os.kill(os.getpid(), signal.SIGUSR1)

    out = ranks(1, config("usr1", 1), at_update(2, signal_it))
    assert "stopped by SIGUSR1 at update 3" in out[0], out[0][-500:]


def disk_full(found: dict):
    "No file may grow beyond 20 kB between updates 2 and 4"

    def full(on):
        def act(trainer):
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (20_000 if on else resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )

        return act

    def both(trainer):
        real = trainer.checkpoints.save

        def save(kind, step, *args, **kw):
            full(kind == "step" and step == 3)(trainer)
            real(kind, step, *args, **kw)
            trainer.checkpoints.wait()
            full(False)(trainer)

        trainer.checkpoints.save = save

    out = ranks(2, config("full", 2, updates=6, checkpoint_every=1, keep_checkpoints=9), at_update(0, both))
    assert "step-00000003: the checkpoint could not be written" in out[0], out[0][-1500:]
    have = [read_state(p)["step"] for p in list_checkpoints(Path(WORK.name) / "full/checkpoints", "step")]
    assert have == [6, 5, 4, 2, 1], have
    assert not list((Path(WORK.name) / "full/checkpoints").glob(".*"))
    found["disk full during a save"] = dict(
        injected=1, runs_continued=1, checkpoints_missed=1, files_damaged=damaged("full")
    )
    return "said, the checkpoint is missing, those before and after are whole, training went on"


def corrupted(found: dict):
    "The newest checkpoint is damaged: the one before is taken, and it is said"
    cfg = lambda **kw: config("corrupted", 2, "diffuse", updates=5, checkpoint_every=1, **kw)
    ranks(2, config("corrupted-straight", 2, "diffuse", updates=5))
    ranks(2, cfg(), at_update(3, terminate))
    newest, before = list_checkpoints(Path(WORK.name) / "corrupted/checkpoints", "step")[:2]
    lost = read_state(newest)["step"] - read_state(before)["step"]
    f = next(newest.glob("*.distcp"))
    f.write_bytes(f.read_bytes()[:-1] + b"?")
    out = ranks(2, cfg(resume_from="latest"))
    assert "damaged checkpoint" in out[0] and f"from {before.name}" in out[0], out[0][-1500:]
    assert losses("corrupted") == losses("corrupted-straight")
    found["newest checkpoint corrupted"] = dict(injected=1, runs_continued=1, updates_lost=lost)
    return f"went on from {before.name}, the losses are those of an undisturbed run"


def nan_gradient(found: dict):
    "One rank's gradient is not a number once: every rank skips the update"

    def poison(trainer):
        if trainer.world.rank == 1:
            p = next(iter(trainer.emulator.predictor.parameters()))
            handle = p.register_hook(lambda g: (handle.remove(), g * float("nan"))[1])

    out = ranks(2, config("nan", 2, updates=5), at_update(2, poison))
    assert "update skipped, 1 in all" in out[0], out[0][-800:]
    assert all(torch.isfinite(v).all() for v in weights("nan", "parts.", "optimizer.").values())
    found["NaN gradient"] = dict(injected=1, runs_continued=1, updates_skipped=1)
    return "skipped and counted; weights and optimizer are finite"


def hung_worker(found: dict):
    "A loader process is stopped, another killed"
    said = []
    for sign, words in (
        (signal.SIGSTOP, "a loader process does not answer"),
        (signal.SIGKILL, "a loader process has ended"),
    ):

        def hurt(trainer, sign=sign):
            for c in psutil.Process().children():
                c.send_signal(sign)

        name = f"worker-{sign.name}"
        tic = time.monotonic()
        out = ranks(
            1,
            config(name, 1, updates=20, sections=dict(data=dict(num_workers=1, timeout_s=3))),
            at_update(6, hurt),
            expect=1,
            limit=90,
        )
        line = [l for l in out[0].splitlines() if "wan-well: error" in l]
        assert line and words in line[0], out[0][-1500:]
        said.append(line[0].split("error: ")[1])
    found["loader process hung, killed"] = dict(injected=2, ended_with_a_clear_line=len(said))
    return " | ".join(said)


def two_nodes():
    "Two torchrun agents on this machine meet by c10d rendezvous, as two machines would"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    cfg = config("nodes", 2, "diffuse", updates=3)
    write_yaml(cfg, f"{WORK.name}/nodes.yaml")
    env = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    ps = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                "--nproc_per_node=1",
                f"--rdzv_id={port}",
                "--rdzv_backend=c10d",
                f"--rdzv_endpoint=127.0.0.1:{port}",
                "--local_addr=127.0.0.1",
                "-m",
                "wan_well.train",
                "--config",
                f"{WORK.name}/nodes.yaml",
            ],
            stdout=open(f"{WORK.name}/nodes-{i}.out", "w"),
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=env,
        )
        for i in range(2)
    ]
    try:
        codes = [p.wait(180) for p in ps]
    finally:
        for p in ps:
            if p.poll() is None:
                p.kill()
    assert codes == [0, 0], " | ".join(Path(f"{WORK.name}/nodes-{i}.out").read_text()[-1500:] for i in range(2))
    d = off(one_process("diffuse"), losses("nodes"))
    assert d < 1e-3, d
    return f"off by {d:.0e} from one process"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="leave out what another check covers at less cost")
    parser.add_argument("--only", default="", help="part of the name of the checks to run")
    parser.add_argument("--output", default=None, help="JSON with what was inflicted and counted")
    a = parser.parse_args()
    made_with, found = environment(), {}
    checks = {
        "1, 2 and 4 ranks, reconstruct": lambda: same_losses("reconstruct"),
        "1, 2 and 4 ranks, predict": lambda: same_losses("predict"),
        "1, 2 and 4 ranks, diffuse": lambda: same_losses("diffuse"),
        "1, 2 and 4 ranks, diffuse, sharded": lambda: same_losses("diffuse", "shard"),
        "accumulation, sharded": accumulated,
        "other ways to train": other_ways,
        "replicas stay equal": equal_ranks,
        "two torchrun agents meet": two_nodes,
        "resume, 1 rank, predict": lambda: resume_same(1, "predict", "replicate"),
        "resume, 2 ranks, diffuse, sharded": lambda: resume_same(2, "diffuse", "shard"),
        "resume, 1 → 2 → 4 → 1": lambda: resume_other("replicate"),
        "resume, 1 → 2 → 4 → 1, sharded": lambda: resume_other("shard"),
        "resume on fewer, smaller": resume_accumulates,
        "SIGUSR1": lambda: usr1(found),
        "SIGTERM to torchrun": lambda: torchrun_signal(found),
        f"SIGKILL, {a.kills} times": lambda: killed(a.kills, found),
        "one rank is killed": lambda: one_rank_lost(found),
        "disk full": lambda: disk_full(found),
        "newest checkpoint corrupted": lambda: corrupted(found),
        "NaN gradient": lambda: nan_gradient(found),
        "loader hangs, loader dies": lambda: hung_worker(found),
    }
    covered = (
        {
            "1, 2 and 4 ranks, diffuse",
            "accumulation, sharded",
            "other ways to train",
            "replicas stay equal",
            "resume, 1 → 2 → 4 → 1",
            "resume on fewer, smaller",
        }
        if a.short
        else set()
    )
    for name, f in checks.items():
        if a.only in name and name not in covered:
            check(name, f)
    if a.output and not failed and not a.only:
        Path(a.output).write_text(
            json.dumps(
                dict(
                    benchmark="faults inflicted on training runs of two gloo ranks", faults=found, environment=made_with
                ),
                indent=1,
            )
            + "\n"
        )
    print(f"{passed} passed, {failed} failed", flush=True)
    return bool(failed)


DATA = cached_dataset()
if __name__ == "__main__":
    sys.exit(main())
