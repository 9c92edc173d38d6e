"""Bad data: HDF5 files, their statistics, and the folders that hold them"""

import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
import h5py
import numpy as np
import yaml
from faults_kit import (
    ACCEPTED,
    CHECK,
    DATA,
    DIFFUSE,
    MARKER,
    RUN,
    SIMULATE,
    Tried,
    case,
    evaluate,
    export,
    generate,
    named,
    noted,
    refused,
    resume,
    table,
    train,
)

SET = Path(DATA)
STATS = SET / "stats.yaml"
OUT = ("work/out/*", "work/runs/*/evaluation/*", "work/runs/new/*", "work/latents/*", "work/exported/*")


def data_file(split: str = "test", k: int = 0) -> Path:
    return sorted((SET / "data" / split).glob("*.hdf5"))[k]


@contextmanager
def edited(split: str = "test", k: int = 0):
    "A data file, open for changes"
    with h5py.File(data_file(split, k), "r+") as f:
        yield f


def replace(f: h5py.File, name: str, content=None, **settings):
    "Another object in the place of one"
    attributes = dict(f[name].attrs)
    del f[name]
    new = f.create_dataset(name, data=content, **settings)
    new.attrs.update(attributes)


# --- what is sound is accepted: a refusal below is one of the damage

SOUND = dict(
    check=CHECK,
    train=train(),
    diffuse=train(*DIFFUSE),
    resume=resume(),
    evaluate=evaluate(),
    generate=generate(),
    ensemble=generate("runs/diffuse", "--members", "2"),
    export=export(),
    simulate=(*SIMULATE, "--output_dir", "sets"),
)
rows = {name: (command, ACCEPTED) for name, command in SOUND.items()}
table("sound input", rows, ("train", "ensemble", "export"), writes=("*",), changes=("work/runs/predict/*",))

# what must come of a broken file, for each command that reads it
BY = dict(
    check=Tried(CHECK, refused()),
    evaluate=Tried(evaluate(), refused("hdf5")),
    generate=Tried(generate(), refused("hdf5")),
    train=Tried(train(), refused("hdf5"), RUN),
)
COUNTED = r"\d+.{0,60}(frame|sample|window|trajector|value|rollout)|hdf5"  # how many are concerned, or which file
NOTED = dict(BY, evaluate=Tried(evaluate(), named(COUNTED), OUT), generate=Tried(generate(), named(COUNTED), OUT))
FIELD = "t0_fields/density"


def broken(name: str, *commands: str, by: dict = BY, **more) -> Callable:
    "Register a fault of an HDF5 file under the commands that must see it"
    return case("HDF5", name, *(by[command] for command in commands or ("check", "evaluate")), **more)


# --- the file as a whole


@broken("an empty file among good ones", "check", "evaluate", "generate", short=True)
def _():
    data_file().write_bytes(b"")


@broken("an empty file in the training split", "train")
def _():
    data_file("train").write_bytes(b"")


@broken("cut in half")
def _():
    os.truncate(data_file(), data_file().stat().st_size // 2)


@broken("the last byte is missing", "check", "generate")
def _():
    os.truncate(data_file(), data_file().stat().st_size - 1)


@broken("random bytes")
def _():
    data_file().write_bytes(np.random.default_rng(0).bytes(100_000))


@broken("text under the name of HDF5", "generate")
def _():
    data_file().write_text("version https://git-lfs.github.com/spec/v1\n")


@broken("zeros, as long as it should be", "check", "evaluate")
def _():
    data_file().write_bytes(bytes(data_file().stat().st_size))


@broken("the first kilobyte behind the signature is gone")
def _():
    with open(data_file(), "r+b") as f:
        f.seek(64)
        f.write(bytes(1024))


# --- kinds of objects


def _becomes_group(name: str) -> Callable:
    def act():
        with edited() as f:
            del f[name]
            f.create_group(name)

    return act


def _becomes_dataset(name: str) -> Callable:
    def act():
        with edited() as f:
            del f[name]
            f[name] = np.zeros(3)

    return act


for name in (FIELD, "dimensions/time", "dimensions/x", "scalars/tcool"):
    broken(f"{name} is a group", short=name == FIELD)(_becomes_group(name))
for name in ("t0_fields", "dimensions", "scalars", "boundary_conditions"):
    broken(f"{name} is a data set", *(("check",) if name == "boundary_conditions" else ()))(_becomes_dataset(name))


def _values(name: str, content, **settings) -> Callable:
    def act():
        with edited() as f:
            replace(f, name, content, **settings)

    return act


SHAPE = (1, 20, 32, 96)
KINDS = {
    "complex numbers": np.zeros(SHAPE, "c8"),
    "strings": np.full(SHAPE, b"x"),
    "pairs": np.zeros(SHAPE, [("re", "f4"), ("im", "f4")]),
    "truth values": np.ones(SHAPE, bool),
}
for name, content in KINDS.items():
    broken(f"density is {name}", short=name == "complex numbers")(_values(FIELD, content))


@broken("density has rows of different lengths")
def _():
    with edited() as f:
        del f[FIELD]
        f.create_dataset(FIELD, SHAPE, h5py.vlen_dtype(np.float32))


SCALARS = {
    "a string": "fast",
    "empty": np.zeros(0),
    "without a value": h5py.Empty("f4"),
    "negative": -0.1,
    "zero": 0.0,
    "NaN": np.nan,
    "complex": 1j,
}
for name, content in SCALARS.items():
    commands = ("check", "evaluate", "generate") if name in ("negative", "zero") else ("check", "evaluate")
    broken(f"the cooling time is {name}", *commands, short=name == "a string")(_values("scalars/tcool", content))


@broken("the cooling time of a training file is negative", "train")
def _():
    with edited("train") as f:
        f["scalars/tcool"][()] = -1.0


@broken("the cooling time is missing everywhere")
def _():
    with edited() as f:
        del f["scalars/tcool"]
        f.attrs.pop("tcool", None)


TIMED = dict(
    BY, evaluate=Tried(evaluate(), named("time|hdf5"), OUT), generate=Tried(generate(), named("time|hdf5"), OUT)
)
AXES = {
    "runs backwards": np.linspace(1, 0, 20),
    "has half of the frames": np.linspace(0, 1, 10),
    "is NaN": np.full(20, np.nan),
    "is strings": np.full(20, b"t"),
    "is empty": np.zeros(0),
    "is one number": 0.0,
}
for name, content in AXES.items():
    broken(f"time {name}", "check", "evaluate", "generate", by=TIMED)(_values("dimensions/time", content))


@broken("x is strings")
def _():
    with edited() as f:
        replace(f, "dimensions/x", np.full(32, b"x"))


@broken("x is missing")
def _():
    with edited() as f:
        del f["dimensions/x"]


# --- attributes and masks, which only the check reads

ATTRIBUTES = {
    "n_trajectories is a string": lambda f: f.attrs.__setitem__("n_trajectories", "many"),
    "n_trajectories is absurd": lambda f: f.attrs.__setitem__("n_trajectories", 10**15),
    "n_trajectories is two numbers": lambda f: f.attrs.__setitem__("n_trajectories", [1, 2]),
    "n_spatial_dims is empty": lambda f: f.attrs.__setitem__("n_spatial_dims", h5py.Empty("i4")),
    "spatial_dims are numbers": lambda f: f["dimensions"].attrs.__setitem__("spatial_dims", [1, 2]),
    "bc_type is empty": lambda f: _condition(f).attrs.__setitem__("bc_type", np.zeros(0)),
    "field_names are numbers": lambda f: f["t0_fields"].attrs.__setitem__("field_names", 3),
    "a mask is a group": lambda f: _mask_as_group(f),
    "a mask is one number": lambda f: _mask_as_number(f),
}


def _condition(f: h5py.File) -> h5py.Group:
    return next(iter(f["boundary_conditions"].values()))


def _mask_as_group(f: h5py.File):
    del _condition(f)["mask"]
    _condition(f).create_group("mask")


def _mask_as_number(f: h5py.File):
    del _condition(f)["mask"]
    _condition(f)["mask"] = True


def _change(alter: Callable) -> Callable:
    def act():
        with edited() as f:
            alter(f)

    return act


for name, alter in ATTRIBUTES.items():
    broken(name, "check")(_change(alter))


# --- numbers


def _fill(split: str, value: float, where=np.s_[0, 5], field: str = FIELD) -> Callable:
    def act():
        with edited(split) as f:
            f[field][where] = value

    return act


ALL = np.s_[:]
SEEN = ("check", "evaluate", "generate")
broken("NaN in a frame of the test split", *SEEN, by=NOTED, short=True)(_fill("test", np.nan, np.s_[0, 2]))
broken("Inf in the velocity of the test split", *SEEN, by=NOTED)(
    _fill("test", np.inf, np.s_[0, 2, 3], "t1_fields/velocity")
)
broken("negative density in the test split", *SEEN, by=NOTED)(_fill("test", -1.0, np.s_[0, 2]))
broken("a test file full of zeros", *SEEN, by=NOTED)(_fill("test", 0.0, ALL))
broken("a constant density in the test split", "evaluate", by=NOTED)(_fill("test", 1.0, ALL))
broken("values of 1e30", "evaluate", by=NOTED)(_fill("test", 1e30, np.s_[0, 2]))
IN_TRAINING = Tried(train(), refused("train|nan|finite"), RUN)
IN_VALIDATION = Tried(train(), named(r"valid\b.*(nan|finite|positive)|(nan|finite|positive).*valid\b|hdf5"), OUT)
case("HDF5", "NaN in the training split", IN_TRAINING)(_fill("train", np.nan))
case("HDF5", "negative pressure in the training split", IN_TRAINING)(
    _fill("train", -1.0, np.s_[0, 3], "t0_fields/pressure")
)
case("HDF5", "NaN in the valid split", IN_VALIDATION)(_fill("valid", np.nan, ALL))
case("HDF5", "negative density in the valid split", IN_VALIDATION)(_fill("valid", -2.0, ALL))


@case("HDF5", "constant density in the training split", Tried(train(), named("constant|variance|spread|vary"), OUT))
def _():
    for k in range(2):
        with edited("train", k) as f:
            f[FIELD][:] = 1.0


@case("HDF5", "a large constant offset", Tried(CHECK, named("offset|digits|float32|precision")))
def _():
    for split in ("train", "valid", "test"):
        for k in range(2):
            with edited(split, k) as f:
                f["t0_fields/pressure"][:] += 1e6


# --- shapes and sizes

SHAPES = {
    "no trajectory": (0, 20, 32, 96),
    "no frame": (1, 0, 32, 96),
    "one frame": (1, 1, 32, 96),
    "another grid than the other files": (1, 20, 16, 96),
    "a grid of one cell": (1, 20, 1, 1),
    "three dimensions": (20, 32, 96),
}


def _of_shape(shape: tuple, **settings) -> Callable:
    def act():
        with edited() as f:
            for name, tail in ((FIELD, ()), ("t0_fields/pressure", ()), ("t1_fields/velocity", (2,))):
                replace(f, name, None, shape=(*shape, *tail), dtype=np.float32, **settings)

    return act


for name, shape in SHAPES.items():
    broken(name)(_of_shape(shape))
HUGE = (2**20, 2**20, 32, 96)
broken("a header that claims exabytes", *SEEN, limit=30)(_of_shape(HUGE, chunks=True, fillvalue=1.0))
broken("one terabyte in one piece", *SEEN, limit=30)(_of_shape((2, 2**26, 32, 96)))


def _billion(**settings) -> Callable:
    "A small file whose header claims 10^9 trajectories, 246 TB in one field, and is right in all else"

    def act():
        _of_shape((10**9, 20, 32, 96), **settings)()
        with edited() as f:
            f.attrs["n_trajectories"] = 10**9

    return act


broken("a sound header of a billion trajectories, chunked", *SEEN, limit=30)(_billion(chunks=True))
broken("a sound header of a billion trajectories, in one piece", *SEEN, limit=30)(_billion())


@broken("velocity of three components")
def _():
    with edited() as f:
        replace(f, "t1_fields/velocity", np.zeros((*SHAPE, 3), np.float32))


def _rot(split: str):
    "Compressed data of which a few bytes of a chunk have turned"
    with edited(split) as f:
        for name in (FIELD, "t0_fields/pressure", "t1_fields/velocity"):
            replace(f, name, f[name][()], chunks=(1, 1, *f[name].shape[2:]), compression="gzip")
        chunk = f[FIELD].id.get_chunk_info(2)
    with open(data_file(split), "r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 2)
        raw.write(b"\xff" * 8)


broken("bit rot in a compressed chunk", *SEEN, short=True)(lambda: _rot("test"))
broken("bit rot in a compressed chunk of the training split", "train")(lambda: _rot("train"))
broken("bit rot in a compressed chunk of the valid split", "train")(lambda: _rot("valid"))


# --- what a file says of its fields, edges and parameters

VECTOR, ONE_MORE = "t1_fields/velocity", "t2_fields/D"


def _listed(f: h5py.File, name: str, content: np.ndarray):
    "One more array in a group, and in its list"
    group, array = name.split("/")
    varies = np.ndim(content) > 0
    f.create_dataset(name, data=content).attrs.update(sample_varying=varies, time_varying=varies)
    f[group].attrs["field_names"] = [*f[group].attrs["field_names"], array]


def _unlisted(f: h5py.File, name: str):
    "An array out of a group, and out of its list"
    group, array = name.split("/")
    del f[name]
    f[group].attrs["field_names"] = [n for n in f[group].attrs["field_names"] if n != array]
    f.attrs.pop(array, None)


def _boundary(kind: str) -> Callable:
    def alter(f: h5py.File):
        f["boundary_conditions/y_open"].attrs["bc_type"] = kind

    return alter


DESCRIPTIONS = {
    "velocity of one component": lambda f: replace(f, VECTOR, np.zeros((*SHAPE, 1), "f4")),
    "velocity without components": lambda f: replace(f, VECTOR, np.zeros(SHAPE, "f4")),
    "a tensor of three components": lambda f: _listed(f, ONE_MORE, np.zeros((*SHAPE, 3), "f4")),
    "a tensor of two components": lambda f: _listed(f, ONE_MORE, np.zeros((*SHAPE, 2), "f4")),
    "a tensor that no other file has": lambda f: _listed(f, ONE_MORE, np.zeros((*SHAPE, 2, 2), "f4")),
    "a field that no other file has": lambda f: _listed(f, "t0_fields/tracer", np.ones(SHAPE, "f4")),
    "a field less than in the other files": lambda f: _unlisted(f, "t0_fields/pressure"),
    "a boundary type that nobody knows": _boundary("REFLECTING"),
    "a wall where the other files are open": _boundary("WALL"),
    "periodic where the other files are open": _boundary("PERIODIC"),
    "a parameter less than in the other files": lambda f: _unlisted(f, "scalars/tcool"),
    "a parameter that no other file has": lambda f: _listed(f, "scalars/gamma", np.float32(1.4)),
}
SHORTLY = ("a tensor of three components", "a boundary type that nobody knows")
for name, alter in DESCRIPTIONS.items():
    broken(name, "check", "evaluate", "generate", short=name in SHORTLY)(_change(alter))
for name in ("a field that no other file has", "a parameter less than in the other files"):

    def _in_training(alter: Callable = DESCRIPTIONS[name]):
        with edited("train") as f:
            alter(f)

    case("HDF5", f"{name}, in the training split", BY["train"])(_in_training)


def _at_rest():
    "A flow of which the second half stands still"
    with edited() as f:
        for name in (FIELD, "t0_fields/pressure", VECTOR):
            f[name][:, 10:] = f[name][:, 9:10]


def _half_as_long():
    "A file with fewer frames than the others"
    with edited() as f:
        for name in (FIELD, "t0_fields/pressure", VECTOR):
            replace(f, name, f[name][:, :10])
        replace(f, "dimensions/time", f["dimensions/time"][:10])


case("HDF5", "a flow that comes to rest", Tried(CHECK, noted("same as the frame before")), short=True)(_at_rest)
case("HDF5", "fewer frames than in the other files", Tried(CHECK, noted("frames: 10 in 1 file")))(_half_as_long)

# --- data of another kind than those of the training

OTHER = refused("was trained on|other data")
RESUMED = Tried(resume(), OTHER, changes=("work/runs/predict/.lock",))
USES = (Tried(evaluate(), OTHER), RESUMED, Tried(generate(), OTHER))


def _other_set(name: str) -> Callable:
    "Another data set under the name of the sound one"

    def act():
        from wan_well.data.samples import write_sample

        shutil.rmtree(SET)
        write_sample(SET, name, (32, 96))

    return act


for name in ("gray_scott_reaction_diffusion", "active_matter", "acoustic_scattering_maze"):
    case("another data set", name, *USES, short=name.startswith("gray"))(_other_set(name))


@case("another data set", "walls on all sides", *USES)
def _():
    for split in ("train", "valid", "test"):
        for k in range(2):
            with edited(split, k) as f:
                _boundary("WALL")(f)


# --- links within HDF5

OUTSIDE = dict(
    check=Tried(CHECK, named("link|outside|external|virtual|other files")),
    evaluate=Tried(evaluate(), named("link|outside|external|virtual|other files"), OUT),
)
LOST = dict(BY, evaluate=Tried(evaluate(), refused("hdf5")))


def _elsewhere() -> Path:
    "A copy of a field, outside of the data set"
    with h5py.File(data_file()) as source, h5py.File("../elsewhere.h5", "w") as target:
        target["density"] = source[FIELD][()]
    return Path("../elsewhere.h5").resolve()


@broken("an external link out of the data set", "check", "evaluate", by=OUTSIDE)
def _():
    target = _elsewhere()
    with edited() as f:
        del f[FIELD]
        f[FIELD] = h5py.ExternalLink(str(target), "density")


@broken("a virtual data set over files elsewhere", "check", "evaluate", by=OUTSIDE)
def _():
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[:] = h5py.VirtualSource(str(_elsewhere()), "density", SHAPE)
    with edited() as f:
        del f[FIELD]
        f.create_virtual_dataset(FIELD, layout)


@broken("raw data in a file elsewhere", "check", "evaluate", by=OUTSIDE)
def _():
    Path("../raw.bin").write_bytes(np.ones(SHAPE, np.float32).tobytes())
    with edited() as f:
        del f[FIELD]
        f.create_dataset(
            FIELD, SHAPE, np.float32, external=[(str(Path("../raw.bin").resolve()), 0, h5py.h5f.UNLIMITED)]
        )


@broken("an external link to nothing", by=LOST)
def _():
    with edited() as f:
        del f[FIELD]
        f[FIELD] = h5py.ExternalLink("nowhere.h5", "density")


@broken("a link that goes round in circles", by=LOST)
def _():
    with edited() as f:
        del f[FIELD]
        f[FIELD] = h5py.SoftLink(f"/{FIELD}")


# --- in the folder


def _in_its_place(make: Callable) -> Callable:
    def act():
        path = data_file()
        path.unlink()
        make(path)

    return act


PLACES = {
    "a dangling link": lambda path: path.symlink_to("nowhere.hdf5"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
}
for name, make in PLACES.items():
    broken(f"{name} in the place of a file", *SEEN, limit=30, short=name == "a FIFO")(_in_its_place(make))


@case("HDF5", "no test split", Tried(evaluate(), refused("test")), Tried(generate(), refused("test")))
def _():
    for k in (1, 0):
        data_file("test", k).unlink()


# --- statistics


def _with_stats(alter: Callable) -> Callable:
    def act():
        stats = yaml.safe_load(STATS.read_text())
        STATS.write_text(yaml.safe_dump(alter(stats) or stats))

    return act


def _set_stats(*keys: str, value) -> Callable:
    def alter(stats: dict):
        for key in keys[:-1]:
            stats = stats[key]
        stats[keys[-1]] = value

    return _with_stats(alter)


ZSCORE = Tried(train("--data.scaling=zscore"), refused("stats.yaml"), RUN)
CHECKED = Tried(CHECK, refused("stats.yaml"))
STATISTICS = {
    "a mean is NaN": _set_stats("mean", "density", value=float("nan")),
    "a standard deviation is Inf": _set_stats("std", "pressure", value=float("inf")),
    "a standard deviation is zero": _set_stats("std", "density", value=0.0),
    "a standard deviation is negative": _set_stats("std", "velocity", value=[-0.1, 0.1]),
    "three velocities": _set_stats("std", "velocity", value=[0.1, 0.1, 0.1]),
    "one velocity": _set_stats("mean", "velocity", value=0.1),
    "a string": _set_stats("std", "density", value="large"),
    "a truth value": _set_stats("std", "density", value=True),
    "a list in place of a mapping": _set_stats("mean", value=[1, 2, 3]),
    "a list altogether": _with_stats(lambda stats: [stats]),
    "no pressure": _with_stats(lambda stats: stats["std"].pop("pressure") and None),
    "empty": lambda: STATS.write_text(""),
    "not UTF-8": lambda: STATS.write_bytes(b"mean: \xff\xfe"),
    "missing": STATS.unlink,
}
for name, act in STATISTICS.items():
    case("statistics", name, ZSCORE, CHECKED, short=name == "a mean is NaN")(act)

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(9)
)
TEXTS = {
    "a YAML tag that runs code": f"mean: !!python/object/apply:os.system ['touch {MARKER}']\n",
    "aliases that multiply": BOMB,
    "nested a hundred thousand deep": "[" * 100_000,
}


def _text(path: Path, text: str) -> Callable:
    def act():
        path.write_text(text)

    return act


for name, text in TEXTS.items():
    case("statistics", name, ZSCORE, CHECKED, limit=60)(_text(STATS, text))


@case("statistics", "a FIFO", ZSCORE, CHECKED, limit=30)
def _():
    STATS.unlink()
    os.mkfifo(STATS)


@case("statistics", "a folder", ZSCORE, CHECKED)
def _():
    STATS.unlink()
    STATS.mkdir()


# --- names and paths

LONG, NUL = "n" * 300, "a\0b"
OPTIONS = {
    "a run name above its folder": (train(name="../../escape"), refused("name")),
    "an empty run name": (train(name=""), refused("name")),
    "a run name of one dot": (train(name="."), refused("name")),
    "an absolute run name": (train(name="{root}/elsewhere"), refused("name")),
    "a run name of two lines": (train(name="a\nb"), refused("name")),
    "a run name that is too long": (train(name=LONG), refused("name|long")),
    "a run name with NUL": (train(name=NUL), refused("name")),
    "a split above its folder, generate": (generate("runs/predict", "--split", "../data/test"), refused("split")),
    "a split above its folder, evaluate": (evaluate("runs/predict", "--split", "../data/test"), refused("split")),
    "an empty split": (generate("runs/predict", "--split", ""), refused("split|HDF5")),
    "a checkpoint with NUL": (evaluate(f"runs/{NUL}"), refused()),
    "a checkpoint that is too long": (evaluate(f"./runs/{LONG}"), refused()),
    "a data set with NUL": (("check", f"sets/{NUL}"), refused()),
    "a data set that is too long": (("check", f"sets/{LONG}"), refused()),
    "training data with NUL": (train(f"--data.path=sets/{NUL}"), refused("data|set")),
    "training data that are too long": (train(f"--data.path=sets/{LONG}"), refused("data|set")),
    "a configuration with NUL": (("train", "--config", NUL), refused()),
    "a configuration that is too long": (("train", "--config", LONG), refused()),
    "a prompt with NUL": (
        train("--mode=diffuse", "--training.init_from=runs/predict", f"--wan.prompt_embeds={NUL}"),
        refused(),
    ),
    "a base model with NUL": (train(f"--model.name=./{NUL}"), refused()),
    "a base model that is too long": (train(f"--model.name=./{LONG}"), refused()),
    "start from a run with NUL": (train("--mode=diffuse", f"--training.init_from=./{NUL}"), refused()),
    "resume from a name with NUL": (train(f"--resume_from=./{NUL}"), refused()),
    "output with NUL": (generate("runs/predict", "--output_dir", NUL), refused()),
    "output with a name that is too long": (evaluate("runs/predict", "--output_dir", LONG), refused()),
    "simulate into a name with NUL": ((*SIMULATE, "--output_dir", NUL), refused()),
    "a checkpoint whose name is not Unicode": (evaluate("./runs/\udcff"), refused()),
    "a configuration whose name is not Unicode": (("train", "--config", "\udcff"), refused()),
    "a file in the place of the output, evaluate": (
        evaluate("runs/predict", "--output_dir", "small.yaml"),
        refused("small.yaml"),
    ),
    "a file in the place of the output, generate": (
        generate("runs/predict", "--output_dir", "small.yaml"),
        refused("small.yaml"),
    ),
    "a file in the place of the output, export": (
        export("runs/diffuse", "--output_dir", "small.yaml"),
        refused("small.yaml"),
    ),
    "a file in the place of the output, simulate": ((*SIMULATE, "--output_dir", "small.yaml"), refused("small.yaml")),
    "a file in the place of the output, train": (train("--output_dir=small.yaml"), refused("small.yaml")),
    "a file in the place of the latents": (train("--data.cache_dir=small.yaml"), refused("small.yaml|cache_dir")),
    "a file in the place of a parent folder": (
        generate("runs/predict", "--output_dir", "small.yaml/out"),
        refused("small.yaml"),
    ),
    "rollouts over the input data": (generate("runs/predict", "--output_dir", DATA), refused(DATA)),
    "a simulation over another one": (("simulate", "--output_dir", "sets", "--device", "cpu"), refused("sets")),
    "a file in the place of a run": (evaluate("small.yaml"), refused("small.yaml")),
    "a data set in the place of a run": (evaluate(DATA), refused("emulator")),
    "a run in the place of a data set": (("check", "runs/predict"), refused("data")),
}
table("names and paths", OPTIONS, ("a run name above its folder",), writes=RUN)

ABOVE = {
    "the folder above the data set, check": (("check", "sets"), ACCEPTED),
    "the folder above the data set, evaluate": (
        ("evaluate", "--checkpoint", "runs/predict", "--data", "sets", "--num_samples", "2", "--device", "cpu"),
        ACCEPTED,
    ),
    "the folder above the data set, generate": (generate("runs/predict", "--input_data", "./sets"), ACCEPTED),
    "the folder above the data set, train": (train("--data.path=sets"), ACCEPTED),
}
table("names and paths", ABOVE, writes=OUT)
