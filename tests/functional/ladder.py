"""What people do to a guest by libvirt, one function a rung (contract.md §8): the small form runs each once, the long one many times. Waits
are for libvirt's events, the guest's uevents on its console, or text; each has a deadline."""
import os
import re
import socket
import subprocess
import time

from guest import ROOT, VMM, Failed, initramfs, kernels, packages
from libvirtd import OtherHost

MODULES = "virtio_pci virtio_blk virtio_net virtio_balloon virtio_console button evdev ext4"

DOMAIN = """<domain type='qemu'><name>rung</name><memory unit='MiB'>{memory}</memory><vcpu current='1'>2</vcpu><features><acpi/></features>
<os><type arch='x86_64' machine='{machine}'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
<cmdline>console=ttyS0 quiet no_timer_check</cmdline></os><devices><emulator>{emulator}</emulator><disk type='file' device='disk'>
<driver name='qemu' type='qcow2'/><source file='{folder}/a.qcow2'/><target dev='vda' bus='virtio'/></disk><serial type='pty'/>
<interface type='user'><model type='virtio'/></interface><console type='pty'/><graphics type='vnc' port='-1'/>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<controller type='usb' model='qemu-xhci' ports='15'/><input type='tablet' bus='usb'/><controller type='virtio-serial' index='0'/><video><model type='vga'/></video><memballoon model='virtio'/></devices></domain>"""
CARD = "<interface type='user'><mac address='52:54:00:0a:0b:0c'/><model type='virtio'/></interface>"
CHANNEL = "<channel type='unix'><source mode='bind' path='{folder}/channel'/><target type='virtio' name='org.vmm.test'/></channel>"

# The kernel's own look at its timer lasts 40 ms, which a busy host may not give it: under KVM it leaves that out, too.
# Beside its shell the guest tells of every device that comes or goes.
COMMAND = "mkdir -p /var/log /var/run /mnt; acpid -c /etc/acpi; uevent >/dev/ttyS0 &"
# The agent, on the port of its name.
AGENT = """cd /sys/class/virtio-ports; for p in *; do grep -xq org.qemu.guest_agent.0 $p/name && %s -d -m virtio-serial -p /dev/$p -t /var/run; done; cd; echo ag''ent"""
# Writes files and reads them back from the disk, over and over: what it finds wrong goes to /tmp/bad.
WRITER = r"""cat >/tmp/writer <<'X'
n=0; : >/tmp/bad
while [ ! -e /tmp/enough ]; do
n=$((n+1)); f=/mnt/f$((n%6))
dd if=/dev/urandom of=/tmp/new bs=16k count=24 2>/dev/null; a=$(md5sum </tmp/new)
dd if=/tmp/new of=$f bs=64k conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches
[ "$a" = "$(md5sum <$f)" ] || echo "file $n" >>/tmp/bad
echo $n >/tmp/count
done; echo writer''-over
X
"""


AGENT_FILE = "qemu-guest-agent/usr/sbin/qemu-ga"


def agent_files():
    """The guest agent's program, or nothing where Debian's archive cannot be reached."""
    try:
        return [os.path.join(packages("qemu-guest-agent")[0], AGENT_FILE.split("/", 1)[1])]
    except SystemExit:
        print("left out: the guest agent", flush=True)
        return []


def make_image(kernel, fio=False):
    """The guest's initramfs, and the agent's path in it."""
    agent = agent_files()
    return initramfs("libvirt-fio" if fio else "libvirt", command=COMMAND, files=agent + (["/usr/bin/fio"] if fio else []), modules=MODULES, kernel=kernel), agent


class Rungs:
    def __init__(self, libvirt, machine, fio=False):
        self.v, self.machine, self.folder = libvirt, machine, libvirt.folder
        self.kernel = kernels("cloud")[-1]
        self.memory = 1024 if fio else 192
        if fio:  # made outside: a chroot has other files
            self.image, self.agent = os.path.join(ROOT, "build/check/initramfs-libvirt-fio.gz"), [os.path.join(ROOT, "build/packages", AGENT_FILE)]
        else:
            self.image, self.agent = make_image(self.kernel)
        self.disk = "a"  # whose image the disk vda is now
        self.disk_file, self.disk_block = "/dev/vda", 8000  # where a word stands on it

    def virsh(self, *words, **more):
        return self.v.virsh(*words, **more)

    # --- Start
    def define(self):
        for name, size in (("a", "64M"), ("b", "8M")):
            subprocess.run([VMM, "img", "create", "-q", "-f", "qcow2", f"{self.folder}/{name}.qcow2", size], check=True)
        path = f"{self.folder}/rung.xml"
        open(path, "w").write(DOMAIN.format(machine=self.machine, kernel=self.kernel, initrd=self.image, emulator=self.v.emulator, folder=self.folder,
                                          memory=self.memory))
        self.virsh("define", path)

    def start(self):
        self.virsh("start", "rung", "--paused")
        if not re.search(r"V?CPU:\s+0", self.virsh("vcpuinfo", "rung")):
            raise Failed("vcpuinfo")
        status = self.virsh("qemu-monitor-command", "rung", "--hmp", "info status")
        if "paused (prelaunch)" not in status:
            raise Failed(f"info status: {status}")
        if '"running":false' not in self.virsh("qemu-monitor-command", "rung", '{"execute":"query-status"}'):
            raise Failed("query-status by qemu-monitor-command")
        self.console = self.v.console("rung")
        self.virsh("resume", "rung")
        self.console.wait_for("# ", 300)
        self.alive()

    def alive(self):
        self.console.say("echo R$((40+2))", "R42")

    def questions(self):
        if not re.search(r"State:\s+running", self.virsh("dominfo", "rung")):
            raise Failed("dominfo")
        self.virsh("domblkstat", "rung", "vda")
        target = re.search(r"^\s*(\S+)\s+user", self.virsh("domiflist", "rung"), re.M)
        if not target:
            raise Failed("domiflist names no card")
        self.virsh("domstats", "rung")
        if not re.search(r"rung\s+running", self.virsh("list", "--all")):
            raise Failed("list")

    def suspend(self):
        self.virsh("suspend", "rung")
        if self.virsh("domstate", "rung", "--reason").strip() != "paused (user)":
            raise Failed("suspended for another reason")
        self.virsh("resume", "rung")
        self.console.say("echo still here", "still here\r\n")

    def balloon(self):
        left = (self.memory - 42) * 1024
        self.virsh("setmem", "rung", f"{left}K")
        self.v.events.wait("balloon", lambda actual: actual == left)
        actual = int(re.search(r"actual (\d+)", self.virsh("dommemstat", "rung")).group(1))
        if actual != left:
            raise Failed(f"the balloon stands at {actual} KiB, not {left}")

    # --- The screen
    def screen(self):
        display = self.virsh("vncdisplay", "rung").strip()
        found = re.fullmatch(r"(127\.0\.0\.1)?:(\d+)", display)
        if not found:
            raise Failed(f"vncdisplay: {display}")
        with socket.create_connection(("127.0.0.1", 5900 + int(found.group(2))), 20) as s:
            if s.recv(12, socket.MSG_WAITALL) != b"RFB 003.008\n":
                raise Failed("the VNC server does not greet")
        self.virsh("screenshot", "rung", f"{self.folder}/screen")
        head = open(f"{self.folder}/screen", "rb").read(24)
        if head[:8] != b"\x89PNG\r\n\x1a\n" or int.from_bytes(head[16:20], "big") != 720:
            raise Failed(f"the screenshot is no PNG of 720 columns: {head!r}")
        self.virsh("send-key", "rung", "KEY_A")
        listed = self.virsh("qemu-monitor-command", "rung", "--hmp", "info usb")
        if "QEMU USB Tablet" not in listed:
            raise Failed(f"info usb names no tablet: {listed}")

    # --- Hot plug
    def hotplug_cpu(self):
        self.console.expect()
        self.virsh("setvcpus", "rung", "2", "--live")
        self.console.wait_for(r"add@\S+/cpu/cpu1\s")
        self.console.say("echo 1 >/sys/devices/system/cpu/cpu1/online; echo cpus''-$(nproc)", "cpus-2")
        if self.virsh("vcpucount", "rung", "--live", "--current").strip() != "2":
            raise Failed("vcpucount")
        self.console.expect()
        # libvirt waits five seconds for a guest that takes its CPU down, and then says so.
        done = self.v.try_virsh("setvcpus", "rung", "1", "--live")
        if done.returncode and "timed out" not in done.stderr:
            raise Failed(f"setvcpus: {done.stderr}\n{self.v.tail()}")
        self.console.wait_for(r"remove@\S+/cpu/cpu1\s")
        self.console.say("echo cpus''-$(nproc)", "cpus-1")

    def hotplug_disk(self, write=True):
        self.console.expect()
        self.virsh("attach-disk", "rung", f"{self.folder}/b.qcow2", "vdb", "--subdriver", "qcow2", "--targetbus", "virtio", "--live")
        self.console.wait_for(r"add@\S+/block/vdb\s")
        if write:
            self.console.say("dd if=/dev/zero of=/dev/vdb bs=64k count=1 2>/dev/null; sync; echo written $?", "written 0")
        self.console.expect()
        self.virsh("detach-disk", "rung", "vdb", "--live")
        self.v.events.wait("removed", lambda alias: alias == "virtio-disk1")
        self.console.wait_for(r"remove@\S+/block/vdb\s")

    def hotplug_card(self):
        card = f"{self.folder}/card.xml"
        open(card, "w").write(CARD)
        self.console.expect()
        self.virsh("attach-device", "rung", card, "--live")
        self.console.wait_for(r"add@\S+/net/eth\d\s")
        self.console.say("grep -ciq 52:54:00:0a:0b:0c /sys/class/net/*/address && echo mac''-there", "mac-there")
        self.console.expect()
        self.virsh("detach-device", "rung", card, "--live")
        self.v.events.wait("removed", lambda alias: alias.startswith("net"))
        self.console.wait_for(r"remove@\S+/net/eth\d\s")

    def hotplug_channel(self):
        channel = f"{self.folder}/channel.xml"
        open(channel, "w").write(CHANNEL.format(folder=self.folder))
        self.console.expect()
        self.virsh("attach-device", "rung", channel, "--live")
        self.console.wait_for(r"change@\S+/virtio-ports/vport\S+\s")  # it has its name
        self.console.say("grep -xq org.vmm.test /sys/class/virtio-ports/*/name && echo channel''-in", "channel-in")
        self.console.expect()
        self.virsh("detach-device", "rung", channel, "--live")
        self.v.events.wait("removed", lambda alias: alias.startswith("channel"))
        self.console.wait_for(r"remove@\S+/virtio-ports/vport\S+\s")

    # --- The guest agent
    def start_agent(self):
        if self.agent:
            self.console.say(AGENT % self.agent[0], "agent", 300)
            self.v.events.wait("agent", lambda state: state == 1, 300)
            self.ask_agent()

    def ask_agent(self):
        if self.agent and '"return":{}' not in self.virsh("qemu-agent-command", "rung", '{"execute":"guest-ping"}'):
            raise Failed("guest-ping")

    def guest_agent(self):
        if not self.agent:
            return
        self.start_agent()
        for verb, state in (("domfsfreeze", "frozen"), ("domfsthaw", "thawed")):
            self.virsh(verb, "rung")
            answer = self.virsh("qemu-agent-command", "rung", '{"execute":"guest-fsfreeze-status"}')
            if f'"return":"{state}"' not in answer:
                raise Failed(f"after {verb} the agent says {answer}")

    # --- Disks under a writer that reads back what it has written
    def writer_begin(self):
        self.console.say(WRITER.replace("\n", "\r") + "\r mke2fs -q /dev/vda && mount /dev/vda /mnt && echo mou''nted", "mounted", 300)
        self.console.say("sh /tmp/writer & echo beg''un", "begun")

    def writer_end(self):
        self.console.say("touch /tmp/enough", "writer-over", 300)
        found = self.console.say("echo count=$(cat /tmp/count) bad=$(wc -l </tmp/bad):", r"count=(\d+) bad=(\d+):")
        if int(found.group(2)) or int(found.group(1)) < 3:
            raise Failed(f"the writer made {found.group(1)} rounds, {found.group(2)} of them read back otherwise")
        return int(found.group(1))

    def fio_begin(self):
        """fio writes and verifies until it is told to end."""
        self.disk_file, self.disk_block = "/mnt/word", 0
        self.console.say("mke2fs -q /dev/vda && mount /dev/vda /mnt && echo mou''nted", "mounted", 300)
        self.console.say("/usr/bin/fio --name=v --filename=/mnt/f --size=24M --bs=16k --rw=randwrite --iodepth=4 --ioengine=libaio --direct=1 --verify=crc32c --do_verify=1 "
                         "--verify_fatal=1 --verify_backlog=64 --time_based --runtime=100000 --eta=never --output=/tmp/fio & echo beg''un", "begun")

    def fio_end(self, least=100):
        self.console.say("killall -INT fio; wait; grep -o 'err= *[0-9]*' /tmp/fio | head -n 1; grep -o 'issued rwts: total=[0-9,]*' /tmp/fio; echo fio''-over", "fio-over", 300)
        found = re.search(r"err= *(\d+)\s.*total=(\d+),(\d+)", self.console.last, re.S)
        if not found or int(found.group(1)) or int(found.group(3)) < least:
            raise Failed(f"fio: {self.console.last!r}")

    def source_is(self, name):
        listed = self.virsh("domblklist", "rung")
        if f"{self.folder}/{name}.qcow2" not in listed:
            raise Failed(f"the disk is not {name}.qcow2: {listed}")

    def snapshot(self, name):
        self.virsh("snapshot-create-as", "rung", name, "--disk-only", "--no-metadata", "--diskspec", f"vda,file={self.folder}/{name}.qcow2")
        self.source_is(name)

    def commit(self, name="e1"):
        self.snapshot(name)
        self.virsh("blockcommit", "rung", "vda", "--active", "--pivot", "--wait", seconds=600)
        self.source_is(self.disk)
        os.unlink(f"{self.folder}/{name}.qcow2")

    def pull(self, name="e2"):
        self.snapshot(name)
        self.virsh("blockpull", "rung", "vda", "--wait", seconds=600)
        self.disk = name
        self.source_is(name)
        info = subprocess.run([VMM, "img", "info", "-U", f"{self.folder}/{name}.qcow2"], capture_output=True, text=True)
        if "backing file" in info.stdout or info.returncode:
            raise Failed(f"the image still has a backing file: {info.stdout}{info.stderr}")

    def copy(self, name="c"):
        self.virsh("blockcopy", "rung", "vda", f"{self.folder}/{name}.qcow2", "--transient-job", "--wait", "--pivot", "--format", "qcow2", seconds=600)
        self.disk = name
        self.source_is(name)

    def backup(self, name="bk"):
        """At rest: what is backed up is what is there."""
        xml = f"{self.folder}/{name}.xml"
        open(xml, "w").write(f"<domainbackup><disks><disk name='vda' type='file'><target file='{self.folder}/{name}.qcow2'/></disk></disks></domainbackup>")
        self.v.events.clear()
        self.virsh("backup-begin", "rung", xml)
        self.v.events.wait("job", lambda info: True, 300)
        subprocess.run([VMM, "img", "compare", "-U", f"{self.folder}/{self.disk}.qcow2", f"{self.folder}/{name}.qcow2"], check=True, stdout=subprocess.DEVNULL)

    def unmount(self):
        self.console.say("umount /mnt && echo unmou''nted", "unmounted")

    # --- Snapshots within the disk, the machine in a file
    def mark(self, word):
        """A word in the guest's memory and on its disk, for `marked` to find."""
        self.console.say(f"echo {word} >/tmp/word; echo {word} | dd of={self.disk_file} bs=512 seek={self.disk_block} conv=sync,fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; echo mar''ked", "marked")

    def marked(self, word):
        self.console.say(f"echo memory=$(cat /tmp/word) disk=$(dd if={self.disk_file} bs=512 skip={self.disk_block} count=1 2>/dev/null | tr -d '\\0'):", f"memory={word} disk={word}:")

    def again(self):
        """The console of a guest whose process is another one now."""
        self.console.close()
        self.console = self.v.console("rung")
        self.alive()

    def snapshots(self, name="i1"):
        self.mark("before")
        self.virsh("snapshot-create-as", "rung", name)
        self.alive()
        if name not in self.virsh("snapshot-list", "rung", "--name"):
            raise Failed("snapshot-list does not name what was made")
        self.mark("after")
        self.virsh("snapshot-revert", "rung", name)
        self.again()
        self.marked("before")
        self.virsh("snapshot-delete", "rung", name)
        left = subprocess.run([VMM, "img", "snapshot", "-U", "-l", f"{self.folder}/{self.disk}.qcow2"], capture_output=True, text=True)
        if name in left.stdout or left.returncode:
            raise Failed(f"the image has the deleted snapshot: {left.stdout}{left.stderr}")
        self.alive()

    def snapshot_tree(self):
        """Two in a row; back to the first, forward to the second, with their memory and their disks."""
        for word in ("one", "two"):
            self.mark(word)
            self.virsh("snapshot-create-as", "rung", word)
        self.mark("three")
        for word in ("one", "two", "one"):
            self.virsh("snapshot-revert", "rung", word)
            self.again()
            self.marked(word)
        for word in ("one", "two"):
            self.virsh("snapshot-delete", "rung", word)
        self.alive()

    def snapshots_under_load(self, name):
        self.virsh("snapshot-create-as", "rung", name)
        self.alive()
        self.virsh("snapshot-revert", "rung", name)
        self.again()
        self.virsh("snapshot-delete", "rung", name)

    def save(self):
        self.mark("saved")
        self.virsh("save", "rung", f"{self.folder}/state")
        if self.virsh("domstate", "rung").strip() != "shut off":
            raise Failed("what was saved still runs")
        self.virsh("restore", f"{self.folder}/state")
        self.again()
        self.marked("saved")
        os.unlink(f"{self.folder}/state")

    def managed_save(self):
        self.mark("kept")
        self.virsh("managedsave", "rung")
        if "saved" not in self.virsh("list", "--all", "--managed-save"):
            raise Failed("list --managed-save")
        self.virsh("start", "rung")
        self.again()
        self.marked("kept")

    def save_formats(self):
        """What this libvirt can write, and a guest that is not to run."""
        for form in ("raw", "gzip", "zstd", "sparse"):
            self.mark(form)
            done = self.v.try_virsh("save", "rung", f"{self.folder}/state", "--image-format", form)
            if done.returncode and ("--image-format" in done.stderr or "isn't available" in done.stderr):
                print(f"left out: save images of the form {form}: {done.stderr.strip()}", flush=True)
                continue
            if done.returncode:
                raise Failed(f"save --image-format {form}: {done.stderr}\n{self.v.tail()}")
            self.virsh("restore", f"{self.folder}/state")
            self.again()
            self.marked(form)
            os.unlink(f"{self.folder}/state")
        for words in (["--bypass-cache"], ["--paused"]):
            self.virsh("save", "rung", f"{self.folder}/state", *words)
            self.virsh("restore", f"{self.folder}/state", *words)
            if "--paused" in words:
                if self.virsh("domstate", "rung").strip() != "paused":
                    raise Failed("what was to be restored paused runs")
                self.virsh("resume", "rung")
            self.again()
            os.unlink(f"{self.folder}/state")

    # --- To another host and back
    def other_host(self):
        self.here, self.there = self.v, OtherHost(self.v)

    def target(self):
        return self.there if self.v is self.here else self.here

    def migrate(self, *words):
        way = [] if "--tunnelled" in words else ["--migrateuri", "tcp://127.0.0.1"]
        return ("migrate", "--live", "--persistent", "--undefinesource", *words, "rung", self.target().uri_from_afar, *way)

    def move(self, *words):
        """To the host where the guest is not. The disk is common to both."""
        self.mark("moving")
        self.virsh(*self.migrate("--unsafe", *words), seconds=600)
        self.arrived()

    def arrived(self):
        if "rung" in self.virsh("list", "--all", "--name"):
            raise Failed("the guest is still known where it was")
        self.v = self.target()
        if not re.search(r"Total downtime:\s+\d", self.virsh("domjobinfo", "rung", "--completed")):
            raise Failed("domjobinfo --completed tells of no downtime")
        if self.virsh("domstate", "rung").strip() != "running":
            raise Failed("the guest does not run where it went")
        self.again()
        self.marked("moving")

    def move_with_disk(self, *words):
        """The other host has an empty disk, of another name."""
        name = "n" if self.disk != "n" else "m"
        subprocess.run([VMM, "img", "create", "-q", "-f", "qcow2", f"{self.folder}/{name}.qcow2", "64M"], check=True)
        for kind, more in (("xml", []), ("persistent-xml", ["--inactive"])):
            text = self.virsh("dumpxml", "rung", "--migratable", *more)
            open(f"{self.folder}/{kind}", "w").write(text.replace(f"{self.folder}/{self.disk}.qcow2", f"{self.folder}/{name}.qcow2"))
        self.mark("moving")
        self.virsh(*self.migrate("--copy-storage-all", "--xml", f"{self.folder}/xml", "--persistent-xml", f"{self.folder}/persistent-xml", *words), seconds=600)
        os.unlink(f"{self.folder}/{self.disk}.qcow2")
        self.disk = name
        self.arrived()
        self.source_is(name)

    def break_off(self, *words):
        """In the first pass, which would take minutes."""
        self.v.events.clear()
        with subprocess.Popen(["virsh", "-q", "-c", self.v.uri, *self.migrate("--unsafe", "--bandwidth", "1", *words)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as move:
            self.v.events.wait("pass", lambda number: True)
            info = self.virsh("domjobinfo", "rung")
            self.virsh("migrate-setmaxdowntime", "rung", "500")
            self.virsh("migrate-setspeed", "rung", "2")
            self.virsh("domjobabort", "rung")
            said = move.communicate(timeout=300)[1]
        if not move.returncode or "cancel" not in said:
            raise Failed(f"a migration broken off ends with {move.returncode} and: {said}")
        if not re.search(r"Memory remaining:\s+[1-9]", info):
            raise Failed(f"domjobinfo: {info}")
        if self.virsh("domstate", "rung").strip() != "running" or self.target().virsh("list", "--all", "--name").strip():
            raise Failed("after a migration broken off the guest is not where it was")
        self.console.say("echo still here", "still here\r\n")

    def move_home(self):
        if self.v is not self.here:
            self.move()

    def moves(self):
        self.other_host()
        self.move_with_disk()
        self.ask_agent()
        self.break_off("--p2p")
        self.move("--p2p", "--tunnelled")
        self.ask_agent()

    # --- Memory, daemon, end
    def dump(self):
        self.virsh("dump", "rung", f"{self.folder}/core", "--memory-only", seconds=600)
        head = open(f"{self.folder}/core", "rb").read(20)
        if head[:4] != b"\x7fELF" or head[16:20] != b"\x04\x00\x3e\x00":
            raise Failed(f"no ELF core of x86-64: {head!r}")
        os.unlink(f"{self.folder}/core")

    def new_daemon(self):
        self.v.stop()
        self.v.start()
        if self.virsh("domstate", "rung").strip() != "running":
            raise Failed("a new libvirtd does not find the guest running")

    def reset(self):
        self.console.expect()
        self.virsh("reset", "rung")
        self.console.wait_for("vmm-guest: ready", 300)
        self.console.wait_for("# ", 300)
        self.alive()

    def shutdown(self):
        self.v.events.clear()  # a revert has stopped it, too
        self.virsh("shutdown", "rung", "--mode", "acpi")
        self.v.events.wait("lifecycle", lambda event: event == "stopped", 300)
        if self.virsh("domstate", "rung").strip() != "shut off":
            raise Failed("the guest is not shut off")
        self.console.close()
        check = subprocess.run([VMM, "img", "check", f"{self.folder}/{self.disk}.qcow2"], capture_output=True, text=True)
        if "No errors" not in check.stdout:
            raise Failed(f"the image is not sound: {check.stdout}{check.stderr}")

    def destroy(self):
        self.virsh("start", "rung")
        started = time.monotonic()
        self.virsh("destroy", "rung")
        took = time.monotonic() - started
        if took > 5:
            raise Failed(f"destroy took {took:.1f} s")
        self.virsh("undefine", "rung")


def probe(v, machine):
    """Seconds that libvirt needs to ask a new emulator all it wants to know."""
    started = time.monotonic()
    capabilities = v.virsh("domcapabilities", "--emulatorbin", v.emulator, "--arch", "x86_64", "--machine", machine, "--virttype", "qemu")
    if f"<path>{v.emulator}</path>" not in capabilities:
        raise Failed("domcapabilities speaks of another emulator")
    return time.monotonic() - started


def virt_install(v, disk, osinfo, seconds=60, pattern=None):
    """A machine that virt-install imports for that system; `pattern` is waited for on its console."""
    done = subprocess.run(["virt-install", "--connect", "qemu:///system", "--name", "vi", "--osinfo", osinfo, "--memory", "512", "--virt-type", "qemu",
                           "--import", "--disk", disk, "--network", "user", "--graphics", "vnc", "--noautoconsole", "--boot", f"emulator={v.emulator}"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Failed(f"virt-install: {done.stdout}{done.stderr}\n{v.tail()}")
    if v.virsh("domstate", "vi").strip() != "running":
        raise Failed("what virt-install made does not run")
    if pattern:
        console = v.console("vi")
        console.wait_for(pattern, seconds)
        console.close()
    v.virsh("destroy", "vi")
    v.virsh("undefine", "vi")
