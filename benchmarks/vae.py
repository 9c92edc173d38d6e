"""Time and peak memory of the VAE at the true configuration, with random weights.

    python benchmarks/vae.py --device cuda          # 13 × 256 × 768, the size of a mosaic of 128 × 384 fields

Writes benchmarks/results/vae-<device>.json. Random weights cost what trained ones cost.
"""

import argparse
import json
import time
from pathlib import Path
import torch
from diffusers import AutoencoderKLWan
from wan_well.latents.vae import WanVAE
from wan_well.files import environment
from wan_well.training.log import peak_memory


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--frames", type=int, default=13)
    p.add_argument("--height", type=int, default=256)
    p.add_argument("--width", type=int, default=768)
    p.add_argument("--repeats", type=int, default=10)
    a = p.parse_args()
    device, rows = torch.device(a.device), []
    made_with = environment()

    def sync():
        if device.type == "cuda":
            torch.cuda.synchronize()

    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        vae = WanVAE(AutoencoderKLWan().to(dtype)).to(device)
        video = torch.rand(1, 3, a.frames, a.height, a.width, device=device) * 2 - 1
        with torch.no_grad():
            z = vae.encode(video)
        for name, f in (("encode", lambda: vae.encode(video)), ("decode", lambda: vae.decode(z))):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times = []
            with torch.no_grad():
                for _ in range(a.repeats + 2):
                    sync()
                    began = time.perf_counter()
                    f()
                    sync()
                    times.append(time.perf_counter() - began)
            times = sorted(times[2:])
            rows.append(
                dict(
                    what=name,
                    dtype=str(dtype),
                    median_s=times[len(times) // 2],
                    min_s=times[0],
                    max_s=times[-1],
                    peak_gib=peak_memory(device),
                )
            )
            print(rows[-1], flush=True)
        del vae
    out = dict(
        benchmark="AutoencoderKLWan, true configuration, random weights",
        frames=a.frames,
        height=a.height,
        width=a.width,
        repeats=a.repeats,
        rows=rows,
        environment=made_with,
    )
    (Path(__file__).parent / "results" / f"vae-{device.type}.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
