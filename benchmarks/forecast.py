"""Persistence, ConvLSTM, diffuse and refine on the embedded test split: one table, one run.

    python benchmarks/forecast.py                 # after `wan-well demo`; trains what is missing, then scores
    python benchmarks/forecast.py --sweep         # first chooses sampling.strength of refine on the valid split

Training uses the shipped configurations demo_diffuse and demo_refine. Both start from runs/demo: all forecasts are decoded by its anchored decoder, and refine uses its predictor. Writes benchmarks/results/forecast.json and, with --sweep, refine.json.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import torch
from wan_well.options import WanWellError, read_yaml, run_main
from wan_well.config import load_config
from wan_well.data.reader import open_split
from wan_well.emulator import Emulator
from wan_well.forecast.baselines import Ensemble, Persistence
from wan_well.evaluation.protocols import evaluate
from wan_well.evaluation.report import score_table
from wan_well.files import environment
from wan_well.training.checkpoint import require_same_run
from wan_well.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results"


def trained(name: str, a, *more: str) -> Path:
    "The run of a configuration; trained if it is not there"
    cfg = load_config(
        name,
        [
            f"data.path={a.data}",
            f"--output_dir={a.output_dir}",
            f"data.cache_dir={a.output_dir}/latents",
            *more,
            *a.set,
        ],
    )
    folder = Path(a.output_dir) / cfg.name
    if (folder / "config.yaml").is_file():
        require_same_run(read_yaml(folder / "config.yaml"), cfg.model_dump(mode="json"), folder / "config.yaml")
    if not (folder / "emulator" / "emulator.json").is_file():
        cfg.training.resume_from = "auto"
        Trainer(cfg).run()
    return folder


def slim(results: dict) -> dict:
    "What is kept of the scores"
    keep = {k: results[k] for k in ("protocol", "counts", "notes", "batch_size", "device") if k in results}
    keep["data"] = {k: v for k, v in results["data"].items() if k != "path"}
    if "floor" in results:
        keep["floor"] = results["floor"]["one_step"]["vrmse"]

    def place(p):
        return {m: {f: round(v, 4) for f, v in p[m].items()} for m in ("vrmse", "crps", "spread_skill") if m in p}

    keep["forecasters"] = {
        n: dict(
            one_step=place(f["one_step"]),
            rollout={w: place(v) for w, v in f["rollout"].items()},
            seconds_per_frame=f["seconds_per_frame"],
            lead_time={m: f["lead_time"][m]["mean"] for m in ("vrmse", "crps") if m in f["lead_time"]},
            spectra={
                lead: {
                    k: {field: [float(f"{x:.4g}") for x in row] for field, row in s[k].items()}
                    for k in ("power", "coherence")
                }
                for lead, s in f["spectra"].items()
            },
        )
        for n, f in results["forecasters"].items()
    }
    if "spectra" in results:
        keep["spectra"] = results["spectra"]
    return keep


def summary(folder: Path) -> dict:
    "Steps, commit and last validation of a run, from what it left"
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return dict(
        steps=records[-1]["step"],
        commit=json.loads((folder / "environment.json").read_text())["commit"],
        **{
            k: v
            for r in records
            for k, v in r.items()
            if k in ("val_flow_mean", "val_flow_high", "val_flow_low", "val_decode_mean", "val_vrmse_mean")
        },
    )


def scored(what: str, a, diffuse: Path, refine: Path) -> dict:
    "Scores of some forecasters on the test split"
    torch.set_num_threads(1)
    test, floor = open_split(a.data, "test"), None
    if what == "baselines":
        predict = Emulator.from_pretrained(a.predict)
        predict.name, floor = "ConvLSTM", predict.round_trip
        forecasters = [Persistence(), predict]
    else:
        e = Emulator.from_pretrained(dict(diffuse=diffuse, refine=refine)[what])
        forecasters = [e, Ensemble(e, a.members)]
    return evaluate(
        forecasters,
        test,
        round_trip=floor,
        num_samples=a.samples,
        batch_size=a.batch_size,
        progress=what != "baselines",
    )


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="datasets/turbulent_radiative_layer_2D")
    p.add_argument("--predict", default="runs/demo", help="run of mode predict that the others start from")
    p.add_argument("--output_dir", default="runs")
    p.add_argument("--samples", type=int, default=18, help="test windows of the one-step protocol")
    p.add_argument("--members", type=int, default=8)
    p.add_argument("--batch_size", type=int, default=9)
    p.add_argument("--processes", type=int, default=2, help="forecasters scored at once")
    p.add_argument("--sweep", action="store_true")
    p.add_argument("--no_table", action="store_true", help="with --sweep: the sweep alone, which needs no diffuse")
    p.add_argument("--sweep_strengths", type=float, nargs="+", default=[0.15, 0.35, 0.55, 0.8])
    p.add_argument("--sweep_samples", type=int, default=18)
    p.add_argument("--sweep_members", type=int, default=2)
    p.add_argument("--set", nargs="*", default=[], help="overrides of the training configurations, key=value")
    a = p.parse_args()
    if not (Path(a.predict) / "emulator" / "emulator.json").is_file():
        raise WanWellError(f"{a.predict}: no finished run of mode predict there; run `wan-well demo` first")
    made_with, began = environment(), time.perf_counter()
    start = ("--training.init_from", a.predict)
    refine = trained("demo_refine", a, *start)
    diffuse = None if a.no_table else trained("demo_diffuse", a, *start)
    predict, r = Emulator.from_pretrained(a.predict), Emulator.from_pretrained(refine)
    predict.name = "ConvLSTM"
    if a.sweep:
        valid, rows = open_split(a.data, "valid"), []
        base = slim(
            evaluate(
                [predict, Persistence()], valid, num_samples=a.sweep_samples, rollout_steps=12, batch_size=a.batch_size
            )
        )
        for strength in a.sweep_strengths:
            r.cfg.sampling.strength = strength
            out = slim(
                evaluate(
                    [Ensemble(r, a.sweep_members)],
                    valid,
                    num_samples=a.sweep_samples,
                    rollout_steps=12,
                    batch_size=a.batch_size,
                )
            )
            rows.append(dict(strength=strength, **next(iter(out["forecasters"].values()))))
            print(
                strength,
                {w: e["vrmse"]["mean"] for w, e in dict(one_step=rows[-1]["one_step"], **rows[-1]["rollout"]).items()},
                flush=True,
            )
            (RESULTS / "refine.json").write_text(
                json.dumps(
                    dict(
                        benchmark="refine on the valid split against the noise level that the forecast is noised to",
                        model="wan-tiny",
                        members=a.sweep_members,
                        steps=r.cfg.sampling.steps,
                        rows=rows,
                        reference=base,
                        run=summary(refine),
                        environment=made_with,
                    ),
                    indent=1,
                )
                + "\n"
            )
        r.cfg.sampling.strength = load_config("demo_refine").sampling.strength
    if a.no_table:
        return
    with ProcessPoolExecutor(
        a.processes, get_context("spawn")
    ) as pool:  # one thread each: small tensors gain little from more
        parts = list(pool.map(scored, ("diffuse", "refine", "baselines"), [a] * 3, [diffuse] * 3, [refine] * 3))
    results = dict(
        parts[2], forecasters={k: v for part in (parts[2], parts[0], parts[1]) for k, v in part["forecasters"].items()}
    )
    print(score_table(results))
    out = dict(
        benchmark="forecasts of the embedded test split",
        model="wan-tiny",
        members=a.members,
        **slim(results),
        processes=a.processes,
        strength=r.cfg.sampling.strength,
        runs=dict(predict=summary(Path(a.predict)), diffuse=summary(diffuse), refine=summary(refine)),
        environment=made_with,
    )
    (RESULTS / "forecast.json").write_text(json.dumps(out, indent=1) + "\n")
    print(f"{time.perf_counter() - began:.0f} s, wrote {RESULTS / 'forecast.json'}")


if __name__ == "__main__":
    run_main(main)
