"""Where the time of a LoRA update of one expert goes, and what would make it faster; true shape, random weights.

    python benchmarks/wan_profile.py --device cuda
    python benchmarks/wan_profile.py --device cpu --layers 2 --dim 256 --size 64x96 --repeats 2 --output /dev/null

First the kernels of an eager and of a compiled update, by kind. Then updates with one thing changed: the backend of
attention, the mode of the compiler, norms or whole feed-forward parts compiled alone. Then the parts of a block alone:
the matrix products that an update cannot do without, attention by backend, rotary embedding and norms as diffusers
writes them and compiled. Nothing of the package is changed. Writes benchmarks/results/wan_profile-<device>.json.
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from wan_step import Steps, expert_config, free_memory, measure, random_experts, synchronize
from wan_well.config import WanConfig
from wan_well.files import environment, write_whole
from wan_well.forecast.experts import WanExperts, forward_flops

KINDS = (  # of kernels, by a part of their names; the first that fits
    ("attention", ("flash", "fmha", "attention", "sdpa")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "cublas", "xmma", "splitk", "aten::mm", "addmm", "bmm")),
    ("compiled fusions", ("triton",)),
    ("norms", ("norm",)),
    ("optimizer", ("adam", "multi_tensor")),
    ("copies and casts", ("copy", "memcpy", "memset", "cat")),
    ("elementwise", ("elementwise", "gelu", "reduce", "mul", "add", "fill")),
)
SDPA = dict(
    flash=SDPBackend.FLASH_ATTENTION, cudnn=SDPBackend.CUDNN_ATTENTION, efficient=SDPBackend.EFFICIENT_ATTENTION
)


def expert(a, attention: str = "native", compiled: str = "none", checkpointing: bool = False) -> WanExperts:
    "One expert with LoRA"
    options = WanConfig(attention=attention, compile=compiled, gradient_checkpointing=checkpointing)
    return random_experts(a, expert_config(a.layers, a.dim), options)


def steps_of(a, wan: WanExperts) -> Steps:
    "Updates of one clip"
    trained = list(wan.lora.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=wan.device.type == "cuda")
    h, w = (int(s) // 8 for s in a.size.split("x"))
    return Steps(wan, optimizer, 1, ((a.frames - 1) // 4 + 1, h, w))


def seconds_of(step: Callable, a) -> dict:
    "Median, least and most seconds; or why there are none"
    try:
        seconds = measure(step, torch.device(a.device), a.repeats)
    except Exception as e:  # a backend that is not there, or too little memory: written down, and on
        return dict(failed=f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:300])
    return dict(median_s=statistics.median(seconds), min_s=min(seconds), max_s=max(seconds))


# ---- kernels


def kind_of(name: str) -> str:
    "What a kernel does, by its name"
    return next((kind for kind, parts in KINDS if any(part in name.lower() for part in parts)), "other")


def profiled(step: Callable, a) -> dict:
    "Seconds of kernels of an update by kind, the longest by name, and the time in which the device has nothing to do"
    for _ in range(3):
        step()
    device, n = torch.device(a.device), 3
    synchronize(device)
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as trace:
        for _ in range(n):
            step()
        synchronize(device)
    where, by_kind, by_name, counts = DeviceType.CUDA if on_gpu else DeviceType.CPU, Counter(), Counter(), Counter()
    for event in trace.key_averages():
        if event.device_type != where:
            continue
        seconds = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 / n
        by_kind[kind_of(event.key)] += seconds
        by_name[event.key[:150]] += seconds
        counts[event.key[:150]] += event.count / n
    longest = [dict(name=k, kind=kind_of(k), seconds=s, calls=counts[k]) for k, s in by_name.most_common(20)]
    busy = sum(by_kind.values())
    return dict(kernel_s=busy, by_kind_s=dict(by_kind.most_common()), kernels=sum(counts.values()), longest=longest)


# ---- updates with one thing changed


def compile_norms(wan: WanExperts):
    "Compile the norms, and nothing else"
    for m in wan.experts["low"].modules():
        if "Norm" in type(m).__name__:
            m.compile()


def compile_parts(wan: WanExperts):
    "Compile norms and feed-forward parts, and nothing else"
    compile_norms(wan)
    for block in wan.experts["low"].blocks:
        block.ffn.compile()


def compile_blocks(mode: str) -> Callable:
    "Compile the blocks in a mode of torch.compile"
    return lambda wan: [block.compile(fullgraph=True, mode=mode) for block in wan.experts["low"].blocks]


def lora_in_bf16(wan: WanExperts):
    "Keep the LoRA in bf16, so that its inputs are not brought to fp32 and back"
    wan.lora.to(torch.bfloat16)


CHANGES = {  # name: (attention, compile, checkpointing, what is done to the expert)
    "eager": ("native", "none", False, None),
    "eager, cuDNN attention": ("_native_cudnn", "none", False, None),
    "eager, flash attention of torch": ("_native_flash", "none", False, None),
    "eager, LoRA in bf16": ("native", "none", False, lora_in_bf16),
    "eager, norms compiled": ("native", "none", False, compile_norms),
    "eager, norms and feed-forward compiled": ("native", "none", False, compile_parts),
    "compiled": ("native", "inductor", False, None),
    "compiled, cuDNN attention": ("_native_cudnn", "inductor", False, None),
    "compiled, flash attention of torch": ("_native_flash", "inductor", False, None),
    "compiled, LoRA in bf16": ("native", "inductor", False, lora_in_bf16),
    "compiled, max-autotune-no-cudagraphs": ("native", "none", False, compile_blocks("max-autotune-no-cudagraphs")),
}
PROFILED = ("eager", "compiled")


def changed_updates(a, flops: float):
    "One row for each change, with the kernels of some"
    for name, (attention, compiled, checkpointing, change) in CHANGES.items():
        if a.changes and name not in a.changes:
            continue
        torch._dynamo.reset()
        free_memory(torch.device(a.device))
        try:
            wan = expert(a, attention, compiled, checkpointing)
            if change:
                change(wan)
            steps = steps_of(a, wan)
            row = seconds_of(steps.train, a)
            if name in PROFILED and "median_s" in row:
                row["profile"] = profiled(steps.train, a)
        except Exception as e:  # what cannot be made here is written down
            row = dict(failed=f"{type(e).__name__}: {' '.join(str(e).split())}"[:300])
        if "median_s" in row:
            row["tflops"] = flops / row["median_s"] / 1e12
        yield dict(change=name) | row
        wan = steps = None


# ---- parts of a block alone


def with_gradient(f: Callable, *inputs: torch.Tensor) -> Callable:
    "Forward, and backward to the inputs"
    inputs = [x.requires_grad_() for x in inputs]
    answer = torch.randn_like(f(*inputs))
    return lambda: torch.autograd.grad(f(*inputs), inputs, answer)


def products(a, config: dict, tokens: int, dtype: torch.dtype) -> Callable:
    "The matrix products of the frozen layers of one block, forward and to the inputs"
    d, wide = a.dim, config["ffn_dim"]
    options = dict(dtype=dtype, device=a.device)
    x, context = torch.randn(tokens, d, **options), torch.randn(512, d, **options)
    h = torch.randn(tokens, wide, **options)
    square = torch.randn(d, d, **options)
    up, down = torch.randn(wide, d, **options), torch.randn(d, wide, **options)

    def run():
        for back in (False, True):
            turned = square if back else square.T
            for _ in range(6):  # q, k, v, out; q and out across
                x @ turned
            for _ in range(2):  # k and v of the text
                context @ turned
            h @ (up if back else down.T)
            x @ (down if back else up.T)

    return run


def rotate(x: torch.Tensor, freqs_cos: torch.Tensor, freqs_sin: torch.Tensor) -> torch.Tensor:
    "Rotary embedding as diffusers writes it"
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = freqs_cos[..., 0::2], freqs_sin[..., 1::2]
    out = torch.empty_like(x)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out.type_as(x)


def modulated(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    "A norm with scale and shift as diffusers writes it"
    return (nn.functional.layer_norm(x.float(), x.shape[-1:]) * (1 + scale) + shift).type_as(x)


def parts(a, config: dict, tokens: int, dtype: torch.dtype) -> dict[str, Callable]:
    "What is timed alone, with its backward pass, by name"
    heads, options = config["num_attention_heads"], dict(dtype=dtype, device=a.device)

    def attention(backend: SDPBackend | None, n_keys: int):
        q, k, v = (torch.randn(1, heads, n, 128, **options) for n in (tokens, n_keys, n_keys))

        def run(q, k, v):
            if backend is None:
                return nn.functional.scaled_dot_product_attention(q, k, v)
            with sdpa_kernel(backend):
                return nn.functional.scaled_dot_product_attention(q, k, v)

        return with_gradient(run, q, k, v)

    angles = [torch.randn(1, tokens, 1, 128, device=a.device) for _ in range(2)]
    modulation = [torch.randn(1, 1, a.dim, device=a.device) for _ in range(2)]
    found = {"matrix products of a block": lambda: products(a, config, tokens, dtype)}
    for n_keys, where in ((tokens, "self-attention"), (512, "cross-attention")):
        for name, backend in {"as torch chooses": None, **SDPA}.items():
            found[f"{where}, {name}"] = lambda b=backend, n=n_keys: attention(b, n)
    for name, wrap in (("", lambda f: f), (", compiled", torch.compile)):
        x = torch.randn(1, tokens, heads, 128, **options)
        found[f"rotary embedding{name}"] = lambda w=wrap, x=x: with_gradient(w(lambda x: rotate(x, *angles)), x)
        y = torch.randn(1, tokens, a.dim, **options)
        found[f"norm with scale and shift{name}"] = lambda w=wrap, y=y: with_gradient(
            w(lambda y: modulated(y, *modulation)), y
        )
    return found


def timed_parts(a, config: dict, tokens: int):
    "One row for each part"
    dtype = torch.bfloat16 if a.device != "cpu" else torch.float32
    torch._dynamo.reset()
    for name, make in parts(a, config, tokens, dtype).items():
        try:
            yield dict(part=name) | seconds_of(make(), a)
        except Exception as e:  # a backend that cannot do this
            yield dict(part=name, failed=f"{type(e).__name__}: {' '.join(str(e).split())}"[:300])


# ---- all of it


def parse() -> argparse.Namespace:
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--frames", type=int, default=13)
    p.add_argument("--size", default="256x768")
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--layers", type=int, default=40)
    p.add_argument("--dim", type=int, default=5120)
    p.add_argument("--changes", nargs="+", choices=list(CHANGES), help="only these")
    p.add_argument("--output", default=None)
    a = p.parse_args()
    a.both = False
    return a


def main():
    a, made_with = parse(), environment()
    config, result = expert_config(a.layers, a.dim), dict(updates=[], parts=[])
    h, w = (int(s) // 16 for s in a.size.split("x"))
    tokens = ((a.frames - 1) // 4 + 1) * h * w
    linear, attention = forward_flops(config, tokens)
    path = Path(a.output or Path(__file__).parent / "results" / f"wan_profile-{torch.device(a.device).type}.json")
    about = dict(
        benchmark="where the time of a LoRA update of one Wan expert goes",
        model="random weights in the shape of Wan2.2-I2V-A14B",
        command=" ".join(["python benchmarks/wan_profile.py", *sys.argv[1:]]),
        config=config,
        size=f"{a.frames}x{a.size}",
        tokens=tokens,
        repeats=a.repeats,
    )
    rows = [("parts", timed_parts(a, config, tokens)), ("updates", changed_updates(a, 2 * linear + 3.5 * attention))]
    for name, found in rows:
        for row in found:
            result[name].append(row)
            print({k: v for k, v in row.items() if k != "profile"}, flush=True)
            if str(path) != "/dev/null":
                write_whole(path, json.dumps(about | result | dict(environment=made_with), indent=1) + "\n")


if __name__ == "__main__":
    main()
