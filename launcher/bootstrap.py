"""
Create a virtual environment from the lock files, with nothing but a Python's standard library to begin with.

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
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".state"
VENV = STATE / "venv"
_UV_FOLDER = STATE / "uv"
_UV = _UV_FOLDER / "bin" / "uv"
_BOOTSTRAP = "requirements-bootstrap.txt"
_RUNTIME = ("requirements.txt", "requirements-local.txt")
_DEVELOPMENT = (*_RUNTIME, "requirements-dev.txt")
_BENCH = ("requirements-bench.txt",)
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


@dataclass(frozen=True)
class Environment:
    """
    A virtual environment and the locks that say what is in it.

    :param development: whether it holds the tools for tests and lint.
    :param needed_bytes: what it takes on the disk, and the download cache about as much again.
    :param compiled: whether all of it is compiled at once. Else Python compiles what is imported, when it first is: of the
        37,000 modules that the project brings an eighth ever are, and the others would keep a newcomer waiting a minute.
    """

    folder: Path
    locks: Sequence[str]
    development: bool
    needed_bytes: int
    compiled: bool = False

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """The file that says what was installed."""
        return self.folder / "installed.json"

    def read_stamp(self) -> dict[str, object]:
        """Return what was installed; nothing if that is not known."""
        try:
            content = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def wanted_stamp(self) -> dict[str, object]:
        """Return what the stamp says once the environment is what the locks are."""
        return {"digest": _digest(self.locks), "development": self.development, "place": str(self.folder)}

    def works(self) -> bool:
        """Whether its interpreter still runs (a system upgrade may have taken its Python away)."""
        if not self.python.exists():
            return False
        return subprocess.run([self.python, "-I", "-S", "-c", ""], capture_output=True, check=False).returncode == 0

    def is_complete(self) -> bool:
        """Whether there is nothing to do."""
        return self.read_stamp() == self.wanted_stamp() and self.works()


def chosen(arguments: Sequence[str]) -> Environment:
    """Return the environment that the words ask for."""
    if "bench" in arguments:
        # dlt is measured, and no figure may hold the time of a compilation.
        return Environment(STATE / "bench-venv", _BENCH, development=False, needed_bytes=1024**3, compiled=True)
    plain = Environment(VENV, _RUNTIME, development=False, needed_bytes=5 * 1024**3)
    # Once somebody has tested here, a run of `make run` must not take the tools away again.
    if "dev" in arguments or plain.read_stamp().get("development"):
        return replace(plain, locks=_DEVELOPMENT, development=True)
    return plain


def main(arguments: Sequence[str]) -> int:
    """
    Set up the environment.

    ``dev`` adds the tools for tests and lint, ``bench`` means the environment of what the benchmarks compare with,
    ``uv`` keeps the installer at hand for `make lock`, ``--check`` only looks whether all that is there.
    """
    environment = chosen(arguments)
    if "--check" in arguments:
        return 0 if environment.is_complete() and ("uv" not in arguments or _UV.exists()) else 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        STATE.mkdir(exist_ok=True)
        with (STATE / "setup.lock").open("w") as lock:
            _take(lock.fileno())
            # Chosen again: whoever held the lock may have added the tools for tests meanwhile.
            set_up(chosen(arguments))
            if "uv" in arguments:
                _fetch_uv(environment, _installer_variables(environment))
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


def set_up(environment: Environment) -> None:
    """Make the environment what its lock files say."""
    if environment.is_complete():
        return
    stamp = environment.read_stamp()
    started = time.monotonic()
    _require_space(environment)
    # A package that was being written when a run was killed looks whole to installers: start over, the cache is warm.
    _make_venv(environment, keep=not stamp.get("unfinished") and stamp.get("place") in (None, str(environment.folder)))
    environment.stamp.write_text(json.dumps({"unfinished": True, "development": environment.development}))
    _install(environment)
    environment.stamp.write_text(json.dumps(environment.wanted_stamp()))
    _say(f"Environment ready in {time.monotonic() - started:.0f} s.")


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


def _digest(files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _require_space(environment: Environment) -> None:
    free = shutil.disk_usage(STATE).free
    if free < environment.needed_bytes and not environment.folder.exists():
        raise SetupError(
            f"{STATE} has {free / 1024**3:.1f} GB free, and the environment needs"
            f" {environment.needed_bytes / 1024**3:.0f} GB. Make room, or put the project on another disk."
        )


def _make_venv(environment: Environment, *, keep: bool) -> None:
    folder = environment.folder
    if keep and (folder / "pyvenv.cfg").exists() and environment.works():
        return
    shutil.rmtree(folder, ignore_errors=True)
    _say(f"Creating a virtual environment with Python {sys.version.split()[0]} in {folder} …")
    with_pip = importlib.util.find_spec("ensurepip") is not None
    if not with_pip and not _own_pip():
        raise SetupError(
            f"This Python ({sys.executable}) can make no virtual environments: its module ensurepip is missing."
            f" Debian, Ubuntu: apt-get install python{sys.version_info.major}.{sys.version_info.minor}-venv"
        )
    made = _run([sys.executable, "-I", "-m", "venv", *([] if with_pip else ["--without-pip"]), str(folder)])
    if made.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        raise SetupError(f"The virtual environment could not be made:\n{_tail(made.stdout)}")


def _own_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _pip(environment: Environment) -> list[str]:
    """Return a pip that installs into the environment."""
    if (environment.folder / "bin" / "pip").exists():
        return [str(environment.python), "-I", "-m", "pip"]
    return [sys.executable, "-I", "-m", "pip", "--python", str(environment.python)]


def _install(environment: Environment) -> None:
    variables = _installer_variables(environment)
    uv = _fetch_uv(environment, variables)
    if uv is not None:
        _say(f"Installing the locked packages ({_count(environment.locks)}; a few minutes the first time) …")
        if _stream(_uv_command(uv, environment), variables) == 0:
            return
        _say("uv did not succeed; trying the same with pip, which takes longer …")
    _install_with_pip(environment, variables)


def _count(locks: Sequence[str]) -> int:
    return sum("==" in line for name in locks for line in (ROOT / name).read_text().splitlines() if line[:1].isalnum())


def _installer_variables(environment: Environment) -> dict[str, str]:
    variables = _clean_variables()
    settings = parse_pip_settings(_run([*_pip(environment), "config", "list"], variables).stdout)
    return variables | uv_environment(settings, variables)


def _fetch_uv(environment: Environment, variables: Mapping[str, str]) -> Path | None:
    stamp = _UV_FOLDER / "lock.sha256"
    digest = _digest([_BOOTSTRAP])
    if _UV.exists() and stamp.exists() and stamp.read_text() == digest:
        return _UV
    _say("Fetching the installer (uv) …")
    shutil.rmtree(_UV_FOLDER, ignore_errors=True)
    # For the target's sake by the plain interpreter: `--python` and `--target` do not go together.
    has_pip = (environment.folder / "bin" / "pip").exists()
    pip = [str(environment.python), "-I", "-m", "pip"] if has_pip else [sys.executable, "-m", "pip"]
    options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "--no-deps"]
    lock = str(ROOT / _BOOTSTRAP)
    fetched = _run([*pip, "install", *options, "--target", str(_UV_FOLDER), "-r", lock], variables)
    if fetched.returncode != 0 or not _UV.exists():
        _refuse_hopeless(fetched.stdout)
        _say(f"uv could not be fetched ({_tail(fetched.stdout, 1)}).")
        return None
    stamp.write_text(digest)
    return _UV


def _uv_command(uv: Path, environment: Environment) -> list[str]:
    # `sync`, not `install`: what the lock no longer names goes away.
    return [
        *(str(uv), "pip", "sync", "--python", str(environment.python), "--require-hashes", "--no-build", "--no-config"),
        *(["--compile-bytecode"] if environment.compiled else []),
        *(str(ROOT / name) for name in environment.locks),
    ]


def _install_with_pip(environment: Environment, variables: Mapping[str, str]) -> None:
    requirements = [option for name in environment.locks for option in ("-r", str(ROOT / name))]
    command = [*_pip(environment), "install", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
    command += ["--compile" if environment.compiled else "--no-compile"]
    status = _stream([*command, "--only-binary", ":all:", *requirements], variables)
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


def _clean_variables() -> dict[str, str]:
    # A caller who wants no bytecode would make every start of every process slow.
    dropped = (
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPATH",
        "PYTHONHOME",
        "PIP_TARGET",
        "PIP_USER",
        "PIP_REQUIRE_VIRTUALENV",
    )
    variables = {name: value for name, value in os.environ.items() if name not in dropped}
    home = Path(variables.get("HOME") or "/")
    if "UV_CACHE_DIR" not in variables and not os.access(home, os.W_OK):
        variables["UV_CACHE_DIR"] = str(STATE / "uv-cache")
    return variables


def _run(command: Sequence[str], variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run to the end and return what it said, both outputs together."""
    return subprocess.run(
        command,
        env=variables or _clean_variables(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _stream(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run with its progress visible and return the exit status."""
    # On a terminal uv draws a progress bar itself; in a log only its summary is worth a line, not each package.
    summarised = not sys.stderr.isatty()
    output = subprocess.PIPE if summarised else sys.stderr
    process = subprocess.Popen(command, env=variables, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True)
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
