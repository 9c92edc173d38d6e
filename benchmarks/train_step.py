"""An update of our training loop beside others: the same windows, noise, base weights and LoRA, in turns.

    python benchmarks/train_step.py                                              # wan-tiny on the embedded physics
    python benchmarks/train_step.py --layers 4 --dim 256 --output /dev/null      # another shape, random weights
    python benchmarks/train_step.py --device cuda --layers 40 --dim 5120 --preset full --batch 1 --rounds 1 \\
        --checkpointing                                                          # one expert at the true shape

- ours: `Trainer`, with its log, its meter and its latent cache; without checkpoints, which are written in the
  background, and without scalar tokens, which the others do not have
- plain: the loop of a careful user of diffusers, peft and accelerate
- bare: forward, backward and optimizer of our expert on one batch that lies ready; what a loop adds is measured
  against it
- diffsynth: model and LoRA of DiffSynth-Studio in a copy of its loop, where `diffsynth` can be imported; left out
  otherwise, and that is reported

Each is a process. In a round each has the machine for itself for some updates, in an order that changes; ratios are
taken within a round. With --alone, which large models need, they run one after the other. `plain` and `diffsynth` read
noise and time steps from a file that `ours` wrote down. That spares them the drawing, and shows whether losses agree:
those of `plain` at all logged updates, and they must; that of `diffsynth`, which has another learning rate and no
clipping, at the first, which only says that the frozen models agree. On a CPU the peak is that of resident memory
since the warm-up.
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
from unittest import mock
import torch
from safetensors.torch import load_file, save_file
from wan_well.files import PACKAGE, environment, first_line, write_whole
from wan_well.options import validate
from wan_well.config import Config, LoRAConfig, WanConfig
from wan_well.simulate import cached_dataset
from wan_well.training.log import peak_memory

LR, WEIGHT_DECAY, BETAS, CLIP = 1e-4, 0.01, (0.9, 0.95), 1.0
FRAMES, TRAJECTORIES, WINDOW = 34, 12, 12  # of the simulated data: frames of a trajectory, how many, frames of a window
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
TOLERANCE = {False: 1e-5, True: 1e-2}  # relative, of losses, by bf16

# What glibc arrives at in a process that has freed large tensors, as ours has by then: the same for all contenders
os.environ |= dict(MALLOC_MMAP_THRESHOLD_=str(2**25), MALLOC_TRIM_THRESHOLD_=str(2**26))


class Finished(BaseException):
    "All rounds are done"


class Turns:
    "Called when an update begins: waits for this process's turn, and reports what the updates since the last one took"

    def __init__(self, pipe, options):
        self.pipe, self.options, self.device = pipe, options, torch.device(options.device)
        self.began, self.waited, self.counted = None, 0.0, False
        self.losses: dict[int, float] = {}

    def __call__(self, update: int):
        warm, n = self.options.warmup, self.options.updates
        if update and (update < warm or (update - warm) % n):
            return
        self._report(n if update > warm else warm)
        self._forget_peak(update)
        self._wait_for_turn()

    def _report(self, updates: int):
        "What the updates of the turn that ends here took"
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.began is None:
            self.pipe.send(("ready",))
            return
        s = time.perf_counter() - self.began
        self.pipe.send(("took", s / updates, self.peak(), self.waited / s))

    def _forget_peak(self, update: int):
        "Count the peak of memory anew; Linux does so for resident memory, where it may be asked"
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif update == self.options.warmup:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
                self.counted = True

    def _wait_for_turn(self):
        self.waited = 0.0
        if self.pipe.recv() == "end":
            raise Finished
        self.began = time.perf_counter()

    def peak(self) -> float | None:  # GiB since the warm-up; none: unknown
        if self.device.type == "cuda":
            return peak_memory(self.device)
        if not self.counted:
            return None
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


def n_updates(options) -> int:
    "Updates of a whole run; one more than is timed, since a turn ends where the next update begins"
    return options.warmup + options.rounds * options.updates + 1


def rate(update: int, options) -> float:
    "The learning rate of our loop, relative to its peak"
    total = n_updates(options)
    warm = min(options.warmup, total // 5)
    done = min(1, max(0, update - warm) / max(1, total - warm))
    return min((update + 1) / (warm + 1), 0.5 * (1 + math.cos(math.pi * done)))


def dtype_of(options) -> torch.dtype:
    return torch.bfloat16 if options.bf16 else torch.float32


# ours


def window_stride(options) -> int:
    "The largest stride that gives enough windows: no more are encoded than are trained on"
    for stride in range(FRAMES, 1, -1):
        if TRAJECTORIES * -(-(FRAMES - WINDOW + 1) // stride) >= options.batch * n_updates(options):
            return stride
    return 1


def config(options) -> Config:
    "The run that `ours` trains"
    wan = dict(scalar_tokens=0, gradient_checkpointing=options.checkpointing, compile=options.compile)
    training = dict(mode="diffuse", experts="low", num_epochs=1, adapter_epochs=0, field_epochs=0, forecast_every=0)
    training |= dict(batch_size=options.batch, lr=LR, weight_decay=WEIGHT_DECAY, grad_clip=CLIP)
    training |= dict(samples_per_epoch=options.batch * n_updates(options), warmup_steps=options.warmup, val_samples=1)
    training |= dict(log_every=options.updates, checkpoint_every=0, num_threads=options.threads)
    training |= dict(device=torch.device(options.device).type, precision="bf16" if options.bf16 else "fp32")
    values = dict(
        name="ours",
        output_dir=options.folder,
        seed=0,
        model=dict(name=options.base, decoder=dict(anchored=False)),
        lora=dict(rank=options.rank, alpha=2 * options.rank),
        wan=wan,
        data=dict(path=str(options.data), augment=False, window_stride=window_stride(options)),
        training=training,
    )
    return validate(Config, values, "benchmark")


def draw_clips(trainer, options) -> dict[str, torch.Tensor]:
    "The clips, noise and time steps of every update, as the trainer will draw them"
    from wan_well.data.windows import WindowSampler
    from wan_well.forecast.flow import Draws
    from wan_well.latents.encoding import latent_cache

    cfg, emulator, forecaster, device = trainer.cfg, trainer.emulator, trainer.emulator.forecaster, trainer.device
    folder, layout = trainer.folder / "latents", emulator.layout(cfg.data.n_steps_output)
    cache, _ = latent_cache(emulator.codec, cfg, trainer.windows, folder, trainer.world, condition=True, progress=False)
    updates = WindowSampler(len(cache), options.batch, cfg.seed, True, cfg.training.samples_per_epoch)
    clips = []
    for update, keys in enumerate(updates):
        rows, draws = [row for row, _ in keys], Draws(cfg.seed, [(0, update, p) for p in range(options.batch)], device)
        t = forecaster.schedule.timesteps(draws.uniform().to(device), "low")
        z = forecaster.to_video(cache.rows(rows))
        condition = forecaster.to_condition(cache.rows(rows, "condition").to(device), layout)
        clips.append(dict(latents=z, condition=condition, noise=draws.normal(z.shape[1:]), t=t))
    return {k: torch.cat([clip[k].cpu() for clip in clips]).contiguous() for k in clips[0]}


def write_down(trainer, options):
    "What the other contenders read: clips with their noise, the LoRA at the start, the prompt"
    forecaster, layout = trainer.emulator.forecaster, trainer.emulator.layout(trainer.cfg.data.n_steps_output)
    save_file(draw_clips(trainer, options), f"{options.folder}/clips.safetensors")
    lora = {}
    for name, pair in forecaster.wan.lora["low"].items():
        for k, layer in pair.items():
            lora[f"{name.replace('-', '.')}.lora_{k}.weight"] = layer.weight.detach().cpu().contiguous()
    save_file(lora, f"{options.folder}/lora.safetensors")
    context = dict(prompt=forecaster.prompt.cpu().contiguous(), observed=torch.tensor(layout.n_observed_latents))
    save_file(context, f"{options.folder}/context.safetensors")


def ours(options, turns: Turns):
    "The trainer, which asks for its turn where an update begins"
    from wan_well.training.log import Meter
    from wan_well.training.stages import FlowMatching
    from wan_well.training.trainer import Trainer

    trainer = Trainer(config(options), progress=False)
    begin, wait = FlowMatching.begin_update, Meter.waiting

    def begin_in_turn(stage, emulator, step):
        if step == 0:
            write_down(trainer, options)
        turns(step)
        return begin(stage, emulator, step)

    @contextlib.contextmanager
    def wait_and_count(meter):
        tic = time.perf_counter()
        with wait(meter):
            yield
        turns.waited += time.perf_counter() - tic

    watched = mock.patch.object(FlowMatching, "begin_update", begin_in_turn)
    try:
        with watched, mock.patch.object(Meter, "waiting", wait_and_count):
            trainer.run()
    except Finished:
        records = [json.loads(line) for line in (trainer.folder / "log.jsonl").read_text().splitlines()]
        turns.losses = {r["step"]: r["loss"] for r in records if "loss" in r}
        raise


# the others


class Clips(torch.utils.data.Dataset):
    "What `ours` wrote down"

    def __init__(self, folder: str):
        self.tensors = load_file(f"{folder}/clips.safetensors")

    def __len__(self):
        return len(self.tensors["t"])

    def __getitem__(self, i):
        return {k: v[i] for k, v in self.tensors.items()}


def noisy(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    "Latents at their noise level"
    s = (batch["t"] / 1000).view(-1, 1, 1, 1, 1)
    return (1 - s) * batch["latents"] + s * batch["noise"]


def flow_error(v: torch.Tensor, batch: dict[str, torch.Tensor], observed: int) -> torch.Tensor:
    "Flow matching over the frames that are not observed"
    target = batch["noise"] - batch["latents"]
    return torch.nn.functional.mse_loss(v.float()[:, :, observed:], target[:, :, observed:])


def read_context(options, device: torch.device) -> tuple[torch.Tensor, int]:  # prompt, observed latent frames
    context = load_file(f"{options.folder}/context.safetensors")
    return context["prompt"].to(device), int(context["observed"])


def low_noise_expert(options):
    "The frozen expert, as diffusers loads it"
    from diffusers import WanTransformer3DModel

    folder, dtype = options.base_folder, dtype_of(options)
    return WanTransformer3DModel.from_pretrained(folder, subfolder="transformer_2", dtype=dtype)


def with_lora(model, options):
    "The same LoRA as ours, by peft"
    from peft import LoraConfig, set_peft_model_state_dict

    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules=TARGETS))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    set_peft_model_state_dict(model, load_file(f"{options.folder}/lora.safetensors"))
    if options.checkpointing:
        model.enable_gradient_checkpointing()
    return model


def plain(options, turns: Turns):
    "The loop of a careful user of diffusers, peft and accelerate"
    from accelerate import Accelerator
    from torch.optim.lr_scheduler import LambdaLR
    from tqdm.auto import tqdm

    accelerator = Accelerator(mixed_precision="bf16" if options.bf16 else "no", cpu=options.device == "cpu")
    gpu, dtype = accelerator.device.type == "cuda", dtype_of(options)
    (prompt, observed), model = read_context(options, accelerator.device), with_lora(low_noise_expert(options), options)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=gpu)
    scheduler = LambdaLR(optimizer, lambda update: rate(update, options))
    loader = torch.utils.data.DataLoader(Clips(options.folder), batch_size=options.batch, pin_memory=gpu)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    batches = iter(loader)
    for update in tqdm(range(10**9), disable=True):
        turns(update)
        batch = next(batches)
        with accelerator.accumulate(model):
            x = torch.cat([noisy(batch), batch["condition"]], 1).to(dtype)
            with accelerator.autocast():
                v = model(x, batch["t"], prompt.expand(len(x), -1, -1).to(dtype), return_dict=False)[0]
            loss = flow_error(v, batch, observed)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(params, CLIP)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if update == 0 or (update + 1) % options.updates == 0:
            turns.losses[update + 1] = accelerator.gather(loss.detach()).mean().item()


def bare(options, turns: Turns):
    "Forward, backward and optimizer of our expert, on one batch that lies ready"
    from wan_well.forecast.experts import WanExperts
    from wan_well.forecast.flow import flow_loss, interpolate

    device, lora = torch.device(options.device), LoRAConfig(rank=options.rank, alpha=2 * options.rank)
    run = WanConfig(gradient_checkpointing=options.checkpointing, compile=options.compile)
    wan = WanExperts.from_pretrained(options.base_folder, None, ("low",), lora, run, device, options.bf16)
    params = list(wan.lora.requires_grad_(True).parameters())
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(params, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=fused)
    batch = {k: v[: options.batch].to(device) for k, v in Clips(options.folder).tensors.items()}
    x, target = interpolate(batch["latents"], batch["noise"], batch["t"] / 1000)
    prompt, observed = read_context(options, device)
    prompt = prompt.expand(options.batch, -1, -1)
    for update in range(10**9):
        turns(update)
        v = wan.flow_velocity("low", x, batch["t"], batch["condition"], prompt)
        flow_loss(v, target, observed).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def diffsynth_model(options):
    "The expert in DiffSynth's own class, with its LoRA, filled with the same weights"
    from diffsynth.diffusion.training_module import DiffusionTrainingModule
    from diffsynth.models.wan_video_dit import WanModel
    from diffsynth.utils.state_dict_converters.wan_video_dit import WanVideoDiTFromDiffusers

    expert, dtype = low_noise_expert(options), dtype_of(options)
    c, weights = expert.config, WanVideoDiTFromDiffusers(expert.state_dict())
    same = {k: c[k] for k in ("ffn_dim", "text_dim", "freq_dim", "eps", "num_layers")}
    shape = dict(dim=c.num_attention_heads * c.attention_head_dim, num_heads=c.num_attention_heads)
    ends = dict(in_dim=c.in_channels, out_dim=c.out_channels, patch_size=tuple(c.patch_size))
    model = WanModel(**same, **shape, **ends, has_image_input=False)
    model.load_state_dict(weights)
    model.to(dtype).requires_grad_(False).train()
    del expert, weights
    gc.collect()
    targets, alpha = ["q", "k", "v", "o"], 2 * options.rank
    model = DiffusionTrainingModule().add_lora_to_model(model, targets, options.rank, alpha, upcast_dtype=dtype)
    load_diffsynth_lora(model, options)
    return model


def load_diffsynth_lora(model, options):
    "The LoRA at the start, under DiffSynth's names"
    names = {"attn1": "self_attn", "attn2": "cross_attn", "to_out.0": "o", "to_q": "q", "to_k": "k", "to_v": "v"}
    lora = {}
    for key, weight in load_file(f"{options.folder}/lora.safetensors").items():
        for old, new in names.items():
            key = key.replace(old, new)
        lora[key.replace(".weight", ".default.weight")] = weight
    missing = model.load_state_dict(lora, strict=False)
    assert not missing.unexpected_keys and not [key for key in missing.missing_keys if "lora" in key]


def diffsynth(options, turns: Turns):
    "DiffSynth-Studio's loop, as it is shipped: everything in bf16, no autocast"
    from accelerate import Accelerator
    from diffsynth.pipelines.wan_video import model_fn_wan_video

    accelerator, model, dtype = Accelerator(cpu=options.device == "cpu"), diffsynth_model(options), dtype_of(options)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=LR, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    loader = torch.utils.data.DataLoader(Clips(options.folder), batch_size=options.batch)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    prompt, observed = read_context(options, accelerator.device)
    batches = iter(loader)
    for update in range(10**9):
        turns(update)
        batch = next(batches)
        with accelerator.accumulate(model):
            inputs = dict(latents=noisy(batch), y=batch["condition"], timestep=batch["t"])
            inputs["context"] = prompt.expand(options.batch, -1, -1)
            inputs = {k: v.to(dtype) for k, v in inputs.items()}
            v = model_fn_wan_video(model, **inputs, use_gradient_checkpointing=options.checkpointing)
            loss = flow_error(v, batch, observed)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if (update + 1) % options.updates == 0:
            loss.item()  # what their logger reads
        if update == 0:
            turns.losses[1] = loss.item()  # later ones differ: their loop has no warm-up and does not clip


CONTENDERS = dict(ours=ours, plain=plain, bare=bare, diffsynth=diffsynth)


# taking turns


def live(name: str, options, pipe):
    "The life of a contender's process"
    torch.set_num_threads(options.threads)
    turns = Turns(pipe, options)
    try:
        CONTENDERS[name](options, turns)
    except Finished:
        pipe.send(("end", turns.losses))
    except Exception as e:
        pipe.send(("failed", f"{type(e).__name__}: {first_line(e)}"))


class Contender:
    "A contender, seen from the process that measures"

    def __init__(self, name: str, options):
        context = multiprocessing.get_context("spawn")
        self.name, (self.pipe, other) = name, context.Pipe()
        self.process = context.Process(target=live, args=(name, options, other), daemon=True)
        self.process.start()
        other.close()
        self.hear("ready")
        self.pipe.send("go")
        self.hear("took")  # the warm-up
        self.seconds, self.peak, self.waits = [], None, []

    def hear(self, kind: str) -> tuple:
        "The next message, which has to be of a kind; ends the benchmark otherwise"
        try:
            message = self.pipe.recv()
        except EOFError:
            code = self.process.exitcode
            sys.exit(f"{self.name}: the process has ended (exit code {code}); if it was killed, memory is short")
        if message[0] != kind:
            sys.exit(f"{self.name}: {message[-1]}")
        return message[1:]

    def turn(self):
        "Some updates"
        self.pipe.send("go")
        seconds, peak, wait = self.hear("took")
        self.seconds.append(seconds)
        self.waits.append(wait)
        if peak is not None:
            self.peak = max(self.peak or 0.0, peak)

    def end(self):
        self.pipe.send("end")
        (self.losses,) = self.hear("end")
        self.process.join(60)


def run_alone(names: list[str], options) -> dict[str, Contender]:
    "One contender at a time in memory"
    done = {}
    for name in names:
        done[name] = Contender(name, options)
        for _ in range(options.rounds):
            done[name].turn()
        done[name].end()
        print(f"{name}: {statistics.median(done[name].seconds):.4g} s", flush=True)
    return done


def run_in_turns(names: list[str], options) -> dict[str, Contender]:
    "All of them in memory, each at work in its turn"
    done, dice = {name: Contender(name, options) for name in names}, random.Random(0)
    for r in range(options.rounds):
        for name in dice.sample(names, len(names)):
            done[name].turn()
        seconds = ", ".join(f"{name} {done[name].seconds[-1]:.4g} s" for name in names)
        print(f"round {r + 1}/{options.rounds}: {seconds}", flush=True)
    for contender in done.values():
        contender.end()
    return done


# results


def interval(ratios: list[float]) -> list[float]:
    "95 % of the medians of resampled ratios"
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(2000))
    return [medians[50], medians[1949]]


def differences(contender: Contender, done: dict[str, Contender]) -> dict[int, float]:
    "By how much the losses of a contender are off, by update; ends the benchmark if one is not finite"
    known = (done["plain"].losses if "plain" in done else {}) | done["ours"].losses
    if not all(map(math.isfinite, contender.losses.values())):
        sys.exit(f"{contender.name}: a loss is not finite")
    return {k: abs(v - known[k]) / abs(known[k]) for k, v in contender.losses.items() if k in known}


def summarize(contender: Contender, done: dict[str, Contender], options) -> dict:
    "A row of the results, printed as well"
    name, off = contender.name, differences(contender, done)
    if name == "plain" and (not off or max(off.values()) > TOLERANCE[options.bf16]):
        sys.exit(f"plain and ours do not compute the same: {off}")
    ratios = [x / y for x, y in zip(contender.seconds, done["ours"].seconds)]
    median, relative, (low, high) = statistics.median(contender.seconds), statistics.median(ratios), interval(ratios)
    largest = max(off.values()) if off and name != "ours" else None
    line = f"{name:10} {median:.4g} s an update, {relative:.3f} of ours ({low:.3f} to {high:.3f})"
    if contender.peak is not None:
        line += f", peak {contender.peak:.2f} GiB"
    if largest is not None:
        line += f", losses off by {largest:.0e}"
    print(line, flush=True)
    return dict(
        median_s=median,
        seconds=contender.seconds,
        time_relative_to_ours=relative,
        interval=[low, high],
        ratios=ratios,
        peak_gib=contender.peak,
        losses=contender.losses,
        largest_difference_of_losses=largest,
    )


def overhead(done: dict[str, Contender]) -> dict:
    "What our loop adds to forward, backward and optimizer, printed as well"
    found = dict(data_wait=statistics.median(done["ours"].waits))
    if "bare" not in done:
        return found
    adds = [x / y - 1 for x, y in zip(done["ours"].seconds, done["bare"].seconds)]
    median, (low, high) = statistics.median(adds), interval(adds)
    print(
        f"our loop adds {100 * median:.1f} % ({100 * low:.1f} to {100 * high:.1f}) to forward, backward and optimizer"
    )
    print(f"it waits for data {100 * found['data_wait']:.2f} % of the time")
    return found | dict(overhead_over_bare=median, overhead_interval=[low, high])


def save(options, rows: dict[str, dict], left_out: dict[str, str], made_with: dict):
    "Write the results, unless to /dev/null"
    path = Path(options.output or Path(__file__).parent / "results" / f"train_step-{options.device}.json")
    if str(path) == "/dev/null":
        return
    unsaid = ("folder", "base_folder", "data", "output", "only")
    settings = {k: v for k, v in vars(options).items() if k not in unsaid}
    settings |= dict(base=options.base if options.base == "wan-tiny" else "random weights", lr=LR)
    results = dict(
        benchmark="seconds of one update of LoRA training on one expert, contenders in turns",
        settings=settings,
        contenders=rows,
        left_out=left_out,
        environment=made_with,
    )
    write_whole(path, json.dumps(results, indent=1) + "\n")


# the command


def parse_options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--updates", type=int, default=3, help="of one turn")
    p.add_argument("--warmup", type=int, default=5, help="updates before the first turn")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    layers = "random weights in the folder layout of Wan2.2-I2V-A14B, with so many blocks; none: wan-tiny"
    p.add_argument("--layers", type=int, default=None, help=layers)
    p.add_argument("--dim", type=int, default=5120, help="with --layers: width, a multiple of 128")
    preset = "of the simulated fields: demo is 32x96, full 128x384 as in The Well"
    p.add_argument("--preset", default="demo", help=preset)
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--compile", default="none", help="ours and bare: torch.compile of the blocks")
    p.add_argument("--alone", action="store_true", help="one contender at a time in memory")
    p.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS), help="ours always runs")
    p.add_argument("--output", default=None)
    options = p.parse_args()
    windows, there = options.batch * n_updates(options), TRAJECTORIES * (FRAMES - WINDOW + 1)
    if windows > there:
        p.error(f"{windows} windows are needed, there are {there}: lower --rounds, --updates or --batch")
    options.alone |= bool(options.layers) and options.device == "cuda"
    options.bf16 = options.device == "cuda"
    return options


def prepare_base(options):
    "The base model: shipped, or written with random weights"
    if not options.layers:
        options.base, options.base_folder = "wan-tiny", str(PACKAGE / "assets" / "wan-tiny")
        return
    from wan_step import write_random_base

    options.base = options.base_folder = f"{options.folder}/base"
    write_random_base(options.base, options.layers, options.dim, torch.device(options.device))
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()


def main():
    options, made_with, left_out = parse_options(), environment(), {}
    options.data = cached_dataset(n_trajectories=(4, 1, 1), n_frames=FRAMES, preset=options.preset)
    names = [name for name in CONTENDERS if name in options.only or name == "ours"]
    if "diffsynth" in names and importlib.util.find_spec("diffsynth") is None:
        names.remove("diffsynth")
        left_out["diffsynth"] = "not installed"
    with tempfile.TemporaryDirectory() as options.folder:
        prepare_base(options)
        done = run_alone(names, options) if options.alone else run_in_turns(names, options)
    rows = {name: summarize(contender, done, options) for name, contender in done.items()}
    rows["ours"] |= overhead(done)
    for name, why in left_out.items():
        print(f"{name} left out: {why}")
    save(options, rows, left_out, made_with)


if __name__ == "__main__":
    main()
