"""What it takes to load experts of the true shape, without their weights.

    python benchmarks/loading.py                                      # about 5 GiB of memory, 6 GB of disk, 10 minutes
    python benchmarks/loading.py --blocks 1 --world 4 --true_blocks 2 --output /dev/null       # small

Files have true headers and sizes, and holes for numbers (`forecast.sparse_base`), but for the last part, which compares
numbers: its experts have random ones. Memory is that of the host: the most that was resident in a process, beyond what
it had after its imports; pages of a file count as long as they are mapped. Each row is a process of its own:

- plan: `train --dry-run` and `require_complete` on the whole model, 40 blocks
- share: what one process of a large world loads of both experts; the others do not exist, for nothing is asked of them
- whole: one expert of few blocks on the CPU, as diffusers loads it and as it is loaded here, also in fp8 and offloaded
- ranks: real gloo processes; all shares of an expert together are compared with the file
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import WanTransformer3DModel
from memory import GIB, peak_gib, resident_gib, restart_peak
from safetensors import safe_open
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from wan_well.config import LoRAConfig, WanConfig
from wan_well.files import environment, write_whole
from wan_well.latents.base_model import require_complete
from wan_well.latents.loading import load_model, weight_files
from wan_well.latents.model_files import ExpertFacts
from wan_well.forecast.experts import FOLDERS, WanExperts
from wan_well.forecast.sharding import whole
from wan_well.forecast.sparse_base import write_sparse_base
from wan_well.forecast.weights import stored_name

LORA = LoRAConfig(rank=32, alpha=64)


def kept_gib(wan: WanExperts) -> float:
    "What this process keeps of the experts, with their LoRA"
    local = [p.to_local() if isinstance(p, DTensor) else p for p in wan.parameters()]
    return sum(t.numel() * t.element_size() for t in local) / GIB


def largest_gib(folder: Path) -> float:
    "The largest tensor of the files of an expert"
    sizes = [np.prod(shape, dtype=int) for h in weight_files(folder).values() for shape in h.shapes.values()]
    kind = next(iter(next(iter(weight_files(folder).values())).kinds.values()))
    return int(max(sizes)) * (4 if kind == "F32" else 2) / GIB


def timed_load(load: Callable) -> tuple[object, dict]:
    "What was loaded; seconds and memory"
    before = resident_gib()
    restart_peak()
    began = time.perf_counter()
    loaded = load()
    return loaded, dict(seconds=time.perf_counter() - began, peak_gib=peak_gib() - before)


# ---- what a process does


def plan(base: str, a: argparse.Namespace) -> dict:
    "The dry run, and the look at all files"
    began = time.perf_counter()
    for part in (*FOLDERS.values(), "vae", "scheduler"):
        require_complete(Path(base) / part)
    looked = time.perf_counter() - began
    command = ["train", "--dry-run", "--config", "diffuse", "--model_name", base, "--gpus", str(a.world)]
    done = subprocess.run([sys.executable, "-m", "wan_well.cli", *command], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("experts", "memory", "loading"))]
    return dict(require_complete_s=looked, dry_run_s=time.perf_counter() - began - looked, dry_run=lines)


def share(base: str, a: argparse.Namespace, rank: int) -> dict:
    "What one process of a large world loads"
    dist.init_process_group(backend="fake", store=FakeStore(), rank=rank, world_size=a.world)
    mesh, options = init_device_mesh("cpu", (a.world,)), WanConfig(gradient_checkpointing=True)
    wan, row = timed_load(lambda: WanExperts.from_pretrained(base, lora=LORA, options=options, amp=True, mesh=mesh))
    assert all(isinstance(p, DTensor) and not p.is_meta for p in wan.parameters())
    n = {which: sum(p.numel() for p in e.parameters()) for which, e in wan.experts.items()}
    return row | dict(rank=rank, parameters=n, kept_gib=kept_gib(wan))


WHOLE = {
    "bf16": WanConfig(),
    "fp8": WanConfig(fp8=True),
    "group offload": WanConfig(group_offload=True),
    "group offload, fp8": WanConfig(group_offload=True, fp8=True),
    "group offload to disk": WanConfig(group_offload=True, offload_dir="{scratch}"),
}


def whole_expert(base: str, a: argparse.Namespace, name: str) -> dict:
    "One expert on the CPU"
    if name == "diffusers":
        low = Path(base) / FOLDERS["low"]
        expert, row = timed_load(lambda: load_model(WanTransformer3DModel, low, ExpertFacts, torch.bfloat16))
        return row | dict(kept_gib=sum(p.numel() * p.element_size() for p in expert.parameters()) / GIB)
    options = WHOLE[name]
    if options.offload_dir:
        options = options.model_copy(update=dict(offload_dir=str(Path(base).parent)))
    wan, row = timed_load(
        lambda: WanExperts.from_pretrained(base, which=("low",), lora=LORA, options=options, amp=True)
    )
    kept = (
        sum(p.numel() * p.element_size() for p in wan.lora.parameters()) / GIB if options.offload_dir else kept_gib(wan)
    )
    return row | dict(kept_gib=kept)


def write_random(base: Path):
    "Fill the holes of the low-noise expert, in bf16, with random finite numbers"
    random = np.random.default_rng(1)
    for path, header in weight_files(base / FOLDERS["low"]).items():
        n = sum(int(np.prod(shape)) for shape in header.shapes.values())
        with open(path, "r+b") as f:
            f.seek(header.size - 2 * n)
            for begin in range(0, n, 2**26):
                bits = random.integers(0, 2**16, min(2**26, n - begin), dtype=np.uint16)
                f.write((bits & 0xBFFF).tobytes())  # without the exponent's first bit: smaller than two


def compare(base: str, wan: WanExperts) -> tuple[int, int]:  # tensors, and numbers that differ
    "All shares together, tensor by tensor, with what is in the file"
    files = {name: path for path, h in weight_files(Path(base) / FOLDERS["low"]).items() for name in h.shapes}
    seen, wrong = 0, 0
    for name, p in wan.experts["low"].named_parameters():
        if "lora_" in name:
            continue
        together = whole(p.detach())
        if dist.get_rank() == 0:
            with safe_open(files[stored_name(name)], "pt") as f:
                wrong += int((f.get_tensor(stored_name(name)).to(p.dtype) != together).sum())
        seen += 1
    assert seen == len(files)
    return seen, wrong


def become_rank(rank: int, n: int, base: str, out: str):
    "One of several real processes"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting-{n}", rank=rank, world_size=n)
    mesh, options = init_device_mesh("cpu", (n,)), WanConfig(gradient_checkpointing=True)
    load = dict(which=("low",), lora=LORA, options=options, amp=True, mesh=mesh)
    wan, row = timed_load(lambda: WanExperts.from_pretrained(base, **load))
    tensors, wrong = compare(base, wan)
    row |= dict(rank=rank, kept_gib=kept_gib(wan), tensors=tensors, numbers_that_differ=wrong)
    Path(f"{out}/{n}-{rank}.json").write_text(json.dumps(row))
    dist.destroy_process_group()


def ranks(base: str, n: int) -> dict:
    "Several processes with one expert"
    with tempfile.TemporaryDirectory() as out:
        mp.spawn(become_rank, (n, base, out), nprocs=n)
        rows = [json.loads(Path(f"{out}/{n}-{rank}.json").read_text()) for rank in range(n)]
    assert rows[0]["numbers_that_differ"] == 0
    return dict(processes=rows)


# ---- all of it


def apart(f: Callable, *args) -> dict:
    "The answer of a function that is called in a new process"
    with mp.get_context("spawn").Pool(1) as pool:
        return pool.apply(f, args)


def rows_of(a: argparse.Namespace, scratch: str):
    "All rows, one by one"
    true = str(write_sparse_base(f"{scratch}/true", a.true_blocks))
    about = dict(
        blocks=a.true_blocks, stored="F32", world=a.world, largest_tensor_gib=largest_gib(Path(true, "transformer"))
    )
    yield dict(what="plan", **about) | apart(plan, true, a)
    for rank in (0, a.world - 1):
        yield dict(what="share", **about) | apart(share, true, a, rank)
    few = str(write_sparse_base(f"{scratch}/few", a.whole_blocks))
    about = dict(blocks=a.whole_blocks, stored="F32", largest_tensor_gib=largest_gib(Path(few, "transformer")))
    for name in ("diffusers", *WHOLE):
        yield dict(what="whole", how=name, **about) | apart(whole_expert, few, a, name)
    filled = write_sparse_base(f"{scratch}/random", a.blocks, "BF16")
    write_random(filled)
    about = dict(blocks=a.blocks, stored="BF16", largest_tensor_gib=largest_gib(filled / "transformer"))
    for n in a.ranks:
        yield dict(what="ranks", world=n, **about) | ranks(str(filled), n)


def parse() -> argparse.Namespace:
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--true_blocks", type=int, default=40, help="of the experts of which a share is loaded")
    p.add_argument("--world", type=int, default=16, help="processes of which one loads its share")
    p.add_argument("--whole_blocks", type=int, default=2, help="of the experts that are loaded whole")
    p.add_argument("--blocks", type=int, default=8, help="of the experts that several processes load")
    p.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="real processes")
    p.add_argument("--scratch", help="a folder on a disk, for files; none: the system's")
    p.add_argument("--output", type=Path, default=Path(__file__).parent / "results/loading.json")
    return p.parse_args()


def main():
    a, rows, made_with = parse(), [], environment()
    with tempfile.TemporaryDirectory(dir=a.scratch) as scratch:
        for row in rows_of(a, scratch):
            rows.append(row)
            print(json.dumps(row), flush=True)
            result = dict(
                benchmark="loading experts of the true shape",
                model="the shape of Wan2.2-I2V-A14B; files with holes, or random numbers",
                command=" ".join(["python benchmarks/loading.py", *sys.argv[1:]]),
                lora_rank=LORA.rank,
                rows=rows,
                environment=made_with,
            )
            if str(a.output) != "/dev/null":
                write_whole(a.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
