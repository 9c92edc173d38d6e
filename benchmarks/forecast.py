"""Persistence, ConvLSTM, diffuse and refine on the embedded test split: one table, one run.

    python benchmarks/forecast.py                 # after `wan-well demo`; trains what is missing, then scores
    python benchmarks/forecast.py --sweep         # first chooses sampling.strength of refine on the valid split

Training uses the shipped configurations demo_diffuse and demo_refine. Both start from runs/demo: their decoders begin
with the weights of its decoder, and refine uses its predictor. Writes benchmarks/results/forecast.json and, with
--sweep, refine.json.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import torch
from wan_well.options import WanWellError, read_yaml, run_main
from wan_well.files import environment, write_whole
from wan_well.config import load_config
from wan_well.data.reader import open_split
from wan_well.emulator import Emulator
from wan_well.forecast.baselines import Ensemble, Persistence
from wan_well.evaluation.protocols import evaluate
from wan_well.evaluation.tables import score_table
from wan_well.training.resume import require_same_run
from wan_well.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
SCORES = ("vrmse", "crps", "spread_skill")
VALIDATION = ("val_flow_mean", "val_flow_high", "val_flow_low", "val_crps_mean", "val_decode_mean", "val_vrmse_mean")


def write_json(name: str, content: dict):
    "Write one file of results"
    write_whole(RESULTS / name, json.dumps(content, indent=1) + "\n")


def trained(name: str, a, *more: str) -> Path:
    "The run of a configuration; trained if it is not there"
    places = [f"data.path={a.data}", f"--output_dir={a.output_dir}", f"data.cache_dir={a.output_dir}/latents"]
    cfg = load_config(name, [*places, *more, *a.set])
    folder = Path(a.output_dir) / cfg.name
    if (folder / "config.yaml").is_file():
        require_same_run(read_yaml(folder / "config.yaml"), cfg.model_dump(mode="json"), folder / "config.yaml")
    if not (folder / "emulator" / "emulator.json").is_file():
        cfg.training.resume_from = "auto"
        Trainer(cfg).run()
    return folder


def rounded(scores: dict) -> dict:
    "Scores of one protocol, four digits"
    return {m: {field: round(v, 4) for field, v in scores[m].items()} for m in SCORES if m in scores}


def short_spectra(spectra: dict) -> dict:
    "Power and coherence at one lead time, four significant digits"
    return {
        kind: {field: [float(f"{x:.4g}") for x in row] for field, row in spectra[kind].items()}
        for kind in ("power", "coherence")
    }


def slim_forecaster(scores: dict) -> dict:
    "What is kept of the scores of one forecaster"
    return dict(
        one_step=rounded(scores["one_step"]),
        rollout={window: rounded(v) for window, v in scores["rollout"].items()},
        seconds_per_frame=scores["seconds_per_frame"],
        lead_time={m: scores["lead_time"][m]["mean"] for m in ("vrmse", "crps") if m in scores["lead_time"]},
        spectra={lead: short_spectra(s) for lead, s in scores["spectra"].items()},
    )


def slim(results: dict) -> dict:
    "What is kept of the scores"
    keep = {k: results[k] for k in ("protocol", "counts", "notes", "batch_size", "device") if k in results}
    keep["data"] = {k: v for k, v in results["data"].items() if k != "path"}
    if "floor" in results:
        keep["floor"] = results["floor"]["one_step"]["vrmse"]
    keep["forecasters"] = {name: slim_forecaster(scores) for name, scores in results["forecasters"].items()}
    if "spectra" in results:
        keep["spectra"] = results["spectra"]
    return keep


def summary(folder: Path) -> dict:
    "Steps, commit and last validation of a run, from what it left"
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    commit = json.loads((folder / "environment.json").read_text())["commit"]
    validation = {k: v for record in records for k, v in record.items() if k in VALIDATION}
    return dict(steps=records[-1]["step"], commit=commit, **validation)


def conv_lstm(run: str | Path) -> Emulator:
    "The emulator of a run of mode predict, under the name that it has in tables"
    emulator = Emulator.from_pretrained(run)
    emulator.forecaster.name = "ConvLSTM"
    return emulator


def score_part(what: str, a, runs: dict[str, Path]) -> dict:
    "Scores of some of the forecasters on the test split, in a process of its own"
    torch.set_num_threads(1)
    settings = dict(num_samples=a.samples, batch_size=a.batch_size)
    test = open_split(a.data, "test")
    if what == "predict":
        emulator = conv_lstm(runs["predict"])
        return evaluate([Persistence(), emulator], test, round_trip=emulator.round_trip, progress=False, **settings)
    emulator = Emulator.from_pretrained(runs[what])
    return evaluate([emulator, Ensemble(emulator, a.members)], test, progress=True, **settings)


def sweep(a, run: Path, made_with: dict):
    "Score refine on the valid split with several noise levels of the forecast"
    refine, valid, rows = Emulator.from_pretrained(run), open_split(a.data, "valid"), []
    settings = dict(num_samples=a.sweep_samples, rollout_steps=12, batch_size=a.batch_size)
    reference = slim(evaluate([conv_lstm(a.predict), Persistence()], valid, **settings))
    for strength in a.sweep_strengths:
        refine.cfg.sampling.strength = strength
        scores = slim(evaluate([Ensemble(refine, a.sweep_members)], valid, **settings))
        row = dict(strength=strength, **next(iter(scores["forecasters"].values())))
        rows.append(row)
        places = dict(one_step=row["one_step"], **row["rollout"])
        print(strength, {place: e["vrmse"]["mean"] for place, e in places.items()}, flush=True)
        content = dict(
            benchmark="refine on the valid split against the noise level that the forecast is noised to",
            model="wan-tiny",
            members=a.sweep_members,
            steps=refine.cfg.sampling.steps,
            rows=rows,
            reference=reference,
            run=summary(run),
            environment=made_with,
        )
        write_json("refine.json", content)


def compare(a, runs: dict[str, Path], made_with: dict):
    "Score all forecasters on the test split: one table"
    order = ("predict", "diffuse", "refine")  # of the rows of the table
    slowest_first = ("diffuse", "refine", "predict")
    with ProcessPoolExecutor(a.processes, get_context("spawn")) as pool:  # one thread each: small tensors gain little
        jobs = {what: pool.submit(score_part, what, a, runs) for what in slowest_first}
        parts = {what: jobs[what].result() for what in order}
    rows = {name: scores for part in parts.values() for name, scores in part["forecasters"].items()}
    results = dict(parts["predict"], forecasters=rows)
    print(score_table(results))
    content = dict(
        benchmark="forecasts of the embedded test split",
        model="wan-tiny",
        members=a.members,
        **slim(results),
        processes=a.processes,
        strength=Emulator.from_pretrained(runs["refine"]).cfg.sampling.strength,
        runs={what: summary(runs[what]) for what in order},
        environment=made_with,
    )
    write_json("forecast.json", content)


def parse() -> argparse.Namespace:
    "The command line"
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
    return p.parse_args()


def main():
    a = parse()
    if not (Path(a.predict) / "emulator" / "emulator.json").is_file():
        raise WanWellError(f"{a.predict}: no finished run of mode predict there; run `wan-well demo` first")
    made_with, began = environment(), time.perf_counter()
    start = ("--training.init_from", a.predict)
    runs = dict(predict=Path(a.predict), refine=trained("demo_refine", a, *start))
    if not a.no_table:
        runs["diffuse"] = trained("demo_diffuse", a, *start)
    if a.sweep:
        sweep(a, runs["refine"], made_with)
    if a.no_table:
        return
    compare(a, runs, made_with)
    print(f"{time.perf_counter() - began:.0f} s, wrote {RESULTS / 'forecast.json'}")


if __name__ == "__main__":
    run_main(main)
