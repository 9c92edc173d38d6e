"""One training step and one sampling step of an expert at the true configuration, with random weights.

    python benchmarks/wan_step.py --device cuda --loops ours plain    # one expert, bf16, batch 1 to what fits
    python benchmarks/wan_step.py --device cuda --fp8 --memory_gib 23    # frozen weights in fp8, on a card of 24 GiB
    python benchmarks/wan_step.py --device cuda --both --fp8          # both experts, in turn
    python benchmarks/wan_step.py --device cpu --layers 2 --dim 256 --repeats 3 --output /dev/null      # small

One expert is measured at 13×128×384 and 13×256×768, with and without checkpointing and compilation; both, and fp8, with
checkpointing. Random weights cost what trained ones cost. `ours` is our experts; `plain` is the model of diffusers with
the LoRA of peft in a loop of accelerate, with the same weights and inputs, and the same loss at the first update.
Seconds are medians; TFLOP/s and MFU count model FLOPs, 2 lin + 3.5 att for a LoRA step (no recomputation), against
989 TFLOP/s dense bf16 of an H100. Beside the peak stands what the dry run plans for the same things. Writes
benchmarks/results/wan_step-<device>.json.
"""

import argparse
import gc
import itertools
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from wan_well.files import PACKAGE, environment, write_whole
from wan_well.config import LoRAConfig, WanConfig, load_plan
from wan_well.forecast.flow import NoiseSchedule, flow_loss, interpolate
from wan_well.forecast.conditioning import save_prompt
from wan_well.forecast.experts import FOLDERS, WAN22_I2V_A14B, Source, WanExperts, forward_flops
from wan_well.forecast.footprint import estimate_memory
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
        torch.manual_seed(1)
        sizes = [(batch, channels, *frame) for channels in (16, 16, 20)]
        self.x0, self.noise, self.condition = (torch.randn(size, device=wan.device) for size in sizes)
        self.context = torch.randn(1, 512, wan.text_dim, device=wan.device).expand(batch, -1, -1)
        self.generator = torch.Generator().manual_seed(0)
        self.turns = itertools.cycle(wan.experts)
        self.first_loss = None

    def flow_velocity(self, which: str, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.wan.flow_velocity(which, x, t, self.condition, self.context)

    def backward(self, loss: torch.Tensor):
        loss.backward()

    def train(self):
        "One update of the LoRA"
        which = next(self.turns)
        u = torch.rand(self.batch, generator=self.generator, dtype=torch.float64)
        t = NoiseSchedule(5.0).timesteps(u, which).to(self.wan.device)
        x, target = interpolate(self.x0, self.noise, t / 1000)
        loss = flow_loss(self.flow_velocity(which, x, t), target, OBSERVED).mean()
        self.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.first_loss is None:
            self.first_loss = loss.item()

    @torch.no_grad()
    def sample(self):
        "One step of a walk, by the low-noise expert"
        t = torch.full((self.batch,), 500.0, device=self.wan.device)
        self.flow_velocity("low", self.x0, t)


class PlainExpert:
    "The model of diffusers with the LoRA of peft, prepared by accelerate as its users do"

    def __init__(self, a, config: dict, checkpointing: bool):
        from accelerate import Accelerator
        from peft import LoraConfig

        device, bf16 = torch.device(a.device), a.device != "cpu"
        self.accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=not bf16)
        torch.manual_seed(0)
        model = random_expert(config, device).requires_grad_(False)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        model.add_adapter(LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules=targets))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        for p in self.parameters:
            p.data = p.data.float()
        if checkpointing:
            model.enable_gradient_checkpointing()
        self.model, self.dtype = self.accelerator.prepare(model), torch.bfloat16 if bf16 else torch.float32
        if not bf16:
            model.float()
        self.experts, self.device, self.text_dim = dict(low=self.model), device, config["text_dim"]
        self.config = config


class PlainSteps(Steps):
    "The same with `PlainExpert`"

    def flow_velocity(self, which: str, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        plain = self.wan
        with plain.accelerator.autocast():
            answer = plain.model(
                hidden_states=torch.cat([x, self.condition], 1).to(plain.dtype),
                timestep=t,
                encoder_hidden_states=self.context.to(plain.dtype),
                return_dict=False,
            )
        return answer[0].float()

    def backward(self, loss: torch.Tensor):
        self.wan.accelerator.backward(loss)


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
        reserved_gib=torch.cuda.max_memory_reserved() / 2**30 if device.type == "cuda" else None,
        tflops=flops / median / 1e12,
        mfu=flops / median / PEAK_FLOPS if device.type == "cuda" else None,
    )


def limit_memory(a):
    "Leave the allocator as much as a smaller card has; before that everything is there in bf16"
    if a.memory_gib:
        free_memory(torch.device(a.device))
        total = torch.cuda.get_device_properties(a.device).total_memory
        torch.cuda.set_per_process_memory_fraction(a.memory_gib * 2**30 / total)


def random_experts(a, config: dict, options: WanConfig) -> WanExperts:
    "One expert, or both, with LoRA"
    device, which = torch.device(a.device), ("high", "low") if a.both else ("low",)
    torch.manual_seed(0)
    experts = {e: random_expert(config, device) for e in which}
    lora, source = LoRAConfig(rank=a.rank, alpha=2 * a.rank), Source("random weights")
    wan = WanExperts(experts, dict(flow_shift=5.0), 0.9, source, lora, options, device, amp=device.type == "cuda")
    return wan if wan.amp else wan.float()


HERE = ("experts", "LoRA, gradients, AdamW", "activations", "activations (blocks' inputs, one block)")


def planned(a, config: dict, tokens: int, batch: int, checkpointing: bool) -> dict:
    "What the dry run says that the update takes: of what is measured here, and with what a run has besides"
    switches = dict(gradient_checkpointing=checkpointing, fp8=a.fp8)
    argv = [f"wan.{name}={str(value).lower()}" for name, value in switches.items()] + [f"lora.rank={a.rank}"]
    cfg, _ = load_plan("diffuse", argv)
    n_experts = 2 if a.both else 1
    memory = estimate_memory(
        cfg, config, tokens, batch, "replicate", 1, n_experts, torch.device(a.device).type == "cuda"
    )
    here = sum(gib for name, gib in memory.parts.items() if name in HERE)
    return dict(plan_gib=here, plan_of_a_run_gib=memory.total, plan_parts_gib=memory.parts)


def time_size(a, steps_of: Callable, wan, optimizer: torch.optim.Optimizer, size: str, about: dict):
    "Rows of one size of clip, batch by batch until one does not fit"
    h, w = (int(s) // 8 for s in size.split("x"))
    k = (a.frames - 1) // 4 + 1
    tokens = k * (h // 2) * (w // 2)
    linear, attention = forward_flops(dict(wan.config), tokens)
    flops = dict(train=2 * linear + 3.5 * attention, sample=linear + attention)
    for batch in a.batches:
        steps, fits = steps_of(wan, optimizer, batch, (k, h, w)), True
        for what in a.what:
            row = time_step(getattr(steps, what), wan.device, a.repeats, batch * flops[what])
            fits = fits and not (what == "train" and "out_of_memory" in row)
            if what == "train":
                plan = planned(a, dict(wan.config), tokens, batch, about["checkpointing"])
                row |= dict(first_loss=steps.first_loss) | plan
            optimizer.zero_grad(set_to_none=True)
            free_memory(wan.device)
            yield dict(what=what, size=f"{a.frames}x{size}", tokens=tokens, batch=batch) | about | row
        if not fits:
            return


def switches(a) -> list[tuple[str, bool, str]]:
    "Loop, checkpointing and compilation of what is measured"
    if a.fp8:
        return [("ours", True, "none")]
    if a.both:
        return [("ours", True, "none"), ("ours", True, "inductor")]
    ways = [word == "on" for word in a.checkpointing]
    loops = [(loop, recompute, "none") for recompute in ways for loop in a.loops]
    return loops + [("ours", recompute, "inductor") for recompute in ways]


def rows_of(a, config: dict):
    "All rows, one by one"
    device = torch.device(a.device)
    for loop, checkpointing, compiled in switches(a):
        about = dict(loop=loop, checkpointing=checkpointing, compile=compiled, experts=1 + a.both, fp8=a.fp8)
        if loop == "plain":
            wan, steps_of = PlainExpert(a, config, checkpointing), PlainSteps
            trained = wan.parameters
        else:
            options = dict(gradient_checkpointing=checkpointing, compile=compiled, fp8=a.fp8, attention=a.attention)
            wan, steps_of = random_experts(a, config, WanConfig(**options)), Steps
            trained = list(wan.lora.requires_grad_(True).parameters())
            about["attention"] = a.attention
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device.type == "cuda")
        limit_memory(a)
        for size in a.sizes:
            yield from time_size(a, steps_of, wan, optimizer, size, about)
        del wan, trained, optimizer
        torch._dynamo.reset()
        free_memory(device)


def times_faster(rows: list[dict]) -> list[dict]:
    "Median of the plain loop over ours, for each update of ours, by checkpointing; the last: the best of each"
    found, trained = [], [row for row in rows if row["what"] == "train" and "median_s" in row]
    for size, batch in dict.fromkeys((row["size"], row["batch"]) for row in trained):
        same = [row for row in trained if (row["size"], row["batch"]) == (size, batch)]
        plain = {row["checkpointing"]: row["median_s"] for row in same if row["loop"] == "plain"}
        ours = [row for row in same if row["loop"] == "ours"]
        for row in ours:
            if row["checkpointing"] in plain:
                ratio = plain[row["checkpointing"]] / row["median_s"]
                about = {name: row[name] for name in ("checkpointing", "compile")}
                found.append(dict(size=size, batch=batch, **about, times_faster=ratio))
        if plain and ours:
            best = min(plain.values()) / min(row["median_s"] for row in ours)
            found.append(dict(size=size, batch=batch, best_of_each=True, times_faster=best))
    return found


def parse() -> argparse.Namespace:
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--frames", type=int, default=13)
    p.add_argument("--sizes", nargs="+", default=["128x384", "256x768"])
    p.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--what", nargs="+", default=["train", "sample"], choices=["train", "sample"])
    p.add_argument("--loops", nargs="+", default=["ours"], choices=["ours", "plain"])
    p.add_argument("--checkpointing", nargs="+", default=["off", "on"], choices=["off", "on"])
    p.add_argument("--both", action="store_true", help="both experts")
    p.add_argument("--fp8", action="store_true", help="frozen weights stored in fp8")
    p.add_argument("--attention", default="native", help="backend of attention, as wan.attention")
    p.add_argument("--memory_gib", type=float, help="what the allocator may take, once the weights are there")
    p.add_argument("--layers", type=int, default=40)
    p.add_argument("--dim", type=int, default=5120)
    p.add_argument("--output", default=None)
    return p.parse_args()


def main():
    a, made_with, rows = parse(), environment(), []
    config = expert_config(a.layers, a.dim)
    kind = "-both" * a.both + "-fp8" * a.fp8
    name = f"wan_step-{torch.device(a.device).type}{kind}.json"
    path = Path(a.output or Path(__file__).parent / "results" / name)
    for row in rows_of(a, config):
        rows.append(row)
        print(row, flush=True)
        content = dict(
            benchmark="one step of a Wan expert, random weights",
            model="random weights in the shape of Wan2.2-I2V-A14B",
            memory_gib=a.memory_gib,
            config=config,
            rank=a.rank,
            repeats=a.repeats,
            command=" ".join(["python benchmarks/wan_step.py", *sys.argv[1:]]),
            rows=rows,
            times_faster_than_plain=times_faster(rows),
            environment=made_with,
        )
        if str(path) != "/dev/null":
            write_whole(path, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
