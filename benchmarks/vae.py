"""Time and peak memory of the VAE at the true configuration, with random weights.

    python benchmarks/vae.py --device cuda          # 13 × 256 × 768, the size of a mosaic of 128 × 384 fields

Writes benchmarks/results/vae-<device>.json. Random weights cost what trained ones cost.
"""

import argparse
import json
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


def synchronize(device: torch.device):
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def timed(
    f: Callable, device: torch.device, repeats: int
) -> list[float]:  # seconds, sorted; two warm-up calls left out
    times = []
    for _ in range(repeats + 2):
        synchronize(device)
        began = time.perf_counter()
        f()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return sorted(times[2:])


def measure(name: str, f: Callable, dtype: torch.dtype, device: torch.device, repeats: int) -> dict:
    "One row of the result"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = timed(f, device, repeats)
    return dict(
        what=name,
        dtype=str(dtype),
        median_s=times[len(times) // 2],
        min_s=times[0],
        max_s=times[-1],
        peak_gib=peak_memory(device),
    )


def measure_all(dtype: torch.dtype, device: torch.device, a: argparse.Namespace) -> list[dict]:
    "Both directions in one precision"
    torch.manual_seed(0)
    vae = WanVAE(AutoencoderKLWan().to(dtype)).to(device)
    video = torch.rand(1, 3, a.frames, a.height, a.width, device=device) * 2 - 1
    with torch.no_grad():
        z = vae.encode(video)
    rows = []
    for name, f in (("encode", lambda: vae.encode(video)), ("decode", lambda: vae.decode(z))):
        rows.append(measure(name, f, dtype, device, a.repeats))
        print(rows[-1], flush=True)
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--frames", type=int, default=13)
    p.add_argument("--height", type=int, default=256)
    p.add_argument("--width", type=int, default=768)
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--output", type=Path, help="none: benchmarks/results/vae-<device>.json")
    a = p.parse_args()
    device, rows, made_with = pick_device(a.device), [], environment()
    for dtype in (torch.float32, torch.bfloat16):
        rows += measure_all(dtype, device, a)
    result = dict(
        benchmark="AutoencoderKLWan, true configuration, random weights",
        frames=a.frames,
        height=a.height,
        width=a.width,
        repeats=a.repeats,
        rows=rows,
        environment=made_with,
    )
    write_whole(a.output or RESULTS / f"vae-{device.type}.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
