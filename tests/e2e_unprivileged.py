"""Runs a command without any privilege: e2e_unprivileged.py COMMAND...  (started by root)

As user 65534, without groups and capabilities, with no_new_privs, and in a user namespace in which no other user
namespace can be made: all ways to a privilege that a Linux machine offers an ordinary process are closed.
"""

from __future__ import annotations

import ctypes
import os
import sys

_CLONE_NEWUSER = 0x10000000
_IDS = "0 0 65536\n"


def main(argv: list[str]) -> None:
    """Never returns: ends as the command does."""
    libc = ctypes.CDLL(None, use_errno=True)
    apart_read, apart_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    child = os.fork()
    if child:
        os.close(apart_write)
        os.close(mapped_read)
        if os.read(apart_read, 1):
            # The maps are written from outside: inside, the namespace's root may map itself alone.
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{child}/{name}", "w") as file:
                    file.write(_IDS)
            os.write(mapped_write, b"x")
        os.close(mapped_write)
        status = os.waitpid(child, 0)[1]
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.close(mapped_write)
    if libc.unshare(_CLONE_NEWUSER):
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    os.write(apart_write, b"x")
    if not os.read(mapped_read, 1):
        sys.exit("the user namespace was not set up")
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    drop = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    drop += ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]
    os.execvp("setpriv", ["setpriv", *drop, *argv])


if __name__ == "__main__":
    main(sys.argv[1:])
