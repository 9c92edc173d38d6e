"""Time and peak memory of the VAE at the true configuration, with random weights.

    python benchmarks/vae.py --device cuda          # 13 × 256 × 768, the size of a mosaic of 128 × 384 fields
    python benchmarks/vae.py --device cpu --dtypes autocast --clips 1 --recompute on --repeats 0    # minutes
    python benchmarks/vae.py --device count         # needs neither a GPU nor the memory
    python benchmarks/vae.py --height 64 --width 96 --clips 1 2 --repeats 1 --output /dev/null      # small

Measured are encode, decode, and decode with the gradient of its latents, for batches of clips that are computed at
once, which is what `model.vae_chunk` limits; then for most clips in smaller chunks, whose decoding is computed again in
the backward pass; with `model.vae_recompute` off and on. `autocast` is what a run does in bf16: weights in fp32,
convolutions in bf16. Random weights cost what trained ones cost. On a GPU the peak is that of allocated memory; it
depends on the room that there is, for cuDNN may take a large work space: --memory_gib leaves less. On a CPU it is that
of resident memory above the idle process, beside a count for the blocks that a CPU runs. Counted are tensors that are
alive at once, with the blocks that a GPU runs; --sizes counts several sizes.
Writes benchmarks/results/vae-<device>.json.
"""

import argparse
import gc
import itertools
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
import torch
from diffusers import AutoencoderKLWan
from memory import GIB, AliveBytes, no_memory, peak_gib, resident_gib, restart_peak, set_parameters
from wan_well.device import pick_device
from wan_well.files import environment, write_whole
from wan_well.latents.codec import autocast
from wan_well.latents.vae import WanVAE
from wan_well.latents.vae_blocks import REPLACED
from wan_well.training.log import peak_memory

RESULTS = Path(__file__).parent / "results"
DTYPES = dict(fp32=torch.float32, autocast=torch.float32, bf16=torch.bfloat16)
GRADIENT, ROUND_TRIP = "decode with gradient", "round trip with gradient"
WHATS = ["encode", "decode", GRADIENT]


def synchronize(device: torch.device):
    "Wait for the GPU, if there is one"
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(f: Callable, device: torch.device, repeats: int) -> list[float]:
    "Seconds; a warm-up call is left out, but where there is no other"
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        began = time.perf_counter()
        f()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return times[1:] or times


def forget_peak(device: torch.device) -> float:
    "Start to watch memory; GiB that are not to be counted"
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return 0.0
    resident_gib()
    restart_peak()
    return IDLE_GIB


def measure(f: Callable, device: torch.device, repeats: int, clips: int) -> dict:
    "Seconds and memory; only `out_of_memory` where it does not fit"
    idle = forget_peak(device)
    try:
        times = timed(f, device, repeats)
    except torch.OutOfMemoryError:
        return dict(out_of_memory=True)
    median = statistics.median(times)
    return dict(
        median_s=median,
        min_s=min(times),
        max_s=max(times),
        median_s_per_clip=median / clips,
        peak_gib=(peak_memory(device) if device.type == "cuda" else peak_gib()) - idle,
    )


def make_video(size: tuple[int, int, int], clips: int, device: torch.device) -> torch.Tensor:
    "Random clips"
    torch.manual_seed(1)
    return torch.rand(clips, 3, *size, device=device) * 2 - 1


def make_latents(vae: WanVAE, size: tuple[int, int, int], clips: int, device: torch.device) -> torch.Tensor:
    "Random latents of clips"
    (frames, height, width), f = size, vae.factor
    k = (frames - 1) // vae.time_factor + 1
    torch.manual_seed(1)
    return torch.randn(clips, k, vae.channels, height // f, width // f, device=device)


def call(what: str, vae: WanVAE, x: torch.Tensor, in_bf16: bool):
    "What is measured, once"
    backward = what in (GRADIENT, ROUND_TRIP)
    x.requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        with autocast(x.device, in_bf16):
            y = vae.decode(x) if what in ("decode", GRADIENT) else vae.encode(x)
            y = vae.decode(y) if what == ROUND_TRIP else y
        if backward:
            y.square().mean().backward()
            x.grad = None


def inputs(what: str, vae: WanVAE, size: tuple[int, int, int], clips: int, device: torch.device) -> torch.Tensor:
    "What `call` takes"
    make = make_video if what in ("encode", ROUND_TRIP) else partial(make_latents, vae)
    return make(size, clips, device)


def plans(a: argparse.Namespace) -> list[dict]:
    "What is measured of one VAE, row by row; blocks are computed again with gradients only"
    sizes = [(clips, clips) for clips in a.clips]
    sizes += [(max(a.clips), chunk) for chunk in a.clips if chunk < max(a.clips)]
    found = []
    for clips, chunk in sizes:
        backward = [what for what in a.what if "gradient" in what]
        for what in a.what if clips == chunk else backward:
            again = [word == "on" for word in a.recompute] if what in backward else [False]
            found += [dict(what=what, clips=clips, chunk=chunk, recompute=r) for r in again]
    return found


def counting_vae(dtype: torch.dtype, recompute: bool, of_cpu: bool) -> WanVAE:
    "The VAE without numbers, with the blocks that a GPU runs, or a CPU"
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    set_parameters(vae, lambda name, shape: torch.empty(shape, dtype=dtype))
    wrapped, originals = WanVAE(vae, recompute=recompute), {ours: theirs for theirs, ours in REPLACED.items()}
    for module in () if of_cpu else vae.modules():
        module.__class__ = originals.get(type(module), type(module))
    return wrapped


def counted_rows(a: argparse.Namespace):
    "All rows of all sizes, counted; several clips, and weights in bf16, with gradients and for the first size only"
    sizes = a.sizes or [(a.frames, a.height, a.width)]
    for size, name, plan in itertools.product(sizes, a.dtypes, plans(a)):
        if size != sizes[0] and (plan["clips"] > 1 or name == "bf16"):
            continue
        if plan["clips"] > 1 and plan["what"] != GRADIENT:
            continue
        about = dict(dtype=name, frames=size[0], height=size[1], width=size[2])
        yield plan | about | dict(peak_gib=count(plan, name, size))


def count(plan: dict, dtype: str, size: tuple[int, int, int], of_cpu: bool = False) -> float:
    "GiB of tensors that are alive at once"
    with no_memory(), AliveBytes() as alive:
        vae = counting_vae(DTYPES[dtype], plan["recompute"], of_cpu)
        vae.chunk = plan["chunk"]
        x = inputs(plan["what"], vae, size, plan["clips"], torch.device("cpu"))
        alive.peak = alive.now
        call(plan["what"], vae, x, dtype == "autocast")
    return alive.peak / GIB


def rows_of(a: argparse.Namespace, device: torch.device):
    "All rows, one by one"
    size = (a.frames, a.height, a.width)
    for name in a.dtypes:
        made = None
        for plan in sorted(plans(a), key=lambda plan: plan["recompute"]):
            if made is None or made[0] != plan["recompute"]:
                torch.manual_seed(0)
                made = plan["recompute"], WanVAE(AutoencoderKLWan().to(DTYPES[name]), recompute=plan["recompute"])
                made[1].to(device)
            vae, what = made[1], plan["what"]
            vae.chunk = plan["chunk"]
            x = inputs(what, vae, size, plan["clips"], device)
            f = partial(call, what, vae, x, name == "autocast")
            counted = dict(counted_gib=count(plan, name, size, of_cpu=True)) if device.type == "cpu" else {}
            yield dict(plan, dtype=name) | counted | measure(f, device, a.repeats, plan["clips"])


def size_of(text: str) -> tuple[int, int, int]:
    "13x256x768"
    frames, height, width = (int(n) for n in text.split("x"))
    return frames, height, width


def parse() -> argparse.Namespace:
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", choices=("auto", "cpu", "cuda", "count"), default="auto")
    p.add_argument("--frames", type=int, default=13)
    p.add_argument("--height", type=int, default=256)
    p.add_argument("--width", type=int, default=768)
    p.add_argument("--clips", type=int, nargs="+", default=[1, 2, 4, 8])
    p.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    p.add_argument("--what", nargs="+", default=WHATS, choices=[*WHATS, ROUND_TRIP])
    p.add_argument("--recompute", nargs="+", default=["off", "on"], choices=["off", "on"])
    p.add_argument("--sizes", type=size_of, nargs="+", help="count: several, such as 13x256x768")
    p.add_argument("--threads", type=int, help="of a CPU")
    p.add_argument("--repeats", type=int, default=5, help="0: the first call is timed")
    p.add_argument("--memory_gib", type=float, help="what the allocator may take")
    p.add_argument("--output", type=Path, help="none: benchmarks/results/vae-<device>.json")
    return p.parse_args()


def settings_of(a: argparse.Namespace) -> dict:
    "How the rows were made"
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in AutoencoderKLWan().parameters())
    size = dict(frames=a.frames, height=a.height, width=a.width)
    return dict(
        benchmark="AutoencoderKLWan, true configuration, random weights",
        model="random weights in the shape of the VAE of Wan2.2-I2V-A14B",
        command=f"python benchmarks/vae.py {shlex.join(sys.argv[1:])}",
        parameters=n_parameters,
        **({} if a.sizes else size),
        repeats=a.repeats,
        memory_gib=a.memory_gib,
    )


def main():
    a, rows, made_with = parse(), [], environment()
    if a.threads:
        torch.set_num_threads(a.threads)
    device = torch.device("cpu") if a.device == "count" else pick_device(a.device)
    if a.memory_gib:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(a.memory_gib * 2**30 / total)
    path = a.output or RESULTS / f"vae-{'counted' if a.device == 'count' else device.type}.json"
    for row in counted_rows(a) if a.device == "count" else rows_of(a, device):
        rows.append(row)
        print(row, flush=True)
        if str(path) != "/dev/null":
            result = dict(settings_of(a), rows=rows, environment=made_with)
            write_whole(path, json.dumps(result, indent=1) + "\n")


IDLE_GIB = resident_gib()  # of this process, with all that it imports


if __name__ == "__main__":
    main()
