"""What this host has, against which a config is checked: cores and memory."""

import os
import pathlib
import resource

import psutil

MOST_PER_CORE = 16  # a larger number of processes is taken for a mistake
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def num_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; a scheduler may have lent us a few only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_memory() -> float:
    """Returns the bytes that this process may still take, its own limits included."""
    limits = [psutil.virtual_memory().available]
    for path in map(pathlib.Path, _CGROUP_LIMITS):
        if path.exists() and (text := path.read_text().strip()).isdecimal():
            limits.append(int(text))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(max(soft - psutil.Process().memory_info().vms, 0))
    return min(limits)


def in_words(size: float) -> str:
    """Returns a number of bytes in words."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:,.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError
