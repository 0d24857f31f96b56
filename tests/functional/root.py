"""The root disk R (tests/disks/make-root) as users run it: a disk on some board, firmware and controller, a login by ssh, files both ways, a
package from a mirror on the host, power-off. Rows are shared by root.test and `--long root`."""
import hashlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guest import ROOT, VMM, Failed, Guest, skip  # noqa: E402

CODE, VARIABLES = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
GUID = "5b1d1e1c-0c1b-4a6d-9f52-3f0e6ad1a001"
# How the disk with id d is attached.
DISKS = {
    "virtio-blk": ["-device", "virtio-blk-pci,drive=d,bootindex=1"],
    "ide": ["-device", "ide-hd,drive=d,bootindex=1"],  # AHCI on q35
    "virtio-scsi": ["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d,bootindex=1"],
    "nvme": ["-device", "nvme,drive=d,serial=r,bootindex=1"],
    "cd": ["-device", "virtio-blk-pci,drive=d", "-device", "ide-cd,drive=cd,bootindex=1"],  # the boot loader and the kernel come from there
    "port": ["-device", "pcie-root-port,id=port0,chassis=1", "-device", "virtio-blk-pci,drive=d,bus=port0,bootindex=1"],
}


def check(truth, text):
    if not truth:
        raise Failed(text)


def disks():
    """The folder with root.raw and root.qcow2."""
    made = subprocess.run([os.path.join(ROOT, "tests/disks/make-root")], capture_output=True, text=True)
    if made.returncode == 77:
        skip(made.stdout.strip().removeprefix("SKIP "))
    check(made.returncode == 0, f"make-root: {made.stdout} {made.stderr}")
    if not os.path.exists(CODE):
        skip("no OVMF (package ovmf)")
    return made.stdout.split()[-1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def sha(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Login:
    def __init__(self, port):
        self.options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"]
        self.port = port

    def call(self, *words, seconds=300):
        done = subprocess.run(["sshpass", "-p", "root", *words], capture_output=True, text=True, timeout=seconds)
        check(done.returncode == 0, f"{' '.join(words)}: {done.returncode} {done.stdout} {done.stderr}")
        return done.stdout

    def run(self, line, seconds=300):
        return self.call("ssh", *self.options, "-p", str(self.port), "root@127.0.0.1", line, seconds=seconds)

    def copy(self, source, target):
        return self.call("scp", "-q", *self.options, "-P", str(self.port), source, target)

    def power_off(self, vm):
        # The connection may end before the command's status comes.
        subprocess.run(["sshpass", "-p", "root", "ssh", *self.options, "-p", str(self.port), "root@127.0.0.1", "systemctl poweroff"],
                       capture_output=True, timeout=60)
        check(vm.wait_end(120) == 0, "exit status after poweroff")


def overlay(path, base):
    """An empty qcow2 over R, so that R stays as it is."""
    subprocess.run([VMM, "img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path], check=True, timeout=60)
    return path


def clean(*images):
    for image in images:
        for tool in ([VMM, "img"], ["qemu-img"]):
            done = subprocess.run([*tool, "check", image], capture_output=True, text=True, timeout=300)
            check(done.returncode == 0 and "No errors were found" in done.stdout, f"{tool} check: {done.stdout} {done.stderr}")


def grub_cd(folder):
    """A CD that boots by BIOS and by UEFI: GRUB, R's kernel and its initramfs; kept beside R."""
    path, stamp = os.path.join(folder, "grub-cd.iso"), os.path.join(folder, "grub-cd.recipe")
    want = open(os.path.join(folder, "recipe")).read()
    if os.path.exists(path) and os.path.exists(stamp) and open(stamp).read() == want:
        return path
    for program in ("grub-mkrescue", "xorriso"):
        check(shutil.which(program), f"no {program}: tools/need disks")
    tree = os.path.join(folder, "grub-cd")
    shutil.rmtree(tree, ignore_errors=True)
    os.makedirs(tree + "/boot/grub")
    debugfs = shutil.which("debugfs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    for name in ("vmlinuz", "initrd.img"):
        image = f"{folder}/root.raw?offset={(4096 + 131072) * 512}"
        link = subprocess.run([debugfs, "-R", f"stat /{name}", image], capture_output=True, text=True).stdout
        target = re.search(r'Fast link dest: "(.*)"', link)[1]
        subprocess.run([debugfs, "-R", f"dump /{target} {tree}/boot/{name}", image], capture_output=True, check=True)
    with open(tree + "/boot/grub/grub.cfg", "w") as f:
        f.write("serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\n"
                "linux /boot/vmlinuz root=LABEL=root console=ttyS0 net.ifnames=0 from=cd\ninitrd /boot/initrd.img\nboot\n")
    subprocess.run(["grub-mkrescue", "-o", path, tree], check=True, capture_output=True, timeout=120)
    shutil.rmtree(tree)
    open(stamp, "w").write(want)
    return path


class Mirror:
    """A Debian archive of two small packages, of which one needs the other, on the host's loopback (10.0.2.2 in the guest)."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        index = ""
        for name, more in (("vmm-words", ""), ("vmm-greeting", "Depends: vmm-words\n")):
            tree = os.path.join(folder, name)
            os.makedirs(tree + "/DEBIAN")
            os.makedirs(tree + "/usr/share/vmm")
            control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: vmm <vmm@localhost>\n{more}Description: a test\n"
            open(tree + "/DEBIAN/control", "w").write(control)
            open(f"{tree}/usr/share/vmm/{name}", "wb").write(hashlib.shake_256(name.encode()).digest(1 << 20))
            package = os.path.join(folder, name + ".deb")
            subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, package], check=True, capture_output=True)
            shutil.rmtree(tree)
            index += f"{control}Filename: ./{name}.deb\nSize: {os.path.getsize(package)}\nSHA256: {sha(package)}\n\n"
        open(folder + "/Packages", "w").write(index)

        class Server(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *a):
                super().__init__(*a, directory=folder)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def install(self, login):
        line = f"deb [trusted=yes] http://10.0.2.2:{self.server.server_port}/ ./"
        options = "-q -o Dir::Etc::sourcelist=/root/host.list -o Dir::Etc::sourceparts=-"
        login.run(f"echo '{line}' >/root/host.list && apt-get {options} update && "
                  f"DEBIAN_FRONTEND=noninteractive apt-get {options} -y install vmm-greeting && dpkg -s vmm-words vmm-greeting >/dev/null")
        for name in ("vmm-words", "vmm-greeting"):
            want = hashlib.sha256(hashlib.shake_256(name.encode()).digest(1 << 20)).hexdigest()
            check(want in login.run(f"sha256sum /usr/share/vmm/{name}"), f"apt-get brought another {name}")


def readme_lines():
    """The examples of README.md with a disk, each one line."""
    text = open(os.path.join(ROOT, "README.md")).read().replace("\\\n", " ")
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.startswith("build/release/vmm") and "disk.qcow2" in line]
    check(len(lines) == 2, f"README.md has {len(lines)} examples with disk.qcow2, not 2")
    return lines


def boot(port, disk, machine, uefi, attach, cd=None):
    """R to its login prompt. `uefi`: the file of the firmware's variables, or None for SeaBIOS."""
    flash = [] if not uefi else ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={CODE}", "-drive", f"if=pflash,format=raw,unit=1,file={uefi}"]
    media = ["-drive", f"file={cd},if=none,id=cd,format=raw,media=cdrom,readonly=on"] if cd else []
    return Guest("-M", machine, "-m", "512", "-cpu", "max", "-display", "none", "-serial", "stdio", "-monitor", "none", *flash, *media, "-netdev",
                 f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=n0", "-drive", f"file={disk},if=none,id=d,format=qcow2",
                 *DISKS[attach])


def start(vm, seconds=300):
    """To the prompt of the console and to a sshd that listens. systemd says so as a rule, but the getty hangs the terminal up when it begins, and
    a line of that moment is lost; then one logs in there and waits for the unit."""
    begin = vm.seen
    vm.wait_for("r login:", seconds)
    if re.search(r"Started \S*ssh\.service", vm.text[begin:]):
        return
    vm.type("root\n")
    vm.wait_for("Password:", seconds)
    vm.type("root\n")
    vm.wait_for(r"root@r\S*#", seconds)
    vm.type("systemctl start ssh && echo ss''hd listens; exit\n")
    vm.wait_for("sshd listens", seconds)


def variables(folder):
    path = os.path.join(folder, "vars.fd")
    shutil.copy(VARIABLES, path)
    return path


def full(line, folder, base, mib, machine=None):
    """The README's example: ssh, so many MiB each way, apt-get install, power off with status 0; with UEFI a variable and a power cycle."""
    port = free_port()
    login = Login(port)
    disk = overlay(os.path.join(folder, "disk.qcow2"), base)
    uefi = "pflash" in line
    words = line.replace("disk.qcow2", disk).replace("127.0.0.1:2222", f"127.0.0.1:{port}").replace("vars.fd", variables(folder)).split()[1:]
    if machine:
        words += ["-M", machine]
    file, back = os.path.join(folder, "file"), os.path.join(folder, "back")
    with open(file, "wb") as f:
        f.write(hashlib.shake_256(b"scp").digest(mib << 20))
    with Guest(*words) as vm:
        start(vm)
        check("Debian" in login.run("cat /etc/os-release; lsblk /dev/vda"), "ssh to the guest")
        check(("yes" if uefi else "no") in login.run("[ -d /sys/firmware/efi ] && echo yes || echo no"), "the wrong firmware")
        login.copy(file, "root@127.0.0.1:/root/file")
        check(sha(file) in login.run("sha256sum /root/file"), "the file in the guest")
        login.copy("root@127.0.0.1:/root/file", back)
        check(sha(file) == sha(back), "the file that came back")
        mirror = Mirror(os.path.join(folder, "mirror"))
        mirror.install(login)
        mirror.server.shutdown()
        if uefi:
            login.run(f"printf '\\x07\\0\\0\\0kept' >/sys/firmware/efi/efivars/VmmTest-{GUID}")
        login.power_off(vm)
    if uefi:
        with Guest(*words) as vm:
            start(vm)
            check("kept" in login.run(f"tail -c 4 /sys/firmware/efi/efivars/VmmTest-{GUID}"), "the variable of the firmware is lost")
            login.power_off(vm)
    clean(disk)


def short(machine, firmware, attach, folder, base):
    """One boot by a controller: login by ssh, something written, power off; the image is clean and holds it."""
    port = free_port()
    login = Login(port)
    disk = overlay(os.path.join(folder, "short.qcow2"), base)
    cd = grub_cd(os.path.dirname(base)) if attach == "cd" else None
    with boot(port, disk, machine, variables(folder) if firmware == "uefi" else None, attach, cd) as vm:
        start(vm)
        seen = login.run("findmnt -no SOURCE /; cat /proc/cmdline; [ -d /sys/firmware/efi ] && echo by-uefi || echo by-bios; head -c 5M /dev/urandom >/root/new; sync")
        device = {"ide": "/dev/sda3", "virtio-scsi": "/dev/sda3", "nvme": "/dev/nvme0n1p3"}.get(attach, "/dev/vda3")
        check(device in seen and f"by-{firmware}" in seen and (("from=cd" in seen) == (attach == "cd")), f"not the boot that was asked for: {seen}")
        login.power_off(vm)
    clean(disk)
    os.unlink(disk)
