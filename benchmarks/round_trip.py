"""The autoencoder error: fields → adapter → VAE → back.

    python benchmarks/round_trip.py --data datasets/turbulent_radiative_layer_2D --steps 80 --samples 54
    python benchmarks/round_trip.py --what codec --samples 36

The first compares every adapter and both scalings. Adapters with weights are trained on the train split through the
frozen VAE (mode `reconstruct`), each for the same number of steps. The second takes the adapter without weights and
compares the logarithm of density (where it ends, as a share of the standard deviation) and the margin around each tile;
it also says how much cold, mixed and hot gas is there after the round trip, in parts of the true mass.
Every row is measured on the same windows of the valid split.
Writes benchmarks/results/round_trip.json or round_trip_codec.json.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
import torch
from wan_well.options import validate
from wan_well.config import Config
from wan_well.data import scaling as field_scaling
from wan_well.data.reader import open_split
from wan_well.data.windows import WellWindows
from wan_well.data.scaling import scaler_statistics
from wan_well.emulator import Emulator
from wan_well.files import environment, write_whole
from wan_well.latents.codec import autoencoder_error
from wan_well.physics.diagnostics import vrmse
from wan_well.physics.layer import PHASES, mass_by_temperature
from wan_well.physics.states import States
from wan_well.training.trainer import Trainer

THIN = 3.0  # true densities below this are hot gas
EDGE = 2  # cells that count as the edge of a tile
KNEES = (None, 0.1, 0.25, 0.5, 100.0)  # where the logarithm ends; none: no logarithm, 100: nowhere
CODECS = [(knee, 1) for knee in KNEES] + [(knee, margin) for knee in (None, field_scaling.KNEE) for margin in (0, 2)]
RESULTS = Path(__file__).parent / "results"
ADAPTERS = {
    "mosaic": dict(kind="mosaic"),
    "mosaic + residual": dict(kind="mosaic", residual=True, hidden_dim=32),
    "shuffle": dict(kind="shuffle"),
    "conv": dict(kind="conv"),
    "conv, scale 2": dict(kind="conv", scale=2),
}


def configuration(a: argparse.Namespace, adapter: dict, scaling: str, folder: str) -> Config:
    "A short run that trains the adapter alone"
    training = dict(
        mode="reconstruct",
        batch_size=a.batch_size,
        lr=2e-3,
        num_epochs=1,
        samples_per_epoch=a.steps * a.batch_size,
        val_samples=4,
        warmup_steps=20,
        log_every=50,
        checkpoint_every=0,
    )
    values = dict(
        name="r",
        output_dir=folder,
        model=dict(name=a.model, channel_adapter=adapter),
        data=dict(path=a.data, scaling=scaling, n_steps_output=4),
        training=training,
    )
    return validate(Config, values, "benchmark")


def measure(a: argparse.Namespace, name: str, scaling: str, statistics: dict, windows: WellWindows) -> dict:
    "One row: train the adapter, if it has weights, and measure the error"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cfg = configuration(a, ADAPTERS[name], scaling, folder)
        emulator = Emulator(cfg, statistics)
        if emulator.codec.adapter.trainable:
            emulator = Emulator.from_pretrained(Trainer(cfg).run())
        error = autoencoder_error(emulator.eval().codec, windows, a.samples, 8).tolist()
    adapter = emulator.codec.adapter
    return dict(
        adapter=name,
        scaling=scaling,
        steps=a.steps if adapter.trainable else 0,
        vrmse=dict(zip(emulator.spec.names, error), mean=sum(error) / len(error)),
        parameters=sum(p.numel() for p in adapter.parameters()),
        seconds=time.perf_counter() - began,
    )


def edge_and_inside(error: torch.Tensor) -> dict:
    "Root mean square of errors (n, x, y) at the edges of x, at those of y, and inside"
    inner = slice(2 * EDGE, -2 * EDGE)
    at_x = torch.cat([error[:, :EDGE], error[:, -EDGE:]], 1)[:, :, inner]
    at_y = torch.cat([error[:, :, :EDGE], error[:, :, -EDGE:]], 2)[:, inner]
    parts = dict(x=at_x, y=at_y, inside=error[:, inner, inner])
    return {name: part.square().mean().sqrt().item() for name, part in parts.items()}


def factor_errors(density: torch.Tensor, true: torch.Tensor) -> dict:
    "Median factor between densities, of thin and of dense gas, and the errors of the logarithm by place"
    error = (density / true).log().abs()
    thin, dense = (error[picked].median().exp().item() for picked in (true < THIN, true > 10 * THIN))
    return dict(thin=thin, dense=dense, logarithm=edge_and_inside(error))


def mass_ratios(back: torch.Tensor, true: torch.Tensor, spec) -> dict:
    "Mass of each phase of the gas after the round trip, in parts of the true one, over all frames"
    none = torch.zeros(len(spec.parameters))
    masses = [mass_by_temperature(States(x, spec, (1.0, 1.0), none)).sum((0, 1)) for x in (back, true)]
    return dict(zip(PHASES, (masses[0] / masses[1]).tolist()))


def measure_codec(a: argparse.Namespace, knee: float | None, margin: int, split, windows: WellWindows) -> dict:
    "One row: the mosaic with this logarithm and this margin"
    field_scaling.KNEE = knee or field_scaling.KNEE
    values = dict(
        model=dict(name=a.model, margin=margin), data=dict(path=a.data, log_scaling=knee is not None, n_steps_output=8)
    )
    codec = Emulator(validate(Config, values, "benchmark"), scaler_statistics(split)).eval().codec
    picked = torch.linspace(0, len(windows) - 1, a.samples).long().tolist()
    clips, backs, began = [], [], time.perf_counter()
    for i in range(0, a.samples, 6):
        batch = windows.__getitems__(picked[i : i + 6])
        clips.append(torch.cat([batch["history"], batch["future"]], 1))
        backs.append(codec.round_trip(clips[-1], 4))
    seconds = time.perf_counter() - began
    true, back = torch.cat(clips)[:, 4:], torch.cat(backs)[:, 4:]
    scores = vrmse(back, true).mean((0, 1)).tolist()
    error = ((back - true) / true.std((-2, -1), keepdim=True)).flatten(0, 1)
    return dict(
        knee=knee,
        margin=margin,
        vrmse=dict(zip(codec.spec.names, scores), mean=sum(scores) / len(scores)),
        density=factor_errors(back[:, :, 0].flatten(0, 1), true[:, :, 0].flatten(0, 1)),
        mass=mass_ratios(back, true, codec.spec),
        places={name: edge_and_inside(error[:, c]) for c, name in enumerate(codec.spec.names)},
        bf16=codec.bf16,
        seconds=seconds,
    )


def adapter_rows(a: argparse.Namespace, train, valid):
    "One row for each adapter and scaling"
    statistics, windows = scaler_statistics(train), WellWindows(valid, 4, 4)
    for name in a.only:
        for scaling in ("zscore", "history"):
            yield measure(a, name, scaling, statistics, windows)


def codec_rows(a: argparse.Namespace, train, valid):
    "One row for each logarithm and margin"
    windows = WellWindows(valid, 4, 8)
    for knee, margin in CODECS:
        yield measure_codec(a, knee, margin, train, windows)


MEASURES = dict(adapters=adapter_rows, codec=codec_rows)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--what", choices=("adapters", "codec"), default="adapters")
    p.add_argument("--data", default="datasets/turbulent_radiative_layer_2D")
    p.add_argument("--model", default="wan-tiny")
    p.add_argument("--steps", type=int, default=80)
    p.add_argument("--batch_size", type=int, default=4)
    p.add_argument("--samples", type=int, default=54)
    p.add_argument("--only", nargs="*", default=list(ADAPTERS))
    p.add_argument("--output")
    a = p.parse_args()
    suffix = "" if a.what == "adapters" else f"_{a.what}"
    a.output = a.output or RESULTS / f"round_trip{suffix}.json"
    made_with = environment()
    train, valid = open_split(a.data), open_split(a.data, "valid")
    result = dict(
        benchmark="autoencoder error, VRMSE on the valid split",
        model=a.model,
        data=dict(path=Path(a.data).name, train=str(train), valid=str(valid)),
        samples=a.samples,
        batch_size=a.batch_size,
        rows=[],
        environment=made_with,
    )
    for row in MEASURES[a.what](a, train, valid):
        result["rows"].append(row)
        scores = "  ".join(f"{f} {v:.3f}" for f, v in row["vrmse"].items())
        print(
            {k: v for k, v in row.items() if isinstance(v, str | int | None)},
            scores,
            row.get("density", ""),
            flush=True,
        )
        write_whole(a.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
