"""The autoencoder error: fields → adapter → VAE → back, for every adapter and both scalings.

    python benchmarks/round_trip.py --data datasets/turbulent_radiative_layer_2D --steps 80 --samples 54

Adapters with weights are trained on the train split through the frozen VAE (mode `reconstruct`), each for the same
number of steps, and every row is measured on the same windows of the valid split.
Writes benchmarks/results/round_trip.json.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from wan_well.options import validate
from wan_well.config import Config
from wan_well.data.reader import open_split
from wan_well.data.windows import WellWindows
from wan_well.data.scaling import scaler_statistics
from wan_well.emulator import Emulator
from wan_well.files import environment, write_whole
from wan_well.latents.codec import autoencoder_error
from wan_well.training.trainer import Trainer

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


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="datasets/turbulent_radiative_layer_2D")
    p.add_argument("--model", default="wan-tiny")
    p.add_argument("--steps", type=int, default=80)
    p.add_argument("--batch_size", type=int, default=4)
    p.add_argument("--samples", type=int, default=54)
    p.add_argument("--only", nargs="*", default=list(ADAPTERS))
    p.add_argument("--output", default=RESULTS / "round_trip.json")
    a = p.parse_args()
    made_with = environment()
    train, valid = open_split(a.data), open_split(a.data, "valid")
    result = dict(
        benchmark="autoencoder error, VRMSE on the valid split, windows of 4+4 frames",
        model=a.model,
        data=dict(path=Path(a.data).name, train=str(train), valid=str(valid)),
        samples=a.samples,
        batch_size=a.batch_size,
        rows=[],
        environment=made_with,
    )
    statistics, windows = scaler_statistics(train), WellWindows(valid, 4, 4)
    for name in a.only:
        for scaling in ("zscore", "history"):
            row = measure(a, name, scaling, statistics, windows)
            result["rows"].append(row)
            print(f"{name:18s} {scaling:8s}", "  ".join(f"{f} {v:.3f}" for f, v in row["vrmse"].items()), flush=True)
            write_whole(a.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
