"""One training step and one sampling step of an expert at the true configuration, with random weights.

    python benchmarks/wan_step.py --device cuda            # one expert, bf16, batch 1 to what fits
    python benchmarks/wan_step.py --device cuda --both     # both experts, frozen weights in fp8, with checkpointing
    python benchmarks/wan_step.py --device cpu --layers 2 --dim 256 --repeats 3 --output /dev/null      # small

One expert is measured at 13×128×384 and 13×256×768, with and without checkpointing and compilation. Random weights
cost what trained ones cost. Seconds are medians; TFLOP/s and MFU count model FLOPs, 2 lin + 3.5 att for a LoRA step
(no recomputation), against 989 TFLOP/s dense bf16 of an H100. Writes benchmarks/results/wan_step-<device>.json.
"""

import argparse
import gc
import itertools
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from wan_well.files import PACKAGE, environment, write_whole
from wan_well.config import LoRAConfig, WanConfig
from wan_well.forecast.flow import NoiseSchedule, flow_loss, interpolate
from wan_well.forecast.conditioning import save_prompt
from wan_well.forecast.experts import FOLDERS, WAN22_I2V_A14B, Source, WanExperts, forward_flops
from wan_well.training.log import peak_memory

PEAK_FLOPS = 989e12  # dense bf16 of an H100
OBSERVED = 2  # latent frames that carry no loss


def expert_config(layers: int, dim: int) -> dict:
    "The true configuration, with another depth and width"
    return {**WAN22_I2V_A14B, "num_layers": layers, "num_attention_heads": dim // 128, "ffn_dim": int(dim * 2.7)}


def random_expert(config: dict, device: torch.device) -> WanTransformer3DModel:
    "Weights drawn on the device, in bf16, with the modules that stay fp32 kept so"
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)
    for name, p in list(model.named_parameters()):
        keep = any(k in name for k in model._keep_in_fp32_modules)
        empty = torch.empty(p.shape, device=device, dtype=torch.float32 if keep else torch.bfloat16)
        value = empty.normal_(std=1 / math.sqrt(max(p.shape[-1], 1)))
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(value, requires_grad=False))
    rope = type(model.rope)(config["attention_head_dim"], config["patch_size"], config["rope_max_seq_len"])
    model.rope = rope.to(device)
    return model


def write_random_base(folder: str | Path, layers: int, dim: int, device: torch.device):
    "A folder in the layout of Wan2.2-I2V-A14B: low-noise expert and VAE with random weights, scheduler, prompt"
    folder, config, tiny = Path(folder), expert_config(layers, dim), PACKAGE / "assets/wan-tiny"
    torch.manual_seed(0)
    random_expert(config, device).save_pretrained(folder / FOLDERS["low"])
    AutoencoderKLWan().save_pretrained(folder / "vae")
    shutil.copytree(tiny / "scheduler", folder / "scheduler")
    shutil.copy(tiny / "model_index.json", folder)
    is_text = torch.arange(512) < 40  # the rest is padding
    prompt = torch.randn(1, 512, config["text_dim"]) * is_text[:, None]
    save_prompt(prompt, folder / "prompt_embeds.safetensors", "", str(folder))


def synchronize(device: torch.device):
    "Wait for the GPU, if there is one"
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(step: Callable[[], None], device: torch.device, repeats: int, warmup: int = 3) -> list[float]:
    "Seconds of each repetition"
    seconds = []
    for i in range(repeats + warmup):
        synchronize(device)
        began = time.perf_counter()
        step()
        synchronize(device)
        if i >= warmup:
            seconds.append(time.perf_counter() - began)
    return seconds


class Steps:
    "An update and a sample of one batch; experts take turns in updates"

    def __init__(self, wan: WanExperts, optimizer: torch.optim.Optimizer, batch: int, frame: tuple[int, int, int]):
        self.wan, self.optimizer, self.batch = wan, optimizer, batch
        sizes = [(batch, channels, *frame) for channels in (16, 16, 20)]
        self.x0, self.noise, self.condition = (torch.randn(size, device=wan.device) for size in sizes)
        self.context = torch.randn(1, 512, wan.text_dim, device=wan.device).expand(batch, -1, -1)
        self.generator = torch.Generator().manual_seed(0)
        self.turns = itertools.cycle(wan.experts)

    def train(self):
        "One update of the LoRA"
        which = next(self.turns)
        u = torch.rand(self.batch, generator=self.generator, dtype=torch.float64)
        t = NoiseSchedule(5.0).timesteps(u, which).to(self.wan.device)
        x, target = interpolate(self.x0, self.noise, t / 1000)
        predicted = self.wan.flow_velocity(which, x, t, self.condition, self.context)
        flow_loss(predicted, target, OBSERVED).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def sample(self):
        "One step of a walk, by the low-noise expert"
        t = torch.full((self.batch,), 500.0, device=self.wan.device)
        self.wan.flow_velocity("low", self.x0, t, self.condition, self.context)


def free_memory(device: torch.device):
    "Give memory back, so that the next measurement starts from the same state"
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def time_step(step: Callable[[], None], device: torch.device, repeats: int, flops: float) -> dict:
    "Seconds, memory and arithmetic of a step; only `out_of_memory` where it does not fit"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = measure(step, device, repeats)
    except torch.OutOfMemoryError:
        return dict(out_of_memory=True)
    median = statistics.median(seconds)
    return dict(
        median_s=median,
        min_s=min(seconds),
        max_s=max(seconds),
        peak_gib=peak_memory(device),
        tflops=flops / median / 1e12,
        mfu=flops / median / PEAK_FLOPS if device.type == "cuda" else None,
    )


def random_experts(a, config: dict, options: WanConfig) -> WanExperts:
    "One expert, or both, with LoRA"
    device, which = torch.device(a.device), ("high", "low") if a.both else ("low",)
    torch.manual_seed(0)
    experts = {e: random_expert(config, device) for e in which}
    lora, source = LoRAConfig(rank=a.rank, alpha=2 * a.rank), Source("random weights")
    return WanExperts(experts, dict(flow_shift=5.0), 0.9, source, lora, options, device, amp=True)


def time_size(a, wan: WanExperts, optimizer: torch.optim.Optimizer, size: str, about: dict):
    "Rows of one size of clip, batch by batch until one does not fit"
    h, w = (int(s) // 8 for s in size.split("x"))
    k = (a.frames - 1) // 4 + 1
    tokens = k * (h // 2) * (w // 2)
    linear, attention = forward_flops(dict(wan.config), tokens)
    flops = dict(train=2 * linear + 3.5 * attention, sample=linear + attention)
    for batch in a.batches:
        steps, fits = Steps(wan, optimizer, batch, (k, h, w)), True
        for what, n in flops.items():
            row = time_step(getattr(steps, what), wan.device, a.repeats, batch * n)
            fits = fits and not (what == "train" and "out_of_memory" in row)
            optimizer.zero_grad(set_to_none=True)
            free_memory(wan.device)
            yield dict(what=what, size=f"{a.frames}x{size}", tokens=tokens, batch=batch) | about | row
        if not fits:
            return


def rows_of(a, config: dict):
    "All rows, one by one"
    if a.both:
        switches = [(True, "none")]
    else:
        switches = [(False, "none"), (True, "none"), (False, "inductor"), (True, "inductor")]
    for checkpointing, compiled in switches:
        wan = random_experts(a, config, WanConfig(gradient_checkpointing=checkpointing, compile=compiled, fp8=a.both))
        trained = list(wan.lora.requires_grad_(True).parameters())
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=wan.device.type == "cuda")
        about = dict(checkpointing=checkpointing, compile=compiled, experts=len(wan.experts), fp8=a.both)
        for size in a.sizes:
            yield from time_size(a, wan, optimizer, size, about)
        del wan, trained, optimizer
        free_memory(torch.device(a.device))


def parse() -> argparse.Namespace:
    "The command line"
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
    return p.parse_args()


def main():
    a, made_with, rows = parse(), environment(), []
    config = expert_config(a.layers, a.dim)
    name = f"wan_step-{torch.device(a.device).type}{'-both' if a.both else ''}.json"
    path = Path(a.output or Path(__file__).parent / "results" / name)
    for row in rows_of(a, config):
        rows.append(row)
        print(row, flush=True)
        content = dict(
            benchmark="one step of a Wan expert, random weights",
            config=config,
            rank=a.rank,
            repeats=a.repeats,
            rows=rows,
            environment=made_with,
        )
        if str(path) != "/dev/null":
            write_whole(path, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
