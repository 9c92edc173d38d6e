"""Speed of `wan_well.physics.euler` beside ulula, a NumPy solver of the same scheme (Strang MUSCL-Hancock + HLLC).

    python benchmarks/simulate.py                                # both solvers, one thread each, slices taken in turn
    python benchmarks/simulate.py --device cuda --preset full    # time of a whole preset on a GPU, without writing it
    python benchmarks/simulate.py --preset demo --dataset gray_scott_reaction_diffusion    # of the other physics

Both solve the same periodic shear layer with the van Leer limiter, each on one thread. Processor time is counted,
slices alternate and the best of each counts, so that a busy machine disturbs little and both alike; then ours with one
batch per core, in wall-clock time. The cooling, which ulula does not have, is timed separately.
Writes benchmarks/results/simulate.json.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from wan_well.files import environment, write_whole
from wan_well.physics.euler import EulerSolver
from wan_well.physics.mixing_layer import PRESETS, LayerPlan, Preset, initial_fields
from wan_well.physics.plan import SIMULATIONS, make_plan
from wan_well.physics.trajectories import run_chunk

RESULTS = Path(__file__).parent / "results"
PERIODIC = (("periodic",) * 2,) * 2
GRIDS = ((32, 8), (64, 2), (128, 1))  # cells along x, trajectories in a batch


def quiet():
    "Ulula prints a line for each time step"
    return contextlib.redirect_stdout(io.StringIO())


def ulula_simulation(fields: np.ndarray, dx: float):  # (4, x, y) float64
    "An ulula simulation that starts from our fields, with our scheme"
    from ulula.core.simulation import HydroScheme, Simulation

    with quiet():
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


def ulula_step(sim):
    with quiet():
        sim.timestep()


def our_double_step(solver: EulerSolver):
    with torch.no_grad():
        solver.double_step(0.8 * solver.dx / solver.max_speed())


def shear_layer(preset: Preset, n: int) -> torch.Tensor:  # (n, 4, x, y)
    return torch.stack([initial_fields(preset, seed) for seed in range(n)])


def demo_with(n_x: int) -> Preset:
    return replace(PRESETS["demo"], n_x=n_x)


def agreement(preset: Preset, n_steps: int = 40) -> dict:
    "Root mean square density difference of the solvers after the same time, and the change since the start; float64"
    f = shear_layer(preset, 1).double()
    sim = ulula_simulation(f[0].numpy(), preset.dx)
    for _ in range(n_steps):
        ulula_step(sim)
    ours = EulerSolver(f, preset.dx, boundaries=PERIODIC).advance(sim.t).fields[0, 0].numpy()
    theirs = sim.V[sim.q_prim["DN"], 2:-2, 2:-2]

    def rms(other):
        return float(np.sqrt(np.square(ours - other).mean()) / theirs.std())

    return dict(rms_density_difference=rms(theirs), rms_density_change=rms(f[0, 0].numpy()), steps=n_steps)


def best_rates(runs: dict, seconds: float, repeats: int) -> dict:
    "Call each run for `seconds`, in turn, `repeats` times; the best rate of each. A run returns its cell-steps"
    best = dict.fromkeys(runs, 0.0)
    for _ in range(repeats):
        for name, run in runs.items():
            start, done = time.process_time(), 0
            while time.process_time() - start < seconds:
                done += run()
            best[name] = max(best[name], done / (time.process_time() - start))
    return best


def compare(n_x: int, batch: int, seconds: float, repeats: int) -> dict:
    "Rates on one grid, one thread each"
    preset = demo_with(n_x)
    f = shear_layer(preset, batch)
    plain = EulerSolver(f, preset.dx, boundaries=PERIODIC)
    cooled = EulerSolver(f, preset.dx, torch.full((batch,), 0.1))
    sim = ulula_simulation(f[0].double().numpy(), preset.dx)

    def ours(solver):
        our_double_step(solver)
        return 2 * solver.n_cells

    def theirs():
        ulula_step(sim)
        return preset.n_x * preset.n_y

    runs = {"ours": lambda: ours(plain), "ours with cooling": lambda: ours(cooled), "ulula": theirs}
    rates = best_rates(runs, seconds, repeats)
    return dict(
        grid=[preset.n_x, preset.n_y],
        batch=batch,
        cell_steps_per_s={k: round(v) for k, v in rates.items()},
        ratio=round(rates["ours"] / rates["ulula"], 2),
        ratio_with_cooling=round(rates["ours with cooling"] / rates["ulula"], 2),
    )


def our_rate(solver: EulerSolver, seconds: float) -> float:
    "Cell-steps per second of wall-clock time"
    start, before = time.perf_counter(), solver.n_steps
    while time.perf_counter() - start < seconds:
        our_double_step(solver)
    return (solver.n_steps - before) * solver.n_cells / (time.perf_counter() - start)


def ulula_rate(sim, n_cells: int, seconds: float) -> float:
    "Cell-steps per second of wall-clock time"
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        ulula_step(sim)
        done += n_cells
    return done / (time.perf_counter() - start)


def all_cores(n_x: int, batch: int, seconds: float, repeats: int) -> dict:
    "As `simulate` runs on a CPU: one batch per core, wall-clock time, ulula in turn; best of each"
    preset, n = demo_with(n_x), len(os.sched_getaffinity(0))
    f = shear_layer(preset, batch)
    solvers = [EulerSolver(f, preset.dx, torch.full((batch,), 0.1)) for _ in range(n)]
    sim = ulula_simulation(f[0].double().numpy(), preset.dx)
    best = {"ours with cooling": 0.0, "ulula": 0.0}
    with ThreadPoolExecutor(n) as pool:
        for _ in range(repeats):
            ours = sum(pool.map(lambda solver: our_rate(solver, seconds), solvers))
            theirs = ulula_rate(sim, n_x * preset.n_y, seconds)
            best = {"ours with cooling": max(best["ours with cooling"], ours), "ulula": max(best["ulula"], theirs)}
    return dict(
        grid=[n_x, preset.n_y],
        batch=batch,
        cores=n,
        cell_steps_per_s={k: round(v) for k, v in best.items()},
        ratio_with_cooling=round(best["ours with cooling"] / best["ulula"], 2),
    )


def whole_preset(dataset: str, name: str, device: str, n_frames: int | None) -> dict:
    "Time of all trajectories of a preset"
    plan = make_plan(name, dataset=dataset, n_frames=n_frames)
    chunks = plan.chunks(plan.chunk_cells[torch.device(device).type])
    start, work, lowest = time.perf_counter(), 0, np.inf
    for chunk in chunks:
        fields, done = run_chunk(plan, chunk, device)
        work += done
        lowest = min(lowest, float(fields[:, :, :2].min()))
    seconds = time.perf_counter() - start
    result = dict(
        dataset=dataset,
        preset=name,
        n_trajectories=len(plan.trajectories),
        n_frames=plan.preset.n_frames,
        end_time=float(plan.time[-1]),
        chunks=len(chunks),
        seconds=round(seconds, 1),
        cell_steps=work,
        cell_steps_per_s=round(work / seconds),
        least_value_of_the_first_two_fields=lowest,
    )
    if device != "cpu":
        result["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return result


def rates_line(row: dict) -> str:
    rates = ", ".join(f"{k} {v / 1e6:.2f} M/s" for k, v in row["cell_steps_per_s"].items())
    return (
        f"{row['grid'][0]}x{row['grid'][1]} x {row['batch']}: {rates}; with cooling {row['ratio_with_cooling']} times"
    )


def compare_all(seconds: float, repeats: int) -> dict:
    "Everything that is measured beside ulula"
    torch.set_num_threads(1)
    result = dict(compared=[], all_cores=[])
    for n_x, batch in GRIDS:
        result["compared"].append(compare(n_x, batch, seconds, repeats))
        print(rates_line(result["compared"][-1]), flush=True)
    for n_x, batch in GRIDS:
        result["all_cores"].append(all_cores(n_x, batch, seconds, repeats))
        print("on each core, wall clock,", rates_line(result["all_cores"][-1]), flush=True)
    result["agreement"] = agreement(PRESETS["demo"])
    print("rms difference over the spread of density:", result["agreement"])
    return result


def described(device: str) -> dict:
    "Where the numbers come from"
    packages = ("torch", "numpy", "ulula") if device == "cpu" else ("torch", "numpy")
    name = platform.processor() or platform.machine() if device == "cpu" else torch.cuda.get_device_name()
    versions = {k: importlib.metadata.version(k) for k in packages}
    return dict(device=device, device_name=name, commit=environment()["commit"], versions=versions)


def store(path: Path, key: str, result: dict):
    "Put a result into a file beside those of other devices"
    old = json.loads(path.read_text()) if path.is_file() else {}
    write_whole(path, json.dumps({**old, key: result}, indent=1) + "\n")
    print(path)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--device", default="cpu")
    p.add_argument("--preset", choices=list(PRESETS), help="time a whole preset instead of comparing")
    p.add_argument(
        "--dataset", choices=list(SIMULATIONS), default=LayerPlan.spec.name, help="with --preset: which physics"
    )
    p.add_argument("--n_frames", type=int, help="with --preset: fewer frames")
    p.add_argument("--seconds", type=float, default=1.0, help="length of a time slice")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--output", type=Path, default=RESULTS / "simulate.json")
    a = p.parse_args()
    result, key = described(a.device), a.device
    if a.preset or a.device != "cpu":
        preset = a.preset or "full"
        other = "" if a.dataset == LayerPlan.spec.name else f" {a.dataset}"
        result["whole"] = whole_preset(a.dataset, preset, a.device, a.n_frames)
        key = f"{a.device} {preset}{other}"
    else:
        result |= compare_all(a.seconds, a.repeats)
    store(a.output, key, result)


if __name__ == "__main__":
    main()
