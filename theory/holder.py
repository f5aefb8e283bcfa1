"""Who holds a lock: a process, described so that another one can tell whether it still lives."""

import getpass
import json
import os
import platform
from datetime import datetime
from pathlib import Path


def oneself() -> dict:
    """This process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may run as a user without a name
        user = str(os.getuid()) if hasattr(os, "getuid") else "somebody"
    return {
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "user": user,
        "host": platform.node(),
        "machine": _machine(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }


def read(file: Path) -> dict:
    """The process described in a file; empty if none is."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.keys() >= {"pid", "born", "user", "host", "machine", "since"} else {}


def named(process: dict) -> str:
    """In words."""
    return "process {pid} of {user} on {host}, since {since}".format(**process) if process else "another process"


def gone(process: dict) -> bool:
    """Whether it has certainly ended; what runs on another machine can't be seen."""
    if not process or process["machine"] != _machine() or os.name != "posix":
        return False
    if process["born"] is not None:
        return _born(process["pid"]) != process["born"]  # numbers of processes are used again
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _machine() -> str:
    """What processes share that see each other by number: the machine, since it was started, and the container."""
    parts = [platform.node()]
    for look in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            parts.append(look())
        except OSError:  # not Linux
            continue
    return " ".join(parts)


def _born(pid: int) -> str | None:
    """When a process was started, in ticks of the machine's clock; None if there is none, or no telling."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
