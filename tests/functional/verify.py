"""fio with verification in a guest, on a qcow2 image behind one of the disk devices (tests/long/fio)."""
import os
import re
import subprocess
import tempfile

from guest import VMM, Failed, Guest, boot_args, full_kernel, initramfs, skip

DEVICES = {
    "virtio-blk": ("/dev/vda", ["-device", "virtio-blk-pci,drive=d"]),
    "virtio-scsi": ("/dev/sda", ["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d"]),
    "ahci": ("/dev/sda", ["-device", "ide-hd,drive=d"]),
    "nvme": ("/dev/nvme0n1", ["-device", "nvme,drive=d,serial=verify"]),
}
MODULES = "virtio_pci virtio_blk virtio_scsi sd_mod ahci nvme"


def tool(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Failed(f"{' '.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def verify(device, seconds, mib=256):
    """Four jobs read, write and discard at random and look at what they wrote; then both tools check the image, and a raw copy is the same.
    Returns what fio says it moved."""
    if not os.path.exists("/usr/bin/fio"):
        skip("no fio (package fio)")
    kernel, version, root = full_kernel()
    image = initramfs("fio", files=["/usr/bin/fio"], modules=MODULES, kernel=version, modules_of=root)
    node, arguments = DEVICES[device]
    with tempfile.TemporaryDirectory(prefix="vmm-fio-") as folder:
        disk, raw = os.path.join(folder, "disk.qcow2"), os.path.join(folder, "copy.raw")
        tool(VMM, "img", "create", "-q", "-f", "qcow2", disk, f"{mib}M")
        drive = ["-drive", f"file={disk},if=none,id=d,format=qcow2,discard=unmap"]
        with Guest(*boot_args(kernel, image, machine="q35", cpus=2, memory=768, append="console=ttyS0 quiet"), *drive, *arguments) as g:
            g.wait_for("~ # ", 400)
            job = f"/usr/bin/fio --name=v --filename={node} --ioengine=libaio --direct=1 --rw=randrw --bsrange=4k-64k --iodepth=8 --numjobs=4"
            job += f" --size={mib // 4}m --offset_increment={mib // 4}m --verify=crc32c --verify_fatal=1 --verify_backlog=256"
            job += f" --trim_percentage=15 --trim_backlog=64 --time_based --runtime={seconds} --thread --group_reporting"
            status, out = g.run(job, seconds * 3 + 300)
            if status or "verify:" in out.replace("verify_", ""):
                raise Failed(f"{device}: fio ended with {status}: {out[-3000:]}")
            g.run("sync")
            g.type("poweroff -f\n")
            if g.wait_end(120):
                raise Failed(f"{device}: vmm's exit status")
        for words in ([VMM, "img"], ["qemu-img"]):
            done = tool(*words, "check", disk)
            if "No errors were found" not in done:
                raise Failed(f"{device}: {words[0]} check: {done}")
        tool(VMM, "img", "convert", "-O", "raw", disk, raw)
        tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, raw)
    moved = [re.search(rf"{way}: IOPS=(\S+), BW=\S+ \(\S+\)\((\S+)/", out) for way in ("read", "write", "trim")]
    return ", ".join(f"{way} {m[2]}" for way, m in zip(("read", "write", "trim"), moved) if m)
