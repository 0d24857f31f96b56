#!/usr/bin/env python3
"""Field names in answers of the human monitor: what scripts that read them look for. Both emulators get the same machine and the same lines.
`hmp_fields.py [QEMU]` asks Debian's QEMU 7.2 and writes hmp-fields.txt beside itself; hmp.test holds ours against that file."""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guest import Guest  # noqa: E402

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hmp-fields.txt")

ARGS = ["-M", "pc,hpet=on", "-m", "64", "-smp", "2", "-cpu", "qemu64", "-display", "none", "-nodefaults", "-vga", "std", "-S", "-name", "fields",
        "-uuid", "4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "-chardev", "ringbuf,id=ring0", "-chardev", "null,id=null0", "-serial", "chardev:null0",
        "-object", "iothread,id=io0", "-object", "memory-backend-ram,id=spare,size=1M",
        "-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:0-:22", "-device", "e1000,netdev=net0,id=card0,mac=52:54:00:12:34:56",
        "-drive", "if=none,id=disk0,driver=null-co,size=1M,read-zeroes=on", "-device", "virtio-blk-pci,drive=disk0,id=blk0",
        "-device", "ide-cd,id=cd0", "-device", "virtio-balloon-pci,id=balloon0", "-device", "virtio-serial-pci,id=vs0",
        "-device", "virtserialport,bus=vs0.0,chardev=ring0,name=org.vmm.fields"]

LINES = ["info status", "info version", "info name", "info uuid", "info kvm", "info cpus", "info registers", "info registers -a",
         "info block", "info block -v", "info block -n", "info block -n -v", "info blockstats", "info network", "info usernet",
         "info chardev", "info pci", "info qtree", "info qom-tree", "info mtree", "info mtree -f", "info mem", "info tlb", "info pic",
         "info irq", "info lapic", "info jit", "info roms", "info balloon", "info iothreads", "info memdev", "info memory_size_summary",
         "info ramblock", "info migrate_capabilities", "info dump", "info numa", "info hotpluggable-cpus",
         "help cont", "help x", "x /4xb 0xfffffff0",
         "xp /2wx 0xffff0", "x /2i 0xfffffff0", "print $eip", "print /d 5-7", "i /b 0x61", "sum 0xf0000 16", "gpa2hva 0x1000", "gva2gpa 0x1000",
         "qom-list /machine", "qom-get /machine type", "nosuch", "info nosuch", "cpu 7", "device_del nosuch", "set_link nosuch on",
         "netdev_del nosuch", "object_del nosuch", "eject nosuch", "sendkey nosuch", "chardev-remove nosuch", "drive_del nosuch"]

# What stands before '=' anywhere, or before ':' at the start of a line. Numbers differ between two runs.
FIELDS = (re.compile(r"([A-Za-z_][\w.-]*)="), re.compile(r"^\s*([A-Za-z][\w ()/-]*?):(?=\s|$)", re.M))

# Names that QEMU prints and we do not, for what stands behind them is not there: parts of its own build, properties of its own
# inner workings, and figures of its translator.
ABSENT = {
    "info block": {"json"}, "info block -v": {"json"}, "info block -n": {"json"}, "info block -n -v": {"json"},
    "info jit": {"*"},  # every engine has figures of its own
    "info roms": {"fw"},  # its copies of fw_cfg files
    "info migrate_capabilities": {"*"},  # no migration yet
    "info qtree": {"short_root_bus", "x-pci-hole64-fix", "x-config-reg-migration-enabled", "bypass-iommu", "free-page-hint",
                   "x-enable-wce-if-config-wce", "migrate_tso_props", "memory-hotplug-support", "smm-compat", "x-not-migrate-acpi-index",
                   "address", "global-vmstate", "x-read-set-eax", "x-signal-unsupported-cmd", "x-report-vmx-type", "x-cmds-v2",
                   "vmware-vmx-version", "vmware-vmx-type", "dma", "fdtypeA", "fdtypeB", "fallback", "acpi-mr-restore"},
    "info irq": {"IRQ statistics for ioapic"},
    "sendkey nosuch": {"invalid parameter"},  # ours begins with "Error: ", as all others do
}


def fields(text):
    """The names in an answer, in the order of their first appearance."""
    names = []
    for expression in FIELDS:
        for name in expression.findall(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)):
            name = " ".join(re.sub(r"\d+", "N", name).split())
            if name not in names:
                names.append(name)
    return names


def answers(binary=None):
    """Text by line."""
    with Guest(*ARGS, qmp=True, binary=binary) as g:
        return {line: g.qmp("human-monitor-command", **{"command-line": line}) for line in LINES}


def read_file():
    """Names by line, as QEMU had them."""
    wanted, line = {}, None
    for row in open(FILE):
        row = row.rstrip("\n")
        if not row or row.startswith("#"):
            continue
        if row.startswith("  "):
            wanted[line] += [name for name in row.strip().split(" | ")]
        else:
            line = row
            wanted[line] = []
    return wanted


if __name__ == "__main__":
    with open(FILE, "w") as f:
        f.write("# Field names of QEMU 7.2's human monitor (Debian 12), written by hmp_fields.py: a line, then its names.\n")
        for line, text in answers(sys.argv[1] if len(sys.argv) > 1 else "qemu-system-x86_64").items():
            f.write(line + "\n")
            names = fields(text)
            for i in range(0, len(names), 8):
                f.write("  " + " | ".join(names[i:i + 8]) + "\n")
