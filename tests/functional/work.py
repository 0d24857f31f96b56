"""The guest that works (tests/guests/make-work): Debian's full kernel with a root of Debian programs, at a shell inside that root."""
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guest import ROOT, Failed, Guest, boot_args, initramfs, kernel_trouble, kernels, skip  # noqa: E402

INSIDE = os.path.join(ROOT, "tests/guests/inside")
PROMPT = "work# "
ENTER = f"""mkdir /new; mount -t ext4 /dev/vda /new || exec sh
for d in proc sys dev; do mount --bind /$d /new/$d; done; mkdir -p /new/dev/shm; mount -t tmpfs shm /new/dev/shm
mount -t devpts pts /new/dev/pts; mount -t tmpfs tmp /new/tmp; mount -t tmpfs run /new/run
cp {INSIDE}/* /new/root; ip link set lo up; hostname work
exec switch_root /new /bin/bash /root/enter"""


def folder():
    """Where the image, the kernel and Xen are; made if need be."""
    made = subprocess.run([os.path.join(ROOT, "tests/guests/make-work")], capture_output=True, text=True)
    if made.returncode == 77:
        skip(made.stdout.strip().removeprefix("SKIP "))
    if made.returncode:
        raise Failed(f"make-work: {made.stdout} {made.stderr}")
    return made.stdout.split()[-1]


class Work(Guest):
    """A working guest; its changes to the image are forgotten. It judges the CPU, on hosts however busy: the kernel does not test its clocks.
    `cloud`: under the cloud kernel of this host (its modules are not in there)."""

    def __init__(self, cpu="max", cpus=2, memory=1024, accel="tcg", cloud=False, append="console=ttyS0 no_timer_check tsc=nowatchdog"):
        at = folder()
        self.cpu = cpu
        files = [os.path.join(INSIDE, name) for name in sorted(os.listdir(INSIDE))]
        if cloud:
            if not kernels("cloud"):
                skip("no Debian cloud kernel in /boot (package linux-image-cloud-amd64)")
            kernel = kernels("cloud")[-1]
            initrd = initramfs("work-cloud", ENTER, files, "virtio_pci virtio_blk", kernel)
        else:
            kernel, version = os.path.join(at, "vmlinuz"), open(os.path.join(at, "kernel")).read().strip()
            initrd = initramfs("work", ENTER, files, "crc32c_generic virtio_pci virtio_blk ext4", version, os.path.join(at, "modules"))
        super().__init__(*boot_args(kernel, initrd, "pc", cpus, memory, cpu, append, accel), "-drive",
                         f"file={at}/work.ext4,format=raw,if=virtio,snapshot=on")

    def shell(self, seconds=300):
        self.wait_for("vmm-guest: ready", seconds)
        if complaint := re.search(r"^\S*:? ?warning: .*$", self.text, re.M):
            raise Failed(f"-cpu {self.cpu}: {complaint.group(0).strip()}")
        self.wait_for(PROMPT, seconds)
        return self

    def must(self, line, seconds=60):
        """Output of a line that must succeed, the kernel's messages included."""
        status, output = self.run(line, seconds)
        if status:
            raise Failed(f"'{line}' ended with status {status}:\n{output[-3000:]}")
        return output

    def off(self, seconds=60):
        """Powers off; the kernel must not have complained."""
        self.type("exit\n")
        if self.wait_end(seconds) != 0:
            raise Failed("vmm did not end with status 0 after poweroff")
        if trouble := kernel_trouble(self.text, self.cpu):
            raise Failed("the kernel complains: " + "; ".join(trouble[:5]))


def crypto(cpu, cloud=False):
    """Every crypto module but tcrypt is loaded: the kernel's own tests of all that they register pass. How many were registered."""
    with Work(cpu, 2) as g:
        g.shell()
        output = g.must("bash crypto", 900)
        if failed := re.search(r"^.*alg: .*(?:fail|wrong|mismatch|unexpected).*$", g.text, re.M | re.I):
            raise Failed(failed.group(0).strip())
        count = re.search(r"crypto: (\d+) algorithms, all passed, of (\d+) modules", output)
        if not count:
            raise Failed(output[-2000:])
        g.off()
    return f"{count.group(1)} algorithms of {count.group(2)} modules passed"


def programs(cpu, *parts, seconds):
    """Parts of tests/guests/inside/programs."""
    with Work(cpu, 2) as g:
        g.shell()
        output = "".join(g.must(f"bash programs {part}", seconds) for part in parts)
        g.off()
    return output


def known_answers(cpu, *more):
    """openssl in the guest and on this host's CPU come to the same sums; and more parts pass in the same guest."""
    def sums(text):
        return re.findall(r"^sum (\S+) ([0-9a-f]{16,})", text.replace("\r", ""), re.M)

    with tempfile.TemporaryDirectory() as scratch:
        native = subprocess.run(["bash", os.path.join(INSIDE, "programs"), "openssl"], capture_output=True, text=True, cwd=scratch)
    expected = sums(native.stdout)
    if native.returncode or len(expected) < 20:
        raise Failed(f"openssl on this host: {native.stdout} {native.stderr}")
    found = sums(programs(cpu, "openssl", *more, seconds=300))
    if wrong := [name for name, value in expected if (name, value) not in found]:
        raise Failed(f"openssl in the guest computes otherwise: {' '.join(wrong)}")
    return f"{len(expected)} sums of openssl equal this host's"


def patching(cpus, seconds, functions):
    """Kernel code is patched in every way for so long, under load; functions: how often all functions are traced."""
    with Work("max", cpus) as g:
        g.shell()
        output = g.must(f"bash patching {seconds} {functions}", seconds * 3 + 300)
        found = re.search(r"patching: (.*)", output)
        if not found:
            raise Failed(output[-2000:])
        g.off()
    return found.group(1).strip()
