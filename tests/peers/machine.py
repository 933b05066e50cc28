"""What tests need from the machine: packages, tools, ports, and servers to start, stop and restart.

Nothing here is ever skipped: what is missing is installed, and what cannot be installed is an error
that says so. Nothing here judges a server; that is what the tests are for.
"""

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
READY_SECONDS_MAX = 90
STOP_SECONDS_MAX = 30


class MachineError(Exception):
    """Something the tests cannot do without; the text is for the person at the terminal."""


def main(program):
    """Runs a script's `program`, turning a MachineError into one clear line and status 1."""
    try:
        sys.exit(program())
    except MachineError as error:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {error}")


def load_script(path):
    """A script without the ending of a module, as one."""
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.name, loader))
    loader.exec_module(module)
    return module


def target_dir():
    """Where cargo builds; the tools of the tests live there too, since `cargo clean` should remove them."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target").resolve()


def tools_dir():
    directory = target_dir() / "test-tools"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def install_packages(*packages):
    """Installs Debian packages. Only root can; for anybody else it is an error that names them."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise MachineError("please install these packages and run again: " + " ".join(packages))
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    commands = [["apt-get", "update", "-q"], install]
    for command in commands:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise MachineError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")


def need_command(command, package):
    """The path of `command`, installing the Debian `package` that carries it when it is missing."""
    if not shutil.which(command):
        install_packages(package)
    path = shutil.which(command)
    if not path:
        raise MachineError(f"the package {package} did not bring the command {command}")
    return path


def need_python(name, requirements):
    """The interpreter of a virtual environment that holds what the file `requirements` lists."""
    directory = tools_dir() / f"python-{name}"
    python = directory / "bin" / "python"
    stamp = directory / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(directory, ignore_errors=True)
    if subprocess.run([sys.executable, "-m", "venv", directory], capture_output=True).returncode != 0:
        install_packages("python3-venv")
        shutil.rmtree(directory, ignore_errors=True)
        run_quietly([sys.executable, "-m", "venv", directory])
    if "[postgres]" in requirements.read_text():
        need_headers_for_psycopg2()
    run_quietly([python, "-m", "pip", "install", "-q", "-r", requirements])
    stamp.write_text(wanted)
    return python


def need_headers_for_psycopg2():
    """psycopg2 comes as source: it needs a compiler and the headers of libpq and Python."""
    need_command("cc", "gcc")
    need_command("pg_config", "libpq-dev")
    if not pathlib.Path("/usr/include/postgresql/libpq-fe.h").exists():
        install_packages("libpq-dev")
    need_headers_for_python()


def need_headers_for_python():
    if not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        install_packages("python3-dev")


def need_libolm():
    """python-olm comes as source: it needs a compiler and the headers of libolm and Python."""
    need_command("cc", "gcc")
    if not pathlib.Path("/usr/include/olm/olm.h").exists():
        install_packages("libolm-dev")
    need_headers_for_python()


def need_node_modules(directory):
    """Installs the npm packages that `directory`'s lock file names, once per lock file."""
    need_command("node", "nodejs")
    need_command("npm", "npm")
    lock = directory / "package-lock.json"
    stamp = directory / "node_modules" / ".lock.sha256"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    run_quietly(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=directory)
    stamp.write_text(wanted)


def add_tls_arguments(command):
    """Options of a server that others find by its name, `127.0.0.1:PORT`, and that trusts `--ca`."""
    for name in ("--ca", "--certificate", "--key"):
        command.add_argument(name, type=pathlib.Path)
    command.add_argument("--federation-port", help="where others are let in, if not at PORT: something is in between")


def run_quietly(command, **options):
    """Runs a command whose output matters only when it fails."""
    command = [str(word) for word in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise MachineError(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def free_port():
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_server(directory, argv, ready_url, environment=None, facts=None):
    """Starts a server in the background and waits until `ready_url` answers.

    What it takes to start it again is kept in `directory`/peer.json, and its output in
    `directory`/log. Returns its facts: `url`, `pid` and what the caller adds.
    """
    directory = pathlib.Path(directory)
    plan = {"argv": [str(word) for word in argv], "ready_url": ready_url, "environment": environment or {}}
    return launch(directory, {**plan, "facts": facts or {}})


def stop_server(directory):
    """Asks the server to end (SIGTERM) and waits; one that does not is killed, which is an error."""
    plan = load_plan(directory)
    process_id = plan["pid"]
    if not process_is_running(process_id):
        return plan
    os.kill(process_id, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while time.monotonic() < deadline:
        if not process_is_running(process_id):
            return plan
        time.sleep(0.02)
    os.kill(process_id, signal.SIGKILL)
    raise MachineError(f"the server of {directory} did not end within {STOP_SECONDS_MAX} s of SIGTERM")


def wait_until_ended(directory):
    """Waits for a server that was told to end."""
    process_id = load_plan(directory)["pid"]
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while process_is_running(process_id):
        if time.monotonic() > deadline:
            raise MachineError(f"the server of {directory} did not end within {STOP_SECONDS_MAX} s")
        time.sleep(0.02)


def restart_server(directory):
    """Stops a server and starts it again with the same data, at the same address."""
    return launch(pathlib.Path(directory), stop_server(directory))


def launch(directory, plan):
    with open(directory / "log", "ab") as log:
        process = subprocess.Popen(
            plan["argv"],
            cwd=directory,
            # Without backtraces the end of the log still shows what a panic said.
            env={**environment_without_settings(), "RUST_BACKTRACE": "0", **plan["environment"]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    plan["pid"] = process.pid
    (directory / "peer.json").write_text(json.dumps(plan, indent=1))
    wait_until_ready(process, plan["ready_url"], directory / "log")
    return {"pid": process.pid, **plan["facts"]}


def environment_without_settings():
    """The environment without HEARTH_…: those are settings to the server, and orders to the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEARTH_")}


def wait_until_ready(process, url, log):
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise MachineError(f"the server ended with status {process.returncode}:\n{tail(log)}")
        if answers(url):
            return
        time.sleep(0.02)
    process.kill()
    raise MachineError(f"no answer from {url} within {READY_SECONDS_MAX} s:\n{tail(log)}")


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=2).close()
        return True
    except (urllib.error.URLError, OSError):
        return False


def process_is_running(process_id):
    """Whether the process lives; one that has ended but was not waited for does not count."""
    try:
        status = pathlib.Path(f"/proc/{process_id}/stat").read_text()
        threads = os.listdir(f"/proc/{process_id}/task")
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The first thread can be gone before the others, which still have files open and locked.
    return status.rpartition(")")[2].split()[0] != "Z" or len(threads) > 1


def load_plan(directory):
    path = pathlib.Path(directory) / "peer.json"
    if not path.exists():
        raise MachineError(f"no server was started in {directory}")
    return json.loads(path.read_text())


def tail(log, characters=3000):
    return pathlib.Path(log).read_text(errors="replace")[-characters:]


def print_facts(facts):
    """One NAME=value a line, for shells and for people."""
    for name, value in facts.items():
        print(f"{name}={value}", flush=True)
