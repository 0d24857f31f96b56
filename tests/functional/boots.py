"""The boot matrix: Debian kernels × boards × CPU counts × CPU models, each to a busybox shell and off again without complaint."""
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guest import ROOT, Failed, Guest, boot_args, fetched, initramfs, kernel_trouble  # noqa: E402

KERNELS = ("cloud-6.1", "full-6.1", "cloud-6.12")
MACHINES = ("pc", "q35")
COUNTS = (1, 2, 4)
CPUS = ("qemu64", "Haswell", "max")


def all_boots():
    return [(k, m, n, c) for k in KERNELS for m in MACHINES for n in COUNTS for c in CPUS]


def pair_boots():
    """Nine boots in which every pair of values of two columns occurs (boards alternate within)."""
    rows = []
    for i, kernel in enumerate(KERNELS):
        for j, cpu in enumerate(CPUS):
            rows.append((kernel, MACHINES[(i + j) % 2], COUNTS[(i + j) % 3], cpu))
    return rows


def fetch_kernels():
    fetched("fetch-kernels")


def boot(kernel, machine, count, cpu, seconds=300):
    """One boot; seconds it took to the shell."""
    start = time.monotonic()
    with Guest(*boot_args(os.path.join(ROOT, "build/kernels", kernel), initramfs(), machine, count, 256, cpu)) as g:
        g.wait_for("vmm-guest: ready", seconds)
        g.wait_for("~ # ", 60)
        took = time.monotonic() - start
        status, out = g.run("nproc", 60)
        if status or not re.search(rf"(?:^|\s){count}(?:\s|\[|$)", out):  # the kernel's own messages may stand between, from any letter on
            raise Failed(f"nproc says {out!r}, not {count}")
        g.type("poweroff -f\n")
        if g.wait_end(120) != 0:
            raise Failed("vmm did not end with status 0 after poweroff")
        trouble = kernel_trouble(g.text, cpu)
        if trouble:
            raise Failed("the kernel complains: " + "; ".join(trouble[:5]))
    return took


def name(row):
    return f"{row[0]} {row[1]} -smp {row[2]} -cpu {row[3]}"
