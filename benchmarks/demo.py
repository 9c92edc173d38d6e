"""Run the demo and keep its scores and its seconds by step: what a table in the README comes from.

python benchmarks/demo.py            # writes benchmarks/results/demo.json
"""

import json
from pathlib import Path
from wan_well.demo import DemoOptions, demo
from wan_well.files import environment, write_whole

RESULTS = Path(__file__).parent / "results/demo.json"
KEPT = ("protocol", "data", "counts", "notes", "floor")  # of the evaluation, besides the forecasters


def scores_of(forecaster: dict) -> dict:
    "VRMSE of a forecaster, without the other metrics, curves and spectra"
    return dict(
        one_step=dict(vrmse=forecaster["one_step"]["vrmse"]),
        rollout={window: dict(vrmse=scores["vrmse"]) for window, scores in forecaster["rollout"].items()},
        seconds_per_frame=forecaster.get("seconds_per_frame"),
    )


def main():
    made_with = environment()  # before the run, not after: somebody may edit the code meanwhile
    outcome = demo(DemoOptions())
    evaluation = outcome["results"]
    record = dict(benchmark="wan-well demo, test split", validation=outcome["validation"])
    record |= {key: evaluation[key] for key in KEPT if key in evaluation}
    record["forecasters"] = {name: scores_of(forecaster) for name, forecaster in evaluation["forecasters"].items()}
    record |= dict(environment=made_with, seconds=outcome["seconds"])
    write_whole(RESULTS, json.dumps(record, indent=1) + "\n")
    print(RESULTS)


if __name__ == "__main__":
    main()
