"""Waiting for the end of a process that is not our child, by the system's own event."""

import os
import select
import sys

if sys.platform == "darwin":

    def _wait(pid: int, timeout_s: float) -> bool:
        queue = select.kqueue()
        try:
            event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
            return bool(queue.control([event], 1, timeout_s))
        finally:
            queue.close()

else:

    def _wait(pid: int, timeout_s: float) -> bool:
        descriptor = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(timeout_s * 1000))
        finally:
            os.close(descriptor)


def wait_for_exit(pid: int, timeout_s: float) -> bool:
    """Return True once process `pid` has ended, False where it has not after `timeout_s`."""
    try:
        return _wait(pid, timeout_s)
    except ProcessLookupError:
        return True
