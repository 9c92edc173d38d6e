"""One training step and one sampling step of an expert at the true configuration, with random weights.

    python benchmarks/wan_step.py --device cuda                  # one expert, bf16: 13×128×384 and 13×256×768, with and without checkpointing and compile, batch 1 to what fits
    python benchmarks/wan_step.py --device cuda --both           # both experts, frozen weights stored in fp8, with checkpointing
    python benchmarks/wan_step.py --device cpu --layers 2 --dim 256 --repeats 3 --output /dev/null      # the same lines, small

Random weights cost what trained ones cost. Seconds are medians; TFLOP/s and MFU count model FLOPs, 2 lin + 3.5 att for a LoRA step (no recomputation), against 989 TFLOP/s dense bf16 of an H100.
Writes benchmarks/results/wan_step-<device>.json.
"""

import argparse
import gc
import json
import math
import shutil
import statistics
import time
from pathlib import Path
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from wan_well.latents.base_model import ASSETS
from wan_well.config import LoRAConfig, WanConfig
from wan_well.forecast.flow import NoiseSchedule, flow_loss, interpolate
from wan_well.files import environment
from wan_well.training.log import peak_memory
from wan_well.forecast.conditioning import save_prompt
from wan_well.forecast.experts import FOLDERS, WAN22_I2V_A14B, Source, WanExperts, forward_flops


def random_expert(config: dict, device: torch.device) -> WanTransformer3DModel:
    "Weights drawn on the device, in bf16, with the modules that stay fp32 kept so"
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)
    for name, p in list(model.named_parameters()):
        keep = any(k in name for k in model._keep_in_fp32_modules)
        value = torch.empty(p.shape, device=device, dtype=torch.float32 if keep else torch.bfloat16).normal_(
            std=1 / math.sqrt(max(p.shape[-1], 1))
        )
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(value, requires_grad=False))
    model.rope = type(model.rope)(config["attention_head_dim"], config["patch_size"], config["rope_max_seq_len"]).to(
        device
    )
    return model


def write_random_base(folder: str | Path, layers: int, dim: int, device: torch.device):
    "A folder in the layout of Wan2.2-I2V-A14B with random weights: low-noise expert, VAE, scheduler, prompt embedding"
    folder, config = (
        Path(folder),
        {**WAN22_I2V_A14B, "num_layers": layers, "num_attention_heads": dim // 128, "ffn_dim": int(dim * 2.7)},
    )
    torch.manual_seed(0)
    random_expert(config, device).save_pretrained(folder / FOLDERS["low"])
    AutoencoderKLWan().save_pretrained(folder / "vae")
    shutil.copytree(ASSETS / "wan-tiny/scheduler", folder / "scheduler")
    shutil.copy(ASSETS / "wan-tiny/model_index.json", folder)
    save_prompt(
        torch.randn(1, 512, config["text_dim"]) * (torch.arange(512) < 40)[:, None],
        folder / "prompt_embeds.safetensors",
        "",
        str(folder),
    )


def measure(f, device: torch.device, repeats: int, warmup: int = 3) -> list[float]:
    "Seconds of each repetition"

    def sync():
        if device.type == "cuda":
            torch.cuda.synchronize()

    out = []
    for i in range(repeats + warmup):
        sync()
        tic = time.perf_counter()
        f()
        sync()
        if i >= warmup:
            out.append(time.perf_counter() - tic)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--frames", type=int, default=13)
    p.add_argument("--sizes", nargs="+", default=["128x384", "256x768"])
    p.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--both", action="store_true", help="both experts, fp8 storage")
    p.add_argument("--layers", type=int, default=40)
    p.add_argument("--dim", type=int, default=5120)
    p.add_argument("--output", default=None)
    a = p.parse_args()
    device, made_with, rows = torch.device(a.device), environment(), []
    config = {
        **WAN22_I2V_A14B,
        "num_layers": a.layers,
        "num_attention_heads": a.dim // 128,
        "ffn_dim": int(a.dim * 2.7),
    }
    which, path = (
        ("high", "low") if a.both else ("low",),
        Path(a.output or Path(__file__).parent / "results" / f"wan_step-{device.type}{'-both' if a.both else ''}.json"),
    )
    for checkpointing, compiled in (
        ((True, "none"),) if a.both else ((False, "none"), (True, "none"), (False, "inductor"), (True, "inductor"))
    ):
        options = WanConfig(gradient_checkpointing=checkpointing, compile=compiled, fp8=a.both)
        torch.manual_seed(0)
        wan = WanExperts(
            {e: random_expert(config, device) for e in which},
            dict(flow_shift=5.0),
            0.9,
            Source("random weights"),
            LoRAConfig(rank=a.rank, alpha=2 * a.rank),
            options,
            device,
            amp=True,
        )
        params = list(wan.lora.requires_grad_(True).parameters())
        opt = torch.optim.AdamW(params, lr=1e-4, fused=device.type == "cuda")
        for size in a.sizes:
            h, w = (int(s) // 8 for s in size.split("x"))
            k, tokens = (a.frames - 1) // 4 + 1, ((a.frames - 1) // 4 + 1) * (h // 2) * (w // 2)
            lin, att = forward_flops(config, tokens)
            for batch in a.batches:
                x0, noise, c = (torch.randn(batch, n, k, h, w, device=device) for n in (16, 16, 20))
                context, g = (
                    torch.randn(1, 512, config["text_dim"], device=device).expand(batch, -1, -1),
                    torch.Generator().manual_seed(0),
                )
                step = [0]

                def train():
                    e = which[step[0] % len(which)]
                    step[0] += 1
                    t = NoiseSchedule(5.0).timesteps(torch.rand(batch, generator=g, dtype=torch.float64), e).to(device)
                    x, target = interpolate(x0, noise, t / 1000)
                    flow_loss(wan.velocity(e, x, t, c, context), target, 2).mean().backward()
                    opt.step()
                    opt.zero_grad(set_to_none=True)

                def sample():
                    with torch.no_grad():
                        wan.velocity(which[-1], x0, torch.full((batch,), 500.0, device=device), c, context)

                for what, f, flops in (("train", train, 2 * lin + 3.5 * att), ("sample", sample, lin + att)):
                    if device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    row = dict(
                        what=what,
                        size=f"{a.frames}x{size}",
                        tokens=tokens,
                        batch=batch,
                        checkpointing=checkpointing,
                        compile=compiled,
                        experts=len(which),
                        fp8=a.both,
                    )
                    try:
                        seconds = measure(f, device, a.repeats)
                        s = statistics.median(seconds)
                        row |= dict(
                            median_s=s,
                            min_s=min(seconds),
                            max_s=max(seconds),
                            peak_gib=peak_memory(device),
                            tflops=batch * flops / s / 1e12,
                            mfu=batch * flops / s / 989e12 if device.type == "cuda" else None,
                        )
                    except torch.OutOfMemoryError:
                        row |= dict(out_of_memory=True)
                    opt.zero_grad(set_to_none=True)
                    gc.collect()
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
                    rows.append(row)
                    print(row, flush=True)
                    if str(path) != "/dev/null":
                        path.write_text(
                            json.dumps(
                                dict(
                                    benchmark="one step of a Wan expert, random weights",
                                    config=config,
                                    rank=a.rank,
                                    repeats=a.repeats,
                                    rows=rows,
                                    environment=made_with,
                                ),
                                indent=1,
                            )
                            + "\n"
                        )
                if rows[-2].get("out_of_memory"):
                    break
        del wan, params, opt
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
