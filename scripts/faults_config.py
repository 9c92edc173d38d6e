"""Bad configurations and bad command lines"""

from pathlib import Path
from faults_data import BOMB, OUT
from faults_kit import (
    DIFFUSE,
    MARKER,
    QUIET,
    RUN,
    SMALL,
    Expect,
    Tried,
    case,
    evaluate,
    export,
    generate,
    named,
    noted,
    patterns,
    refused,
    resume,
    simulate,
    table,
    train,
)

# --- the file

TEXTS = {
    "a list": "- name: x\n- seed: 1\n",
    "one word": "hello\n",
    "a number": "3\n",
    "tabs": "training:\n\tlr: 1\n",
    "an open bracket": "training: {lr: 1\n",
    "NUL": "name: a\0b\n",
    "a date for a number": SMALL.replace("lr: 1.0e-3", "lr: 2024-01-01"),
    "a set for a mapping": SMALL.replace("sampling: {steps: 1}", "sampling: !!set {steps}"),
    "a number as a key": SMALL + "7: 3\n",
    "nothing as a key": SMALL + "? \n: 3\n",
    "a list as a key": SMALL + "? [a, b]\n: 3\n",
    "a section that is a number": SMALL.replace("sampling: {steps: 1}", "sampling: 5"),
    "a section that is a list": SMALL.replace("sampling: {steps: 1}", "sampling: [steps, 1]"),
    "a section that is a string": SMALL.replace("sampling: {steps: 1}", "sampling: steps"),
    "a word for a number": SMALL.replace("lr: 1.0e-3", "lr: fast"),
    "a truth value for a number": SMALL.replace("batch_size: 2", "batch_size: true"),
    "a mapping for a number": SMALL.replace("batch_size: 2", "batch_size: {a: 1}"),
    "a list for a number": SMALL.replace("batch_size: 2", "batch_size: [2, 3]"),
    "an unknown key": SMALL.replace("batch_size: 2", "batchsize: 2"),
    "an unknown section": SMALL + "trainer: {lr: 1}\n",
    "aliases that multiply": BOMB,
    "aliases that multiply, as a name": BOMB + SMALL.replace("name: predict", "name: *i"),
    "nested a hundred thousand deep": "[" * 100_000,
    "nested a thousand deep": "a: " + "[" * 1000 + "]" * 1000,
    "an alias to itself": "&a {name: *a}\n",
    "an integer of ten thousand digits": SMALL + f"seed: {'9' * 10_000}\n",
    "a tag that runs code": f"name: !!python/object/apply:os.system ['touch {MARKER}']\n",
    "a tag that imports": "name: !!python/name:os.system\n",
}
SHORT = ("a list", "a date for a number", "an unknown key")


def _write(content: str | bytes):
    def act():
        data = content if isinstance(content, bytes) else content.encode()
        Path("small.yaml").write_bytes(data)

    return act


for name, text in TEXTS.items():
    tried = Tried(train(), refused("small.yaml"), RUN)
    case("configuration", f"the file: {name}", tried, limit=60, short=name in SHORT)(_write(text))
for name, content in {
    "not UTF-8": b"name: \xff\xfe\n",
    "UTF-16": SMALL.encode("utf-16"),
    "random bytes": bytes(range(256)),
}.items():
    case("configuration", f"the file: {name}", Tried(train(), refused("small.yaml")))(_write(content))
case(
    "configuration",
    "the file: of the run, for evaluate",
    Tried(("evaluate", "--checkpoint", "runs/predict", *QUIET), refused("config.yaml")),
)(lambda: Path("runs/predict/config.yaml").write_text("- 1\n"))


# --- numbers that are not finite, or absurd

FLOATS = (
    "training.lr",
    "training.field_lr",
    "training.weight_decay",
    "training.grad_clip",
    "training.ema_decay",
    "training.latent_noise",
    "training.loss.latent",
    "training.loss.physics",
    "training.peak_tflops",
    "distributed.timeout_s",
    "flow.shift",
    "flow.mean",
    "flow.std",
    "sampling.shift",
    "sampling.guidance",
    "sampling.strength",
)
VALUES = {f"{key} is {value}": (train(f"--{key}={value}"), refused(key)) for key in FLOATS for value in ("inf", "nan")}
HUGE = 10**9
ABSURD = {
    "lr of 1e30": (train("--lr=1e30"), refused("lr|finite")),
    "lr of 1e30, diffuse": (train("--lr=1e30", *DIFFUSE), refused("lr|finite")),
    "a field_lr of 1e30": (train("--training.field_lr=1e30"), refused("lr|finite")),
    "a latent_noise of 1e30": (train("--training.latent_noise=1e30"), refused("latent_noise|finite")),
    "a LoRA of rank 1e9": (train("--lora.rank=1000000000", *DIFFUSE), refused("rank|memory|GiB|TiB")),
    "a predictor of 1e7 channels": (
        train("--model.temporal_predictor.hidden_channels=[10000000]"),
        refused("hidden_channels|memory|GiB|TiB"),
    ),
    "a decoder of 1e7 channels": (train("--model.decoder.hidden_dim=10000000"), refused("hidden_dim|memory|GiB|TiB")),
    "an adapter of 1e7 channels": (
        train("--mode=reconstruct", "--model.channel_adapter.kind=conv", "--model.channel_adapter.hidden_dim=10000000"),
        refused("hidden_dim|memory|GiB|TiB"),
    ),
    "1e6 threads": (train("--training.num_threads=1000000"), refused("num_threads")),
    "1e9 scalar tokens": (train("--wan.scalar_tokens=1000000000", *DIFFUSE), refused("scalar_tokens")),
    "windows of 1e9 frames": (train("--data.n_steps_output=1000000000"), refused("frames|n_steps")),
    "1e9 observed frames": (train("--data.n_steps_input=1000000000"), refused("frames|n_steps")),
    "a batch of 1e9": (train("--batch_size=1000000000"), refused("batch_size")),
    "a seed of 2^64": (train(f"--seed={2**64}"), refused("seed")),
    "a sampling seed of 2^64": (train(f"--sampling.seed={2**64}", *DIFFUSE), refused("seed")),
    "a negative seed": (train("--seed=-1"), refused("seed")),
    "an update that does nothing, no epoch": (train("--num_epochs=-1"), refused("num_epochs")),
}
table("configuration", VALUES, ("training.lr is inf",))
table("configuration", ABSURD, writes=RUN, limit=60)
FORKS = {"1e6 loader processes": (train("--data.num_workers=1000000"), refused("num_workers"))}
table("configuration", FORKS, writes=RUN, limit=10)  # not longer: without a refusal they are really started
OVERRIDES = {
    "more epochs of a finished main stage": (
        resume("--num_epochs=4", "--training.field_epochs=1"),
        named("epochs|latent"),
    ),
    "adapter epochs of a run without": (resume("--training.adapter_epochs=3"), named("adapter_epochs")),
    "history epochs of a run without": (resume("--training.history_epochs=3"), named("history_epochs|history")),
    "another batch size of a resumed run": (resume("--batch_size=1"), noted("batch|windows")),
    "another learning rate of a resumed run": (resume("--lr=0.5"), refused("lr")),
    "another predictor of a resumed run": (
        resume("--model.temporal_predictor.hidden_channels=[4]"),
        refused("hidden_channels"),
    ),
}
table("configuration", OVERRIDES, writes=OUT, changes=("work/runs/predict/*",))
INTO = dict(
    mode=(train("--mode=refine"), refused("init_from|predictor")),
    device=(train("--device=cuda"), refused("cuda|device")),
    attention=(train("--wan.attention=fast", *DIFFUSE), refused("attention")),
    target=(train("--lora.target_modules=to_x", *DIFFUSE), refused("target_modules")),
    history=(train(*DIFFUSE, "--data.n_steps_input=8"), refused("n_steps_input")),
    wandb=(train("--wandb_project=x"), refused("wandb|Weights")),
)
table("configuration", {f"does not go together: {name}": value for name, value in INTO.items()}, writes=RUN)


# --- the command line

NO: Expect = refused()
LINES = {
    "an unknown command": (("trian",), refused("train")),
    "an unknown option": (train("--trianing.lr=1"), refused("trianing")),
    "an option without a value": (train("--lr"), refused("lr")),
    "an empty number": (train("--lr="), refused("lr")),
    "an empty path": (train("--data.path="), refused("data")),
    "half an epoch": (train("--num_epochs=1.5"), refused("num_epochs")),
    "a batch of zero": (train("--batch_size=0"), refused("batch_size")),
    "a batch in words": (train("--batch_size=two"), refused("batch_size")),
    "a mode that is none": (train("--mode=prediction"), refused("mode")),
    "a word too many": (train("hello"), refused("hello")),
    "a configuration that is none": (("train", "--config", "nowhere"), refused("nowhere")),
    "JSON for a section": (train('--training={"lr": 1'), NO),
    "a list that does not end": (train("--model.temporal_predictor.hidden_channels=[8"), refused("hidden_channels")),
    "channels of nothing": (train("--model.temporal_predictor.hidden_channels=[]"), refused("hidden_channels")),
    "check without a path": (("check",), refused("path")),
    "check with two paths": (("check", "sets", "runs"), NO),
    "check of nothing": (("check", ""), NO),
    "check of nowhere": (("check", "nowhere"), refused("nowhere")),
    "evaluate without a checkpoint": (("evaluate",), refused("checkpoint")),
    "evaluate of nowhere": (evaluate("./nowhere"), refused("nowhere")),
    "evaluate of nothing": (evaluate(""), NO),
    "evaluate a split that is none": (evaluate("runs/predict", "--split", "tset"), refused("tset")),
    "evaluate no sample": (evaluate("runs/predict", "--num_samples", "0"), refused("num_samples")),
    "members of a deterministic emulator": (evaluate("runs/predict", "--members", "4"), refused("members")),
    "1e9 members": (generate("runs/diffuse", "--members", "1000000000"), refused("members|memory|GiB|TiB")),
    "evaluate with 1e9 members": (
        evaluate("runs/diffuse", "--members", "1000000000"),
        refused("members|memory|GiB|TiB"),
    ),
    "generate without input": (("generate", "--checkpoint", "runs/predict"), refused("input_data")),
    "generate from nowhere": (generate("runs/predict", "--input_data", "nowhere"), refused("nowhere")),
    "generate no frame": (generate("runs/predict", "--num_frames", "0"), refused("num_frames")),
    "generate 1e12 frames": (
        generate("runs/predict", "--num_frames", str(10**12)),
        refused("num_frames|memory|GiB|TiB"),
    ),
    "a trajectory that is not there": (generate("runs/predict", "--trajectory", "99"), refused("trajectory")),
    "a negative trajectory": (generate("runs/predict", "--trajectory", "-1"), refused("trajectory")),
    "a trajectory in words": (generate("runs/predict", "--trajectory", "first"), refused("trajectory")),
    "a trajectory of 5000 digits": (generate("runs/predict", "--trajectory", "9" * 5000), refused("trajectory")),
    "a start behind the end": (generate("runs/predict", "--start", "19"), refused("start")),
    "a start of 1e20": (generate("runs/predict", "--start", str(10**20)), refused("start")),
    "a film format that is none": (generate("runs/predict", "--animation_format", "avi"), refused("animation_format")),
    "export without a LoRA": (export("runs/predict"), refused("LoRA")),
    "export of nowhere": (export("./nowhere"), refused("nowhere")),
    "export to a format that is none": (export("runs/diffuse", "--format", "a1111"), refused("format")),
    "an override of a closed section": (evaluate("runs/diffuse", "--overrides", "lora.rank=5"), refused("lora.rank")),
    "an override without a value": (
        evaluate("runs/diffuse", "--overrides", "sampling.steps"),
        refused("sampling.steps"),
    ),
    "an override in words": (evaluate("runs/diffuse", "--overrides", "sampling.steps=many"), refused("steps")),
    "an override of broken YAML": (evaluate("runs/diffuse", "--overrides", "sampling.steps={"), refused("steps")),
    "an override of a whole section": (evaluate("runs/diffuse", "--overrides", "sampling=5"), refused("sampling")),
    "an override below a number": (evaluate("runs/diffuse", "--overrides", "sampling.steps.x=3"), refused("steps")),
    "an override that runs code": (
        evaluate("runs/diffuse", "--overrides", f"sampling.shift=!!python/object/apply:os.system ['touch {MARKER}']"),
        refused("shift"),
    ),
    "1e9 sampling steps": (generate("runs/diffuse", "--overrides", "sampling.steps=1000000000"), refused("steps")),
    "sampling with a shift of NaN": (evaluate("runs/diffuse", "--overrides", "sampling.shift=.nan"), refused("shift")),
    "a dry run for no GPU": (train("--dry_run", "--gpus", "0"), refused("gpus")),
    "a dry run with NaN GiB": (train("--dry_run", "--gpu_memory", "nan"), refused("gpu_memory")),
    "a dry run with endless FLOP/s": (train("--dry_run", "--peak_tflops", "inf"), refused("peak_tflops")),
    "simulate with no cooling time": (simulate(t_cools=""), refused("t_cool")),
    "simulate with a cooling time of zero": (simulate(t_cools="0"), refused("t_cool|cooling")),
    "simulate with a negative cooling time": (simulate(t_cools="-1"), refused("t_cool|cooling")),
    "simulate with a cooling time of NaN": (simulate(t_cools="nan"), refused("t_cool|cooling")),
    "simulate with a cooling time of inf": (simulate(t_cools="inf"), refused("t_cool|cooling")),
    "simulate the same cooling time twice": (simulate(t_cools="0.1,0.1"), refused("t_cool|cooling|twice")),
    "simulate no trajectory": (simulate(n="0,0,0"), refused("trajector")),
    "simulate two splits": (simulate(n="1,1"), refused("n_trajectories")),
    "simulate 1e9 trajectories": (simulate(n="1000000000,1,1"), refused("trajector|GiB|TiB")),
    "simulate no frame": (simulate(frames="0"), refused("n_frames|frames")),
    "simulate one frame": (simulate(frames="1"), refused("n_frames|frames")),
    "simulate 1e9 frames": (simulate(frames="1000000000"), refused("n_frames|frames|GiB|TiB")),
    "simulate with a cfl of zero": (simulate("--cfl", "0"), refused("cfl")),
    "simulate with a cfl of NaN": (simulate("--cfl", "nan"), refused("cfl")),
    "simulate with a cfl of inf": (simulate("--cfl", "inf"), refused("cfl")),
    "simulate with a cfl of 50": (simulate("--cfl", "50"), refused("cfl")),
    "simulate with a seed of 2^64": (simulate("--seed", str(2**64)), refused("seed")),
    "simulate a preset that is none": (simulate("--preset", "tiny"), refused("preset")),
    "simulate a data set that is none": (simulate("--dataset", "gray_scot"), refused("dataset")),
    "simulate a data set that is only published": (simulate("--dataset", "shear_flow"), refused("download")),
    "simulate patterns with cooling times": (
        simulate("--dataset", "gray_scott_reaction_diffusion"),
        refused("t_cools.*gray_scott"),
    ),
    "simulate patterns of another flow": (simulate("--patterns", "maze"), refused("patterns")),
    "simulate a pattern that is none": (patterns("mase"), refused("maze")),
    "simulate a pattern fed far too fast": (patterns("mine:30:0.06"), refused("F must lie")),
    "simulate a pattern that is killed at NaN": (patterns("mine:0.03:nan"), refused("k between")),
    "simulate a pattern in two numbers": (patterns("0.03:0.06"), refused("name:F:k")),
    "simulate patterns with a step of 50": (patterns("maze", "--time_step", "50"), refused("time_step")),
    "download a split that is none": (("download", "--splits", "tset"), refused("split")),
    "download no split": (("download", "--splits", ""), refused("split")),
    "download by a registry that is not there": (("download", "--registry", "nowhere.yaml"), refused("nowhere.yaml")),
    "download by a registry that is none": (("download", "--registry", "small.yaml"), refused("small.yaml")),
    "download a data set that is none": (("download", "--dataset", "active_mater"), refused("active_matter")),
    "convert a file that is not there": (("convert", "nowhere.npz"), refused("nowhere.npz")),
    "convert a file of an unknown kind": (("convert", "small.yaml"), refused("no reader for .yaml")),
    "convert no file": (("convert",), refused("SOURCE")),
    "convert with a boundary that is none": (("convert", "a.npz", "--boundaries", "periodic"), refused("boundaries")),
    "embed no prompt model": (("embed-prompt", "--model_name", "./nowhere"), refused("nowhere")),
    "embed with a model without a text encoder": (("embed-prompt", "--model_name", "./base"), refused("text_encoder")),
    "embed no token": (("embed-prompt", "--model_name", "./base", "--max_length", "0"), refused("max_length")),
}
SIMULATED = ("work/datasets/*",)
SHORT_LINES = ("an unknown option", "generate 1e12 frames", "simulate with a cfl of NaN")
table("command line", LINES, SHORT_LINES, limit=45)
