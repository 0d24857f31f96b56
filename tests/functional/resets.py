"""System resets that strike a booting machine: at lines of the console, and some random milliseconds after one."""
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guest import Guest, Failed, boot_args, initramfs  # noqa: E402

# Where a reset strikes, by what the console shows.
LINES = ("Linux version", "smp: Brought up", "PCI: Using", "Run /init", "vmm-guest: ready")


def moments(count, seed):
    """`count` pairs (line, milliseconds after it); the first round strikes at the lines themselves."""
    dice = random.Random(seed)
    return [(LINES[i % len(LINES)], 0 if i < len(LINES) else dice.randrange(400)) for i in range(count)]


def session(kernel, machine, strikes):
    """One vmm with four CPUs, reset at each moment; then it boots to the shell and powers off."""
    args = [a for a in boot_args(kernel, initramfs(), machine, 4) if a != "-no-reboot"]
    with Guest(*args, qmp=True) as g:
        for number, (line, later) in enumerate(strikes, 1):
            try:
                g.wait_for(line, 120)
                time.sleep(later / 1000)  # the moment itself is what varies here, nothing is waited for
                g.qmp("system_reset")
                g.wait_event("RESET")
                g.seen = len(g.text)
            except Failed as error:
                raise Failed(f"before reset {number} ({line} + {later} ms): {error}") from None
        g.wait_for("vmm-guest: ready", 120)
        g.wait_for("~ # ", 30)
        g.type("poweroff -f\n")
        if g.wait_end(60) != 0:
            raise Failed("vmm did not end with status 0 after poweroff")
    return len(strikes)
