"""Speed of `wan_well.physics.euler` beside ulula, a NumPy solver of the same scheme (Strang MUSCL-Hancock + HLLC).

    python benchmarks/simulate.py                                # both solvers, one thread each, slices taken in turn
    python benchmarks/simulate.py --device cuda --preset full    # time of a whole preset on a GPU, without writing it
    python benchmarks/simulate.py --preset demo --dataset gray_scott_reaction_diffusion    # of the other physics
    python benchmarks/simulate.py --device cuda --steps 1000 --trajectories 160    # pace of the patterns, beside a CPU
    python benchmarks/simulate.py --device cuda --batches 1 5 15 45 90    # pace of the layer by trajectories at once

Both solve the same periodic shear layer with the van Leer limiter, each on one thread. Processor time is counted,
slices alternate and the best of each counts, so that a busy machine disturbs little and both alike; then ours with one
batch per core, in wall-clock time. The cooling, which ulula does not have, is timed separately. On a GPU the solver is
compared with itself on the CPU, and the statistics of a whole preset stand beside those that The Well publishes.
Writes benchmarks/results/simulate.json.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
import numpy as np
import torch
from wan_well.files import environment, write_whole
from wan_well.physics.euler import EulerSolver
from wan_well.physics.gray_scott import GrayScottSolver
from wan_well.physics.mixing_layer import PRESETS, LayerPlan, Preset, initial_fields
from wan_well.physics.patterns import PatternPlan
from wan_well.physics.plan import SIMULATIONS, make_plan
from wan_well.physics.trajectories import SimulationPlan, run_chunk

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


def rate_alone(n_x: int, batch: int, seconds: float) -> float:
    "Cell-steps per second of one of several processes"
    torch.set_num_threads(1)
    preset = demo_with(n_x)
    return our_rate(EulerSolver(shear_layer(preset, batch), preset.dx, torch.full((batch,), 0.1)), seconds)


def ulula_rate(sim, n_cells: int, seconds: float) -> float:
    "Cell-steps per second of wall-clock time"
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        ulula_step(sim)
        done += n_cells
    return done / (time.perf_counter() - start)


def all_cores(n_x: int, batch: int, seconds: float, repeats: int) -> dict:
    "As `simulate` runs on a CPU: one process and batch per core, wall-clock time, ulula in turn; best of each"
    preset, n = demo_with(n_x), len(os.sched_getaffinity(0))
    sim = ulula_simulation(shear_layer(preset, 1)[0].double().numpy(), preset.dx)
    best = {"ours with cooling": 0.0, "ulula": 0.0}
    with ProcessPoolExecutor(n, get_context("spawn")) as pool:
        for _ in range(repeats):
            ours = sum(pool.map(rate_alone, [n_x] * n, [batch] * n, [seconds] * n))
            theirs = ulula_rate(sim, n_x * preset.n_y, seconds)
            best = {"ours with cooling": max(best["ours with cooling"], ours), "ulula": max(best["ulula"], theirs)}
    return dict(
        grid=[n_x, preset.n_y],
        batch=batch,
        cores=n,
        cell_steps_per_s={k: round(v) for k, v in best.items()},
        ratio_with_cooling=round(best["ours with cooling"] / best["ulula"], 2),
    )


PUBLISHED = dict(  # stats.yaml of turbulent_radiative_layer_2D: density, pressure, velocity_x, velocity_y
    mean=(34.847, 0.94475, 6.1707e-3, -2.4651e-2),
    std=(44.284, 6.0970e-2, 4.1764e-2, 4.0095e-2),
    mean_delta=(2.1029e-2, -7.9411e-4, -9.5112e-5, -3.2201e-4),
    std_delta=(12.029, 3.5378e-2, 1.6923e-2, 1.9896e-2),
)


def pooled(fields: list[np.ndarray]) -> dict[str, list[float]]:  # of trajectories (t, c, x, y)
    "Mean and standard deviation of values, and of changes from frame to frame, over all trajectories"
    result = {}
    for suffix, parts in (("", lambda f: f), ("_delta", lambda f: np.diff(f, axis=0))):
        means = [parts(f).mean((0, 2, 3), dtype=np.float64) for f in fields]
        mean = np.mean(means, axis=0)
        squares = [
            np.square(parts(f) - mean[:, None, None].astype("f4")).mean((0, 2, 3), dtype=np.float64) for f in fields
        ]
        result |= {f"mean{suffix}": mean.tolist(), f"std{suffix}": np.sqrt(np.mean(squares, axis=0)).tolist()}
    return result


def beside_published(fields: list[np.ndarray], plan: SimulationPlan) -> dict:
    "Statistics of the training trajectories, and their ratio to those of the published set"
    ours = pooled(fields)
    if plan.spec.name != LayerPlan.spec.name:
        return dict(statistics=ours)
    ratios = {row: [round(x / y, 3) for x, y in zip(ours[row], PUBLISHED[row])] for row in ours}
    return dict(statistics=ours, published=PUBLISHED, ratio_to_published=ratios)


def same_as_cpu(plan: SimulationPlan, device: str, n_frames: int = 3) -> dict:
    "How far two trajectories on a device are from those on a CPU after two frames, relative to the size of each field"
    short = replace(plan, preset=replace(plan.preset, n_frames=n_frames))
    trajectories = short.trajectories[:: max(1, len(short.trajectories) - 1)]
    there, here = (run_chunk(short, trajectories, where)[0][:, -1].astype("f8") for where in (device, "cpu"))
    off = np.sqrt(np.square(there - here).mean((0, 2, 3)) / np.square(here).mean((0, 2, 3)))
    return dict(n_trajectories=len(trajectories), frames=n_frames - 1, relative_rms_difference=off.tolist())


def whole_preset(dataset: str, name: str, device: str, n_frames: int | None) -> dict:
    "Time of all trajectories of a preset"
    plan, on_gpu = make_plan(name, dataset=dataset, n_frames=n_frames), device != "cpu"
    result = dict(same_as_cpu=same_as_cpu(plan, device)) if on_gpu else {}
    chunks = plan.chunks(plan.chunk_cells[torch.device(device).type])
    start, work, lowest, trained = time.perf_counter(), 0, np.inf, []
    for chunk in chunks:
        fields, done = run_chunk(plan, chunk, device)
        work += done
        lowest = min(lowest, float(fields[:, :, :2].min()))
        trained += [f for f, trajectory in zip(fields, chunk) if trajectory.split == "train"]
    seconds = time.perf_counter() - start
    result |= dict(
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
    if on_gpu:
        result["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        result |= beside_published(trained, plan)
    return result


def patterns(name: str, n: int, device: str) -> GrayScottSolver:
    "A solver of the first trajectories of each pattern of a preset, n in all"
    plan = make_plan(name, dataset=PatternPlan.spec.name)
    of_each = -(-n // len(plan.cases))
    chosen = [t for t in plan.trajectories if t.split == "train" and t.index < of_each][:n]
    start = torch.stack([plan.start(t) for t in chosen]).to(device)
    return plan.solver(start, chosen)


def pace_of_patterns(name: str, n: int, steps: int, device: str, check_steps: int = 100) -> dict:
    "Seconds of so many steps of n trajectories, and how far a few of them are from a CPU's; float64"
    few = [patterns(name, 6, where) for where in (device, "cpu")]
    for solver in few:
        for _ in range(check_steps):
            solver.take_step()
    there, here = (solver.fields.cpu() for solver in few)
    off = ((there - here).square().sum() / here.square().sum()).sqrt().item()
    solver = patterns(name, n, device)
    for _ in range(20):
        solver.take_step()
    began = finish(solver)
    for _ in range(steps):
        solver.take_step()
    seconds = finish(solver) - began
    return dict(
        dataset=PatternPlan.spec.name,
        preset=name,
        n_trajectories=n,
        cells=[solver.n, solver.n],
        steps=steps,
        seconds=seconds,
        cell_steps_per_s=round(solver.n_cells * steps / seconds),
        same_as_cpu=dict(n_trajectories=6, steps=check_steps, relative_rms_difference=off),
        all_finite=bool(solver.finite.all()),
        peak_memory_gb=round(torch.cuda.max_memory_allocated() / 1e9, 2) if device != "cpu" else None,
    )


def pace_of_layer(name: str, batches: list[int], device: str, n: int = 30) -> list[dict]:
    "Speed of double steps of a preset by the number of trajectories that are advanced together"
    plan, rows = make_plan(name), []
    for batch in batches:
        chosen = plan.trajectories[:batch]
        solver = plan.solver(torch.stack([plan.start(t) for t in chosen]).to(device), chosen)
        for _ in range(5):
            our_double_step(solver)
        began = wait(device)
        for _ in range(n):
            our_double_step(solver)
        issued = time.perf_counter() - began
        seconds = wait(device) - began
        rate = round(2 * n * solver.n_cells / seconds)
        rows.append(dict(batch=batch, double_steps=n, seconds=seconds, issued_s=issued, cell_steps_per_s=rate))
        print(rows[-1], flush=True)
    return rows


def wait(device: str) -> float:
    "The time when the device has done all that it was given"
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def finish(solver: GrayScottSolver) -> float:
    "The time when all steps are done"
    solver.modes[0, 0, 0, 0].item()
    return time.perf_counter()


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
    packages = [k for k in ("torch", "numpy", "ulula") if importlib.util.find_spec(k)]
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
    p.add_argument("--steps", type=int, help="pace of the patterns: time so many steps")
    p.add_argument("--batches", type=int, nargs="+", help="pace of the layer by trajectories at once")
    p.add_argument("--trajectories", type=int, default=160, help="with --steps: advanced together")
    p.add_argument("--seconds", type=float, default=1.0, help="length of a time slice")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--output", type=Path, default=RESULTS / "simulate.json")
    a = p.parse_args()
    result, key = described(a.device), a.device
    if a.batches:
        result["pace"], key = pace_of_layer(a.preset or "full", a.batches, a.device), f"{a.device} batches"
    elif a.steps:
        result["pace"] = pace_of_patterns(a.preset or "full", a.trajectories, a.steps, a.device)
        key = f"{a.device} steps {PatternPlan.spec.name}"
    elif a.preset or a.device != "cpu":
        preset = a.preset or "full"
        other = "" if a.dataset == LayerPlan.spec.name else f" {a.dataset}"
        result["whole"] = whole_preset(a.dataset, preset, a.device, a.n_frames)
        key = f"{a.device} {preset}{other}"
    else:
        result |= compare_all(a.seconds, a.repeats)
    store(a.output, key, result)


if __name__ == "__main__":
    main()
