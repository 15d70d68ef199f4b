"""What the worker process gives up before it reads a stranger's model: network, core dumps, new privileges."""

import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x4000_0000
_CLONE_NEWUSER: Final = 0x1000_0000
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_FIRST_TO_GO: Final = "800"
_NETWORK_EVENTS: Final = frozenset(
    {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
)
# What a library could start in this process's name; the compiler that MLX calls on CPU is started from C++.
_PROCESS_EVENTS: Final = frozenset({"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"})


class NotAllowedHere(PermissionError):
    """Code in the worker tried what the worker gave up."""


def confine() -> tuple[str, ...]:
    """Give up what a model worker never needs; return notes about what the system did not let it give up.

    Call once, first, while the process has one thread. On Linux the process moves into an empty network namespace;
    on every system Python code is kept from opening connections.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    notes: list[str] = []
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if not _leave_network(libc):
            notes.append("the system allows no empty network namespace; only Python code is kept from the network")
        if not _go_first():
            notes.append("where memory runs out, the system may end the node instead of the worker")
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    sys.addaudithook(_refuse)
    return tuple(notes)


def _leave_network(libc: ctypes.CDLL) -> bool:
    # Tried in a child first: some systems let a process into a user namespace and then deny it the maps, and whoever
    # is in there cannot come back out.
    child = os.fork()
    if child == 0:
        left = False
        try:
            left = _enter_empty_network(libc)
        finally:
            os._exit(0 if left else 1)
    _, status = os.waitpid(child, 0)
    return status == 0 and _enter_empty_network(libc)


def _enter_empty_network(libc: ctypes.CDLL) -> bool:
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:
        # Without these maps files could not be created: the process would own nothing that has a name outside.
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    except OSError:
        return False
    return True


def _go_first() -> bool:
    """Let the system end this process before others where memory runs out: the node lives on and says so."""
    try:
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, encoding="ascii")
    except OSError:
        return False
    return True


def _refuse(event: str, _arguments: object) -> None:
    if event in _NETWORK_EVENTS or event in _PROCESS_EVENTS:
        raise NotAllowedHere(f"{event} is not allowed in the model worker")
