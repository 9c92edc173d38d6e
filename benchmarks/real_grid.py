"""The chain at the grid of the real set: 128×384 cells, 101 frames, the default configurations, with `wan-tiny`.

    python benchmarks/real_grid.py                        # everything but the whole preset: many hours on a CPU
    python benchmarks/real_grid.py --parts growth         # on a small grid: minutes
    python benchmarks/real_grid.py --parts predict --updates 8 --field_updates 1 --stride 30 --val_samples 2
    python benchmarks/real_grid.py --whole                # 90 trajectories, statistics beside the published

Each command of a part is a process of its own, as a user types it. Its memory is looked at from outside, many times a
second: *own* is what only the process can free, *mapped* are pages of data files and caches, which the kernel takes
back when memory is short. Parts:

- simulate: preset `full`, three cooling times, one trajectory for train, valid and test each; kept under --root
- check: every value of it
- predict, diffuse, refine: the configurations `default`, `diffuse` and `refine` with another model and another length,
  nothing else; trained, evaluated, generated. `refine` starts from the run of `predict`
- growth: data sets of noise on small grids, with four times the frames, or the trajectories, of the first one; what
  is free is given back at once, so that the peak is what was needed
- whole: all 90 trajectories (`--whole`), and their statistics

The result of a part replaces that of the same part in the file, so that parts can be measured on different days; each
names its commit.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
import numpy as np
import yaml
from memory import GIVE_BACK, watched
from simulate import PUBLISHED
from wan_well.config import load_config
from wan_well.data.amount import data_size
from wan_well.data.fields import SPLITS
from wan_well.data.published import TURBULENT_LAYER
from wan_well.data.writer import well_statistics, write_well_file
from wan_well.files import PACKAGE, environment, write_whole

RESULT = Path(__file__).parent / "results/real_grid.json"
CACHE = Path(os.environ.get("WAN_WELL_CACHE", "~/.cache/wan_well")).expanduser()
PROMPT = PACKAGE / "assets/wan-tiny/prompt_embeds.safetensors"  # the configurations name one of the real model
T_COOLS = "0.03,0.32,3.16"
MIB = 2**20


def python(*arguments: str) -> list[str]:
    "Python with a lower priority than this script, which only looks on"
    return ["nice", "-n", "5", sys.executable, *arguments]


def command(name: str, *options: str) -> list[str]:
    "A command line of the package"
    return python("-m", "wan_well.cli", name, *options)


def size_of(folder: Path) -> float:  # MiB
    "All files of a folder"
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / MIB


# ---- data


def simulated(a: argparse.Namespace, folder: Path, *options: str) -> dict:
    "Simulate, or complete, a data set of the preset"
    before = size_of(folder) if folder.is_dir() else 0.0
    line = command("simulate", "--preset", a.preset, "--output_dir", str(folder), "--device", a.device, *options)
    row = dict(found_mib=before, **watched(line, a.root / "logs/simulate.txt"))
    return row | dict(data_mib=size_of(folder))


def simulate(a: argparse.Namespace) -> dict:
    "Three trajectories of three cooling times"
    return simulated(a, a.root / "datasets", "--t_cools", T_COOLS, "--n_trajectories", "1,1,1")


def check(a: argparse.Namespace) -> dict:
    "Look at every value"
    return watched(command("check", str(a.data)), a.root / "logs/check.txt")


def row_of(entries: dict[str, float | list[float]]) -> list[float]:
    "A row of stats.yaml, one number for each field"
    return np.hstack([np.ravel(entries[name]) for name in ("density", "pressure", "velocity")]).tolist()


def whole(a: argparse.Namespace) -> dict:
    "The whole preset, and its statistics beside those of the real set"
    row, folder = simulated(a, a.root / "whole"), a.root / "whole" / TURBULENT_LAYER.name
    stored = yaml.safe_load((folder / "stats.yaml").read_text())
    ours = {name: row_of(stored[name]) for name in PUBLISHED}
    ratios = {name: [x / y for x, y in zip(ours[name], PUBLISHED[name])] for name in PUBLISHED}
    return row | dict(statistics=ours, published=PUBLISHED, ratio_to_published=ratios)


# ---- training, evaluation, generation


def epochs_of(updates: int, windows: int, per_update: int) -> tuple[int, int]:  # epochs, windows of an epoch
    "How long a stage must be to make so many updates"
    in_epoch = min(windows // per_update, updates)
    if not in_epoch:
        raise SystemExit(f"an update needs {per_update} windows, and there are {windows}: give a smaller --stride")
    return -(-updates // in_epoch), in_epoch * per_update


def length(a: argparse.Namespace, config: str) -> list[str]:
    "Overrides that make a configuration short, and nothing else"
    chosen = [
        f"data.path={a.data}",
        f"data.window_stride={a.stride}",
        "model.name=wan-tiny",
        f"wan.prompt_embeds={PROMPT}",
    ]
    cfg = load_config(config, chosen)
    t, windows = cfg.training, data_size(cfg).windows
    epochs, samples = epochs_of(a.updates, windows, t.batch_size * t.gradient_accumulation_steps)
    field_batch = (t.field_batch_size or t.batch_size) * t.gradient_accumulation_steps
    kept = min(t.field_windows or windows, windows)
    field_epochs, field_samples = epochs_of(a.field_updates, kept, field_batch)
    return [
        *chosen,
        f"training.num_epochs={epochs}",
        f"training.samples_per_epoch={samples}",
        f"training.field_epochs={field_epochs}",
        f"training.field_samples_per_epoch={field_samples}",
        f"training.val_samples={a.val_samples or t.val_samples}",
        f"training.log_every={max(1, min(t.log_every, a.field_updates // 3))}",
        f"training.device={a.device}",
    ]


def stages_of(run: Path) -> dict:  # stage -> updates, samples/s, share of waiting, memory of a GPU
    "What the log says of each stage; the first reading, in which things are made, is left out if there are others"
    stages: dict[str, list[dict]] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "samples_per_s" in record:
            stages.setdefault(record["stage"], []).append(record)
    rows, done = {}, 0
    for name, readings in stages.items():
        later = readings[1:] or readings
        numbers = {key: median(r[key] for r in later) for key in ("samples_per_s", "data_wait")}
        rows[name] = dict(updates=readings[-1]["step"] - done, **numbers)
        done = readings[-1]["step"]
    return rows


def train(a: argparse.Namespace, mode: str, config: str, *more: str) -> dict:
    "Train a configuration, anew"
    shutil.rmtree(a.root / "runs" / mode, ignore_errors=True)
    options = ["--config", config, "--name", mode, "--output_dir", str(a.root / "runs"), *length(a, config), *more]
    row = watched(command("train", *options), a.root / f"logs/train-{mode}.txt")
    run = a.root / "runs" / mode
    return row | dict(stages=stages_of(run), cache_mib=size_of(run / "latents"), options=options[6:])


def evaluate(a: argparse.Namespace, mode: str) -> dict:
    "Score the run, with figures"
    run = a.root / "runs" / mode
    samples = ["--num_samples", str(a.num_samples)] if a.num_samples else []
    options = ["--checkpoint", str(run), "--device", a.device, "--visualize", *samples]
    row = watched(command("evaluate", *options), a.root / f"logs/evaluate-{mode}.txt")
    counts = json.loads((run / "evaluation/metrics.json").read_text())["counts"]
    return row | {key: counts[key] for key in ("windows", "rollouts", "rollout_frames")}


def generate(a: argparse.Namespace, mode: str) -> dict:
    "Roll out from every test trajectory, with films"
    target = a.root / "generated" / mode
    options = ["--checkpoint", str(a.root / "runs" / mode), "--input_data", str(a.data), "--output_dir", str(target)]
    line = command("generate", *options, "--device", a.device, "--create_animation")
    return watched(line, a.root / f"logs/generate-{mode}.txt") | dict(written_mib=size_of(target))


def chain(a: argparse.Namespace, mode: str, config: str, *more: str) -> dict:
    "Train, evaluate, generate"
    return dict(train=train(a, mode, config, *more), evaluate=evaluate(a, mode), generate=generate(a, mode))


def predict(a: argparse.Namespace) -> dict:
    return chain(a, "predict", "default")


def diffuse(a: argparse.Namespace) -> dict:
    return chain(a, "diffuse", "diffuse")


def refine(a: argparse.Namespace) -> dict:
    return chain(a, "refine", "refine", f"training.init_from={a.root / 'runs/predict'}")


# ---- growth


SETS = {"first": (1, 1), "again": (1, 1), "4 × frames": (1, 4), "4 × trajectories": (4, 1)}  # times the first one


@dataclass(frozen=True)
class Noise:
    "Data sets of noise in the layout of the turbulent layer, which cost nothing to make"

    cells: tuple[int, int]
    n: int  # trajectories of a split in the first set
    n_frames: int  # and their frames
    splits: tuple[str, ...] = SPLITS

    def write(self, root: Path, more: int, longer: int) -> Path:
        "One of `SETS`"
        n, n_frames, name = more * self.n, longer * self.n_frames, TURBULENT_LAYER.name
        axes = [np.arange(k, dtype="f4") for k in (n_frames, *self.cells)]
        for number, split in enumerate(self.splits):
            random = np.random.default_rng((number, n, n_frames))
            fields = [1 + random.random((n_frames, TURBULENT_LAYER.n_fields, *self.cells), "f4") for _ in range(n)]
            write_well_file(
                root / name / f"data/{split}/{name}_tcool_0.10.hdf5", TURBULENT_LAYER, fields, *axes, dict(tcool=0.1)
            )
        statistics = well_statistics((root / name / "data/train").glob("*"))
        write_whole(root / name / "stats.yaml", yaml.safe_dump(statistics, sort_keys=False))
        return root / name


STATISTICS = "import glob, sys; from wan_well.data.writer import well_statistics as s; s(glob.glob(sys.argv[1]))"
SHORT = ["training.num_epochs=1", "training.samples_per_epoch=8", "training.val_samples=2", "training.device=cpu"]
PEER = ["--config", "unet", "peer.init_features=8", "--name", "unet"]
LATENT = ["--config", "default", "model.name=wan-tiny", "model.margin=0", "model.vae_chunk=8"]
LATENT += ["training.field_epochs=0", "--name", "latent"]


def long_lines(data: Path, runs: Path) -> dict[str, list[str]]:  # what is shown -> command line
    "What reads files in blocks; even the first trajectories are longer than these"
    statistics = python("-c", STATISTICS, str(data / "data/train/*.hdf5"))
    return dict(check=command("check", str(data)), statistics=statistics)


def window_lines(data: Path, runs: Path) -> dict[str, list[str]]:
    "A small U-Net, which costs little"
    trained, out = ["--checkpoint", str(runs / "unet"), "--device", "cpu"], ["--output_dir", str(runs / "generated")]
    return {
        "train": command("train", *PEER, "--output_dir", str(runs), f"data.path={data}", *SHORT),
        "evaluate": command("evaluate", *trained, "--visualize"),
        "generate": command("generate", *trained, "--input_data", str(data), *out),
    }


def latent_lines(data: Path, runs: Path) -> dict[str, list[str]]:
    "The latents of all windows"
    return {"train, with latents": command("train", *LATENT, "--output_dir", str(runs), f"data.path={data}", *SHORT)}


FAMILIES = (
    (Noise((64, 192), 1, 720, ("train",)), long_lines),
    (Noise((32, 96), 4, 40), window_lines),
    (Noise((16, 48), 2, 40), latent_lines),
)


def growth_rows(a: argparse.Namespace) -> Iterator[dict]:
    "A row for each command and data set"
    for noise, lines in FAMILIES:
        for name, times in SETS.items():
            with tempfile.TemporaryDirectory(dir=a.root) as folder:
                place = Path(folder)
                data = noise.write(place, *times)
                for what, line in lines(data, place / "runs").items():
                    row = dict(data=name, what=what, data_mib=size_of(data))
                    row |= watched(line, place / "log.txt", **GIVE_BACK)
                    print(json.dumps(row), flush=True)
                    yield row


def growth(a: argparse.Namespace) -> dict:
    "Peak memory against the size of the data"
    a.root.mkdir(parents=True, exist_ok=True)
    return dict(sets=[asdict(noise) for noise, _ in FAMILIES], rows=list(growth_rows(a)))


# ---- all of it


ABOUT = ("preset", "device", "updates", "field_updates", "stride", "val_samples", "num_samples")
PARTS = dict(simulate=simulate, check=check, predict=predict, diffuse=diffuse, refine=refine, growth=growth)


def store(path: Path, key: str, row: dict, made_with: dict):
    "Put a part into the file, beside the others"
    old = json.loads(path.read_text()) if path.is_file() else dict(benchmark="the chain at 128×384", parts={})
    parts = old["parts"] | {key: row | dict(commit=made_with["commit"])}
    write_whole(path, json.dumps({**old, "parts": parts, "environment": made_with}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--root", type=Path, default=CACHE / "real-grid", help="data sets and runs are kept here")
    p.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    p.add_argument("--whole", action="store_true", help="the whole preset, and nothing else")
    p.add_argument("--preset", default="full", help="a smaller one tries the script out")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--updates", type=int, default=300, help="of the main stage of each configuration")
    p.add_argument("--field_updates", type=int, default=30, help="of the field stage")
    p.add_argument("--stride", type=int, default=1, help="data.window_stride")
    p.add_argument("--val_samples", type=int, help="training.val_samples; none: those of the configuration")
    p.add_argument("--num_samples", type=int, help="windows of the evaluation; none: all")
    p.add_argument("--output", type=Path, default=RESULT)
    a = p.parse_args()
    a.data = a.root / "datasets" / TURBULENT_LAYER.name
    return a


def main():
    a = parse()
    chosen = dict(whole=whole) if a.whole else {name: PARTS[name] for name in a.parts}
    for name, measure in chosen.items():
        made_with = environment()  # before the part, not after: somebody may edit the code meanwhile
        about = {key: getattr(a, key) for key in ABOUT}
        row = about | measure(a)
        print(name, json.dumps(row), flush=True)
        store(a.output, name, row, made_with)


if __name__ == "__main__":
    main()
