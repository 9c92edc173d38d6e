"""An update of our training loop beside others: the same windows, noise, weights and LoRA, taking turns on one machine.

    python benchmarks/train_step.py                                              # wan-tiny on the embedded physics
    python benchmarks/train_step.py --device cuda --layers 40 --preset full --batch 1 --rounds 1 --checkpointing
    python benchmarks/train_step.py --layers 4 --dim 256 --output /dev/null      # the same lines, small

The second is one expert at the true shape; with --layers weights are random. The contenders:

- ours: `Trainer`, with its log, its meter and its latent cache; without checkpoints, which are written in the
  background, and without scalar tokens, which the others do not have
- plain: the loop of a careful user of diffusers, peft and accelerate
- bare: forward, backward and optimizer of our expert on one batch that lies ready; what a loop adds is measured against
  this one
- diffsynth: model and LoRA of DiffSynth-Studio in a copy of its loop, where `diffsynth` can be imported; if it is left
  out, the output says so

Each is a process. In a round each has the machine for itself for some updates, in an order that changes; ratios are
taken within a round. With --alone, which large models need, they run one after the other.

plain and diffsynth read noise and timesteps from a file that ours wrote down, which spares them the drawing, and shows
whether losses agree: of plain at all logged updates, and it must; of diffsynth, which has another learning rate and no
clipping, with plain at the first, which only says that the frozen models agree. On a CPU the peak is that of resident
memory since the warm-up.
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import math
import multiprocessing
import os
import random
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch
import torch
from safetensors.torch import load_file, save_file
from wan_well.options import validate
from wan_well.files import environment, first_line, write_whole
from wan_well.config import Config, LoRAConfig, WanConfig
from wan_well.data.windows import WindowSampler
from wan_well.simulate import cached_dataset
from wan_well.latents.base_model import ASSETS
from wan_well.latents.encoding import latent_cache
from wan_well.forecast.experts import WanExperts
from wan_well.forecast.flow import Draws, flow_loss, interpolate
from wan_well.forecast.lora import lora_tensors
from wan_well.training.log import Meter, peak_memory
from wan_well.training.stage_run import StageRun
from wan_well.training.trainer import Trainer

LR, WEIGHT_DECAY, BETAS, CLIP = 1e-4, 0.01, (0.9, 0.95), 1.0
FRAMES = 34
N_WINDOWS = 12 * (FRAMES - 11)  # of the training set
# What glibc arrives at in a process that has freed large tensors, as ours has by then: the same for all contenders
os.environ |= dict(MALLOC_MMAP_THRESHOLD_=str(2**25), MALLOC_TRIM_THRESHOLD_=str(2**26))


# ---- turns


class Finished(BaseException):
    "All rounds are done"


class Turns:
    "Called when an update begins: waits for this process's turn, and reports what the updates since the last one took"

    def __init__(self, pipe, a):
        self.pipe, self.a, self.device = pipe, a, torch.device(a.device)
        self.began, self.counted = None, False
        self.losses, self.waited = {}, 0.0

    def __call__(self, update: int):
        if not self.ends_turn(update):
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.began:
            self.report(update)
        self.forget_peak(update)
        self.waited = 0.0
        if not self.began:
            self.pipe.send(("ready",))
        if self.pipe.recv() == "end":
            raise Finished
        self.began = time.perf_counter()

    def ends_turn(self, update: int) -> bool:
        "Whether a turn, or the warm-up, ends where this update begins"
        after = update - self.a.warmup
        return not update or (after >= 0 and after % self.a.updates == 0)

    def report(self, update: int):
        "Seconds of an update, peak of memory, and the share of the time in which it waited for data"
        seconds = time.perf_counter() - self.began
        n = self.a.updates if update > self.a.warmup else self.a.warmup
        self.pipe.send(("took", seconds / n, self.peak(), self.waited / seconds))

    def forget_peak(self, update: int):
        "Count the peak anew: of a GPU each turn, of resident memory after the warm-up"
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif update == self.a.warmup:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
                self.counted = True

    def peak(self) -> float | None:  # GiB since the warm-up; none: unknown
        if self.device.type == "cuda":
            return peak_memory(self.device)
        if not self.counted:
            return None
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


def updates(a) -> int:
    "Of a whole run; one more than is timed, since a turn ends where the next update begins"
    return a.warmup + a.rounds * a.updates + 1


def rate(u: int, a) -> float:
    "The learning rate of our loop, relative to its peak"
    total = updates(a)
    warm = min(a.warmup, total // 5)
    done = min(1, max(0, u - warm) / max(1, total - warm))
    return min((u + 1) / (warm + 1), 0.5 * (1 + math.cos(math.pi * done)))


# ---- ours


def stride(a) -> int:
    "The largest that leaves enough windows: no more are encoded than are trained on"
    needed = a.batch * updates(a)
    return next(s for s in range(FRAMES, 0, -1) if 12 * -(-(FRAMES - 11) // s) >= needed or s == 1)


def config(a) -> Config:
    "The run that is timed"
    training = dict(
        mode="diffuse",
        experts="low",
        batch_size=a.batch,
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        grad_clip=CLIP,
        num_epochs=1,
        adapter_epochs=0,
        field_epochs=0,
        forecast_every=0,
        val_samples=1,
        warmup_steps=a.warmup,
        samples_per_epoch=a.batch * updates(a),
        log_every=a.updates,
        checkpoint_every=0,
        device=torch.device(a.device).type,
        num_threads=a.threads,
        precision="bf16" if a.bf16 else "fp32",
    )
    values = dict(
        name="ours",
        output_dir=a.folder,
        seed=0,
        model=dict(name=a.base, decoder=dict(kind="none")),
        lora=dict(rank=a.rank, alpha=2 * a.rank),
        wan=dict(scalar_tokens=0, gradient_checkpointing=a.checkpointing, compile=a.compile),
        data=dict(path=str(a.data), augment=False, window_stride=stride(a)),
        training=training,
    )
    return validate(Config, values, "benchmark")


def clips_of_update(trainer: Trainer, cache, u: int, rows: list[int]) -> dict:
    "What one update of ours computes with"
    cfg, emulator, forecaster = trainer.cfg, trainer.emulator, trainer.emulator.forecaster
    layout = emulator.layout(cfg.data.n_steps_output)
    draws = Draws(cfg.seed, [(0, u, place) for place in range(len(rows))], emulator.device)
    t = forecaster.schedule.timesteps(draws.uniform().to(emulator.device), "low")
    z = forecaster.to_video(cache.rows(rows))
    condition = forecaster.to_condition(cache.rows(rows, "condition").to(emulator.device), layout)
    return dict(latents=z, condition=condition, noise=draws.normal(z.shape[1:]), t=t)


def save(tensors: dict, path: str):
    "Write tensors for the other contenders"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def write_down(trainer: Trainer):
    "The clips, noise and timesteps of every update, and the LoRA at the start, for the other contenders"
    cfg, emulator, folder = trainer.cfg, trainer.emulator, trainer.cfg.output_dir
    places = trainer.folder / "latents", trainer.world
    cache, _ = latent_cache(emulator.codec, cfg, trainer.windows, *places, condition=True, progress=False)
    sampler = WindowSampler(len(cache), cfg.training.batch_size, cfg.seed, True, cfg.training.samples_per_epoch)
    found = [clips_of_update(trainer, cache, u, [row for row, _ in keys]) for u, keys in enumerate(sampler)]
    save({name: torch.cat([clips[name].cpu() for clips in found]) for name in found[0]}, f"{folder}/clips.safetensors")
    save(lora_tensors(emulator.parts()["lora"]["low"]), f"{folder}/lora.safetensors")
    observed = emulator.layout(cfg.data.n_steps_output).n_observed_latents
    save(dict(prompt=emulator.forecaster.prompt, observed=torch.tensor(observed)), f"{folder}/context.safetensors")


@contextlib.contextmanager
def in_turns(turns: Turns):
    "Our loop waits for its turn before each update, and its meter's waiting for data is added up"
    update, waiting = StageRun.update, Meter.waiting

    def wait_and_update(stage_run, batches):
        if stage_run.trainer.step == 0:
            write_down(stage_run.trainer)
        turns(stage_run.trainer.step)
        return update(stage_run, batches)

    @contextlib.contextmanager
    def add_up(meter):
        began = time.perf_counter()
        with waiting(meter):
            yield
        turns.waited += time.perf_counter() - began

    with patch.object(StageRun, "update", wait_and_update), patch.object(Meter, "waiting", add_up):
        yield


def ours(a, turns: Turns):
    trainer = Trainer(config(a), progress=False)
    try:
        with in_turns(turns):
            trainer.run()
    except Finished:
        records = map(json.loads, (trainer.folder / "log.jsonl").read_text().splitlines())
        turns.losses = {record["step"]: record["loss"] for record in records if "loss" in record}
        raise


# ---- the others


class Clips(torch.utils.data.Dataset):
    "What `ours` wrote down"

    def __init__(self, folder):
        self.tensors = load_file(f"{folder}/clips.safetensors")

    def __len__(self):
        return len(self.tensors["t"])

    def __getitem__(self, i):
        return {name: tensor[i] for name, tensor in self.tensors.items()}


def dtype_of(a) -> torch.dtype:
    return torch.bfloat16 if a.bf16 else torch.float32


def load_theirs(a):
    "The low-noise expert, as diffusers loads it"
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel.from_pretrained(a.base_folder, subfolder="transformer_2", dtype=dtype_of(a))


class Flow:
    "Noisy latents and loss of flow matching, as a user would write them"

    def __init__(self, a, device: torch.device):
        context = load_file(f"{a.folder}/context.safetensors")
        self.prompt, self.observed = context["prompt"].to(device), int(context["observed"])

    def noisy(self, batch: dict) -> torch.Tensor:
        s = (batch["t"] / 1000).view(-1, 1, 1, 1, 1)
        return (1 - s) * batch["latents"] + s * batch["noise"]

    def loss(self, v: torch.Tensor, batch: dict) -> torch.Tensor:
        target = batch["noise"] - batch["latents"]
        return torch.nn.functional.mse_loss(v.float()[:, :, self.observed :], target[:, :, self.observed :])


def plain_model(a):
    "The expert with peft's LoRA"
    from peft import LoraConfig, set_peft_model_state_dict

    model = load_theirs(a)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    set_peft_model_state_dict(model, load_file(f"{a.folder}/lora.safetensors"))
    if a.checkpointing:
        model.enable_gradient_checkpointing()
    return model


def plain(a, turns: Turns):
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    accelerator = Accelerator(mixed_precision="bf16" if a.bf16 else "no", cpu=a.device == "cpu")
    flow, dtype, model = Flow(a, accelerator.device), dtype_of(a), plain_model(a)
    params, on_gpu = [p for p in model.parameters() if p.requires_grad], accelerator.device.type == "cuda"
    optimizer = torch.optim.AdamW(params, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=on_gpu)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: rate(u, a))
    loader = torch.utils.data.DataLoader(Clips(a.folder), batch_size=a.batch, pin_memory=on_gpu)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    batches = iter(loader)
    for u in tqdm(range(10**9), disable=True):
        turns(u)
        batch = next(batches)
        with accelerator.accumulate(model):
            x = flow.noisy(batch)
            with accelerator.autocast():
                v = model(
                    hidden_states=torch.cat([x, batch["condition"]], 1).to(dtype),
                    timestep=batch["t"],
                    encoder_hidden_states=flow.prompt.expand(len(x), -1, -1).to(dtype),
                    return_dict=False,
                )[0]
            loss = flow.loss(v, batch)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(params, CLIP)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if u == 0 or (u + 1) % a.updates == 0:
            turns.losses[u + 1] = accelerator.gather(loss.detach()).mean().item()


def bare(a, turns: Turns):
    device, context = torch.device(a.device), load_file(f"{a.folder}/context.safetensors")
    lora = LoRAConfig(rank=a.rank, alpha=2 * a.rank)
    options = WanConfig(gradient_checkpointing=a.checkpointing, compile=a.compile)
    wan = WanExperts.from_pretrained(a.base_folder, None, ("low",), lora, options, device, a.bf16)
    params = list(wan.lora.requires_grad_(True).parameters())
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(params, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=fused)
    clips, observed = Clips(a.folder), int(context["observed"])
    batch = {name: tensor[: a.batch].to(device) for name, tensor in clips.tensors.items()}
    x, target = interpolate(batch["latents"], batch["noise"], batch["t"] / 1000)
    prompt = context["prompt"].to(device).expand(a.batch, -1, -1)
    for u in range(10**9):
        turns(u)
        v = wan.flow_velocity("low", x, batch["t"], batch["condition"], prompt)
        flow_loss(v, target, observed).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def diffsynth_expert(a):
    "Their model with the weights of the expert, frozen"
    from diffsynth.models.wan_video_dit import WanModel
    from diffsynth.utils.state_dict_converters.wan_video_dit import WanVideoDiTFromDiffusers

    theirs = load_theirs(a)
    c, state = theirs.config, WanVideoDiTFromDiffusers(theirs.state_dict())
    same = ("ffn_dim", "text_dim", "freq_dim", "eps", "num_layers")
    model = WanModel(
        dim=c.num_attention_heads * c.attention_head_dim,
        in_dim=c.in_channels,
        out_dim=c.out_channels,
        patch_size=tuple(c.patch_size),
        num_heads=c.num_attention_heads,
        has_image_input=False,
        **{name: c[name] for name in same},
    )
    model.load_state_dict(state)
    return model.to(dtype_of(a)).requires_grad_(False).train()


THEIR_NAMES = {"attn1": "self_attn", "attn2": "cross_attn", "to_out.0": "o", "to_q": "q", "to_k": "k", "to_v": "v"}


def diffsynth_model(a):
    "Their model with their LoRA, which starts as ours does"
    from diffsynth.diffusion.training_module import DiffusionTrainingModule

    model = diffsynth_expert(a)
    gc.collect()
    targets, about = ["q", "k", "v", "o"], dict(upcast_dtype=dtype_of(a))
    model = DiffusionTrainingModule().add_lora_to_model(model, targets, a.rank, 2 * a.rank, **about)
    lora = {}
    for name, tensor in load_file(f"{a.folder}/lora.safetensors").items():
        for old, new in THEIR_NAMES.items():
            name = name.replace(old, new)
        lora[name.replace(".weight", ".default.weight")] = tensor
    missing = model.load_state_dict(lora, strict=False)
    assert not missing.unexpected_keys and not [name for name in missing.missing_keys if "lora" in name]
    return model


def diffsynth(a, turns: Turns):
    from accelerate import Accelerator
    from diffsynth.pipelines.wan_video import model_fn_wan_video

    accelerator = Accelerator(cpu=a.device == "cpu")  # as it is shipped: everything in bf16, no autocast
    flow, dtype, model = Flow(a, accelerator.device), dtype_of(a), diffsynth_model(a)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=LR, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    loader = torch.utils.data.DataLoader(Clips(a.folder), batch_size=a.batch)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    batches = iter(loader)
    for u in range(10**9):
        turns(u)
        batch = next(batches)
        with accelerator.accumulate(model):
            x = flow.noisy(batch)
            v = model_fn_wan_video(
                model,
                latents=x.to(dtype),
                y=batch["condition"].to(dtype),
                timestep=batch["t"].to(dtype),
                context=flow.prompt.expand(len(x), -1, -1).to(dtype),
                use_gradient_checkpointing=a.checkpointing,
            )
            loss = flow.loss(v, batch)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if (u + 1) % a.updates == 0:
            loss.item()  # what their logger reads
        if u == 0:
            turns.losses[1] = loss.item()  # later ones differ: their loop has no warm-up and does not clip


CONTENDERS = dict(ours=ours, plain=plain, bare=bare, diffsynth=diffsynth)


# ---- processes


def contender(name: str, a, pipe):
    "The life of a process"
    torch.set_num_threads(a.threads)
    turns = Turns(pipe, a)
    try:
        CONTENDERS[name](a, turns)
    except Finished:
        pipe.send(("end", turns.losses))
    except Exception as e:
        pipe.send(("failed", f"{type(e).__name__}: {first_line(e)}"))


class Process:
    "A contender, seen from here"

    def __init__(self, name: str, a):
        spawn = multiprocessing.get_context("spawn")
        self.name, (self.pipe, other) = name, spawn.Pipe()
        self.process = spawn.Process(target=contender, args=(name, a, other), daemon=True)
        self.process.start()
        other.close()
        self.hear("ready")
        self.pipe.send("go")
        self.hear("took")  # the warm-up
        self.seconds, self.peak, self.waits = [], None, []

    def hear(self, what: str) -> tuple:
        "The next message, which has to be of this kind"
        try:
            kind, *values = self.pipe.recv()
        except EOFError:
            code = self.process.exitcode
            sys.exit(f"{self.name}: the process has ended (exit code {code}); if it was killed, memory is short")
        if kind != what:
            sys.exit(f"{self.name}: {values[-1]}")
        return values

    def turn(self):
        "Some updates, timed"
        self.pipe.send("go")
        seconds, peak, wait = self.hear("took")
        self.seconds.append(seconds)
        self.waits.append(wait)
        if peak is not None:
            self.peak = max(self.peak or 0.0, peak)

    def end(self):
        "Take the losses"
        self.pipe.send("end")
        (self.losses,) = self.hear("end")
        self.process.join(60)


def run_alone(names: list[str], a) -> dict[str, Process]:
    "One contender after the other"
    done = {}
    for name in names:
        done[name] = Process(name, a)
        for _ in range(a.rounds):
            done[name].turn()
        done[name].end()
        print(f"{name}: {statistics.median(done[name].seconds):.4g} s", flush=True)
    return done


def run_in_turns(names: list[str], a) -> dict[str, Process]:
    "All contenders are there, and one works"
    dice, done = random.Random(0), {name: Process(name, a) for name in names}
    for r in range(a.rounds):
        for name in dice.sample(names, len(names)):
            done[name].turn()
        times = ", ".join(f"{name} {process.seconds[-1]:.4g} s" for name, process in done.items())
        print(f"round {r + 1}/{a.rounds}: {times}", flush=True)
    for process in done.values():
        process.end()
    return done


def prepare_base(a, folder: str):
    "Name the base model; write one with random weights if it was asked for"
    a.folder, a.base, a.base_folder = folder, "wan-tiny", str(ASSETS / "wan-tiny")
    if not a.layers:
        return
    from wan_step import write_random_base

    a.base = a.base_folder = f"{folder}/base"
    write_random_base(a.base, a.layers, a.dim, torch.device(a.device))
    gc.collect()
    if a.device == "cuda":
        torch.cuda.empty_cache()


# ---- comparison


def interval(ratios: list[float]) -> list[float]:
    "95 % of the medians of resampled ratios"
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(2000))
    return [medians[50], medians[1949]]


def difference_of_losses(name: str, done: dict[str, Process], a) -> float | None:  # none: nothing to compare with
    "The largest relative difference from plain and ours; the program ends if plain and ours disagree"
    losses, known = done[name].losses, done["ours"].losses
    if "plain" in done:
        known = done["plain"].losses | known
    if not all(map(math.isfinite, losses.values())):
        sys.exit(f"{name}: a loss is not finite")
    off = {u: abs(loss - known[u]) / abs(known[u]) for u, loss in losses.items() if u in known}
    if name == "plain" and (not off or max(off.values()) > (1e-2 if a.bf16 else 1e-5)):
        sys.exit(f"plain and ours do not compute the same: {off}")
    return max(off.values()) if off and name != "ours" else None


def row_of(name: str, done: dict[str, Process], a) -> dict:
    "What is written down of a contender"
    process = done[name]
    ratios = [x / y for x, y in zip(process.seconds, done["ours"].seconds)]
    return dict(
        median_s=statistics.median(process.seconds),
        seconds=process.seconds,
        time_relative_to_ours=statistics.median(ratios),
        interval=interval(ratios),
        ratios=ratios,
        peak_gib=process.peak,
        losses=process.losses,
        largest_difference_of_losses=difference_of_losses(name, done, a),
    )


def print_row(name: str, row: dict):
    "A contender on one line"
    (low, high), peak, off = row["interval"], row["peak_gib"], row["largest_difference_of_losses"]
    relative = f"{row['time_relative_to_ours']:.3f} of ours ({low:.3f} to {high:.3f})"
    parts = [f"{name:10} {row['median_s']:.4g} s an update", relative]
    if peak is not None:
        parts.append(f"peak {peak:.2f} GiB")
    if off is not None:
        parts.append(f"losses off by {off:.0e}")
    print(", ".join(parts), flush=True)


def price_of_our_loop(done: dict[str, Process]) -> dict:
    "What our loop waits for data, and adds to the bare computation"
    price = dict(data_wait=statistics.median(done["ours"].waits))
    if "bare" not in done:
        return price
    added = [x / y - 1 for x, y in zip(done["ours"].seconds, done["bare"].seconds)]
    price |= dict(overhead_over_bare=statistics.median(added), overhead_interval=interval(added))
    low, high = price["overhead_interval"]
    print(
        f"our loop adds {100 * price['overhead_over_bare']:.1f} % ({100 * low:.1f} to {100 * high:.1f}) to forward, "
        f"backward and optimizer; it waits for data {100 * price['data_wait']:.2f} % of the time"
    )
    return price


# ---- all of it


def parse() -> argparse.Namespace:
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    layers = "random weights in the folder layout of Wan2.2-I2V-A14B, with so many blocks; none: wan-tiny"
    preset = "of the simulated fields: demo is 32x96, full 128x384 as in The Well"
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--updates", type=int, default=3, help="of one turn")
    p.add_argument("--warmup", type=int, default=5, help="updates before the first turn")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--layers", type=int, default=None, help=layers)
    p.add_argument("--dim", type=int, default=5120, help="with --layers: width, a multiple of 128")
    p.add_argument("--preset", default="demo", help=preset)
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--compile", default="none", help="ours and bare: torch.compile of the blocks")
    p.add_argument("--alone", action="store_true", help="one contender at a time in memory")
    p.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS), help="ours always runs")
    p.add_argument("--output", default=None)
    a = p.parse_args()
    if a.batch * updates(a) > N_WINDOWS:
        wanted = f"{updates(a)} updates of {a.batch} windows"
        p.error(f"{wanted}; there are {N_WINDOWS}: lower --rounds, --updates or --batch")
    a.alone, a.bf16 = a.alone or bool(a.layers and a.device == "cuda"), a.device == "cuda"
    return a


def choose(a) -> tuple[list[str], dict[str, str]]:
    "The contenders that take part, and why others do not"
    names, left_out = [name for name in CONTENDERS if name in a.only or name == "ours"], {}
    if "diffsynth" in names and importlib.util.find_spec("diffsynth") is None:
        names.remove("diffsynth")
        left_out["diffsynth"] = "not installed"
    return names, left_out


NOT_SETTINGS = ("folder", "base_folder", "data", "output", "only")


def settings_of(a) -> dict:
    "How the contenders were run"
    settings = {name: value for name, value in vars(a).items() if name not in NOT_SETTINGS}
    return settings | dict(base=a.base if a.base == "wan-tiny" else "random weights", lr=LR)


def main():
    a, made_with = parse(), environment()
    path = Path(a.output or Path(__file__).parent / "results" / f"train_step-{a.device}.json")
    a.data = cached_dataset(n_trajectories=(4, 1, 1), n_frames=FRAMES, preset=a.preset)
    names, left_out = choose(a)
    with tempfile.TemporaryDirectory() as folder:
        prepare_base(a, folder)
        done, rows = (run_alone if a.alone else run_in_turns)(names, a), {}
    for name in names:
        rows[name] = row_of(name, done, a)
        print_row(name, rows[name])
    rows["ours"] |= price_of_our_loop(done)
    for name, reason in left_out.items():
        print(f"{name} left out: {reason}")
    content = dict(
        benchmark="seconds of one update of LoRA training on one expert, contenders in turns",
        settings=settings_of(a),
        contenders=rows,
        left_out=left_out,
        environment=made_with,
    )
    if str(path) != "/dev/null":
        write_whole(path, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
