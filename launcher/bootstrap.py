"""
Create the virtual environment from the lock files, with nothing but a Python's standard library to begin with.

Run by ``bin/_setup``. Fetches uv (locked in ``requirements-bootstrap.txt``) because it installs an environment of this
size several times faster than pip, and falls back to pip where uv cannot be had. Does nothing when the environment
already is what the lock files say; finishes one that an earlier run left half made.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".state"
VENV = STATE / "venv"
_UV_FOLDER = STATE / "uv"
_UV = _UV_FOLDER / "bin" / "uv"
_STAMP = VENV / "installed.json"
_BOOTSTRAP = "requirements-bootstrap.txt"
_RUNTIME = ("requirements.txt", "requirements-local.txt")
_DEVELOPMENT = (*_RUNTIME, "requirements-dev.txt")
# The environment takes 2 GB, and the download cache about as much again.
_NEEDED_BYTES = 5 * 1024**3
_INTERRUPTED = 130

# pip's setting → the variable by which uv is told the same. uv does not read pip's configuration.
_FROM_PIP = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}
_LISTS_OF_PLACES = ("index-url", "extra-index-url", "find-links")
_FILES = ("cert", "client-cert")

_NETWORK_SIGNS = (
    "error sending request",
    "failed to fetch",
    "dns error",
    "connection refused",
    "connection error",
    "timed out",
    "max retries exceeded",
    "failed to establish a new connection",
    "temporary failure in name resolution",
    "no matching distribution found",
)


class SetupError(Exception):
    """Why there is no environment, in words for the person who typed the command."""


def main(arguments: Sequence[str]) -> int:
    """
    Set up the environment.

    ``dev`` adds the tools for tests and lint, ``uv`` keeps the installer at hand for `make lock`, ``--check`` only
    looks whether all that is there.
    """
    if "--check" in arguments:
        complete = _is_complete(development="dev" in arguments) and ("uv" not in arguments or _UV.exists())
        return 0 if complete else 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        STATE.mkdir(exist_ok=True)
        with (STATE / "setup.lock").open("w") as lock:
            _take(lock.fileno())
            set_up(development="dev" in arguments)
            if "uv" in arguments:
                _fetch_uv(_installer_environment())
    except SetupError as error:
        print(f"Setup failed. {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Setup failed. {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSetup interrupted. The next run goes on from here.", file=sys.stderr)
        return _INTERRUPTED
    return 0


def set_up(*, development: bool) -> None:
    """Make the environment what the lock files say."""
    if _is_complete(development=development):
        return
    stamp = _read_stamp()
    wanted = _wanted_stamp(development=development)
    files = _DEVELOPMENT if wanted["development"] else _RUNTIME
    started = time.monotonic()
    _require_space()
    # A package that was being written when a run was killed looks whole to installers: start over, the cache is warm.
    _make_venv(keep=not stamp.get("unfinished") and stamp.get("place") in (None, str(VENV)))
    _STAMP.write_text(json.dumps({"unfinished": True, "development": wanted["development"]}))
    _install(files)
    _STAMP.write_text(json.dumps(wanted))
    _say(f"Environment ready in {time.monotonic() - started:.0f} s.")


def _is_complete(*, development: bool) -> bool:
    return _read_stamp() == _wanted_stamp(development=development) and _works()


def _wanted_stamp(*, development: bool) -> dict[str, object]:
    # Once somebody has tested here, a run of `make run` must not take the tools away again.
    development = development or bool(_read_stamp().get("development"))
    digest = _digest(_DEVELOPMENT if development else _RUNTIME)
    return {"digest": digest, "development": development, "place": str(VENV)}


def uv_environment(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """
    Translate pip's settings (an index of one's own, certificates) into uv's variables.

    Places that do not exist on this machine are left out, as pip leaves them out; uv would refuse to work. What the
    user set for uv directly stays.
    """
    result = {}
    for name, variable in _FROM_PIP.items():
        value = settings.get(name, "").strip()
        if name in _LISTS_OF_PLACES:
            value = " ".join(place for place in value.split() if _place_exists(place))
        elif name in _FILES and not Path(value).is_file():
            value = ""
        if value and not environment.get(variable):
            result[variable] = ",".join(value.split()) if name == "find-links" else value
    if "UV_INDEX" in result and "UV_INDEX_STRATEGY" not in environment:
        # As pip does: the best version of all indexes. The hashes in the lock keep a stranger's package out.
        result["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return result


def parse_pip_settings(listing: str) -> dict[str, str]:
    r"""
    Read the output of ``pip config list``: name → value, the strongest source winning.

    >>> parse_pip_settings("global.index-url='https://a'\n:env:.index-url='https://b'")
    {'index-url': 'https://b'}
    """
    strength = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, equals, quoted = line.partition("=")
        section, _, name = key.rpartition(".")
        if not equals or section not in strength:
            continue
        with contextlib.suppress(ValueError, SyntaxError):
            value = str(ast.literal_eval(quoted))
            if strength[section] >= found.get(name, (0, ""))[0]:
                found[name] = (strength[section], value)
    return {name: value for name, (_, value) in found.items()}


def _place_exists(place: str) -> bool:
    if place.startswith("file://"):
        return Path(place.removeprefix("file://")).exists()
    return "://" in place or Path(place).exists()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _take(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say("Another command is setting up this environment; waiting for it …")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _read_stamp() -> dict[str, object]:
    try:
        content = json.loads(_STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _digest(files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _venv_python() -> Path:
    return VENV / "bin" / "python"


def _works() -> bool:
    """Whether the environment's interpreter still runs (a system upgrade may have taken its Python away)."""
    if not _venv_python().exists():
        return False
    return subprocess.run([_venv_python(), "-I", "-S", "-c", ""], capture_output=True, check=False).returncode == 0


def _require_space() -> None:
    free = shutil.disk_usage(STATE).free
    if free < _NEEDED_BYTES and not VENV.exists():
        raise SetupError(
            f"{STATE} has {free / 1024**3:.1f} GB free, and the environment needs {_NEEDED_BYTES / 1024**3:.0f} GB."
            " Make room, or put the project on another disk."
        )


def _make_venv(*, keep: bool) -> None:
    if keep and (VENV / "pyvenv.cfg").exists() and _works():
        return
    shutil.rmtree(VENV, ignore_errors=True)
    _say(f"Creating a virtual environment with Python {sys.version.split()[0]} in {VENV} …")
    with_pip = importlib.util.find_spec("ensurepip") is not None
    if not with_pip and not _own_pip():
        raise SetupError(
            f"This Python ({sys.executable}) can make no virtual environments: its module ensurepip is missing."
            f" Debian, Ubuntu: apt-get install python{sys.version_info.major}.{sys.version_info.minor}-venv"
        )
    made = _run([sys.executable, "-I", "-m", "venv", *([] if with_pip else ["--without-pip"]), str(VENV)])
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError(f"The virtual environment could not be made:\n{_tail(made.stdout)}")


def _own_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _pip() -> list[str]:
    """Return a pip that installs into the environment."""
    if (VENV / "bin" / "pip").exists():
        return [str(_venv_python()), "-I", "-m", "pip"]
    return [sys.executable, "-I", "-m", "pip", "--python", str(_venv_python())]


def _install(files: Sequence[str]) -> None:
    environment = _installer_environment()
    uv = _fetch_uv(environment)
    if uv is not None:
        _say("Installing the locked packages (about 400; a few minutes the first time) …")
        if _stream(_uv_command(uv, files), environment) == 0:
            return
        _say("uv did not succeed; trying the same with pip, which takes longer …")
    _install_with_pip(files, environment)


def _installer_environment() -> dict[str, str]:
    environment = _clean_environment()
    settings = parse_pip_settings(_run([*_pip(), "config", "list"], environment).stdout)
    return environment | uv_environment(settings, environment)


def _fetch_uv(environment: Mapping[str, str]) -> Path | None:
    stamp = _UV_FOLDER / "lock.sha256"
    digest = _digest([_BOOTSTRAP])
    if _UV.exists() and stamp.exists() and stamp.read_text() == digest:
        return _UV
    _say("Fetching the installer (uv) …")
    shutil.rmtree(_UV_FOLDER, ignore_errors=True)
    # For the target's sake by the plain interpreter: `--python` and `--target` do not go together.
    pip = [str(_venv_python()), "-I", "-m", "pip"] if (VENV / "bin" / "pip").exists() else [sys.executable, "-m", "pip"]
    options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "--no-deps"]
    lock = str(ROOT / _BOOTSTRAP)
    fetched = _run([*pip, "install", *options, "--target", str(_UV_FOLDER), "-r", lock], environment)
    if fetched.returncode != 0 or not _UV.exists():
        _refuse_hopeless(fetched.stdout)
        _say(f"uv could not be fetched ({_tail(fetched.stdout, 1)}).")
        return None
    stamp.write_text(digest)
    return _UV


def _uv_command(uv: Path, files: Sequence[str]) -> list[str]:
    # `sync`, not `install`: what the lock no longer names goes away.
    return [
        *(str(uv), "pip", "sync", "--python", str(_venv_python()), "--require-hashes", "--no-build"),
        *("--compile-bytecode", "--no-config", *(str(ROOT / name) for name in files)),
    ]


def _install_with_pip(files: Sequence[str], environment: Mapping[str, str]) -> None:
    requirements = [option for name in files for option in ("-r", str(ROOT / name))]
    command = [*_pip(), "install", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
    status = _stream([*command, "--only-binary", ":all:", *requirements], environment)
    if status != 0:
        _refuse_hopeless("")
        raise SetupError(
            "The locked packages could not be installed; the reason is above."
            " Check that the package index can be reached (a proxy or a mirror goes into pip's own configuration:"
            " `pip config set global.index-url …`), then run this again: it goes on where it stopped."
        )


def _refuse_hopeless(output: str) -> None:
    """Name the causes that no other installer would survive."""
    if shutil.disk_usage(STATE).free < 50 * 1024**2 or "No space left on device" in output:
        raise SetupError(f"The disk of {STATE} is full. Make room and run this again: it goes on where it stopped.")
    if any(sign in output.lower() for sign in _NETWORK_SIGNS):
        raise SetupError(
            f"The package index does not answer:\n{_tail(output)}\nCheck the network. A proxy or a mirror goes into"
            " pip's own configuration (`pip config set global.index-url …`), and is used here too."
        )


def _clean_environment() -> dict[str, str]:
    # A caller who wants no bytecode would make every start of every process slow.
    dropped = (
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPATH",
        "PYTHONHOME",
        "PIP_TARGET",
        "PIP_USER",
        "PIP_REQUIRE_VIRTUALENV",
    )
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    home = Path(environment.get("HOME") or "/")
    if "UV_CACHE_DIR" not in environment and not os.access(home, os.W_OK):
        environment["UV_CACHE_DIR"] = str(STATE / "uv-cache")
    return environment


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run to the end and return what it said, both outputs together."""
    return subprocess.run(
        command,
        env=environment or _clean_environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _stream(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run with its progress visible and return the exit status."""
    # On a terminal uv draws a progress bar itself; in a log only its summary is worth a line, not each package.
    summarised = not sys.stderr.isatty()
    output = subprocess.PIPE if summarised else sys.stderr
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True)
    try:
        for line in process.stdout or ():
            if not line.startswith((" + ", " - ", " ~ ")):
                _say(line.rstrip())
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def _tail(text: str, lines: int = 8) -> str:
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
