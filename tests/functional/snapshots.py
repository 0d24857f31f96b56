"""A guest that writes to its disk and its memory all the time, and looks whether both are of one moment (tests/guests/keeper.c), is saved and
goes back again and again; a save may be cut by a kill."""
import fcntl
import os
import random
import re
import signal
import struct
import subprocess
import time

from guest import ROOT, VMM, Failed, Guest, initramfs, kernels, skip

KEEPER = os.path.join(ROOT, "build/check/keeper")


def check(truth, text):
    if not truth:
        raise Failed(text)


def img(*words):
    return subprocess.run([VMM, "img", *words], capture_output=True, text=True)


def wait_for_locks(path):
    """The kernel keeps a killed process's locks until its requests have ended."""
    with open(path, "r+b") as f:
        whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(f, 38, whole)  # F_OFD_SETLKW


class Kept:
    """One machine with its disk in `folder`; begun anew from a snapshot where that is said."""

    def __init__(self, folder, machine="q35", cpus=2, seed=1, ram=(), fresh=True):
        if not kernels("cloud"):
            skip("no Debian cloud kernel in /boot (linux-image-cloud-amd64)")
        self.kernel, self.folder, self.machine, self.cpus, self.ram = kernels("cloud")[-1], folder, machine, cpus, list(ram)
        self.random, self.disk = random.Random(seed), os.path.join(folder, "disk.qcow2")
        os.makedirs(os.path.dirname(KEEPER), exist_ok=True)
        subprocess.run(["clang-19", "-O2", "-static", "-o", KEEPER, os.path.join(ROOT, "tests/guests/keeper.c")], check=True)
        check(img("create", "-q", "-f", "qcow2", self.disk, "256M").returncode == 0, "create")
        self.guest, self.pauses = None, []
        self.start()
        for n in range(cpus):
            self.guest.type(f"{KEEPER} /dev/vda {n * 8192} 4096 32 /tmp/steps{n} &\n")
        self.alive()

    def line(self, *more):
        return ["-M", self.machine, "-accel", "tcg", "-cpu", "max", "-smp", str(self.cpus), "-m", "256", "-display", "none", "-nic", "none", "-no-reboot", "-serial",
                "stdio", "-monitor", "none", "-kernel", self.kernel, "-initrd",
                initramfs("keeper", files=[KEEPER], modules="virtio_pci virtio_blk", kernel=self.kernel), "-append",
                "console=ttyS0 quiet no_timer_check panic=-1", "-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={self.disk}",
                "-device", "virtio-blk-pci,drive=disk", *self.ram, *more]

    def start(self, snapshot=None):
        self.guest = Guest(*self.line(*(["-loadvm", snapshot] if snapshot else [])), qmp=True)
        if snapshot:  # it may have begun before we could hear of it
            if self.guest.qmp("query-status")["status"] != "running":
                self.guest.wait_event("RESUME", 60)
        else:
            self.guest.wait_for("~ # ", 240)

    def human(self, line):
        text = self.guest.qmp("human-monitor-command", command_line=line)
        check(text == "", f"{line}: {text}")

    def alive(self):
        """The keepers go on, and have found nothing."""
        for n in range(self.cpus):
            status, text = self.guest.run(f"until [ -e /tmp/steps{n} ]; do usleep 100000; done; a=$(cat /tmp/steps{n}); while [ $(cat /tmp/steps{n}) = $a ]; do usleep 100000; done", 120)
            check(status == 0, text)
        check("keeper: BAD" not in self.guest.text, self.guest.text[-2000:])

    def cycle(self, name="one"):
        """Saved, goes on, goes back, goes on."""
        self.guest.events.clear()
        self.human(f"savevm {name}")
        stopped, went_on = (self.guest.wait_event(event)["timestamp"] for event in ("STOP", "RESUME"))
        self.pauses.append((went_on["seconds"] - stopped["seconds"]) * 1000 + (went_on["microseconds"] - stopped["microseconds"]) / 1000)
        self.alive()
        self.human(f"loadvm {name}")
        self.alive()

    def cut(self, name="cut"):
        """Killed in the midst of a save: `one` is still there, the image is whole, and `one` goes on. Whether the new one was whole."""
        self.guest.qmp("snapshot-save", job_id="j", tag=name, vmstate="disk", devices=["disk"])
        time.sleep(self.random.random() * 0.8)  # anywhere in it, or after it
        self.guest.process.send_signal(signal.SIGKILL)
        self.guest.process.wait()
        self.guest.__exit__(None, None, None)
        wait_for_locks(self.disk)
        listed = img("snapshot", "-l", self.disk).stdout
        check(re.search(r" one ", listed), f"the older snapshot is gone: {listed}")
        self.start("one")
        self.alive()
        there = name in self.guest.qmp("human-monitor-command", command_line="info snapshots")
        if there:
            self.human(f"delvm {name}")
        return there

    def finish(self):
        self.alive()
        status, text = self.guest.run("dmesg | grep -E 'Oops|BUG|stall|soft lockup|I/O error'")
        check(status == 1, text)
        self.guest.type("poweroff -f\n")
        check(self.guest.wait_end(60) == 0, "exit status")
        for tool in ([VMM, "img"], ["qemu-img"]):
            done = subprocess.run([*tool, "check", self.disk], capture_output=True, text=True)
            check(done.returncode == 0, f"{tool[0]}: {done.stdout}{done.stderr}")

    def close(self):
        if self.guest:
            self.guest.__exit__(None, None, None)
