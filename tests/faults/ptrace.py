"""Killing a process as it enters a chosen system call, or failing the call, by seccomp and ptrace, on Linux for x86_64.

The work runs in a forked child, so that nothing has to be imported again: a thousand kills take a minute or two.
"""

import ctypes
import os
import signal
import struct
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# linux/ptrace.h
_TRACEME: Final = 0
_PEEKUSER: Final = 3
_POKEUSER: Final = 6
_CONT: Final = 7
_SETOPTIONS: Final = 0x4200
_OPTIONS: Final = 0x8 | 0x80 | 0x100000  # TRACECLONE | TRACESECCOMP | EXITKILL
_EVENT_SECCOMP: Final = 7
_ORIG_RAX: Final = 15 * 8
_RAX: Final = 10 * 8
_WALL: Final = 0x40000000
# linux/prctl.h, linux/seccomp.h, linux/filter.h
_SET_NO_NEW_PRIVS: Final = 38
_SET_SECCOMP: Final = 22
_FILTER: Final = 2
_RET_TRACE: Final = 0x7FF00000
_RET_ALLOW: Final = 0x7FFF0000
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_RETURN: Final = 0x06

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

# Calls that change what is on the disk, or promise that it is there: where a kill can matter.
DISK_CALLS: Final = {
    1: "write", 18: "pwrite64", 20: "writev", 40: "sendfile", 73: "flock", 74: "fsync", 75: "fdatasync",
    76: "truncate", 77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink", 88: "symlink",
    90: "chmod", 91: "fchmod", 257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat", 265: "linkat",
    266: "symlinkat", 268: "fchmodat", 285: "fallocate", 316: "renameat2", 326: "copy_file_range",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What happens at a call: ("rename", 2) is the third rename. It kills the process, or fails with `errno`."""

    call: str
    index: int
    errno: int | None = None


@dataclass(frozen=True)
class Traced:
    """How a traced run ended: after so many calls of each name, and whether it came to the fault."""

    calls: Counter[str]
    struck: bool
    exit_code: int | None


def run_traced(work: Callable[[], None], fault: Fault | None = None) -> Traced:
    """Return how `work` ran in a child to which `fault` happens; None only counts the calls.

    All threads of the child are traced. The caller has one thread only.
    """
    child = os.fork()
    if child == 0:
        _run_child(work)
    os.waitpid(child, _WALL)
    _require(_libc.ptrace(_SETOPTIONS, child, None, _OPTIONS), "ptrace")
    _libc.ptrace(_CONT, child, None, None)
    return _follow(child, fault)


def _run_child(work: Callable[[], None]) -> None:
    code = 1
    try:
        _require(_libc.ptrace(_TRACEME, 0, None, None), "ptrace")
        os.kill(os.getpid(), signal.SIGSTOP)
        _stop_at_disk_calls()
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child must end here, whatever went wrong
        traceback.print_exc()
    finally:
        os._exit(code)


def _stop_at_disk_calls() -> None:
    """Let every other call pass at full speed."""
    numbers = sorted(DISK_CALLS)
    program = [struct.pack("HBBI", _LOAD, 0, 0, 0)]  # the call's number
    program += [
        struct.pack("HBBI", _JUMP_EQUAL, len(numbers) - index, 0, number) for index, number in enumerate(numbers)
    ]
    program += [struct.pack("HBBI", _RETURN, 0, 0, _RET_ALLOW), struct.pack("HBBI", _RETURN, 0, 0, _RET_TRACE)]
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _require(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _require(_libc.prctl(_SET_SECCOMP, _FILTER, header, 0, 0), "seccomp")


def _follow(child: int, fault: Fault | None) -> Traced:
    calls: Counter[str] = Counter()
    struck = False
    while True:
        thread, status = os.waitpid(-1, _WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if thread == child:
                return Traced(calls, struck, os.waitstatus_to_exitcode(status))
            continue
        stop = os.WSTOPSIG(status)
        if status >> 16 == _EVENT_SECCOMP:
            call = DISK_CALLS[_libc.ptrace(_PEEKUSER, thread, _ORIG_RAX, None)]
            if fault and (call, calls[call]) == (fault.call, fault.index):
                if fault.errno is None:
                    return _kill(child, calls)
                struck = True
                _libc.ptrace(_POKEUSER, thread, _ORIG_RAX, -1)  # the call is skipped
                _libc.ptrace(_POKEUSER, thread, _RAX, -fault.errno)
            calls[call] += 1
        passed_on = None if stop in (signal.SIGTRAP, signal.SIGSTOP) else stop
        _libc.ptrace(_CONT, thread, None, passed_on)


def _kill(child: int, calls: Counter[str]) -> Traced:
    os.kill(child, signal.SIGKILL)
    while True:
        thread, status = os.waitpid(-1, _WALL)
        if thread == child and (os.WIFSIGNALED(status) or os.WIFEXITED(status)):
            return Traced(calls, True, None)


def _require(result: int, call: str) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), call)
