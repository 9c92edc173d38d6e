"""Throughput of windows: `WellDataset` in a `DataLoader` against `WellWindows`, same file, same normalisation, one run.

    python benchmarks/data.py            # writes benchmarks/results/data.json

The file has the real set's size per trajectory (101 × 128 × 384); its content is the embedded simulation, interpolated.
Both read the same random windows of 4 + 8 frames with a z-score, in the training process (no workers), page cache warm.
"""

import json
import tempfile
import time
from pathlib import Path
import torch
import torch.nn.functional as F
import yaml
from torch.utils.data import DataLoader, Subset
from the_well.data import WellDataset
from the_well.data.normalization import ZScoreNormalization
from wan_well.data.reader import open_split
from wan_well.data.windows import WellWindows, WindowSampler, window_loader
from wan_well.data.scaling import FieldScaler, scaler_statistics
from wan_well.data.writer import write_well_file
from wan_well.simulate import cached_dataset
from wan_well.files import environment

N_TRAJECTORIES, N_WINDOWS, BATCH, REPEATS = 2, 48, 4, 5


def full_size_copy(root: Path, out: Path) -> Path:
    source = open_split(root)
    (out / "data/train").mkdir(parents=True)
    trajectories = []
    for i in range(N_TRAJECTORIES):
        x = source.trajectory(i)
        x = F.interpolate(x.movedim(0, 1)[None], size=(101, 128, 384), mode="trilinear")[0].movedim(1, 0)
        trajectories.append(x)
    t, h, w = 101, 128, 384
    write_well_file(
        out / "data/train/turbulent_radiative_layer_tcool_0.32.hdf5",
        torch.stack(trajectories),
        torch.arange(t) * 1.597033,
        torch.linspace(-0.5, 0.5, h),
        torch.linspace(-1, 2, w),
        0.32,
    )
    (out / "stats.yaml").write_text((root / "stats.yaml").read_text())
    return out


def rate(make, windows: int) -> list[float]:
    rates = []
    for _ in range(REPEATS + 1):
        began, n = time.perf_counter(), 0
        for x in make():
            n += len(x)
        rates.append(n / (time.perf_counter() - began))
        assert n == windows, (n, windows)
    return rates[1:]


def main():
    made_with = environment()
    with tempfile.TemporaryDirectory() as d:
        root = full_size_copy(cached_dataset(), Path(d) / "turbulent_radiative_layer_2D")
        well = WellDataset(
            path=str(root),
            well_split_name="train",
            n_steps_input=4,
            n_steps_output=8,
            use_normalization=True,
            normalization_type=ZScoreNormalization,
        )
        split = open_split(root)
        windows = WellWindows(split, 4, 8)
        assert len(well) == len(windows)
        picked = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))[:N_WINDOWS].tolist()
        stats = yaml.safe_load((root / "stats.yaml").read_text())
        mean, std = ([s["density"], s["pressure"], *s["velocity"]] for s in (stats["mean"], stats["std"]))
        scaler = FieldScaler("history", scaler_statistics(split))

        def the_well():
            for b in DataLoader(Subset(well, picked), batch_size=BATCH):
                yield torch.cat([b["input_fields"], b["output_fields"]], 1)

        def ours(scale, windows=windows):
            def batches():
                for b in window_loader(Subset_(windows, picked), WindowSampler(len(picked), BATCH, shuffle=False)):
                    yield scale(b)

            return batches

        def history(b):
            ref = scaler.reference(b["history"])
            return torch.cat([scaler.scale(b[k], ref)[:, :1] for k in ("history", "future")], 1)

        a = next(iter(the_well()))
        zscored = WellWindows(split, 4, 8, zscore=(mean, std))
        b = next(iter(window_loader(Subset_(zscored, picked), WindowSampler(len(picked), BATCH, shuffle=False))))
        ours_z = torch.cat([b["history"], b["future"]], 1).movedim(2, -1)
        worst = (a - ours_z).abs().max().item()
        assert worst < 1e-4, worst

        result = {}
        for name, make in (
            ("WellDataset + DataLoader, z-score", the_well),
            ("WellWindows, z-score", ours(lambda b: b["history"], zscored)),
            ("WellWindows, history scaling", ours(history)),
            ("WellWindows, no scaling", ours(lambda b: b["history"])),
        ):
            r = sorted(rate(make, N_WINDOWS))
            result[name] = dict(median=r[len(r) // 2], min=r[0], max=r[-1])
            print(f"{name:36s} {r[len(r) // 2]:8.1f} windows/s  ({r[0]:.1f} to {r[-1]:.1f})")
    base = result["WellDataset + DataLoader, z-score"]["median"]
    ratios = {k: v["median"] / base for k, v in result.items()}
    print("ratio:", {k: round(v, 1) for k, v in ratios.items()})
    out = dict(
        benchmark="windows of 4+8 frames at 128x384, windows/s",
        batch_size=BATCH,
        windows=N_WINDOWS,
        repeats=REPEATS,
        largest_difference=worst,
        rates=result,
        ratio_to_well_dataset=ratios,
        environment=made_with,
    )
    (Path(__file__).parent / "results" / "data.json").write_text(json.dumps(out, indent=1) + "\n")


class Subset_(torch.utils.data.Dataset):
    "Some windows, read as batches"

    def __init__(self, windows, picked):
        self.windows, self.picked = windows, picked

    def __len__(self):
        return len(self.picked)

    def __getitems__(self, keys):
        return self.windows.__getitems__([self.picked[k] for k in keys])


if __name__ == "__main__":
    main()
