"""Bad inputs and faults of the environment, tried on the package from the outside, and counted.

    python scripts/faults.py                    # all of it: about a quarter of an hour on two cores
    python scripts/faults.py --short            # as `make test` runs it: less than a minute
    python scripts/faults.py --only LoRA        # a family, or part of a name
    python scripts/faults.py --json found.json  # also as JSON

Each bad input must end in one line on stderr (`wan-well: error: ...`) and a status that is not zero, in bounded time
and memory; no file that was there may be changed or gone, no file half written, no code from a file executed. A few
are no errors, but must be noted or simply work: that is part of the case. The last line is `N passed, M failed`.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
import faults_config  # noqa: F401  each of these registers its cases
import faults_data  # noqa: F401
import faults_environment  # noqa: F401
import faults_models  # noqa: F401
import faults_runs  # noqa: F401
from faults_kit import CASES, Case, Result, load_package, make_sound, try_case

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen(only: str, short: bool) -> list[Case]:
    "The cases to try, by a family or part of a name"
    named = [c for c in CASES if not only or only.lower() in c.title.lower()]
    return [c for c in named if c.short or not short]


def work_off(numbers: list[int], cases: list[Case], sound: Path, scratch: Path, pipe):
    "What a worker does: its share of the cases, one after the other"
    for k in numbers:
        found = try_case(cases[k], sound, scratch)
        pipe.send((k, found.outcome, found.seconds, found.seen))  # a case holds functions, which do not travel


def try_all(cases: list[Case], sound: Path, scratch: Path, jobs: int) -> Iterator[Result]:
    "Try cases in several processes; results come as they are ready"
    fork, pipes, workers = multiprocessing.get_context("fork"), [], []
    for k in range(jobs):
        receiver, sender = fork.Pipe(duplex=False)
        share = list(range(k, len(cases), jobs))
        arguments = share, cases, sound, scratch / f"worker-{k}", sender
        workers.append(fork.Process(target=work_off, args=arguments))
        workers[-1].start()
        sender.close()
        pipes.append(receiver)
    while pipes:
        for pipe in wait(pipes):
            try:
                k, *found = pipe.recv()
            except EOFError:
                pipes.remove(pipe)
            else:
                yield Result(cases[k], *found)
    for worker in workers:
        worker.join()


def summary(results: list[Result]) -> str:
    "A table by family"
    families = list(dict.fromkeys(r.case.family for r in results))
    count = Counter((r.case.family, r.outcome) for r in results)
    width = max(map(len, families))
    lines = [f"{'family':{width}s}  passed  failed  skipped"]
    lines += [
        f"{name:{width}s}  {count[name, 'pass']:6d}  {count[name, 'FAIL']:6d}  {count[name, 'skip']:7d}"
        for name in families
    ]
    return "\n".join(lines)


def what_was_tried(results: list[Result]) -> str:
    "How many inputs and faults there were"
    count = Counter(r.case.family for r in results)
    environment, sound = count["environment"], count["sound input"]
    bad = len(results) - environment - sound
    return f"{bad} bad inputs, {environment} faults of the environment, {sound} sound inputs"


def write_json(path: str, results: list[Result]):
    "All results, for whoever counts on"
    rows = [
        dict(
            family=r.case.family,
            name=r.case.name,
            expected=str(r.case.expect),
            outcome=r.outcome,
            seen=r.seen,
            seconds=round(r.seconds, 1),
        )
        for r in results
    ]
    Path(path).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a family, or part of a name")
    parser.add_argument("--short", action="store_true", help="a few quick cases of different kinds")
    parser.add_argument("--list", action="store_true", help="name the cases and try none")
    parser.add_argument("--json", default=None, help="file for the results")
    parser.add_argument("--jobs", type=int, default=min(2, CPUS), help="cases at a time")
    parser.add_argument("--sound", default=None, help="folder for the sound inputs, used again if it is there")
    return parser.parse_args()


def main() -> int:
    options, results = arguments(), []
    cases = chosen(options.only, options.short)
    if options.list or not cases:
        print(*(f"{c.title}: {c.expect}" for c in cases), f"{len(cases)} cases", sep="\n")
        return int(not cases)
    load_package()
    with tempfile.TemporaryDirectory() as tmp:
        sound = Path(options.sound or Path(tmp) / "sound")
        if not (sound / "work").is_dir():
            make_sound(sound)
        for result in try_all(cases, sound, Path(tmp), max(1, min(options.jobs, len(cases)))):
            results.append(result)
            print(result, flush=True)
    if options.json:
        write_json(options.json, results)
    count = Counter(r.outcome for r in results)
    skipped = f", {count['skip']} skipped" if count["skip"] else ""
    print(summary(results), what_was_tried(results), sep="\n")
    print(f"{count['pass']} passed, {count['FAIL']} failed{skipped}", flush=True)
    return bool(count["FAIL"]) or len(results) < len(cases)


if __name__ == "__main__":
    sys.exit(main())
