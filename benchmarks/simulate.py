"""Speed of `wan_well.euler` beside ulula, a NumPy solver of the same scheme (Strang MUSCL-Hancock + HLLC, van Leer).

    python benchmarks/simulate.py                                   # both solvers, one thread each, slices taken in turn
    python benchmarks/simulate.py --device cuda --preset full       # time of a whole preset on a GPU, without writing it

Both solve the same periodic shear layer, each on one thread. Processor time is counted, slices alternate and the best of each counts, so that a busy machine
disturbs little and both alike; then ours with one batch per core, in wall-clock time. The cooling, which ulula does not have, is timed separately. Writes benchmarks/results/simulate.json.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from wan_well.physics.euler import EulerSolver
from wan_well.physics.mixing_layer import DT_FRAME, PRESETS, initial_fields
from wan_well.simulate import Plan, run_chunk

PERIODIC = (("periodic",) * 2,) * 2


def ulula_simulation(fields, dx):  # (4, x, y) float64
    "An ulula simulation that starts from our fields, with our scheme"
    from ulula.core.simulation import HydroScheme, Simulation

    with contextlib.redirect_stdout(io.StringIO()):
        sim = Simulation()
        sim.setHydroScheme(HydroScheme(limiter="vanleer", cfl=0.8))
        sim.setCodeUnits()
        sim.setEquationOfState(eos_mode="ideal", gamma=5 / 3)
        nx, ny = fields.shape[1:]
        sim.setDomain(nx, ny, xmin=0.0, xmax=nx * dx, ymin=0.0, bc_type="periodic")
    for name, f in zip(("DN", "PR", "VX", "VY"), fields):
        sim.V[sim.q_prim[name], 2:-2, 2:-2] = f
    sim.primitiveToConserved(sim.V, sim.U)
    sim.enforceBoundaryConditions()
    sim.conservedToPrimitive(sim.U, sim.V)
    return sim


def shear_layer(preset, n):
    return torch.stack([initial_fields(preset, seed) for seed in range(n)])


def agreement(preset, n_steps=40):
    "Root mean square density difference of the two solvers after the same time, and the change since the start, over the spread of density; float64"
    f = shear_layer(preset, 1).double()
    sim = ulula_simulation(f[0].numpy(), preset.dx)
    with contextlib.redirect_stdout(io.StringIO()):
        for _ in range(n_steps):
            sim.timestep()
    ours = EulerSolver(f, preset.dx, boundaries=PERIODIC).advance(sim.t).fields[0, 0].numpy()
    theirs = sim.V[sim.q_prim["DN"], 2:-2, 2:-2]
    return tuple(float(np.sqrt(np.square(ours - other).mean()) / theirs.std()) for other in (theirs, f[0, 0].numpy()))


def slices(runs, seconds, repeats):
    "Call each run for `seconds`, in turn, `repeats` times; best cell-steps/s of each. A run returns the cell-steps of one call"
    best = dict.fromkeys(runs, 0.0)
    for _ in range(repeats):
        for name, run in runs.items():
            start, done = time.process_time(), 0
            while time.process_time() - start < seconds:
                done += run()
            best[name] = max(best[name], done / (time.process_time() - start))
    return best


def compare(n_x, batch, seconds, repeats):
    "Rates on one grid"
    preset = replace(PRESETS["demo"], n_x=n_x)
    f = shear_layer(preset, batch)
    plain = EulerSolver(f, preset.dx, boundaries=PERIODIC)
    cooled = EulerSolver(f, preset.dx, torch.full((batch,), 0.1))
    sim = ulula_simulation(f[0].double().numpy(), preset.dx)

    def ours(solver):
        def step():
            with torch.no_grad():
                solver.double_step(0.8 * solver.dx / solver.max_speed())
            return 2 * solver.n_cells

        return step

    def theirs():
        with contextlib.redirect_stdout(io.StringIO()):
            sim.timestep()
        return preset.n_x * preset.n_y

    rates = slices({"ours": ours(plain), "ours with cooling": ours(cooled), "ulula": theirs}, seconds, repeats)
    return dict(
        grid=[preset.n_x, preset.n_y],
        batch=batch,
        cell_steps_per_s={k: round(v) for k, v in rates.items()},
        ratio=round(rates["ours"] / rates["ulula"], 2),
        ratio_with_cooling=round(rates["ours with cooling"] / rates["ulula"], 2),
    )


def all_cores(n_x, batch, seconds, repeats):
    "As `simulate` runs on a CPU: one batch per core, wall-clock time, ulula in turn; best of each"
    preset, n = replace(PRESETS["demo"], n_x=n_x), len(os.sched_getaffinity(0))
    f = shear_layer(preset, batch)
    solvers = [EulerSolver(f, preset.dx, torch.full((batch,), 0.1)) for _ in range(n)]
    sim, best = ulula_simulation(f[0].double().numpy(), preset.dx), {"ours with cooling": 0.0, "ulula": 0.0}

    def work(solver):
        start, before = time.perf_counter(), solver.n_steps
        with torch.no_grad():
            while time.perf_counter() - start < seconds:
                solver.double_step(0.8 * solver.dx / solver.max_speed())
        return (solver.n_steps - before) * solver.n_cells / (time.perf_counter() - start)

    with ThreadPoolExecutor(n) as pool:
        for _ in range(repeats):
            best["ours with cooling"] = max(best["ours with cooling"], sum(pool.map(work, solvers)))
            start, done = time.perf_counter(), 0
            with contextlib.redirect_stdout(io.StringIO()):
                while time.perf_counter() - start < seconds:
                    sim.timestep()
                    done += n_x * preset.n_y
            best["ulula"] = max(best["ulula"], done / (time.perf_counter() - start))
    return dict(
        grid=[n_x, preset.n_y],
        batch=batch,
        cores=n,
        cell_steps_per_s={k: round(v) for k, v in best.items()},
        ratio_with_cooling=round(best["ours with cooling"] / best["ulula"], 2),
    )


def whole_preset(name, device, n_frames):
    "Time of all trajectories of a preset"
    preset = replace(PRESETS[name], n_frames=n_frames or PRESETS[name].n_frames)
    plan, cpu = Plan(preset), device == "cpu"
    chunks, start, work, lowest = plan.chunks(25_000 if cpu else 2_500_000), time.perf_counter(), 0, np.inf
    for c in chunks:
        fields, done = run_chunk(plan, c, device)
        work += done
        lowest = min(lowest, float(fields[:, :, :2].min()))
    seconds = time.perf_counter() - start
    out = dict(
        preset=name,
        n_trajectories=len(plan.trajectories),
        n_frames=preset.n_frames,
        end_time=float((preset.n_frames - 1) * DT_FRAME),
        chunks=len(chunks),
        seconds=round(seconds, 1),
        cell_steps=work,
        cell_steps_per_s=round(work / seconds),
        least_density_or_pressure=lowest,
    )
    if not cpu:
        out["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return out


def commit():
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--device", default="cpu")
    p.add_argument("--preset", choices=list(PRESETS), help="time a whole preset instead of comparing")
    p.add_argument("--n_frames", type=int, help="with --preset: fewer frames")
    p.add_argument("--seconds", type=float, default=1.0, help="length of a time slice")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--output", default=str(Path(__file__).parent / "results" / "simulate.json"))
    a = p.parse_args()
    name = torch.cuda.get_device_name() if a.device != "cpu" else platform.processor() or platform.machine()
    result = dict(
        device=a.device,
        device_name=name,
        commit=commit(),
        versions={
            k: importlib.metadata.version(k) for k in ("torch", "numpy", "ulula") if a.device == "cpu" or k != "ulula"
        },
    )
    if a.preset or a.device != "cpu":
        result["whole"] = whole_preset(a.preset or "full", a.device, a.n_frames)
    else:
        torch.set_num_threads(1)
        result["compared"] = []
        for n_x, batch in ((32, 8), (64, 2), (128, 1)):
            row = compare(n_x, batch, a.seconds, a.repeats)
            result["compared"].append(row)
            print(
                f"{row['grid'][0]}x{row['grid'][1]} x {batch}: "
                + ", ".join(f"{k} {v / 1e6:.2f} M/s" for k, v in row["cell_steps_per_s"].items())
                + f"; ratio {row['ratio']}, with cooling {row['ratio_with_cooling']}"
            )
        result["all_cores"] = [
            all_cores(n_x, batch, a.seconds, a.repeats) for n_x, batch in ((32, 8), (64, 2), (128, 1))
        ]
        for row in result["all_cores"]:
            print(
                f"{row['grid'][0]}x{row['grid'][1]} x {row['batch']} on each of {row['cores']} cores, wall clock: "
                + ", ".join(f"{k} {v / 1e6:.2f} M/s" for k, v in row["cell_steps_per_s"].items())
                + f"; ratio {row['ratio_with_cooling']}"
            )
        difference, change = agreement(PRESETS["demo"])
        result["agreement"] = dict(rms_density_difference=difference, rms_density_change=change, steps=40)
        print(
            f"after 40 steps the two differ by {difference:.1e} (rms, over the spread of density); the density has changed by {change:.1e}"
        )
    path = Path(a.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text()) if path.is_file() else {}
    key = f"{a.device} {result['whole']['preset']}" if "whole" in result else a.device
    path.write_text(json.dumps({**old, key: result}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
