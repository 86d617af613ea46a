"""Looks at all that a run depends on, and says for each trouble what helps. It imports nothing that may be missing."""

import ctypes.util
import dataclasses
import getpass
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

DRIVERS = {"12": 525, "13": 580}  # the oldest driver that JAX's wheels for this CUDA work with
WAIT = 120  # seconds for JAX, whose start on a GPU takes a while
HUB_WAIT = 5
LITTLE_DISK = 10e9  # bytes; a 1.5B backbone takes 3 GB, a training state of its recursion 0.6 GB
VARIABLES = ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
VARIABLES += (
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "HF_HUB_OFFLINE",
    "HF_HOME",
    "XDG_CACHE_HOME",
)
SEE_DEVICES = (
    "import json, jax; print(json.dumps([[d.platform, d.device_kind, (d.memory_stats() or {}).get('bytes_limit')] "
    "for d in jax.devices()]))"
)
PATH = re.compile(r"(?<![\w.~/])(?:~|/(?!/))[^\s,;:'\")\]]*")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found in one place, and for each trouble there a line that helps."""

    found: str
    troubles: tuple[str, ...] = ()


def examine() -> dict[str, Finding]:
    """Looks at everything, by the name of the place; whatever is missing, it goes on."""
    return {check.__name__: _guarded(check) for check in CHECKS}


def describe(findings: dict[str, Finding], anonymous: bool = False) -> str:
    """All findings and then the troubles, for a person; with `anonymous` for others, without paths, user and host."""
    lines = [f"{name:<12} {finding.found}" for name, finding in findings.items()]
    troubles = [f"- {trouble}" for finding in findings.values() for trouble in finding.troubles]
    lines += ["", "What helps:" if troubles else "No trouble was found.", *troubles]
    text = "\n".join(lines)
    return without_names(text) if anonymous else text


def without_names(text: str) -> str:
    """The text with PATH, USER and HOST in place of each path and of the names of this user and this host."""
    folders = sorted({str(pathlib.Path.home()), os.getcwd(), sys.prefix} - {"/"}, key=len, reverse=True)
    for folder in folders:  # first, because they may hold spaces
        text = text.replace(folder, "~")
    text = PATH.sub("PATH", text)
    host = socket.gethostname()
    for word, name in (("USER", _user()), ("HOST", host), ("HOST", host.partition(".")[0])):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text) if name else text
    return text


def python() -> Finding:
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding(
        system, () if fits else ("Python 3.11 to 3.13 is needed: make a virtual environment with one of them",)
    )


def packages() -> Finding:
    """The dependencies: their versions, and those that are missing or of a version that was not tested."""
    found, troubles = [], []
    for wanted in _requirements():
        name = re.match(r"[\w.-]+", wanted)[0]
        version = _version(name)
        found.append(f"{name} {version or 'missing'}")
        if version is None:
            troubles.append(f"{name} is not installed: pip install -e . in the folder of trm_jax")
        elif not _fits(version, wanted):
            troubles.append(f"{name} {version} is not {wanted}: pip install '{wanted}'")
    return Finding(", ".join(found), tuple(troubles))


def gpu() -> Finding:
    """The cards as their driver shows them, and JAX's wheels for them."""
    cards, wheels = _cards(), _cuda_wheels()
    found = "; ".join(f"{name}, driver {driver}, {free} of {total} MiB free" for name, driver, total, free in cards)
    if wheels:
        found = f"{found or 'no driver'}; {', '.join(f'{name} {version}' for name, version in wheels.items())}"
    troubles = []
    if cards and not any("plugin" in name for name in wheels):
        troubles.append("there is a GPU and no CUDA wheel of JAX: pip install -e '.[cuda12]' or '.[cuda13]'")
    for name, version in wheels.items():
        cuda = re.search(r"cuda(\d+)-plugin", name)
        if cuda and cards and _number(cards[0][1]) < DRIVERS.get(cuda[1], 0):
            troubles.append(
                f"{name} needs driver {DRIVERS[cuda[1]]} or newer, this is {cards[0][1]}: update the driver"
            )
        if cuda and (jaxlib := _version("jaxlib")) and jaxlib != version:
            troubles.append(f"{name} {version} does not belong to jaxlib {jaxlib}: pip install -e '.[cuda{cuda[1]}]'")
    for card, _, total, free in cards:
        if _number(free) < _number(total) / 2:
            troubles.append(f"most of the memory of {card} is taken: nvidia-smi shows by which process")
    return Finding(found or "no NVIDIA driver", tuple(troubles))


def cudnn() -> Finding:
    """Whether the library for attention on a GPU loads; in a process of its own, which it could end."""
    library = _cudnn_library()
    if library is None:
        trouble = "cuDNN is not installed: pip install -e '.[cuda12]' or '.[cuda13]', or use --attention xla"
        return Finding("not installed", (trouble,) if _cards() else ())
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).cudnnGetVersion())"
    done = _run([sys.executable, "-c", code, library])
    if done is None or done.returncode:
        return Finding(f"does not load: {_last_line(done)}", ("cuDNN does not load: --attention xla does without it",))
    return Finding(f"loads, version {done.stdout.strip()}")


def jax() -> Finding:
    """What JAX sees, in a process of its own, which ends whatever happens and gives the memory back."""
    done = _run([sys.executable, "-c", SEE_DEVICES])
    if done is None or done.returncode:
        trouble = "JAX does not start: the line above says why; pip install -e . in the folder of trm_jax installs it"
        return Finding(f"does not start: {_last_line(done)}", (trouble,))
    devices = json.loads(done.stdout.splitlines()[-1])
    memory = [f", {limit / 2**30:.1f} GiB" if limit else "" for *_, limit in devices]
    found = "; ".join(f"{kind} ({place}){size}" for (place, kind, _), size in zip(devices, memory, strict=True))
    if _cards() and not any(place in ("gpu", "cuda") for place, *_ in devices):
        return Finding(
            found, ("JAX does not see the GPU: leave JAX_PLATFORMS unset and install the extra of the driver",)
        )
    return Finding(found)


def environment() -> Finding:
    """The variables that change what JAX and the hub's libraries do."""
    there = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    troubles = []
    if _cards() and there.get("LD_LIBRARY_PATH"):
        troubles.append(
            "LD_LIBRARY_PATH is set: its CUDA libraries may come before those of JAX's wheels; try without it"
        )
    if _cards() and there.get("JAX_PLATFORMS") == "cpu":
        troubles.append("JAX_PLATFORMS is cpu: JAX leaves the GPU alone until that is unset")
    return Finding(", ".join(f"{name}={value}" for name, value in there.items()) or "nothing set", tuple(troubles))


def memory() -> Finding:
    """Main memory; that of the cards is beside their names."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) / 2**20 for name, _, rest in (line.partition(":") for line in lines)}
    return Finding(f"{sizes['MemAvailable']:.1f} of {sizes['MemTotal']:.1f} GiB free, {os.cpu_count()} CPU cores")


def cache() -> Finding:
    """Where compiled programs, fetched backbones and hidden states are kept, by the variable that says so."""
    from trm_jax.files import cache_folder

    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR")  # for them alone it takes precedence; empty, none are kept
    folders = {"XDG_CACHE_HOME": cache_folder()}
    if programs:
        folders["JAX_COMPILATION_CACHE_DIR"] = pathlib.Path(programs)
    found, troubles = [], []
    for variable, folder in folders.items():
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        found.append(f"{len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB in {folder}")
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            troubles.append(f"{folder} cannot be written: set {variable} to a folder that can")
    if programs == "":
        found.append("no compiled programs are kept, as JAX_COMPILATION_CACHE_DIR is empty")
    return Finding("; ".join(found), tuple(troubles))


def disk() -> Finding:
    free = shutil.disk_usage(".").free
    trouble = f"only {free / 1e9:.1f} GB are free here: --output may name a folder on another disk"
    return Finding(f"{free / 1e9:,.1f} GB free here", (trouble,) if free < LITTLE_DISK else ())


def hub() -> Finding:
    """Whether the Hugging Face hub answers."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("not asked, as HF_HUB_OFFLINE says: what was downloaded before is used")
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_WAIT).close()
    except urllib.error.HTTPError:
        pass  # it has answered
    except OSError as error:
        trouble = (
            "the hub cannot be reached: give local folders and files, or set HF_HUB_OFFLINE=1 for what is here already"
        )
        return Finding(f"cannot be reached ({getattr(error, 'reason', error)})", (trouble,))
    return Finding("answers")


CHECKS: tuple[Callable[[], Finding], ...] = (
    *(python, packages, gpu, cudnn, jax, environment),
    *(memory, cache, disk, hub),
)


def _guarded(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # whatever is missing or odd on this machine: the other checks are still of use
        return Finding(f"could not be looked at ({type(error).__name__}: {' '.join(str(error).split())})")


def _requirements() -> list[str]:
    """What trm_jax needs, without the extras: as it was installed, else as its pyproject.toml says."""
    try:
        found = importlib.metadata.requires("trm-jax") or []
    except importlib.metadata.PackageNotFoundError:
        import tomllib

        text = (pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
        found = tomllib.loads(text)["project"]["dependencies"]
    return [wanted for wanted in found if "extra ==" not in wanted]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(version: str, wanted: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(wanted).specifier.contains(version, prereleases=True)


def _cards() -> list[list[str]]:
    """Name, driver, total and free memory of each card that nvidia-smi shows."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = "--query-gpu=name,driver_version,memory.total,memory.free"
    done = _run(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    lines = done.stdout.splitlines() if done and not done.returncode else []
    return [fields for line in lines if len(fields := [field.strip() for field in line.split(",")]) == 4]


def _cuda_wheels() -> dict[str, str]:
    names = [f"jax-cuda{cuda}-{part}" for cuda in DRIVERS for part in ("plugin", "pjrt")]
    names += [f"nvidia-cudnn-cu{cuda}" for cuda in DRIVERS]
    return {name: version for name in names if (version := _version(name))}


def _cudnn_library() -> str | None:
    for cuda in DRIVERS:
        try:
            files = importlib.metadata.distribution(f"nvidia-cudnn-cu{cuda}").files or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if re.fullmatch(r"libcudnn\.so\.\d+", file.name):
                return str(file.locate())
    return ctypes.util.find_library("cudnn")


def _run(command: list[str]) -> subprocess.CompletedProcess | None:
    """Runs a program to its end; None if it cannot be started or takes too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _last_line(done: subprocess.CompletedProcess | None) -> str:
    if done is None:
        return f"no answer within {WAIT} s"
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def _number(text: str) -> float:
    found = re.match(r"\d+(\.\d+)?", text)
    return float(found[0]) if found else 0.0


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
        return ""
