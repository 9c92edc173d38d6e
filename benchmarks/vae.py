"""Time and peak memory of the VAE at the true configuration, with random weights.

    python benchmarks/vae.py --device cuda          # 13 × 256 × 768, the size of a mosaic of 128 × 384 fields
    python benchmarks/vae.py --height 64 --width 96 --clips 1 2 --repeats 1 --output /dev/null      # small

Measured are encode, decode, and decode with the gradient of its latents, for batches of clips that are computed at
once, which is what `model.vae_chunk` limits; then for most clips in smaller chunks, whose decoding is computed again in
the backward pass. Random weights cost what trained ones cost. Peaks depend on the room that
there is, for cuDNN may take a large work space: --memory_gib leaves less. Writes benchmarks/results/vae-<device>.json.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
import torch
from diffusers import AutoencoderKLWan
from wan_well.device import pick_device
from wan_well.files import environment, write_whole
from wan_well.latents.vae import WanVAE
from wan_well.training.log import peak_memory

RESULTS = Path(__file__).parent / "results"
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)


def synchronize(device: torch.device):
    "Wait for the GPU, if there is one"
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(f: Callable, device: torch.device, repeats: int) -> list[float]:  # seconds; a warm-up call is left out
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        began = time.perf_counter()
        f()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return times[1:]


def measure(f: Callable, device: torch.device, repeats: int, clips: int) -> dict:
    "Seconds and memory; only `out_of_memory` where it does not fit"
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
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
        peak_gib=peak_memory(device),
    )


def calls(vae: WanVAE, a: argparse.Namespace, clips: int, device: torch.device) -> dict[str, Callable]:
    "What is measured, by name"
    torch.manual_seed(1)
    video = torch.rand(clips, 3, a.frames, a.height, a.width, device=device) * 2 - 1
    k = (a.frames - 1) // vae.time_factor + 1
    z = torch.randn(clips, k, vae.channels, a.height // vae.factor, a.width // vae.factor, device=device)

    def decode_with_gradient():
        vae.decode(z.requires_grad_()).square().mean().backward()
        z.grad = None

    without = torch.no_grad()
    return {
        "encode": without(lambda: vae.encode(video)),
        "decode": without(lambda: vae.decode(z)),
        "decode with gradient": decode_with_gradient,
    }


def rows_of(a: argparse.Namespace, device: torch.device):
    "All rows, one by one"
    sizes = [(clips, clips) for clips in a.clips]
    sizes += [(max(a.clips), chunk) for chunk in a.clips if chunk < max(a.clips)]
    for name in a.dtypes:
        torch.manual_seed(0)
        vae = WanVAE(AutoencoderKLWan().to(DTYPES[name])).to(device)
        for clips, chunk in sizes:
            vae.chunk = chunk
            for what, call in calls(vae, a, clips, device).items():
                if what == "decode with gradient" or clips == chunk:
                    row = measure(call, device, a.repeats, clips)
                    yield dict(what=what, dtype=name, clips=clips, chunk=chunk) | row


def parse() -> argparse.Namespace:
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--frames", type=int, default=13)
    p.add_argument("--height", type=int, default=256)
    p.add_argument("--width", type=int, default=768)
    p.add_argument("--clips", type=int, nargs="+", default=[1, 2, 4, 8])
    p.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--memory_gib", type=float, help="what the allocator may take")
    p.add_argument("--output", type=Path, help="none: benchmarks/results/vae-<device>.json")
    return p.parse_args()


def main():
    a, rows, made_with = parse(), [], environment()
    device = pick_device(a.device)
    if a.memory_gib:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(a.memory_gib * 2**30 / total)
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in AutoencoderKLWan().parameters())
    path = a.output or RESULTS / f"vae-{device.type}.json"
    for row in rows_of(a, device):
        rows.append(row)
        print(row, flush=True)
        result = dict(
            benchmark="AutoencoderKLWan, true configuration, random weights",
            model="random weights in the shape of the VAE of Wan2.2-I2V-A14B",
            command=" ".join(["python benchmarks/vae.py", *sys.argv[1:]]),
            parameters=n_parameters,
            frames=a.frames,
            height=a.height,
            width=a.width,
            repeats=a.repeats,
            memory_gib=a.memory_gib,
            rows=rows,
            environment=made_with,
        )
        if str(path) != "/dev/null":
            write_whole(path, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
