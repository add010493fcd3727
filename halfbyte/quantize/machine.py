"""What this machine has free."""

from __future__ import annotations

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def pick_device(wanted: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def free_memory(device: torch.device) -> int:
    """Bytes that a process may still take on a device, as far as the system tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass  # not Linux: the whole memory is the best guess
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit != "max":
            free.append(int(limit) - int(used))
    except (OSError, ValueError):
        pass  # no control group, or an older kind
    return max(0, min(free))
