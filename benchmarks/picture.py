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

PICTURE = Path(__file__).parent.parent / "nbs/images/forecast.png"
LEADS = (1, 4, 8, 16)  # lead times shown


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/demo")
    parser.add_argument("--data", default="datasets/turbulent_radiative_layer_2D")
    parser.add_argument("--trajectory", type=int, default=None, help="none: the one with the middle cooling time")
    parser.add_argument("--field", default="velocity_y")
    parser.add_argument("--output", type=Path, default=PICTURE)
    return parser.parse_args()


def save_small(figure, path: Path):
    "Write a figure as a PNG of 256 colours: the front page is fetched over slow lines too"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)


def main():
    options = read_arguments()
    emulator, split = Emulator.from_pretrained(options.run, device="cpu"), open_split(options.data, "test")
    shown = dict(trajectory=options.trajectory, n_steps_input=emulator.n_steps_input, leads=LEADS)
    save_small(field_figures([emulator], split, **shown)[f"fields_{options.field}"], options.output)
    print(f"wrote {options.output}, {options.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
