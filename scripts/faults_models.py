"""Bad models: emulator folders, base models, LoRA files, prompt embeddings, latent caches"""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
import torch
from faults_data import OUT
from faults_kit import (
    ACCEPTED,
    DIFFUSE,
    RUN,
    Payload,
    Skip,
    Tried,
    about_of,
    case,
    export,
    generate,
    json_of,
    named,
    refused,
    table,
    tensors_of,
    train,
)

NAN, INF = float("nan"), float("inf")


def in_json(path: str, *keys: str, value) -> Callable:
    "Set a value of a JSON file"

    def act():
        with json_of(path) as content:
            for key in keys[:-1]:
                content = content[key]
            content[keys[-1]] = value

    return act


def without(path: str, *keys: str) -> Callable:
    "Leave a key of a JSON file out"

    def act():
        with json_of(path) as content:
            for key in keys[:-1]:
                content = content[key]
            if keys[-1] not in content:
                raise Skip(f"{path} has no {keys[-1]} here")
            del content[keys[-1]]

    return act


def holds(path: str, content: str | bytes) -> Callable:
    "A file with another content"
    return lambda: Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def is_cut(path: str) -> Callable:
    return lambda: os.truncate(path, os.path.getsize(path) // 2)


def is_gone(path: str) -> Callable:
    return lambda: Path(path).unlink()


def is_folder(path: str) -> Callable:
    def act():
        Path(path).unlink()
        Path(path).mkdir()

    return act


def is_fifo(path: str) -> Callable:
    def act():
        Path(path).unlink()
        os.mkfifo(path)

    return act


def in_tensors(path: str, alter: Callable) -> Callable:
    "Change the tensors of a safetensors file"

    def act():
        with tensors_of(path) as tensors:
            alter(tensors)

    return act


def _floats(tensors: dict) -> list[str]:
    return [name for name, value in tensors.items() if value.is_floating_point()]


def one_is(value: float) -> Callable:
    "One number of the first tensor"
    return lambda tensors: tensors[_floats(tensors)[0]].view(-1)[:1].fill_(value)


def one_missing(tensors: dict):
    del tensors[sorted(tensors)[-1]]


def one_too_many(tensors: dict):
    tensors["extra.weight"] = torch.zeros(3)


def one_longer(tensors: dict):
    name = _floats(tensors)[0]
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def as_integers(tensors: dict):
    tensors.update({name: tensors[name].to(torch.int8) for name in _floats(tensors)})


def no_tensor(tensors: dict):
    tensors.clear()


WEIGHTS = {
    "NaN": lambda path: in_tensors(path, one_is(NAN)),
    "Inf": lambda path: in_tensors(path, one_is(INF)),
    "one tensor missing": lambda path: in_tensors(path, one_missing),
    "one tensor too many": lambda path: in_tensors(path, one_too_many),
    "another shape": lambda path: in_tensors(path, one_longer),
    "integers": lambda path: in_tensors(path, as_integers),
    "no tensor": lambda path: in_tensors(path, no_tensor),
    "cut short": is_cut,
    "empty": lambda path: holds(path, b""),
    "a header of 2^62 bytes": lambda path: holds(path, (2**62).to_bytes(8, "little") + b"{}"),
    "a text": lambda path: holds(path, "version https://git-lfs.github.com/spec/v1\n"),
    "a pickle": lambda path: holds(path, pickle.dumps(Payload())),
    "missing": is_gone,
    "a folder": is_folder,
    "a FIFO": is_fifo,
}  # what can be wrong with a safetensors file
JSONS = {
    "a list": lambda path: holds(path, "[1, 2]"),
    "a string": lambda path: holds(path, '"text"'),
    "a number": lambda path: holds(path, "7"),
    "null": lambda path: holds(path, "null"),
    "empty": lambda path: holds(path, ""),
    "cut short": is_cut,
    "not UTF-8": lambda path: holds(path, b'{"a": "\xff"}'),
    "nested a hundred thousand deep": lambda path: holds(path, "[" * 100_000),
    "an integer of ten thousand digits": lambda path: holds(path, '{"a": ' + "9" * 10_000 + "}"),
    "an empty mapping": lambda path: holds(path, "{}"),
    "a folder": is_folder,
    "a FIFO": is_fifo,
}  # and with a JSON file


def weights(family: str, what: str, path: str, *tried: Tried, leave_out: tuple[str, ...] = (), short: tuple = ()):
    "Register all that can be wrong with a safetensors file"
    for name, make in WEIGHTS.items():
        if name not in leave_out:
            limit = 30 if name == "a FIFO" else 60
            case(family, f"{what}: {name}", *tried, limit=limit, short=name in short)(make(path))


def jsons(family: str, what: str, path: str, *tried: Tried, leave_out: tuple[str, ...] = (), short: tuple = ()):
    "Register all that can be wrong with a JSON file"
    for name, make in JSONS.items():
        if name not in leave_out:
            limit = 30 if name == "a FIFO" else 60
            case(family, f"{what}: {name}", *tried, limit=limit, short=name in short)(make(path))


# --- emulator folders

EMULATOR, FACTS = "runs/predict/emulator", "runs/predict/emulator/emulator.json"
LOADED = Tried(generate(), refused("emulator"))
FALLEN_BACK = Tried(generate(), named("emulator|checkpoint"), OUT)  # a run without an emulator has checkpoints
jsons("emulator folder", "emulator.json", FACTS, LOADED, short=("a list",), leave_out=("a folder", "a FIFO"))
for name in ("a folder", "a FIFO", "missing"):
    case("emulator folder", f"emulator.json: {name}", FALLEN_BACK, limit=30)({**JSONS, **WEIGHTS}[name](FACTS))
PREDICTOR = f"{EMULATOR}/predictor/diffusion_pytorch_model.safetensors"
weights("emulator folder", "predictor", PREDICTOR, LOADED, short=("NaN",))
DECODER = f"{EMULATOR}/decoder/diffusion_pytorch_model.safetensors"
for name in ("NaN", "one tensor missing", "another shape"):
    case("emulator folder", f"decoder: {name}", LOADED)(WEIGHTS[name](DECODER))

S = "statistics"
FACT_FAULTS = {
    "a mean of NaN": in_json(FACTS, S, "mean", value=[NAN, 1, 0, 0]),
    "a floor of zero": in_json(FACTS, S, "floor", value=[0, 0, 0, 0]),
    "a negative floor": in_json(FACTS, S, "floor", value=[-1, 1, 1, 1]),
    "limits of zero": in_json(FACTS, S, "limit", value=[0, 0, 0, 0]),
    "a limit of NaN": in_json(FACTS, S, "limit", value=[NAN] * 4),
    "a standard deviation of zero": in_json(FACTS, S, "std", value=[0, 1, 1, 1]),
    "a standard deviation of Inf": in_json(FACTS, S, "std", value=[INF, 1, 1, 1]),
    "three means": in_json(FACTS, S, "mean", value=[1, 1, 1]),
    "five limits": in_json(FACTS, S, "limit", value=[2] * 5),
    "one number for four": in_json(FACTS, S, "limit", value=2.0),
    "words for numbers": in_json(FACTS, S, "limit", value=["a", "b", "c", "d"]),
    "a lowest density of NaN": in_json(FACTS, S, "lowest", value=[NAN, 1.0]),
    "a negative lowest density": in_json(FACTS, S, "lowest", value=[-1.0, 1.0]),
    "three lowest values": in_json(FACTS, S, "lowest", value=[1.0, 1.0, 1.0]),
    "null for numbers": in_json(FACTS, S, "mean", value=None),
    "no limit": without(FACTS, S, "limit"),
    "a value too many": in_json(FACTS, S, "median", value=[1, 1, 1, 1]),
}
for name, act in FACT_FAULTS.items():
    case("statistics", f"emulator.json: {name}", LOADED, short=name == "a limit of NaN")(act)
FACT_FAULTS = {
    "no statistics": without(FACTS, S),
    "statistics in a list": in_json(FACTS, S, value=[1, 2]),
    "no configuration": without(FACTS, "config"),
    "the configuration is a list": in_json(FACTS, "config", value=[]),
    "a section is a list": in_json(FACTS, "config", "model", value=[]),
    "an unknown key": in_json(FACTS, "config", "modle", value=1),
    "a mode that is none": in_json(FACTS, "config", "training", "mode", value="guess"),
    "another mode": in_json(FACTS, "config", "training", "mode", value="refine"),
    "no observed frame": in_json(FACTS, "config", "data", "n_steps_input", value=0),
    "1e9 channels": in_json(FACTS, "config", "model", "temporal_predictor", "hidden_channels", value=[10**9]),
    "a flow of NaN": in_json(FACTS, "config", "flow", "mean", value=NAN),
    "another format": in_json(FACTS, "format", value="wan_well emulator 9"),
    "a format that is a list": in_json(FACTS, "format", value=[1]),
    "no format": without(FACTS, "format"),
    "another VAE": in_json(FACTS, "vae_hash", value="0" * 16),
    "a VAE that is a list": in_json(FACTS, "vae_hash", value=[1]),
    "LoRA files in a list": in_json(FACTS, "lora", value=["a.safetensors"]),
    "scores in a list": in_json(FACTS, "scores", value=[1]),
    "data that are a number": in_json(FACTS, "data", value=7),
}
for name, act in FACT_FAULTS.items():
    case("emulator folder", f"emulator.json: {name}", LOADED)(act)
case("emulator folder", "emulator.json: a base model that is not here", Tried(generate(), refused("nowhere")))(
    in_json(FACTS, "config", "model", "name", value="./nowhere")
)
CONFIG = f"{EMULATOR}/predictor/config.json"
for name in ("a list", "empty", "an empty mapping"):
    case("emulator folder", f"predictor's config.json, which is not read: {name}", Tried(generate(), ACCEPTED, OUT))(
        JSONS[name](CONFIG)
    )
UNREAD = "predictor's config.json, which is not read: 1e9 channels"
case("emulator folder", UNREAD, Tried(generate(), ACCEPTED, OUT), limit=60)(
    in_json(CONFIG, "hidden_channels", value=[10**9])
)
case("emulator folder", "no predictor", Tried(generate(), refused("predictor")))(
    lambda: os.rename(f"{EMULATOR}/predictor", "elsewhere")
)
case("emulator folder", "moved to another place", Tried(generate("elsewhere"), ACCEPTED, OUT))(
    lambda: os.rename(EMULATOR, "elsewhere")
)


# --- base models

VAE, VAE_CONFIG = "base/vae/diffusion_pytorch_model.safetensors", "base/vae/config.json"
FRESH = Tried(train(), refused("vae"), RUN)
USED = Tried(generate(), refused("vae"))
BOUNDARY, SHIFT = ("boundary_ratio",), ("flow_shift",)
weights("base model", "VAE", VAE, FRESH, leave_out=("one tensor too many", "integers"))
jsons("base model", "VAE's config.json", VAE_CONFIG, FRESH)
WIDTHS = 16
VAE_FAULTS = {
    "latents_std has NaN": ("latents_std", [NAN] * WIDTHS),
    "latents_std is zero": ("latents_std", [0.0] * WIDTHS),
    "latents_std is negative": ("latents_std", [-1.0] * WIDTHS),
    "latents_std is short": ("latents_std", [1.0] * 3),
    "latents_std is words": ("latents_std", ["a"] * WIDTHS),
    "latents_std is a number": ("latents_std", 1.0),
    "latents_std is null": ("latents_std", None),
    "latents_mean has NaN": ("latents_mean", [NAN] * WIDTHS),
    "z_dim is another": ("z_dim", 8),
    "z_dim is 1e9": ("z_dim", 10**9),
    "the scale is zero": ("scale_factor_spatial", 0),
    "the scale is negative": ("scale_factor_temporal", -4),
    "the scale is a word": ("scale_factor_spatial", "four"),
    "base_dim is 1e6": ("base_dim", 10**6),
}
for name, (key, value) in VAE_FAULTS.items():
    case("base model", f"VAE: {name}", FRESH, USED, limit=60, short=name == "latents_std is zero")(
        in_json(VAE_CONFIG, key, value=value)
    )
EXPERTS = Tried(train(*DIFFUSE), refused("base|boundary|shift|scheduler"), RUN)
SAMPLED = Tried(generate("runs/diffuse"), refused("base|boundary|shift|scheduler"))
INDEX, SCHEDULER = "base/model_index.json", "base/scheduler/scheduler_config.json"
for value in (7, -1, NAN, "high", [0.9], True):
    case("base model", f"boundary of {value}", EXPERTS, SAMPLED, short=value == 7)(
        in_json(INDEX, "boundary_ratio", value=value)
    )
for value in (NAN, 0, -3, INF, "three", [3]):
    case("base model", f"scheduler with a shift of {value}", EXPERTS, SAMPLED)(
        in_json(SCHEDULER, "flow_shift", value=value)
    )
jsons("base model", "model_index.json", INDEX, EXPERTS)
jsons("base model", "scheduler", SCHEDULER, EXPERTS)
TRANSFORMER = "base/transformer/diffusion_pytorch_model.safetensors"
BY_EXPERT = Tried(train(*DIFFUSE), refused("transformer"), RUN)
weights("base model", "expert", TRANSFORMER, BY_EXPERT, leave_out=("one tensor too many", "integers"))
jsons("base model", "expert's config.json", "base/transformer/config.json", BY_EXPERT)
EXPERT_FAULTS = {
    "no head": ("num_attention_heads", 0),
    "patches of zero": ("patch_size", [0, 0, 0]),
    "1e9 layers": ("num_layers", 10**9),
    "a text of 1e9": ("text_dim", 10**9),
    "another number of channels": ("in_channels", 7),
}
for name, (key, value) in EXPERT_FAULTS.items():
    case("base model", f"expert: {name}", BY_EXPERT, limit=60)(
        in_json("base/transformer/config.json", key, value=value)
    )


@case("base model", "expert: an index that names a file above it", BY_EXPERT)
def _():
    os.rename(TRANSFORMER, "base/elsewhere.safetensors")
    with open("base/transformer/diffusion_pytorch_model.safetensors.index.json", "w") as f:
        json.dump(
            dict(metadata=dict(total_size=1), weight_map={"patch_embedding.weight": "../elsewhere.safetensors"}), f
        )


# --- LoRA

LORA, LORA_FACTS = "runs/diffuse/emulator/diffuse_low_noise.safetensors", "runs/diffuse/emulator/emulator.json"
SAMPLE, EXPORT = (
    Tried(generate("runs/diffuse"), refused("diffuse_low_noise|lora")),
    Tried(export(), refused("diffuse_low_noise|lora")),
)
for name, make in WEIGHTS.items():
    both = (
        (SAMPLE,)
        if name in ("one tensor missing", "one tensor too many", "another shape", "integers")
        else (SAMPLE, EXPORT)
    )
    case("LoRA", f"the file: {name}", *both, limit=30 if name == "a FIFO" else 60, short=name in ("NaN", "a folder"))(
        make(LORA)
    )


def _in_metadata(**values) -> Callable:
    "Change the adapter's configuration, which a LoRA file holds as JSON"

    def alter(about: dict):
        inner = json.loads(about["lora_adapter_metadata"])
        inner.update({f"transformer.{key}": value for key, value in values.items()})
        about["lora_adapter_metadata"] = json.dumps(inner)

    return lambda: about_of(LORA, alter)


def _says(**values) -> Callable:
    return lambda: about_of(LORA, lambda about: about.update(values))


ABOUT = {
    "alpha 0": _in_metadata(lora_alpha=0),
    "alpha is a word": _in_metadata(lora_alpha="four"),
    "alpha is NaN": _in_metadata(lora_alpha=NAN),
    "alpha is a list": _in_metadata(lora_alpha=[4]),
    "another alpha": _in_metadata(lora_alpha=8),
    "its metadata are no JSON": _says(lora_adapter_metadata="{"),
    "its metadata are a list": _says(lora_adapter_metadata="[1]"),
    "its metadata nest a hundred thousand deep": _says(lora_adapter_metadata="[" * 100_000),
    "of the other expert": _says(expert="high"),
    "of another base": _says(base="elsewhere"),
}
for name, act in ABOUT.items():
    case("LoRA", name, SAMPLE, short=name == "alpha is a word")(act)
LISTED = {
    "an unknown expert": dict(medium="diffuse_low_noise.safetensors"),
    "an unknown expert beside a known one": dict(low="diffuse_low_noise.safetensors", medium="x.safetensors"),
    "a file that is not there": dict(low="nowhere.safetensors"),
    "an empty name": dict(low=""),
    "a number for a name": dict(low=7),
    "a list for a name": dict(low=["diffuse_low_noise.safetensors"]),
    "null": None,
    "a string": "diffuse_low_noise.safetensors",
}
for name, value in LISTED.items():
    tried = (
        Tried(generate("runs/diffuse"), refused("lora|expert|low|emulator")),
        Tried(export(), refused("lora|expert|low|emulator")),
    )
    case("LoRA", f"emulator.json lists {name}", *tried)(in_json(LORA_FACTS, "lora", value=value))


@case(
    "names and paths",
    "a LoRA file above its folder",
    Tried(generate("runs/diffuse"), refused("lora|safetensors")),
    Tried(export(), refused("lora|safetensors")),
)
def _():
    os.rename(LORA, "runs/diffuse/x.safetensors")
    in_json(LORA_FACTS, "lora", value=dict(low="../x.safetensors"))()


@case(
    "names and paths",
    "a LoRA file by an absolute name",
    Tried(generate("runs/diffuse"), refused("lora|safetensors")),
    Tried(export(), refused("lora|safetensors")),
)
def _():
    os.rename(LORA, "x.safetensors")
    in_json(LORA_FACTS, "lora", value=dict(low=str(Path("x.safetensors").resolve())))()


# --- prompts

PROMPT, KEPT = "base/prompt_embeds.safetensors", "runs/diffuse/emulator/prompt_embeds.safetensors"
PROMPTED = Tried(train(*DIFFUSE), refused("prompt"), RUN)
PROMPT_FAULTS = {
    "two dimensions": lambda t: t.update(prompt_embeds=t["prompt_embeds"][0].clone()),
    "another width": lambda t: t.update(prompt_embeds=torch.zeros(1, 16, 7)),
    "no token": lambda t: t.update(prompt_embeds=torch.zeros(1, 0, 32)),
    "two prompts": lambda t: t.update(prompt_embeds=torch.zeros(2, 16, 32)),
    "another name": lambda t: t.update(embedding=t.pop("prompt_embeds")),
    "one number": lambda t: t.update(prompt_embeds=torch.zeros(())),
}
weights(
    "prompt", "of the base model", PROMPT, PROMPTED, leave_out=("one tensor too many", "another shape"), short=("Inf",)
)
for name, alter in PROMPT_FAULTS.items():
    case("prompt", f"of the base model: {name}", PROMPTED)(in_tensors(PROMPT, alter))
for name in ("NaN", "one tensor missing", "cut short", "a folder", "a FIFO"):
    case("prompt", f"of the emulator: {name}", Tried(generate("runs/diffuse"), refused("prompt")), limit=30)(
        WEIGHTS[name](KEPT)
    )
NAMED = {
    "a file that is not there": (
        train(*DIFFUSE, "--wan.prompt_embeds=nowhere.safetensors"),
        refused("nowhere.safetensors"),
    ),
    "a folder": (train(*DIFFUSE, "--wan.prompt_embeds=base"), refused("base")),
    "a data file": (train(*DIFFUSE, f"--wan.prompt_embeds={PREDICTOR}"), refused("predictor")),
    "more scalar tokens than it has": (train(*DIFFUSE, "--wan.scalar_tokens=100"), refused("scalar_tokens")),
}
table("prompt", NAMED, writes=RUN)


# --- latent caches


def _cache() -> str:
    "The latents of the small configuration; those of diffuse have a condition too"
    return str(min(Path("latents").glob("train-*.safetensors"), key=os.path.getsize))


def _in_cache(make: Callable) -> Callable:
    return lambda: make(_cache())()


AGAIN = "wrote latent cache|encoded again|encode.* again|damaged latent cache|latent cache.*(finite|shape|row|index)"
CACHED = Tried(train(), named(AGAIN), OUT, ("work/latents/*",))  # made again with a word, or refused
CACHE_FAULTS = {
    "no index": lambda t: t.pop("index"),
    "no latents": lambda t: t.pop("latents"),
    "half of the rows": lambda t: t.update(latents=t["latents"][:8].clone()),
    "an index beyond the windows": lambda t: t.update(index=t["index"] + 1000),
    "an index of floats": lambda t: t.update(index=t["index"].float() / 3),
    "the index backwards": lambda t: t.update(index=t["index"].flip(0)),
    "other channels": lambda t: t.update(latents=t["latents"][:, :, :5].clone()),
    "two dimensions": lambda t: t.update(latents=t["latents"].flatten(1)),
    "NaN in every row": lambda t: t["latents"].fill_(float("nan")),
}
ONE_VALUE = ("NaN", "Inf")  # of a row that may not be read at all
for name, make in WEIGHTS.items():
    if name not in (
        "one tensor too many",
        "one tensor missing",
        "another shape",
        "missing",
        "a folder",
        "a FIFO",
        *ONE_VALUE,
    ):
        case("cache", name, CACHED, limit=60)(_in_cache(make))
for name, alter in CACHE_FAULTS.items():
    case("cache", name, CACHED, limit=60)(_in_cache(lambda path, alter=alter: in_tensors(path, alter)))
for name in ("a folder", "a FIFO"):
    case("cache", name, Tried(train(), named(AGAIN + "|latents"), OUT, ("work/latents/*",)), limit=30)(
        _in_cache(WEIGHTS[name])
    )
case("cache", "of something else", CACHED)(lambda: about_of(_cache(), lambda about: about.update(fingerprint="0" * 16)))
