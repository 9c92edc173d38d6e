"""Memory of a computation, measured and counted: helpers of the other files here.

Measured is the resident memory of a process of its own, above what it held while it was idle. Counted are the tensors
that are alive at once, which needs neither a GPU nor the memory: with `no_memory` tensors have shapes and no numbers.
A count has no work space of kernels and nothing that an allocator keeps back.
"""

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections import Counter
from pathlib import Path
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30
GIVE_BACK = dict(MALLOC_MMAP_THRESHOLD_="1048576", MALLOC_TRIM_THRESHOLD_="1048576")  # what is free, at once


def no_memory() -> FakeTensorMode:
    "Inside, tensors have shapes and no numbers"
    return FakeTensorMode(allow_non_fake_inputs=True)


class AliveBytes(TorchDispatchMode):
    "Counts the bytes of all tensors that are made inside, as long as anything refers to them"

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {}

    def add(self, tensor: Tensor):
        "Count a tensor, once"
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.now += self.sizes[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int):
        self.now -= self.sizes.pop(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out


def set_parameters(model: nn.Module, make):
    "Replace the parameters of a model on the meta device; `make` takes a name and a shape"
    for name, p in list(model.named_parameters()):
        owner, _, last = name.rpartition(".")
        value = nn.Parameter(make(name, p.shape), requires_grad=False)
        setattr(model.get_submodule(owner), last, value)


def _status(key: str) -> float:  # GiB
    "A line of /proc/self/status"
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 2**20


def resident_gib() -> float:
    "Resident memory of this process, after what is free has been given back"
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def restart_peak():
    "Forget the peak of resident memory so far"
    Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    "Peak of resident memory since `restart_peak`"
    return _status("VmHWM")


def in_subprocess(file: str, part: str, argv: list[str]) -> dict:
    "What a part of a benchmark writes to the file that it is given; it runs in a process of its own"
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, file, *argv, "--part", part, "--result", str(result)]
        subprocess.run(command, check=True, env=os.environ | GIVE_BACK)
        return json.loads(result.read_text())


# ---- commands, watched from outside


KINDS = dict(  # what only the process can free; pages of files that are mapped; the most of both together
    RssAnon="own", RssFile="mapped", VmHWM="resident"
)


def _line_of(pid: int) -> bytes:
    "The command line of a process; empty where it has ended"
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _family(pid: int) -> list[int]:
    """A process and those that it has started, as far as they are there

    One that was only just forked has its parent's command line and, until it becomes a program of its own, its parent's
    memory, which must not be counted twice.
    """
    own = _line_of(pid)
    with contextlib.suppress(OSError):
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [pid, *(p for child in found if _line_of(child) not in (own, b"") for p in _family(child))]
    return [pid]


def _memory_now(pid: int) -> Counter:  # kind -> MiB
    "Resident memory of a process and those that it has started"
    total = Counter()
    for member in _family(pid):
        with contextlib.suppress(OSError), open(f"/proc/{member}/status") as lines:
            for key, _, value in (line.partition(":") for line in lines):
                if key in KINDS:
                    total[KINDS[key]] += int(value.split()[0]) / 1024
    return total


def watched(command: list[str], log: Path, every: float = 0.01, **environment: str) -> dict:
    """Run a command; seconds, processor time, and the most memory that it had. RuntimeError if it fails

    The kernel remembers the peak of resident memory. What of it is its own has to be looked at again and again, so run
    the command with a lower priority than this process where the machine is busy.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    peaks, began = Counter(), time.perf_counter()
    with log.open("wb") as out:
        pid = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | environment).pid
        while not (found := os.wait4(pid, os.WNOHANG))[0]:
            peaks |= _memory_now(pid)
            time.sleep(every)
    _, status, usage = found
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    used = dict(seconds=time.perf_counter() - began, processor_s=usage.ru_utime + usage.ru_stime)
    return used | {f"{kind}_mib": peaks[kind] for kind in KINDS.values()}
