"""Throughput of windows: `WellDataset` in a `DataLoader` against `WellWindows`, same file, same normalisation, one run.

    python benchmarks/data.py            # writes benchmarks/results/data.json

The file has the real set's size per trajectory (101 × 128 × 384); its content is the embedded simulation, interpolated.
Both read the same random windows of 4 + 8 frames with a z-score, in the training process (no workers), page cache warm.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
import torch
import torch.nn.functional as F
from the_well.data import WellDataset
from the_well.data.normalization import ZScoreNormalization
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from wan_well.data.reader import WellSplit, open_split
from wan_well.data.scaling import FieldScaler, scaler_statistics
from wan_well.data.training_numbers import read_pooled
from wan_well.data.windows import WellWindows, WindowSampler, window_loader
from wan_well.data.writer import write_well_file
from wan_well.files import environment, write_whole
from wan_well.simulate import cached_dataset

N_TRAJECTORIES, N_WINDOWS, BATCH, REPEATS = 2, 48, 4, 5
N_FRAMES, N_X, N_Y = 101, 128, 384
RESULT = Path(__file__).parent / "results" / "data.json"
REFERENCE = "WellDataset + DataLoader, z-score"  # the others are compared with it


class WindowSubset(Dataset):
    "Some windows, read as batches"

    def __init__(self, windows: WellWindows, picked: list[int]):
        self.windows, self.picked = windows, picked

    def __len__(self):
        return len(self.picked)

    def __getitems__(self, keys: list[int]) -> dict:
        return self.windows.__getitems__([self.picked[k] for k in keys])


def full_size_copy(source: Path, root: Path) -> Path:
    "A data set of the real size per trajectory, interpolated from a small one"
    split = open_split(source)
    trajectories = []
    for i in range(N_TRAJECTORIES):
        x = split.trajectory(i).movedim(0, 1)[None]
        trajectories.append(F.interpolate(x, size=(N_FRAMES, N_X, N_Y), mode="trilinear")[0].movedim(1, 0))
    write_well_file(
        root / "data/train/turbulent_radiative_layer_tcool_0.32.hdf5",
        split.spec,
        trajectories,
        torch.arange(N_FRAMES) * 1.597033,
        torch.linspace(-0.5, 0.5, N_X),
        torch.linspace(-1, 2, N_Y),
        dict(tcool=0.32),
    )
    write_whole(root / "stats.yaml", (source / "stats.yaml").read_text())
    return root


def open_reference(root: Path) -> WellDataset:
    "The Well's own reader, with a z-score"
    return WellDataset(
        path=str(root),
        well_split_name="train",
        n_steps_input=4,
        n_steps_output=8,
        use_normalization=True,
        normalization_type=ZScoreNormalization,
    )


def reference_batches(well: WellDataset, picked: list[int]) -> Iterator[Tensor]:  # (b, t, x, y, 4)
    "What The Well's reader gives"
    for b in DataLoader(Subset(well, picked), batch_size=BATCH):
        yield torch.cat([b["input_fields"], b["output_fields"]], 1)


def our_batches(windows: WellWindows, picked: list[int]) -> Iterator[dict]:
    "What our reader gives"
    sampler = WindowSampler(len(picked), BATCH, shuffle=False)
    return iter(window_loader(WindowSubset(windows, picked), sampler))


def scaled_batches(windows: WellWindows, picked: list[int], scaler: FieldScaler) -> Iterator[Tensor]:
    "The same, scaled by the history"
    for b in our_batches(windows, picked):
        reference = scaler.reference(b["history"])
        yield torch.cat([scaler.scale(b[k], reference)[:, :1] for k in ("history", "future")], 1)


def rates(batches: Callable[[], Iterator]) -> list[float]:  # windows/s, sorted; the first run warms up and is left out
    "Iterate over all batches several times"
    measured = []
    for _ in range(REPEATS + 1):
        began, n = time.perf_counter(), 0
        for b in batches():
            n += len(b["history"] if isinstance(b, dict) else b)
        measured.append(n / (time.perf_counter() - began))
        assert n == N_WINDOWS, (n, N_WINDOWS)
    return sorted(measured[1:])


def largest_difference(well: WellDataset, windows: WellWindows, picked: list[int]) -> float:
    "Both readers must give the same numbers, in units of the standard deviation"
    theirs, ours = next(reference_batches(well, picked)), next(our_batches(windows, picked))
    difference = (theirs - torch.cat([ours["history"], ours["future"]], 1).movedim(2, -1)).abs().max().item()
    assert difference < 1e-4, difference
    return difference


def measure(root: Path, split: WellSplit) -> tuple[dict[str, list[float]], float]:
    "Rates of all readers, and the largest difference between two of them"
    well, plain = open_reference(root), WellWindows(split, 4, 8)
    pooled = read_pooled(root / "stats.yaml", split.spec)
    normalized = WellWindows(split, 4, 8, zscore=(pooled.mean, pooled.std))
    scaler = FieldScaler("history", scaler_statistics(split))
    assert len(well) == len(plain)
    picked = torch.randperm(len(plain), generator=torch.Generator().manual_seed(0))[:N_WINDOWS].tolist()
    difference = largest_difference(well, normalized, picked)
    readers = {
        REFERENCE: lambda: reference_batches(well, picked),
        "WellWindows, z-score": lambda: our_batches(normalized, picked),
        "WellWindows, history scaling": lambda: scaled_batches(plain, picked, scaler),
        "WellWindows, no scaling": lambda: our_batches(plain, picked),
    }
    return {name: rates(batches) for name, batches in readers.items()}, difference


def main():
    made_with = environment()
    with tempfile.TemporaryDirectory() as folder:
        root = full_size_copy(cached_dataset(), Path(folder) / "turbulent_radiative_layer_2D")
        measured, difference = measure(root, open_split(root))
    summary = {name: dict(median=r[len(r) // 2], min=r[0], max=r[-1]) for name, r in measured.items()}
    ratios = {name: r["median"] / summary[REFERENCE]["median"] for name, r in summary.items()}
    for name, r in summary.items():
        print(f"{name:36s} {r['median']:8.1f} windows/s  ({r['min']:.1f} to {r['max']:.1f})  {ratios[name]:5.1f} ×")
    result = dict(
        benchmark="windows of 4+8 frames at 128x384, windows/s",
        batch_size=BATCH,
        windows=N_WINDOWS,
        repeats=REPEATS,
        largest_difference=difference,
        rates=summary,
        ratio_to_well_dataset=ratios,
        environment=made_with,
    )
    write_whole(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
