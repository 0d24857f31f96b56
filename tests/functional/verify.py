"""fio with verification in a guest, on qcow2 images behind the disk devices (verify.test, tests/long/fio)."""
import os
import re
import subprocess
import tempfile

from guest import VMM, Failed, Guest, boot_args, full_kernel, initramfs, kernel_trouble, skip

DEVICES = {
    "virtio-blk": ["-device", "virtio-blk-pci,drive={}"],
    "virtio-scsi": ["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive={}"],
    "ahci": ["-device", "ide-hd,drive={}"],
    "nvme": ["-device", "nvme,drive={},serial=verify"],
}
MODULES = "virtio_pci virtio_blk virtio_scsi sd_mod ahci nvme"
# What Debian's fio links for engines that go over a network: 80 MB of it.
REMOTE = "libgfapi.so.0 libnbd.so.0 libibverbs.so.1 librdmacm.so.1 librados.so.2 librbd.so.1 libpmemblk.so.1 libpmem.so.1"


def tool(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Failed(f"{' '.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def block_device(g, size):
    """The guest's disk of that many bytes. (A driver's module is loaded when its disks are there.)"""
    out = g.run(f"grep -lx {size // 512} /sys/block/*/size", 60)[1]
    found = re.findall(r"/sys/block/(\w+)/size", out)
    if len(found) != 1:
        raise Failed(f"disks of {size} bytes: {out}")
    return found[0]


def verify(devices, seconds, mib=64):
    """On each disk at once four jobs read and write, or discard and write, at random and look at what they wrote; then both tools check the
    images, and raw copies are the same. Returns what fio says it moved on each."""
    if not os.path.exists("/usr/bin/fio"):
        skip("no fio (package fio)")
    kernel, version, root = full_kernel()
    image = initramfs("fio", files=["/usr/bin/fio"], modules=MODULES, kernel=version, modules_of=root, without=REMOTE)
    with tempfile.TemporaryDirectory(prefix="vmm-fio-") as folder:
        drives, disks = [], {}
        for n, device in enumerate(devices):
            disk, size = disks[device] = os.path.join(folder, device + ".qcow2"), (mib + 4 * n) << 20  # told apart by their sizes
            tool(VMM, "img", "create", "-q", "-f", "qcow2", disk, str(size))
            drives += ["-drive", f"file={disk},if=none,id=d{n},format=qcow2,discard=unmap"]
            drives += [word.format(f"d{n}") for word in DEVICES[device]]
        with Guest(*boot_args(kernel, image, machine="q35", cpus=2, memory=512, append="console=ttyS0 quiet"), *drives) as g:
            g.wait_for("~ # ", 400)
            # Loops, and no time_based: each loop ends with a look at all it wrote. (trim_percentage makes fio 3.33 fail an assertion of its own.)
            part = mib // 4
            part = mib // 4
            jobs = [["global", "ioengine=libaio", "direct=1", "iodepth=8", "verify=crc32c", "verify_fatal=1", "verify_backlog=256", f"size={part}m",
                     "loops=1000000", f"runtime={seconds}", "thread", "group_reporting"]]
            for device, (_, size) in disks.items():
                disk = f"filename=/dev/{block_device(g, size)}"
                jobs += [[device, disk, "new_group", "rw=randrw", "bsrange=4k-64k", "numjobs=3", f"offset_increment={part}m"],
                         [device + "-trim", disk, "rw=randtrimwrite", "bsrange=4k-128k", f"offset={3 * part}m"]]
            for name, *options in jobs:  # the guest's shell takes 1,023 characters a line
                g.run(f"printf '%s\\n' '[{name}]' {' '.join(options)} >>/tmp/jobs")
            line = "/usr/bin/fio --eta=never /tmp/jobs"
            status, out = g.run(line, seconds * 3 + 300)
            if status or re.search(r"^(verify|fio|crc32c)(?!: multiple writers may)[^\n]*:.*(fail|bad|err[^=]|Expected)", out, re.M | re.I):
                raise Failed(f"{', '.join(devices)}: fio ended with {status}: {out[-3000:]}")
            g.run("sync")
            g.type("poweroff -f\n")
            if g.wait_end(120):
                raise Failed(f"{', '.join(devices)}: vmm's exit status")
            trouble = kernel_trouble(g.text)
            if trouble:
                raise Failed(f"{', '.join(devices)}: the kernel complains: {trouble[:5]}")
        raw = os.path.join(folder, "copy.raw")
        for disk, _ in disks.values():
            for words in ([VMM, "img"], ["qemu-img"]):
                done = tool(*words, "check", disk)
                if "No errors were found" not in done:
                    raise Failed(f"{os.path.basename(disk)}: {words[0]} check: {done}")
            tool(VMM, "img", "convert", "-O", "raw", disk, raw)
            tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, raw)
    moved = {}
    for device in devices:
        text = re.search(rf"^{device}: \(groupid=.*?(?=^\S+: \(groupid=|^Run status|\Z)", out, re.M | re.S)
        found = [(way, re.search(rf"^\s*{way}: IOPS=(\S+), BW=\S+ \(\S+\)\((\S+)/", text[0], re.M)) for way in ("read", "write", "trim")] if text else []
        moved[device] = ", ".join(f"{way} {m[2]}" for way, m in found if m)
        if not all(m for _, m in found) or not found:
            raise Failed(f"{device}: fio did not read, write and trim: {out[-3000:]}")
    return moved
