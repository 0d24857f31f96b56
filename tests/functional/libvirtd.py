"""A libvirtd of one's own: Debian's packages, in a mount namespace with its own /run, /etc/libvirt, state and cache, so that nothing of the
host's is touched and two may run at once. The test that imports this is started again inside `unshare -m`."""
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from guest import VMM, Failed, skip

NEEDS = {"libvirtd": "libvirt-daemon-system", "virtlogd": "libvirt-daemon", "virsh": "libvirt-clients"}
OWN = ["/run", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"]


def enter():
    """Starts the script again in a namespace of its own, once."""
    for program, package in NEEDS.items():
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            skip(f"no {program} (package {package})")
    if os.geteuid():
        skip("libvirtd's system mode needs root")
    if os.environ.get("VMM_LIBVIRT_INSIDE") == "1":
        return
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        skip("no mount namespaces here (unshare -m fails)")
    os.environ["VMM_LIBVIRT_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "-m", "--propagation", "private", sys.executable, *sys.argv])


class Libvirt:
    def __init__(self, emulator=None):
        self.folder = tempfile.mkdtemp(prefix="vmm-libvirt-")
        for path in OWN:
            subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
        for path in ("/run/libvirt", "/run/lock", "/run/user", "/var/lib/libvirt/qemu", "/var/lib/libvirt/images", "/var/log/libvirt/qemu"):
            os.makedirs(path, exist_ok=True)
        etc = os.path.join(self.folder, "etc")
        shutil.copytree("/etc/libvirt", etc)
        shutil.rmtree(os.path.join(etc, "qemu", "networks"), ignore_errors=True)
        subprocess.run(["mount", "--bind", etc, "/etc/libvirt"], check=True)
        with open("/etc/libvirt/qemu.conf", "a") as f:
            f.write('user="root"\ngroup="root"\nsecurity_driver="none"\ncgroup_controllers=[]\nnamespaces=[]\nremember_owner=0\n'
                    'stdio_handler="file"\n')
        self.log = "/var/log/libvirt/libvirtd.log"
        with open("/etc/libvirt/libvirtd.conf", "a") as f:
            f.write(f'auth_unix_rw="none"\nlog_outputs="1:file:{self.log}"\n'
                    'log_filters="1:qemu.qemu_monitor 1:qemu.qemu_capabilities 1:qemu.qemu_process 1:util.command"\n')
        self.emulator = os.path.join(self.folder, "emu")
        binary = emulator or VMM
        os.symlink(os.path.realpath(binary), self.emulator)
        self.daemons = []
        self.start()

    def start(self):
        self.daemon = subprocess.Popen(["/usr/sbin/libvirtd"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.daemons.append(self.daemon)
        deadline = time.monotonic() + 30
        while self.try_virsh("list").returncode:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                raise Failed("libvirtd does not answer: " + self.tail())
            time.sleep(0.1)  # it offers nothing to wait on but its socket, which comes before it answers

    def stop(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(20)

    def try_virsh(self, *words, seconds=60):
        return subprocess.run(["virsh", "-q", "-c", "qemu:///system", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)

    def virsh(self, *words, seconds=60):
        started = time.monotonic()
        done = self.try_virsh(*words, seconds=seconds)
        if done.returncode:
            raise Failed(f"virsh {' '.join(words)}: {done.stderr.strip()}\n{self.tail()}")
        if os.environ.get("VMM_LIBVIRT_VERBOSE"):
            print(f"virsh {' '.join(words)}: {time.monotonic() - started:.2f} s", flush=True)
        return done.stdout

    def tail(self, lines=12):
        text = []
        for folder, _, files in os.walk("/var/log/libvirt/qemu"):
            for name in files:
                text += [name + ": " + row for row in open(os.path.join(folder, name), errors="replace").read().splitlines()[-6:]]
        if os.path.exists(self.log):
            text += [row for row in open(self.log, errors="replace").read().splitlines() if " error : " in row][-lines:]
        return "\n".join(text)

    def conversation(self):
        """What went over the monitors, as libvirtd logged it."""
        return re.findall(r"QEMU_MONITOR_(?:SEND_MSG|RECV_REPLY|RECV_EVENT|IO_WRITE): .*", open(self.log, errors="replace").read())

    def close(self):
        for line in self.try_virsh("list", "--name").stdout.split():
            self.try_virsh("destroy", line)
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
        # The mounts go with the namespace.
        subprocess.run(["umount", "/etc/libvirt"], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            print(self.tail(40))
            if os.environ.get("VMM_LIBVIRT_KEEP"):
                shutil.copy(self.log, os.environ["VMM_LIBVIRT_KEEP"])
        self.close()


class Console:
    """The guest's serial port as `virsh ttyconsole` names it."""

    def __init__(self, libvirt, domain):
        path = libvirt.virsh("ttyconsole", domain).strip()
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        import tty
        tty.setraw(self.fd)
        self.text = ""

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait_for(self, pattern, seconds=60):
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text)
            if found:
                self.text = self.text[found.end():]
                return found
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise Failed(f"'{pattern}' did not come on the console; last: {self.text[-600:]!r}")
            try:
                self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
            except BlockingIOError:
                pass

    def say(self, line, pattern, seconds=60):
        self.text = ""
        self.type(line + "\r")
        return self.wait_for(pattern, seconds)

    def close(self):
        os.close(self.fd)
