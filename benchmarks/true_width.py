"""One update of two blocks at the true width on a CPU: gradients, memory and time, beside the plain loop.

    python benchmarks/true_width.py                                        # about 6 GiB; minutes on one core
    python benchmarks/true_width.py --dim 256 --output /dev/null           # small

Everything is as in Wan2.2-I2V-A14B except the number of blocks: width 5120, feed-forward 13824, 3072 tokens of a clip
of 13 × 256 × 768, 512 tokens of text, LoRA of rank 32, gradient checkpointing, bf16. `ours` is our experts, `plain` the
model of diffusers with the LoRA of peft and diffusers' own checkpointing, with the same random weights, LoRA and noise.
Each runs in a process of its own. Compared are the loss and all gradients of the LoRA at the first update.

Memory is the peak of resident memory above the idle process, in two updates. Beside it stand the tensors that are alive
at once, counted in the first, and what the dry run plans for the same blocks. Time is that of the second update,
as a ratio to bare matrix products of the same dtype and as many operations, recomputation included, in the same
process. Writes benchmarks/results/true_width.json.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile
from memory import GIB, AliveBytes, in_subprocess, peak_gib, resident_gib, restart_peak, set_parameters
from wan_step import HERE, OBSERVED, expert_config
from wan_well.config import LoRAConfig, WanConfig, load_plan
from wan_well.files import environment, write_whole
from wan_well.forecast.experts import Source, WanExperts
from wan_well.forecast.flow import NoiseSchedule, flow_loss, interpolate
from wan_well.forecast.footprint import estimate_memory, step_flops

RESULTS = Path(__file__).parent / "results"
LORA = LoRAConfig(rank=32, alpha=64)
LATENTS = (4, 32, 96)  # of 13 × 256 × 768
CONTEXT = 512


def draw_parameter(name: str, shape: torch.Size, keep: list[str]) -> torch.Tensor:
    "A parameter in the precision in which diffusers keeps it; norms are ones, the rest noise of the usual size"
    dtype = torch.float32 if any(part in name for part in keep) else torch.bfloat16
    if "norm" in name:
        return torch.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(std=shape[-1] ** -0.5)


def drawn_expert(config: dict) -> WanTransformer3DModel:
    "An expert with random weights"
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config)
    set_parameters(model, lambda name, shape: draw_parameter(name, shape, model._keep_in_fp32_modules))
    model.rope = type(model.rope)(config["attention_head_dim"], config["patch_size"], config["rope_max_seq_len"])
    return model


def draw_inputs(config: dict) -> dict[str, torch.Tensor]:
    "A clip, noise, what the expert is shown, a text, a time step"
    torch.manual_seed(1)
    x0, noise, condition = (torch.randn(1, channels, *LATENTS) for channels in (16, 16, 20))
    context = torch.randn(1, CONTEXT, config["text_dim"])
    t = NoiseSchedule(5.0).timesteps(torch.tensor([0.4], dtype=torch.float64), "low")
    return dict(x0=x0, noise=noise, condition=condition, context=context, t=t)


class Ours:
    "Our experts"

    def __init__(self, config: dict):
        experts, source = dict(low=drawn_expert(config)), Source("random weights")
        options = WanConfig(gradient_checkpointing=True)
        self.wan = WanExperts(experts, dict(flow_shift=5.0), 0.9, source, LORA, options, "cpu", amp=True)
        self.model = self.wan.experts["low"]
        self.wan.lora.requires_grad_(True)

    def flow_velocity(self, x: torch.Tensor, t: torch.Tensor, given: dict) -> torch.Tensor:
        return self.wan.flow_velocity("low", x, t, given["condition"], given["context"])


class Plain:
    "The model of diffusers with the LoRA of peft"

    def __init__(self, config: dict):
        self.model = drawn_expert(config)
        targets = LORA.target_modules
        self.model.add_adapter(LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=targets))
        self.model.enable_gradient_checkpointing()
        for p in self.model.parameters():
            if p.requires_grad:
                p.data = p.data.float()

    def flow_velocity(self, x: torch.Tensor, t: torch.Tensor, given: dict) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            answer = self.model(
                hidden_states=torch.cat([x, given["condition"]], 1).to(torch.bfloat16),
                timestep=t,
                encoder_hidden_states=given["context"].to(torch.bfloat16),
                return_dict=False,
            )
        return answer[0].float()


CONTENDERS = dict(ours=Ours, plain=Plain)


def lora_weights(model: WanTransformer3DModel) -> dict[str, torch.nn.Parameter]:
    "Trained weights by the name of their layer, which a wrapper around a block does not change"
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            name = name.replace("._checkpoint_wrapped_module", "")
            found[f"{name}.A"], found[f"{name}.B"] = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return dict(sorted(found.items()))


def draw_lora(weights: dict[str, torch.nn.Parameter]):
    "A LoRA that does something: with B zero, as it starts, the gradient of A would be zero too"
    torch.manual_seed(2)
    for weight in weights.values():
        weight.data.normal_(std=weight.shape[-1] ** -0.5)


def update(contender, given: dict, weights: dict, optimizer: torch.optim.Optimizer) -> tuple[float, dict]:
    "One update; the loss, and the gradients"
    x, target = interpolate(given["x0"], given["noise"], given["t"] / 1000)
    loss = flow_loss(contender.flow_velocity(x, given["t"], given), target, OBSERVED).mean()
    loss.backward()
    gradients = {name: p.grad for name, p in weights.items()}
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, gradients


def prepared(name: str, config: dict) -> tuple:
    "What `update` takes"
    torch.manual_seed(0)
    contender = CONTENDERS[name](config)
    given, weights = draw_inputs(config), lora_weights(contender.model)
    draw_lora(weights)
    return contender, given, weights, torch.optim.AdamW(weights.values(), lr=1e-4)


def bare_products(config: dict, tokens: int, flops: float) -> tuple[float, float]:
    "Seconds and CPU seconds of bf16 matrix products of the feed-forward layer with as many operations"
    d, hidden = config["num_attention_heads"] * config["attention_head_dim"], config["ffn_dim"]
    x, w = torch.randn(tokens, d).bfloat16(), torch.randn(d, hidden).bfloat16()
    n = flops / (2 * tokens * d * hidden)
    x @ w
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(round(n)):
        x @ w
    scale = n / round(n)
    return scale * (time.perf_counter() - began), scale * (time.process_time() - cpu)


def attention_kernel(config: dict, tokens: int) -> list[str]:
    "What torch runs for attention of this shape here"
    q = torch.randn(1, config["num_attention_heads"], tokens, config["attention_head_dim"]).bfloat16()
    with profile(activities=[ProfilerActivity.CPU]) as found, torch.no_grad():
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    names = {event.key for event in found.key_averages() if "scaled_dot_product" in event.key}
    return sorted(names - {"aten::scaled_dot_product_attention"})


def tokens_of(config: dict) -> int:
    "Tokens of a clip"
    k, h, w = LATENTS
    frames, rows, columns = config["patch_size"]
    return (k // frames) * (h // rows) * (w // columns)


def run_part(a) -> dict:
    "Two updates of a contender, in this process"
    update(*prepared(a.part, expert_config(1, 128)))  # libraries are loaded and kernels made
    config, resident = expert_config(a.layers, a.dim), resident_gib()
    contender, given, weights, optimizer = prepared(a.part, config)
    built = resident_gib() - resident
    restart_peak()
    with counting(contender) as alive:
        loss, gradients = update(contender, given, weights, optimizer)
    moments = 8 * sum(p.numel() for p in weights.values())  # they come at the end of this update
    save_file({name: g.contiguous() for name, g in gradients.items()}, a.gradients)
    loss = loss.item()
    del gradients
    began, cpu = time.perf_counter(), time.process_time()
    update(contender, given, weights, optimizer)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    peak = peak_gib() - resident
    tokens = tokens_of(config)
    _, flops = step_flops(config, tokens, checkpointing=True)
    bare_s, bare_cpu_s = bare_products(config, tokens, flops)
    return dict(
        loss=loss,
        idle_gib=resident,
        weights_gib=built,
        peak_gib=peak,
        counted_gib=(alive.peak + moments) / GIB,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        bare_seconds=bare_s,
        bare_cpu_seconds=bare_cpu_s,
        times_bare=cpu_seconds / bare_cpu_s,
        tflop=flops / 1e12,
        attention=attention_kernel(config, tokens),
    )


def counting(contender) -> AliveBytes:
    "A count of tensors that begins with the weights"
    alive = AliveBytes()
    for tensor in contender.model.state_dict().values():
        alive.add(tensor)
    return alive


def planned(config: dict) -> dict[str, float]:
    "What the dry run adds up for what is there, GiB by part"
    cfg, _ = load_plan("diffuse", [f"lora.rank={LORA.rank}"])
    parts = estimate_memory(cfg, config, tokens_of(config), 1, "replicate", 1).parts
    return {name: gib for name, gib in parts.items() if name in HERE}


def compare_gradients(ours: dict, plain: dict) -> dict:
    "How far gradients are apart"
    assert ours.keys() == plain.keys()
    off = {name: ((ours[name] - plain[name]).norm() / plain[name].norm()).item() for name in plain}
    return dict(
        tensors=len(off),
        bitwise_equal=sum(torch.equal(ours[name], plain[name]) for name in plain),
        largest_relative_difference=max(off.values()),
        smallest_norm=min(g.norm().item() for g in plain.values()),
    )


def parse() -> argparse.Namespace:
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--dim", type=int, default=5120)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--output", type=Path, default=RESULTS / "true_width.json")
    p.add_argument("--part", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    p.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--gradients", type=Path, help=argparse.SUPPRESS)
    return p.parse_args()


def measure(a, folder: str) -> dict:
    "All of it"
    config, rows, gradients = expert_config(a.layers, a.dim), {}, {}
    for name in CONTENDERS:
        path = Path(folder) / f"{name}.safetensors"
        rows[name] = in_subprocess(__file__, name, [*sys.argv[1:], "--gradients", str(path)])
        gradients[name] = load_file(path)
        print(name, rows[name], flush=True)
    parts = planned(config)
    plan, losses = sum(parts.values()), [rows[name]["loss"] for name in CONTENDERS]
    return dict(
        tokens=tokens_of(config),
        context=CONTEXT,
        contenders=rows,
        loss_difference=abs(losses[0] - losses[1]) / abs(losses[1]),
        gradients=compare_gradients(**gradients),
        plan_gib=plan,
        plan_parts_gib=parts,
        plan_over_measured=plan / rows["ours"]["peak_gib"],
        plan_over_counted=plan / rows["ours"]["counted_gib"],
    )


def main():
    a = parse()
    torch.set_num_threads(a.threads)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(a.threads)
    if a.part:
        a.result.write_text(json.dumps(run_part(a)))
        return
    made_with = environment()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(a, folder)
    content = dict(
        benchmark="one LoRA update of two blocks at the true width on a CPU",
        settings=dict(layers=a.layers, dim=a.dim, rank=LORA.rank, dtype="bf16", threads=a.threads),
        config=expert_config(a.layers, a.dim),
        **found,
        environment=made_with,
    )
    print(json.dumps({key: content[key] for key in ("gradients", "plan_over_measured", "plan_over_counted")}))
    if str(a.output) != "/dev/null":
        write_whole(a.output, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
