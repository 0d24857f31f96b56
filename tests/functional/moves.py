"""Guests that move in a chain from process to process, over one qcow2 disk, while a program in them writes to it and reads back what it wrote.
Connections are cut at random places: whatever happens, the guest goes on at exactly one side."""
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time

from guest import VMM, Failed, Guest, initramfs, kernels, skip

SLOTS = 256
# Writes its count to one block after another and reads an older one back; notes what is wrong, and time that goes backwards.
WORK = f"""
i=0; last=0
while [ ! -e /tmp/end ]; do
  i=$((i+1)); echo $i > /tmp/n.new; mv /tmp/n.new /tmp/n
  yes $i | dd of=/dev/vda bs=4k count=1 seek=$((i % {SLOTS})) iflag=fullblock oflag=direct conv=notrunc 2>/dev/null || echo write $i >> /tmp/bad
  q=$(((i * 7) % {SLOTS})); want=$((i - (i - q) % {SLOTS}))
  [ $((i - q)) -lt 0 ] && want=$((i - {SLOTS} - (i - q) % {SLOTS}))
  if [ $want -gt 0 ]; then
    got=$(dd if=/dev/vda bs=4k count=1 skip=$q iflag=direct 2>/dev/null | head -n 1)
    [ "$got" = $want ] || echo block $q holds $got, not $want >> /tmp/bad
  fi
  read now rest < /proc/uptime; now=${{now%.*}}${{now#*.}}
  [ $now -ge $last ] || echo time goes from $last to $now >> /tmp/bad
  last=$now
done
echo $i > /tmp/done
"""


def image_tool(*words):
    return subprocess.run([VMM, "img", *words], capture_output=True, text=True)


class Chain:
    def __init__(self, folder, machine="pc", cpus=2, accel="tcg", seed=1):
        found = kernels("cloud")
        if not found:
            skip("no Debian cloud kernel in /boot (linux-image-cloud-amd64)")
        self.kernel, self.folder, self.number = found[-1], folder, 0
        self.random = random.Random(seed)
        self.disk = os.path.join(folder, "disk.qcow2")
        made = image_tool("create", "-f", "qcow2", self.disk, "64M")
        if made.returncode:
            raise Failed(made.stderr)
        self.line = ["-M", machine, "-accel", accel, "-cpu", "max", "-smp", str(cpus), "-m", "192", "-display", "none", "-nic", "none", "-no-reboot",
                     "-serial", "stdio", "-monitor", "none", "-kernel", self.kernel,
                     "-initrd", initramfs("moves", modules="virtio_pci virtio_blk", kernel=self.kernel),
                     "-append", "console=ttyS0 quiet no_timer_check panic=-1", "-drive", f"file={self.disk},if=none,id=d,format=qcow2", "-device", "virtio-blk-pci,drive=d"]
        self.guest = self._start()
        try:
            self.guest.wait_for("~ # ", 240)
            for part in WORK.strip().splitlines():
                self.guest.type(f"echo '{part.replace(chr(39), chr(34))}' >> /tmp/work\n")
            self.guest.run("sh /tmp/work & while [ ! -e /tmp/n ]; do :; done", 60)
            self.moves_on(60)
        except BaseException:
            self.close()
            raise

    def _start(self, *more):
        g = Guest(*self.line, *more, qmp=True)
        g.qmp("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        return g

    def close(self):
        self.guest.__exit__(None, None, None)

    def count(self):
        status, text = self.guest.run("cat /tmp/n", 60)
        if status:
            raise Failed(f"the count is gone: {text}")
        return int(text.split()[-1])

    def moves_on(self, seconds=60):
        """The program in the guest is at work, and has found nothing wrong."""
        before = self.count()
        # The mark: the shell may show the line twice, and its words are the ones looked for.
        status, text = self.guest.run(f"while [ $(cat /tmp/n) -le {before} ]; do :; done; echo BE''GIN; cat /tmp/bad 2>/dev/null; "
                                      "dmesg | grep -E 'Oops|BUG|I/O error|stall|soft lockup'; true", seconds)
        text = text.rpartition("BEGIN")[2].strip()
        if status or any(word in text for word in ("write", "holds", "goes from", "Oops", "BUG", "error", "stall", "lockup")):
            raise Failed(f"status {status}: {text}")

    def _target(self):
        self.number += 1
        path = os.path.join(self.folder, f"in{self.number}")
        return path, self._start("-incoming", f"unix:{path}")

    @staticmethod
    def _end_of(move, seconds=120):
        while True:
            status = move.wait_event("MIGRATION", seconds)["data"]["status"]
            if status in ("completed", "failed", "cancelled"):
                return status

    def move(self):
        """A move that succeeds; its total and standing time."""
        path, target = self._target()
        self.guest.qmp("migrate", uri=f"unix:{path}")
        status = self._end_of(self.guest)
        info = self.guest.qmp("query-migrate")
        if status != "completed":
            raise Failed(f"{info}")
        if self._end_of(target) != "completed":
            raise Failed("the target has not completed")
        self.sent = info["ram"]["transferred"]
        old, self.guest = self.guest, target
        old.__exit__(None, None, None)
        self.moves_on()
        return info["total-time"], info["downtime"]

    def cut(self, share=None):
        """A move whose connection is cut when `share` of its bytes have passed; the side on which the guest goes on."""
        path, target = self._target()
        between = os.path.join(self.folder, f"cut{self.number}")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(between)
        listener.listen(1)
        limit = int((self.random.random() if share is None else share) * self.sent * 1.05)
        thread = threading.Thread(target=self._forward, args=(listener, path, limit))
        thread.start()
        self.guest.qmp("migrate", uri=f"unix:{between}")
        status = self._end_of(self.guest)
        thread.join()
        listener.close()
        here, there = self._running(self.guest), self._running(target)
        if here and there:
            raise Failed(f"both sides run the guest (cut after {limit} bytes, {status})")
        if not here and not there:
            raise Failed(f"no side runs the guest (cut after {limit} bytes, {status}: {self.guest.qmp('query-migrate')})")
        if there:
            self.guest, target = target, self.guest
        target.__exit__(None, None, None)
        self.moves_on()
        return "there" if there else "here"

    @staticmethod
    def _running(guest, seconds=20):
        """Whether it runs, once it is no longer in between."""
        deadline = time.monotonic() + seconds
        while guest.process.poll() is None:
            try:
                status = guest.qmp("query-status")["status"]
            except (Failed, OSError):
                return False
            if status == "running":
                return True
            if status in ("paused", "postmigrate", "shutdown") or time.monotonic() > deadline:
                return False
            select.select([os.pidfd_open(guest.process.pid)], [], [], 0.2)
        return False

    @staticmethod
    def _forward(listener, path, limit):
        source, _ = listener.accept()
        target = socket.socket(socket.AF_UNIX)
        target.connect(path)
        passed = 0
        ends = {source: target, target: source}
        while passed < limit:
            ready, _, _ = select.select(list(ends), [], [])
            for end in ready:
                data = end.recv(min(65536, max(1, limit - passed)) if end is source else 65536)
                if not data:
                    passed = limit
                    break
                if end is source:
                    passed += len(data)
                try:
                    ends[end].sendall(data)
                except OSError:
                    passed = limit
        source.close()
        target.close()

    def finish(self):
        """The last look: nothing lost in the guest's eyes, nor in the image."""
        self.moves_on()
        status, text = self.guest.run("touch /tmp/end; while [ ! -e /tmp/done ]; do :; done; cat /tmp/done", 60)
        last = int(text.split()[-1])
        self.guest.type("poweroff -f\n")
        if self.guest.wait_end(60):
            raise Failed("exit status")
        checked = image_tool("check", self.disk)
        if checked.returncode:
            raise Failed(checked.stdout + checked.stderr)
        raw = os.path.join(self.folder, "raw")
        image_tool("convert", "-O", "raw", self.disk, raw)
        with open(raw, "rb") as f:
            for slot in range(SLOTS):
                want = last - (last - slot) % SLOTS
                f.seek(slot * 4096)
                got = f.read(4096).split(b"\n", 1)[0]
                if want > 0 and got != str(want).encode():
                    raise Failed(f"block {slot} holds {got}, not {want}")
        return last


BRIDGE, HERE, THERE = "chain0", "10.77.0.1", "10.77.0.2"
# What runs beside fio and stress-ng: time since the boot and the time of day never go backwards.
CLOCKS = """
last=0; today=0
while sleep 0.02; do
  read now rest < /proc/uptime; now=${now%.*}${now#*.}; day=$(date +%s%N)
  [ $now -ge $last ] || echo uptime goes from $last to $now
  [ $day -ge $today ] || echo the day goes from $today to $day
  last=$now; today=$day
done
"""


def in_own_network():
    """Starts the script again in a network namespace of its own, with a bridge; once. A guest's cards hang on it, whichever process they are in."""
    if os.environ.get("VMM_CHAIN_NETWORK") != "1":
        if os.geteuid() or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
            skip("network namespaces need root (unshare -n)")
        os.environ["VMM_CHAIN_NETWORK"] = "1"
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])
    _ip("link", "set", "lo", "up")
    if subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], capture_output=True).returncode:
        skip("no bridges in this kernel")
    _ip("addr", "add", f"{HERE}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"ip {' '.join(words)}: {done.stderr}")


class BusyChain(Chain):
    """Debian's root disk R: stress-ng and a fio that verifies are at work in it, and an ssh session from the host goes on over all moves."""

    def __init__(self, folder, machine="pc", cpus=2, accel="tcg", seed=1):
        import root
        at = root.disks()
        self.folder, self.number, self.random, self.taps = folder, 0, random.Random(seed), {}
        self.disk = root.overlay(os.path.join(folder, "root.qcow2"), os.path.join(at, "root.qcow2"))
        self.data = os.path.join(folder, "data.qcow2")
        image_tool("create", "-f", "qcow2", self.data, "256M")
        self.line = ["-M", machine, "-accel", accel, "-cpu", "max", "-smp", str(cpus), "-m", "512", "-display", "none", "-vga", "none", "-no-reboot",
                     "-serial", "stdio", "-monitor", "none"]
        for name, path in (("d", self.disk), ("e", self.data)):
            self.line += ["-drive", f"file={path},if=none,id={name},format=qcow2", "-device", f"virtio-blk-pci,drive={name}"]
        self.session = None
        self.guest = self._start()
        try:
            self._to_work()
        except BaseException:
            self.close()
            raise

    def _to_work(self):
        g = self.guest
        g.wait_for("r login: ", 400)
        g.type("root\n")
        g.wait_for("assword: ", 60)
        g.type("root\n")
        g.wait_for("# ", 60)
        self._must("stty -echo; dmesg -n 1; systemctl stop systemd-timesyncd 2>/dev/null; pkill dhclient; true", 60)
        self._must(f"ip link set eth0 up; ip addr add {THERE}/24 dev eth0; ip addr show eth0", 60)
        for part in CLOCKS.strip().splitlines():
            self._must(f"echo '{part}' >> /root/clocks")
        self._must("sh /root/clocks > /root/clocks.log 2>&1 & true")
        self._must("stress-ng --cpu 1 --vm 1 --vm-bytes 48M --verify -t 0 > /root/stress.log 2>&1 & true")
        self._must("fio --name=v --filename=/dev/vdb --rw=randrw --bs=4k --size=128M --verify=crc32c --verify_fatal=1 --verify_backlog=128 --direct=1 "
                   "--ioengine=libaio --iodepth=8 --time_based --runtime=86400 > /root/fio.log 2>&1 & echo $! > /root/fio.pid")
        self.session = subprocess.Popen(
            ["sshpass", "-p", "root", "ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
             "-o", "ConnectTimeout=60", f"root@{THERE}", "while read word; do echo back $word; done"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        self.words = 0
        self.moves_on()

    def _must(self, line, seconds=60):
        status, text = self.guest.run(line, seconds)
        if status:
            raise Failed(f"'{line}' ended with {status}: {text}")
        return text

    def _start(self, *more):
        tap = f"chain-t{self.number}"
        _ip("tuntap", "add", tap, "mode", "tap")
        _ip("link", "set", tap, "master", BRIDGE, "up")
        guest = super()._start("-netdev", f"tap,id=n,ifname={tap},script=no,downscript=no", "-device",
                               "virtio-net-pci,netdev=n,mac=52:54:00:77:00:02", *more)
        leave = guest.__exit__

        def exit_and_forget(*words):
            leave(*words)
            subprocess.run(["ip", "link", "del", tap], capture_output=True)
        guest.__exit__ = exit_and_forget
        return guest

    def close(self):
        if self.session:
            self.session.kill()
            self.session.wait()
        self.guest.__exit__(None, None, None)

    def moves_on(self, seconds=120):
        """The ssh session answers, all programs are at work, and none has found anything wrong."""
        self.words += 1
        self.session.stdin.write(f"{self.words}\n")
        ready = select.select([self.session.stdout], [], [], seconds)[0]
        said = self.session.stdout.readline().strip() if ready else "nothing"
        if said != f"back {self.words}":
            raise Failed(f"ssh says {said!r} to {self.words}")
        # Marked, since the console shows the kernel's and systemd's own lines as well.
        text = self._must("{ pgrep -x fio > /dev/null || tail -n 20 /root/fio.log; pgrep -x stress-ng > /dev/null || tail -n 5 /root/stress.log; "
                          "pgrep -f /root/clocks > /dev/null || echo no clocks; cat /root/clocks.log; grep -iE 'fail|error' /root/stress.log; grep -E 'verify|err=' /root/fio.log; "
                          "dmesg | grep -E 'Oops|BUG:|I/O error|self-detected|detected stalls|soft lockup'; } | sed 's/^/found: /'", seconds)
        text = "\n".join(line for line in text.splitlines() if line.startswith("found: "))
        if text.strip():
            raise Failed(f"in the guest: {text}")

    def finish(self):
        self.moves_on()
        self._must("kill -INT $(cat /root/fio.pid); wait $(cat /root/fio.pid); true", 120)
        log = self._must("cat /root/fio.log", 60)
        if "err= 0" not in log:
            raise Failed(f"fio: {log}")
        self.session.stdin.close()
        self.session.wait(30)
        self._must("pkill -INT stress-ng; true")
        self.guest.type("systemctl poweroff\n")
        if self.guest.wait_end(180):
            raise Failed("exit status")
        for image in (self.disk, self.data):
            checked = image_tool("check", image)
            if checked.returncode:
                raise Failed(checked.stdout + checked.stderr)
        return self.words
