"""Run the demo and keep its scores: what the table in the README comes from.

python benchmarks/demo.py            # writes benchmarks/results/demo.json
"""

import json
from pathlib import Path
from wan_well.demo import DemoOptions, demo
from wan_well.files import environment


def main():
    made_with = environment()
    out = demo(DemoOptions())
    r = out["results"]
    keep = {k: r[k] for k in ("protocol", "data", "counts", "notes", "floor") if k in r}
    keep["forecasters"] = {
        n: dict(
            one_step=dict(vrmse=f["one_step"]["vrmse"]),
            rollout={w: dict(vrmse=v["vrmse"]) for w, v in f["rollout"].items()},
            seconds_per_frame=f.get("seconds_per_frame"),
        )
        for n, f in r["forecasters"].items()
    }
    path = Path(__file__).parent / "results" / "demo.json"
    path.write_text(
        json.dumps(
            dict(benchmark="wan-well demo, test split", validation=out["validation"], **keep, environment=made_with),
            indent=1,
        )
        + "\n"
    )
    print(path)


if __name__ == "__main__":
    main()
