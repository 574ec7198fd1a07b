"""Give up all rights but to read files and to write what is open: for a process that reads a stranger's pickle.

A filter of system calls (seccomp, Linux's `seccomp(2)`) lets through what reading, computing and ending take. All else
fails as not permitted: to open a file for writing, to make, move or remove one, to reach a network, to start a program,
to touch another process. No rights are needed to give rights up: this works in a container and without root, where
namespaces (`unshare`, bubblewrap) mostly do not. It cannot be undone, and holds for all threads. Torch-free.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Mapping
from typing import NamedTuple

from flowmap.errors import FlowmapError


class _Machine(NamedTuple):
    """A kind of processor: its number in the kernel's audit.h, the place of `seccomp`, and of the calls let through."""

    audit: int
    seccomp: int
    opens: Mapping[int, int]  # to the place among its arguments of how it opens
    passed: frozenset[int]


_X86 = {
    "close": 3, "read": 0, "write": 1, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "readv": 19, "writev": 20, "access": 21, "sched_yield": 24, "mremap": 25, "mincore": 27,
    "madvise": 28, "dup": 32, "nanosleep": 35, "getpid": 39, "clone": 56, "exit": 60, "uname": 63, "fcntl": 72,
    "getcwd": 79, "readlink": 89, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "sigaltstack": 131, "arch_prctl": 158, "gettid": 186, "futex": 202,
    "sched_getaffinity": 204, "getdents64": 217, "set_tid_address": 218, "restart_syscall": 219, "fadvise64": 221,
    "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "get_mempolicy": 239,
    "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "set_robust_list": 273, "getcpu": 309, "getrandom": 318,
    "membarrier": 324, "statx": 332, "rseq": 334, "clone3": 435, "faccessat2": 439,
}  # fmt: skip
_ARM = {
    "close": 57, "read": 63, "write": 64, "fstat": 80, "ppoll": 73, "lseek": 62, "mmap": 222, "mprotect": 226,
    "munmap": 215, "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "pread64": 67,
    "readv": 65, "writev": 66, "sched_yield": 124, "mremap": 216, "mincore": 232, "madvise": 233, "dup": 23,
    "nanosleep": 101, "getpid": 172, "clone": 220, "exit": 93, "uname": 160, "fcntl": 25, "getcwd": 17,
    "gettimeofday": 169, "getrlimit": 163, "getrusage": 165, "sysinfo": 179, "getuid": 174, "getgid": 176,
    "geteuid": 175, "getegid": 177, "sigaltstack": 132, "gettid": 178, "futex": 98, "sched_getaffinity": 123,
    "getdents64": 61, "set_tid_address": 96, "restart_syscall": 128, "fadvise64": 223, "clock_gettime": 113,
    "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94, "get_mempolicy": 236, "newfstatat": 79,
    "readlinkat": 78, "faccessat": 48, "set_robust_list": 99, "getcpu": 168, "getrandom": 278, "membarrier": 283,
    "statx": 291, "rseq": 293, "clone3": 435, "faccessat2": 439,
}  # fmt: skip
_MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(0xC000003E, 317, {2: 1, 257: 2}, frozenset(_X86.values())),
    "aarch64": _Machine(0xC00000B7, 277, {56: 2}, frozenset(_ARM.values())),
}

_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06  # of BPF, on words
_PASS, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | getattr(os, "O_TMPFILE", 0)
_NO_NEW_PRIVILEGES, _SET_FILTER, _ALL_THREADS = 38, 1, 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def give_up_rights() -> None:
    """See the module. Raises FlowmapError where that is not possible: beside Linux on x86-64 and ARM."""
    machine = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    why = f"no filter of system calls is known for {sys.platform} on {platform.machine()}"
    if machine is not None:
        text = _code(machine)
        code = ctypes.create_string_buffer(text)
        program = _Program(len(text) // 8, ctypes.cast(code, ctypes.c_void_p))
        libc = ctypes.CDLL(None, use_errno=True)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        refused = libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        refused = refused or libc.syscall(machine.seccomp, _SET_FILTER, _ALL_THREADS, ctypes.byref(program))
        if refused == 0:
            return
        why = f"this kernel refuses a filter of system calls ({os.strerror(ctypes.get_errno())})"
    raise FlowmapError(f"a pickle is read by a process without rights alone, and {why}; convert it on Linux")


def _code(machine: _Machine) -> bytes:
    """The filter, in classic BPF."""
    lines = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, machine.audit), (_RETURN, 0, 0, _REFUSE), (_LOAD, 0, 0, _NUMBER)]
    for number in sorted(machine.passed):
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _PASS)]
    for number, place in machine.opens.items():
        lines += [
            (_EQUAL, 0, 5, number),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * place),
            (_AND, 0, 0, _WRITES),
            (_EQUAL, 0, 1, 0),
            (_RETURN, 0, 0, _PASS),
            (_RETURN, 0, 0, _REFUSE),
        ]
    return b"".join(struct.pack("<HBBI", *line) for line in [*lines, (_RETURN, 0, 0, _REFUSE)])
