"""Bad runs: checkpoints, run folders, other data than it was trained on, and code in files"""

import io
import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
import h5py
import numpy as np
import torch
from faults_data import DATA, OUT, SET, data_file
from faults_kit import (
    ACCEPTED,
    DIFFUSE,
    MARKER,
    QUIET,
    RUN,
    SIMULATE,
    Payload,
    Tried,
    case,
    evaluate,
    generate,
    json_of,
    named,
    noted,
    refused,
    resume,
    tensors_of,
    train,
)
from faults_models import EMULATOR, JSONS, KEPT, LORA, NAN, PREDICTOR, holds, in_json, without

CHECKPOINTS = Path("runs/predict/checkpoints")
OWN = ("work/runs/predict/*",)  # what a resumed run may write


def steps() -> list[Path]:
    "Checkpoints of the finished run, newest first"
    return sorted(CHECKPOINTS.glob("step-*"), reverse=True)


def newest() -> Path:
    return steps()[0]


def seal(folder: Path):
    "Write down sizes and checksums again, as somebody does who means to deceive"
    files = {p.name: (p.stat().st_size, zlib.crc32(p.read_bytes())) for p in folder.iterdir() if p.name != "state.json"}
    with json_of(folder / "state.json") as state:
        state["files"] = files


def alone(act: Callable) -> Callable:
    "Leave only the newest checkpoint, and damage that"

    def both():
        for path in steps()[1:]:
            shutil.rmtree(path)
        act()

    return both


def in_state(key: str, value) -> Callable:
    return alone(lambda: in_json(str(newest() / "state.json"), key, value=value)())


RESUMED = Tried(resume(), refused("checkpoint|step-"), (), OWN)
SCORED = Tried(evaluate("runs/predict/checkpoints/last"), refused("last|state|checkpoint"))


def _as_last(act: Callable) -> Callable:
    "The same damage to a checkpoint that is given by its name"

    def both():
        act()
        os.rename(newest(), CHECKPOINTS / "last")

    return both


# --- state.json

KEYS = (
    "stage",
    "step",
    "epoch",
    "samples",
    "global_batch",
    "processes",
    "skipped",
    "best",
    "stale",
    "has_best",
    "scores",
    "files",
    "statistics",
    "config",
    "format",
    "vae_hash",
)
for key in KEYS:
    case("runs", f"state.json without {key}", RESUMED, short=key == "samples")(
        alone(lambda key=key: without(str(newest() / "state.json"), key)())
    )
for key in ("files", "statistics", "config", "format", "stage"):
    case("runs", f"state.json without {key}, scored", SCORED)(
        _as_last(lambda key=key: without(str(newest() / "state.json"), key)())
    )
VALUES = {
    "a step in words": ("step", "four"),
    "a negative step": ("step", -1),
    "a step of 1e30": ("step", 10**30),
    "a step of NaN": ("step", NAN),
    "an unknown stage": ("stage", "guess"),
    "a stage that is a list": ("stage", ["field"]),
    "an epoch that is a list": ("epoch", [1]),
    "a negative epoch": ("epoch", -3),
    "samples in words": ("samples", "many"),
    "no windows in an update": ("global_batch", dict(latent=0, field=0)),
    "windows in a list": ("global_batch", [2, 2]),
    "no process": ("processes", 0),
    "a best of NaN": ("best", NAN),
    "a best in words": ("best", "low"),
    "scores in a list": ("scores", [1]),
    "files in a list": ("files", ["a"]),
    "files that are numbers": ("files", {".metadata": 7}),
    "a file above the folder": ("files", {"../../../config.yaml": [1, 1]}),
    "a file by an absolute name": ("files", {"/etc/hostname": [1, 1]}),
    "the configuration in a list": ("config", [1]),
    "statistics of NaN": ("statistics", dict(mean=[NAN] * 4, std=[1] * 4, floor=[1] * 4, lowest=[1, 1], limit=[2] * 4)),
    "statistics in a list": ("statistics", [1]),
}
for name, (key, value) in VALUES.items():
    case("runs", f"state.json: {name}", RESUMED, short=name == "files in a list")(in_state(key, value))
for name, make in JSONS.items():
    case("runs", f"state.json: {name}", RESUMED, limit=30 if name == "a FIFO" else 60)(
        alone(lambda make=make: make(str(newest() / "state.json"))())
    )


# --- the shards


def _flip(path: Path):
    "Turn a byte in the middle"
    with open(path, "r+b") as f:
        f.seek(path.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 0xFF]))


def _weights_files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.name not in ("state.json", ".metadata")]


def _flip_all():
    for folder in steps():
        _flip(_weights_files(folder)[0])


FALLEN_BACK = Tried(resume("--training.field_epochs=1"), noted("checkpoint"), (), OWN)
case("runs", "a byte of the newest checkpoint has turned: the older one is taken", FALLEN_BACK)(
    lambda: _flip(_weights_files(newest())[0])
)
case("runs", "a byte of every checkpoint has turned", Tried(resume(), refused("checkpoint"), (), OWN), short=True)(
    _flip_all
)


def _cut_weights():
    file = _weights_files(newest())[0]
    os.truncate(file, file.stat().st_size // 2)


def _cut_and_sealed():
    _cut_weights()
    seal(newest())


def _no_weights():
    _weights_files(newest())[0].unlink()


def _nan_weights():
    "The number pattern of a weight becomes NaN, and the checksums are made again"
    file = _weights_files(newest())[0]
    if file.suffix == ".safetensors":
        with tensors_of(file) as tensors:
            next(t for name, t in tensors.items() if name.startswith("parts.")).fill_(NAN)
    else:
        _nan_in_shard(file)
    seal(newest())


def _nan_in_shard(file: Path):
    "The same in a file of DCP, which holds one saved tensor behind the other"
    meta = pickle.loads((file.parent / ".metadata").read_bytes())
    for index, place in meta.storage_data.items():
        if index.fqn.startswith("parts.predictor") and place.relative_path == file.name:
            raw = bytearray(file.read_bytes())
            tensor = torch.load(io.BytesIO(raw[place.offset : place.offset + place.length]), weights_only=True)
            spot = raw.find(tensor.contiguous().numpy().tobytes(), place.offset)
            raw[spot : spot + 4] = np.float32(NAN).tobytes()
            file.write_bytes(raw)
            return
    raise AssertionError("no predictor in the checkpoint")


SHARDS = {
    "cut short": _cut_weights,
    "cut short, sealed again": _cut_and_sealed,
    "missing": _no_weights,
    "NaN in a weight, sealed again": _nan_weights,
}
for name, act in SHARDS.items():
    case("runs", f"weights of a checkpoint: {name}", RESUMED)(alone(act))
    case("runs", f"weights of a checkpoint: {name}, scored", SCORED)(_as_last(act))


@case("runs", "weights that are a FIFO", RESUMED, limit=30)
@alone
def _():
    file = _weights_files(newest())[0]
    file.unlink()
    os.mkfifo(file)


# --- the run folder

FOLDER = {
    "config.yaml is missing": Path("runs/predict/config.yaml").unlink,
    "config.yaml is a list": holds("runs/predict/config.yaml", "- 1\n"),
    "config.yaml is empty": holds("runs/predict/config.yaml", ""),
}
for name, act in FOLDER.items():
    case("runs", name, Tried(("evaluate", "--checkpoint", "runs/predict", *QUIET), refused("config.yaml|data")))(act)
CONTINUED = Tried(resume(config="small.yaml"), ACCEPTED, (), OWN)


def _half_a_line():
    with open("runs/predict/log.jsonl", "a") as f:
        f.write('{"stage": "field", "st')


def _rubbish():
    with open("runs/predict/log.jsonl", "ab") as f:
        f.write(b"\x00\xff\xfe" * 20)


case("runs", "log.jsonl ends within a line", CONTINUED)(_half_a_line)
case("runs", "log.jsonl ends in zeros, as after a power cut", CONTINUED)(_rubbish)


@case("runs", "log.jsonl is a folder", Tried(resume(config="small.yaml"), refused("log.jsonl"), (), OWN))
def _():
    os.unlink("runs/predict/log.jsonl")
    os.mkdir("runs/predict/log.jsonl")


@case("runs", "no checkpoint", Tried(resume(), refused("resume"), (), OWN))
def _():
    shutil.rmtree(CHECKPOINTS)
    CHECKPOINTS.mkdir()


@case("runs", "a checkpoint that is a link to itself", Tried(resume(), refused("checkpoint|resume"), (), OWN))
def _():
    shutil.rmtree(CHECKPOINTS)
    CHECKPOINTS.symlink_to("checkpoints")


UNFINISHED = Tried(evaluate("runs/predict"), noted("train|stage"), OUT)


@case("runs", "an unfinished run is scored", UNFINISHED, Tried(generate("runs/predict"), noted("train|stage"), OUT))
def _():
    shutil.rmtree(EMULATOR)
    shutil.rmtree(newest())
    for path in CHECKPOINTS.glob("best-*"):
        shutil.rmtree(path)


RECORD = ("work/runs/*.jsonl", "work/runs/*.yaml", "work/runs/*.json", "work/runs/*/emulator/*", "work/runs/*/.lock")
BEHIND = Tried(
    ("train", "--config", "small.yaml", "--resume_from", "runs/predict/checkpoints/step-00000002"),
    ACCEPTED,
    ("*",),
    RECORD,
)
case(
    "runs",
    "resume from an older step: the newer ones are not lost",
    Tried(BEHIND.command, ACCEPTED, ("*",), (*RECORD, "work/runs/predict/checkpoints/*-00000004/*")),
)(lambda: None)


@case(
    "runs",
    "start in a run folder from another run's step",
    Tried(
        (
            "train",
            "--config",
            "small.yaml",
            "--name",
            "other",
            "--resume_from",
            "runs/predict/checkpoints/step-00000002",
        ),
        named("checkpoint|other"),
        ("*",),
        RECORD,
    ),
)
def _():
    shutil.copytree("runs/predict", "runs/other")
    for path in Path("runs/other/checkpoints").iterdir():
        kind, step = path.name.split("-")
        path.rename(path.with_name(f"{kind}-{int(step) + 900:08d}"))


# --- other data than it was trained on


def _rewrite(alter: Callable):
    "Every file with other arrays: alter gives the new content of a data set"
    for split in ("train", "valid", "test"):
        for path in (SET / "data" / split).glob("*.hdf5"):
            with h5py.File(path, "r+") as f:
                for name in ("t0_fields/density", "t0_fields/pressure", "t1_fields/velocity", "dimensions/time"):
                    new, attributes = alter(name, f[name][()]), dict(f[name].attrs)
                    del f[name]
                    f[name] = new
                    f[name].attrs.update(attributes)


def _longer_steps(name: str, values: np.ndarray) -> np.ndarray:
    return values * 3 if name == "dimensions/time" else values


def _other_values(name: str, values: np.ndarray) -> np.ndarray:
    return values if name == "dimensions/time" else values * np.float32(1.01)


def _half_the_grid():
    _rewrite(lambda name, values: values if name == "dimensions/time" else values[:, :, ::2, ::2])
    for split in ("train", "valid", "test"):
        for path in (SET / "data" / split).glob("*.hdf5"):
            with h5py.File(path, "r+") as f:
                _halve_axes(f)


def _halve_axes(f: h5py.File):
    for axis in ("x", "y"):
        values, attributes = f[f"dimensions/{axis}"][::2], dict(f[f"dimensions/{axis}"].attrs)
        del f[f"dimensions/{axis}"]
        f[f"dimensions/{axis}"] = values
        f[f"dimensions/{axis}"].attrs.update(attributes)
    for condition in f["boundary_conditions"].values():
        mask = np.zeros(len(condition["mask"]) // 2, bool)
        mask[[0, -1]] = True
        del condition["mask"]
        condition["mask"] = mask


ON_OTHER_DATA = Tried(resume(config="small.yaml"), refused("data"), (), OWN)
case("runs", "resume on data of other values", ON_OTHER_DATA)(lambda: _rewrite(_other_values))
case("runs", "resume on data of another time step", ON_OTHER_DATA)(lambda: _rewrite(_longer_steps))


@case("runs", "resume on fewer files", ON_OTHER_DATA)
def _():
    data_file("train", 1).unlink()


@case(
    "runs",
    "resume on the same data elsewhere",
    Tried(resume("--data.path=elsewhere", config="small.yaml"), ACCEPTED, OUT, OWN),
)
def _():
    shutil.copytree(DATA, "elsewhere")


STEP = "time|step|dt"
case("runs", "data of another time step", Tried(evaluate(), named(STEP), OUT), Tried(generate(), named(STEP), OUT))(
    lambda: _rewrite(_longer_steps)
)
case(
    "runs",
    "data of another resolution",
    Tried(evaluate(), named("grid|resolution|cells|16"), OUT),
    Tried(generate(), named("grid|resolution|cells|16"), OUT),
)(_half_the_grid)


# --- code in files


@contextmanager
def checkpoint_metadata():
    "What DCP knows of the tensors of the newest checkpoint, to be changed; skipped where there is no pickle to attack"
    path = newest() / ".metadata"
    if not path.exists() or path.read_bytes()[:1] != b"\x80":
        yield None
        return
    meta = pickle.loads(path.read_bytes())
    yield meta
    path.write_bytes(pickle.dumps(meta))


def _bytes_entry():
    "A tensor that the metadata call a bytes entry: DCP unpickles those out of the shard"
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

    blob, shard = io.BytesIO(), _weights_files(newest())[0]
    torch.save(Payload(), blob)
    with checkpoint_metadata() as meta:
        if meta:
            key = next(k for k in meta.state_dict_metadata if k.startswith("parts."))
            meta.state_dict_metadata[key] = BytesStorageMetadata()
            for index in [i for i in meta.storage_data if i.fqn == key]:
                del meta.storage_data[index]
            place = _StorageInfo(shard.name, shard.stat().st_size, len(blob.getvalue()))
            meta.storage_data[MetadataIndex(key)] = place
    shard.write_bytes(shard.read_bytes() + blob.getvalue())
    seal(newest())


def _pickled_metadata():
    (newest() / ".metadata").write_bytes(pickle.dumps(Payload()))
    seal(newest())


def _nested_attribute():
    "A pickle that reaches os.system through a module that is let in"
    code = b"\x80\x04\x8c#torch.distributed.checkpoint.metadata\x8c\x09os.system\x93\x8c\x0ftouch " + MARKER.encode()
    (newest() / ".metadata").write_bytes(code + b"\x85R.")
    seal(newest())


def _pickled_shard():
    _weights_files(newest())[0].write_bytes(pickle.dumps(Payload()))
    seal(newest())


CODE = {
    "a bytes entry in a checkpoint": _bytes_entry,
    "the metadata of a checkpoint": _pickled_metadata,
    "the metadata of a checkpoint, by a nested name": _nested_attribute,
    "the weights of a checkpoint": _pickled_shard,
}
NOT_RUN = named("")  # a layout that reads no such file may go on without it, as long as nothing runs
for name, act in CODE.items():
    case("code", name, Tried(RESUMED.command, NOT_RUN, OUT, OWN), short=act is _bytes_entry)(alone(act))
    case("code", f"{name}, scored", Tried(SCORED.command, NOT_RUN, OUT))(_as_last(act))


def _as_bin(path: str) -> Callable:
    "A pickle under the name that diffusers falls back to"

    def act():
        os.unlink(path)
        torch.save({"weight": Payload()}, Path(path).parent / "diffusion_pytorch_model.bin")

    return act


case("code", "a pickle for the predictor", Tried(generate(), refused("predictor")))(_as_bin(PREDICTOR))
case("code", "a pickle for the VAE", Tried(train(), refused("vae"), RUN))(
    _as_bin("base/vae/diffusion_pytorch_model.safetensors")
)
case("code", "a pickle for an expert", Tried(train(*DIFFUSE), refused("transformer"), RUN))(
    _as_bin("base/transformer/diffusion_pytorch_model.safetensors")
)
case("code", "a pickle for the scalars' tokens", Tried(generate("runs/diffuse"), refused("scalars")))(
    _as_bin("runs/diffuse/emulator/scalars/low/diffusion_pytorch_model.safetensors")
)


def _saved(path: str) -> Callable:
    return lambda: torch.save({"prompt_embeds": Payload()}, path)


case("code", "what torch.save writes, as a prompt", Tried(generate("runs/diffuse"), refused("prompt")))(_saved(KEPT))
case("code", "what torch.save writes, as a LoRA", Tried(generate("runs/diffuse"), refused("lora|low_noise")))(
    _saved(LORA)
)


@case("code", "the latent cache is a pickle", Tried(train(), named("latent cache"), OUT, ("work/latents/*",)))
def _():
    for path in Path("latents").glob("*"):
        path.write_bytes(pickle.dumps(Payload()))


@case("code", "a text encoder that is a pickle", Tried(("embed-prompt", "--model_name", "./base"), refused("text")))
def _():
    folder = Path("base/text_encoder")
    folder.mkdir()
    shutil.copytree(folder, "base/tokenizer")
    config = dict(model_type="umt5", architectures=["UMT5EncoderModel"], d_model=8, d_kv=4, d_ff=8, num_layers=1)
    (folder / "config.json").write_text(json.dumps(config | dict(num_heads=2, vocab_size=8)))
    torch.save({"shared.weight": Payload()}, folder / "pytorch_model.bin")


@case("code", "a registry with a YAML tag", Tried(("download", "--registry", "small.yaml"), refused("small.yaml")))
def _():
    Path("small.yaml").write_text(f"x: !!python/object/apply:os.system ['touch {MARKER}']\n")


def _parts_of_a_simulation(make: Callable) -> Callable:
    "A simulation that was stopped: one file is missing, its parts are there, and damaged"

    def act():
        data_file("train").unlink()
        parts = SET / ".parts"
        parts.mkdir()
        for name in _part_names():
            make(parts / name)

    return act


def _part_names() -> list[str]:
    "Names of the parts of the training file that is missing"
    from wan_well.physics.plan import make_plan

    plan = make_plan("demo", t_cools=(0.1, 1.0), n_trajectories=(2, 1, 1), n_frames=20)
    first = next(name for name in sorted(plan.files) if "train" in name)
    return [t.part for t in plan.files[first]]


def _array(path: Path, values: np.ndarray):
    with open(path, "wb") as f:
        np.save(f, values, allow_pickle=True)


def _cut_array(path: Path):
    _array(path, np.ones((20, 4, 32, 96), np.float32))
    os.truncate(path, path.stat().st_size // 2)


PARTS = {
    "cut short": _cut_array,
    "empty": Path.touch,
    "full of zeros": lambda path: _array(path, np.zeros((20, 4, 32, 96), np.float32)),
    "full of NaN": lambda path: _array(path, np.full((20, 4, 32, 96), NAN, np.float32)),
    "of another shape": lambda path: _array(path, np.ones((3, 4, 32, 96), np.float32)),
    "zero bytes": lambda path: path.write_bytes(bytes(983_168)),
    "a pickle": lambda path: _array(path, np.array([Payload()], object)),
    "a folder": Path.mkdir,
}
AGAIN = (*SIMULATE, "--output_dir", "sets")
MADE = ("work/sets/*",)
MENDED = Tried(AGAIN, named(""), MADE, MADE, ("work/sets/*.hdf5",))  # computed again, or refused


for name, make in PARTS.items():
    family = "code" if name == "a pickle" else "runs"
    case(family, f"a part of a killed simulation: {name}", MENDED)(_parts_of_a_simulation(make))


@case("runs", "a file of a simulation full of zeros is made again", MENDED)
def _():
    with h5py.File(data_file("train"), "r+") as f:
        f["t0_fields/density"][:] = 0


for name, make in JSONS.items():
    case("runs", f"simulation.json: {name}", Tried(AGAIN, refused("simul|sets")), limit=30)(
        make(str(SET / "simulation.json"))
    )
