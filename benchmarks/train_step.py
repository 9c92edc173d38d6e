"""An update of our training loop beside others: the same windows, noise, base weights and LoRA, taking turns on one machine.

    python benchmarks/train_step.py                                     # wan-tiny on the embedded physics
    python benchmarks/train_step.py --device cuda --layers 40 --dim 5120 --preset full --batch 1 --rounds 1 --checkpointing      # one expert at the true shape, random weights
    python benchmarks/train_step.py --layers 4 --dim 256 --output /dev/null      # the same lines as at the true shape, small

- ours: `Trainer`, with its log, its meter and its latent cache; without checkpoints, which are written in the background, and without scalar tokens, which the others do not have
- plain: the loop of a careful user of diffusers, peft and accelerate
- bare: forward, backward and optimizer of our expert on one batch that lies ready; what a loop adds is measured against it
- diffsynth: model and LoRA of DiffSynth-Studio in a copy of its loop, where `diffsynth` can be imported; left out otherwise, and that is said

Each is a process. In a round each has the machine for itself for some updates, in an order that changes; ratios are taken within a round. With --alone, which large models need, they run one after the other.
plain and diffsynth read noise and timesteps from a file that ours wrote down, which spares them the drawing, and shows whether losses agree: of plain at all logged updates, and it
must; of diffsynth, which has another learning rate and no clipping, with plain at the first, which only says that the frozen models agree. On a CPU the peak is that of resident memory since the warm-up.
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
import torch
from safetensors.torch import load_file, save_file
from wan_well.files import first_line
from wan_well.latents.base_model import ASSETS
from wan_well.options import validate
from wan_well.config import Config, LoRAConfig, WanConfig
from wan_well.simulate import cached_dataset
from wan_well.files import environment
from wan_well.training.log import peak_memory

LR, WEIGHT_DECAY, BETAS, CLIP = 1e-4, 0.01, (0.9, 0.95), 1.0
FRAMES = 34
os.environ |= dict(
    MALLOC_MMAP_THRESHOLD_=str(2**25), MALLOC_TRIM_THRESHOLD_=str(2**26)
)  # what glibc arrives at in a process that has freed large tensors, as ours has by then: the same for all contenders


class Finished(BaseException):
    "All rounds are done"


class Turns:
    "Called when an update begins: waits for this process's turn, and tells what the updates since the last one took"

    def __init__(self, pipe, a):
        self.pipe, self.a, self.device, self.began, self.losses, self.waited = (
            pipe,
            a,
            torch.device(a.device),
            None,
            {},
            0.0,
        )

    def __call__(self, update: int):
        warm, n = self.a.warmup, self.a.updates
        if update and (update < warm or (update - warm) % n):
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.began:
            s = time.perf_counter() - self.began
            self.pipe.send(("took", s / (n if update > warm else warm), self.peak(), self.waited / s))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif update == warm:
            self.forget_peak()
        self.waited = 0.0
        if not self.began:
            self.pipe.send(("ready",))
        if self.pipe.recv() == "end":
            raise Finished
        self.began = time.perf_counter()

    def forget_peak(self):
        "Linux counts the peak of resident memory anew"
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            self.counted = True

    def peak(self) -> float | None:  # GiB since the warm-up; none: unknown
        if self.device.type == "cuda":
            return peak_memory(self.device)
        if not getattr(self, "counted", False):
            return None
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


def updates(a) -> int:
    "Of a whole run; one more than is timed, since a turn ends where the next update begins"
    return a.warmup + a.rounds * a.updates + 1


def rate(u: int, a) -> float:
    "The learning rate of our loop, relative to its peak"
    total = updates(a)
    warm = min(a.warmup, total // 5)
    return min((u + 1) / (warm + 1), 0.5 * (1 + math.cos(math.pi * min(1, max(0, u - warm) / max(1, total - warm)))))


def config(a) -> Config:
    stride = next(
        s for s in range(FRAMES, 0, -1) if 12 * -(-(FRAMES - 11) // s) >= a.batch * updates(a) or s == 1
    )  # encode no more windows than are trained on
    values = dict(
        name="ours",
        output_dir=a.folder,
        seed=0,
        model=dict(name=a.base, decoder=dict(anchored=False)),
        lora=dict(rank=a.rank, alpha=2 * a.rank),
        wan=dict(scalar_tokens=0, gradient_checkpointing=a.checkpointing, compile=a.compile),
        data=dict(path=str(a.data), augment=False, window_stride=stride),
        training=dict(
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
        ),
    )
    return validate(Config, values, "benchmark")


def ours(a, turns: Turns):
    import wan_well.trainer as module
    from wan_well.data.windows import WindowSampler
    from wan_well.forecast.flow import Draws

    real, cfg = module.pick_expert, config(a)
    trainer = module.Trainer(cfg, progress=False)

    def write_down(emulator):
        "The clips, noise and timesteps of every update, and the LoRA at the start, for the other contenders"
        cache, _ = module.latent_cache(emulator, trainer.windows, trainer.folder / "latents", progress=False)
        layout, out = emulator.layout(cfg.data.n_steps_output), []
        for u, rows in enumerate(WindowSampler(len(cache), a.batch, cfg.seed, True, cfg.training.samples_per_epoch)):
            rows, draws = [r for r, _ in rows], Draws(cfg.seed, [(0, u, p) for p in range(a.batch)], emulator.device)
            t, z = (
                module.noise_schedule(emulator).timesteps(draws.uniform().to(emulator.device), "low"),
                emulator.to_video(cache.rows(rows)),
            )
            condition = emulator.condition(cache.rows(rows, "condition").to(emulator.device), layout)
            out.append(dict(latents=z, condition=condition, noise=draws.normal(z.shape[1:]), t=t))
        save_file(
            {k: torch.cat([o[k].cpu() for o in out]).contiguous() for k in out[0]}, f"{a.folder}/clips.safetensors"
        )
        save_file(
            {
                f"{n.replace('-', '.')}.lora_{k}.weight": v.weight.detach().cpu().contiguous()
                for n, m in emulator.lora["low"].items()
                for k, v in m.items()
            },
            f"{a.folder}/lora.safetensors",
        )
        save_file(
            dict(prompt=emulator.prompt.cpu().contiguous(), observed=torch.tensor(layout.n_observed_latents)),
            f"{a.folder}/context.safetensors",
        )

    def begin(emulator, step):
        if step == 0:
            write_down(emulator)
        turns(step)
        return real(emulator, step)

    class Meter(module.Meter):
        "Knows how long a turn waited for data"

        @contextlib.contextmanager
        def waiting(self):
            tic = time.perf_counter()
            with super().waiting():
                yield
            turns.waited += time.perf_counter() - tic

    module.pick_expert, module.Meter = begin, Meter
    try:
        trainer.run()
    except Finished:
        turns.losses = {
            r["step"]: r["loss"]
            for r in map(json.loads, (trainer.folder / "log.jsonl").read_text().splitlines())
            if "loss" in r
        }
        raise


class Clips(torch.utils.data.Dataset):
    "What `ours` wrote down"

    def __init__(self, folder):
        self.t = load_file(f"{folder}/clips.safetensors")

    def __len__(self):
        return len(self.t["t"])

    def __getitem__(self, i):
        return {k: v[i] for k, v in self.t.items()}


def frames_lost(v, target, observed):
    return torch.nn.functional.mse_loss(v.float()[:, :, observed:], target[:, :, observed:])


def plain(a, turns: Turns):
    from accelerate import Accelerator
    from diffusers import WanTransformer3DModel
    from peft import LoraConfig, set_peft_model_state_dict
    from tqdm.auto import tqdm

    accelerator = Accelerator(mixed_precision="bf16" if a.bf16 else "no", cpu=a.device == "cpu")
    context = load_file(f"{a.folder}/context.safetensors")
    model = WanTransformer3DModel.from_pretrained(
        a.base_folder, subfolder="transformer_2", dtype=torch.bfloat16 if a.bf16 else torch.float32
    )
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    set_peft_model_state_dict(model, load_file(f"{a.folder}/lora.safetensors"))
    if a.checkpointing:
        model.enable_gradient_checkpointing()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        params, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=accelerator.device.type == "cuda"
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: rate(u, a))
    loader = torch.utils.data.DataLoader(
        Clips(a.folder), batch_size=a.batch, pin_memory=accelerator.device.type == "cuda"
    )
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    prompt, observed, dtype = (
        context["prompt"].to(accelerator.device),
        int(context["observed"]),
        torch.bfloat16 if a.bf16 else torch.float32,
    )
    batches = iter(loader)
    for u in tqdm(range(10**9), disable=True):
        turns(u)
        batch = next(batches)
        with accelerator.accumulate(model):
            s = (batch["t"] / 1000).view(-1, 1, 1, 1, 1)
            x = (1 - s) * batch["latents"] + s * batch["noise"]
            with accelerator.autocast():
                v = model(
                    hidden_states=torch.cat([x, batch["condition"]], 1).to(dtype),
                    timestep=batch["t"],
                    encoder_hidden_states=prompt.expand(len(x), -1, -1).to(dtype),
                    return_dict=False,
                )[0]
            loss = frames_lost(v, batch["noise"] - batch["latents"], observed)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(params, CLIP)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if u == 0 or (u + 1) % a.updates == 0:
            turns.losses[u + 1] = accelerator.gather(loss.detach()).mean().item()


def bare(a, turns: Turns):
    from wan_well.forecast.flow import flow_loss, interpolate
    from wan_well.forecast.experts import WanExperts

    device, context = torch.device(a.device), load_file(f"{a.folder}/context.safetensors")
    wan = WanExperts.from_pretrained(
        a.base_folder,
        None,
        ("low",),
        LoRAConfig(rank=a.rank, alpha=2 * a.rank),
        WanConfig(gradient_checkpointing=a.checkpointing, compile=a.compile),
        device,
        a.bf16,
    )
    params = list(wan.lora.requires_grad_(True).parameters())
    opt = torch.optim.AdamW(params, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=device.type == "cuda")
    clips, observed = Clips(a.folder), int(context["observed"])
    b = {k: v[: a.batch].to(device) for k, v in clips.t.items()}
    x, target = interpolate(b["latents"], b["noise"], b["t"] / 1000)
    prompt = context["prompt"].to(device).expand(a.batch, -1, -1)
    for u in range(10**9):
        turns(u)
        flow_loss(wan.velocity("low", x, b["t"], b["condition"], prompt), target, observed).mean().backward()
        opt.step()
        opt.zero_grad(set_to_none=True)


def diffsynth(a, turns: Turns):
    from accelerate import Accelerator
    from diffusers import WanTransformer3DModel
    from diffsynth.diffusion.training_module import DiffusionTrainingModule
    from diffsynth.models.wan_video_dit import WanModel
    from diffsynth.pipelines.wan_video import model_fn_wan_video
    from diffsynth.utils.state_dict_converters.wan_video_dit import WanVideoDiTFromDiffusers

    accelerator = Accelerator(cpu=a.device == "cpu")  # as it is shipped: everything in bf16, no autocast
    context = load_file(f"{a.folder}/context.safetensors")
    theirs = WanTransformer3DModel.from_pretrained(
        a.base_folder, subfolder="transformer_2", dtype=torch.bfloat16 if a.bf16 else torch.float32
    )
    c, state = theirs.config, WanVideoDiTFromDiffusers(theirs.state_dict())
    dim = c.num_attention_heads * c.attention_head_dim
    model = WanModel(
        dim=dim,
        in_dim=c.in_channels,
        ffn_dim=c.ffn_dim,
        out_dim=c.out_channels,
        text_dim=c.text_dim,
        freq_dim=c.freq_dim,
        eps=c.eps,
        patch_size=tuple(c.patch_size),
        num_heads=c.num_attention_heads,
        num_layers=c.num_layers,
        has_image_input=False,
    )
    model.load_state_dict(state)
    model.to(torch.bfloat16 if a.bf16 else torch.float32).requires_grad_(False).train()
    del theirs, state
    gc.collect()
    model = DiffusionTrainingModule().add_lora_to_model(
        model, ["q", "k", "v", "o"], a.rank, 2 * a.rank, upcast_dtype=torch.bfloat16 if a.bf16 else torch.float32
    )
    names = {"attn1": "self_attn", "attn2": "cross_attn", "to_out.0": "o", "to_q": "q", "to_k": "k", "to_v": "v"}
    lora = {}
    for k, v in load_file(f"{a.folder}/lora.safetensors").items():
        for old, new in names.items():
            k = k.replace(old, new)
        lora[k.replace(".weight", ".default.weight")] = v
    missing = model.load_state_dict(lora, strict=False)
    assert not missing.unexpected_keys and not [k for k in missing.missing_keys if "lora" in k]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    loader = torch.utils.data.DataLoader(Clips(a.folder), batch_size=a.batch)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    prompt, observed, dtype = (
        context["prompt"].to(accelerator.device),
        int(context["observed"]),
        torch.bfloat16 if a.bf16 else torch.float32,
    )
    batches = iter(loader)
    for u in range(10**9):
        turns(u)
        batch = next(batches)
        with accelerator.accumulate(model):
            s = (batch["t"] / 1000).view(-1, 1, 1, 1, 1)
            x = (1 - s) * batch["latents"] + s * batch["noise"]
            v = model_fn_wan_video(
                model,
                latents=x.to(dtype),
                y=batch["condition"].to(dtype),
                timestep=batch["t"].to(dtype),
                context=prompt.expand(len(x), -1, -1).to(dtype),
                use_gradient_checkpointing=a.checkpointing,
            )
            loss = frames_lost(v, batch["noise"] - batch["latents"], observed)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if (u + 1) % a.updates == 0:
            loss.item()  # what their logger reads
        if u == 0:
            turns.losses[1] = loss.item()  # later ones differ: their loop has no warm-up and does not clip


def interval(ratios: list[float]) -> list[float]:
    "95 % of the medians of resampled ratios"
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(2000))
    return [medians[50], medians[1949]]


CONTENDERS = dict(ours=ours, plain=plain, bare=bare, diffsynth=diffsynth)


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

    def __init__(self, name, a):
        ctx = multiprocessing.get_context("spawn")
        self.name, (self.pipe, other) = name, ctx.Pipe()
        self.process = ctx.Process(target=contender, args=(name, a, other), daemon=True)
        self.process.start()
        other.close()
        self.hear("ready")
        self.pipe.send("go")
        self.hear("took")  # the warm-up
        self.seconds, self.peak, self.waits = [], None, []

    def hear(self, what):
        try:
            said = self.pipe.recv()
        except EOFError:
            sys.exit(
                f"{self.name}: the process has ended (exit code {self.process.exitcode}); if it was killed, memory is short"
            )
        if said[0] != what:
            sys.exit(f"{self.name}: {said[-1]}")
        return said[1:]

    def turn(self):
        self.pipe.send("go")
        s, peak, wait = self.hear("took")
        self.seconds.append(s)
        self.waits.append(wait)
        if peak is not None:
            self.peak = max(self.peak or 0.0, peak)

    def end(self):
        self.pipe.send("end")
        (self.losses,) = self.hear("end")
        self.process.join(60)
        return self


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--updates", type=int, default=3, help="of one turn")
    p.add_argument("--warmup", type=int, default=5, help="updates before the first turn")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument(
        "--layers",
        type=int,
        default=None,
        help="random weights in the folder layout of Wan2.2-I2V-A14B, with so many blocks; none: wan-tiny",
    )
    p.add_argument("--dim", type=int, default=5120, help="with --layers: width, a multiple of 128")
    p.add_argument(
        "--preset", default="demo", help="of the simulated fields: demo is 32x96, full 128x384 as in The Well"
    )
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--compile", default="none", help="ours and bare: torch.compile of the blocks")
    p.add_argument("--alone", action="store_true", help="one contender at a time in memory")
    p.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS), help="ours always runs")
    p.add_argument("--output", default=None)
    a = p.parse_args()
    if a.batch * updates(a) > 12 * (FRAMES - 11):
        p.error(
            f"{updates(a)} updates of {a.batch} windows; there are {12 * (FRAMES - 11)}: lower --rounds, --updates or --batch"
        )
    made_with = environment()
    if a.layers and a.device == "cuda":
        a.alone = True
    a.bf16 = a.device == "cuda"
    path = Path(a.output or Path(__file__).parent / "results" / f"train_step-{a.device}.json")
    a.data = cached_dataset(n_trajectories=(4, 1, 1), n_frames=FRAMES, preset=a.preset)
    found = {n: n in a.only or n == "ours" for n in CONTENDERS}
    left_out = {}
    if found["diffsynth"] and importlib.util.find_spec("diffsynth") is None:
        found["diffsynth"], left_out["diffsynth"] = False, "not installed"
    with tempfile.TemporaryDirectory() as folder:
        a.folder = folder
        if a.layers:
            from wan_step import write_random_base

            a.base = a.base_folder = f"{folder}/base"
            write_random_base(a.base, a.layers, a.dim, torch.device(a.device))
            gc.collect()
            if a.device == "cuda":
                torch.cuda.empty_cache()
        else:
            a.base, a.base_folder = "wan-tiny", str(ASSETS / "wan-tiny")
        names, done, dice = [n for n in CONTENDERS if found[n]], {}, random.Random(0)
        if a.alone:
            for n in names:
                done[n] = Process(n, a)
                for _ in range(a.rounds):
                    done[n].turn()
                done[n].end()
                print(f"{n}: {statistics.median(done[n].seconds):.4g} s", flush=True)
        else:
            for n in names:
                done[n] = Process(n, a)
            for r in range(a.rounds):
                for n in dice.sample(names, len(names)):
                    done[n].turn()
                print(
                    f"round {r + 1}/{a.rounds}: " + ", ".join(f"{n} {done[n].seconds[-1]:.4g} s" for n in names),
                    flush=True,
                )
            for n in names:
                done[n].end()
    rows, us = {}, done["ours"]
    for n, c in done.items():
        ratios = [x / y for x, y in zip(c.seconds, us.seconds)]
        known = done["plain"].losses | us.losses if "plain" in done else us.losses
        if not all(map(math.isfinite, c.losses.values())):
            sys.exit(f"{n}: a loss is not finite")
        off = {k: abs(v - known[k]) / abs(known[k]) for k, v in c.losses.items() if k in known}
        if n == "plain" and (not off or max(off.values()) > (1e-2 if a.bf16 else 1e-5)):
            sys.exit(f"plain and ours do not compute the same: {off}")
        low, high = interval(ratios)
        rows[n] = dict(
            median_s=statistics.median(c.seconds),
            seconds=c.seconds,
            time_relative_to_ours=statistics.median(ratios),
            interval=[low, high],
            ratios=ratios,
            peak_gib=c.peak,
            losses=c.losses,
            largest_difference_of_losses=max(off.values()) if off and n != "ours" else None,
        )
        print(
            f"{n:10} {rows[n]['median_s']:.4g} s an update, {rows[n]['time_relative_to_ours']:.3f} of ours ({low:.3f} to {high:.3f}){'' if c.peak is None else f', peak {c.peak:.2f} GiB'}"
            + (f", losses off by {max(off.values()):.0e}" if off and n != "ours" else ""),
            flush=True,
        )
    rows["ours"]["data_wait"] = statistics.median(us.waits)
    if "bare" in done:
        adds = [x / y - 1 for x, y in zip(us.seconds, done["bare"].seconds)]
        rows["ours"] |= dict(overhead_over_bare=statistics.median(adds), overhead_interval=interval(adds))
        print(
            f"our loop adds {100 * statistics.median(adds):.1f} % ({100 * interval(adds)[0]:.1f} to {100 * interval(adds)[1]:.1f}) to forward, backward and optimizer; it waits for data {100 * rows['ours']['data_wait']:.2f} % of the time"
        )
    for n, why in left_out.items():
        print(f"{n} left out: {why}")
    if str(path) != "/dev/null":
        settings = {
            k: v for k, v in vars(a).items() if k not in ("folder", "base_folder", "data", "output", "only")
        } | dict(base=a.base if a.base == "wan-tiny" else "random weights", lr=LR)
        path.write_text(
            json.dumps(
                dict(
                    benchmark="seconds of one update of LoRA training on one expert, contenders in turns",
                    settings=settings,
                    contenders=rows,
                    left_out=left_out,
                    environment=made_with,
                ),
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
