"""The picture of a forecast on the front page: truth, prediction and error of `runs/demo` at several lead times.

make demo && python benchmarks/picture.py
"""

import argparse
import io
from pathlib import Path
from PIL import Image
from wan_well.data.reader import open_split
from wan_well.emulator import Emulator
from wan_well.evaluation.figures import field_figures


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--run", default="runs/demo")
    p.add_argument("--data", default="datasets/turbulent_radiative_layer_2D")
    p.add_argument("--trajectory", type=int, default=None, help="none: the one with the middle cooling time")
    p.add_argument("--field", default="velocity_y")
    p.add_argument("--output", default=str(Path(__file__).parent.parent / "nbs/images/forecast.png"))
    a = p.parse_args()
    emulator, split = Emulator.from_pretrained(a.run, device="cpu"), open_split(a.data, "test")
    fig = field_figures(
        [emulator], split, trajectory=a.trajectory, n_steps_input=emulator.n_steps_input, leads=(1, 4, 8, 16)
    )[f"fields_{a.field}"]
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=110)
    Image.open(buffer).convert("RGB").quantize(256).save(a.output, optimize=True)
    print(f"wrote {a.output}, {Path(a.output).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
