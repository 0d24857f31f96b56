"""A libvirtd of one's own: Debian's packages, in a mount namespace with its own /run, /etc/libvirt, state and cache, so that nothing of the
host's is touched and two may run at once. The test that imports this is started again inside `unshare -m`. Another host (OtherHost) is a second
daemon in further namespaces, with its own name and UUID."""
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

from guest import VMM, Failed, skip

NEEDS = {"libvirtd": "libvirt-daemon-system", "virtlogd": "libvirt-daemon", "virsh": "libvirt-clients"}
MONITOR_LOG = '1:qemu.qemu_monitor 1:qemu.qemu_capabilities 1:qemu.qemu_process 1:util.command'
QEMU_CONF = '''user="root"
group="root"
security_driver="none"
cgroup_controllers=[]
namespaces=[]
remember_owner=0
stdio_handler="file"
'''
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
    uri, words, name = "qemu:///system", [], "libvirtd"

    def __init__(self, emulator=None):
        self.folder = tempfile.mkdtemp(prefix="vmm-libvirt-")
        self.others = []  # hosts that end with this one
        self.pristine, etc = os.path.join(self.folder, "etc.debian"), os.path.join(self.folder, "etc")
        shutil.copytree("/etc/libvirt", self.pristine)
        shutil.rmtree(os.path.join(self.pristine, "qemu", "networks"), ignore_errors=True)
        self.configure(etc, self.pristine)
        self.logs = "/var/log/libvirt"
        subprocess.run(["sh", "-ec", self.mounts(etc)], check=True)
        # The only emulator that the daemon finds: each other one costs it seconds of questions.
        self.path = os.path.join(self.folder, "bin")
        os.mkdir(self.path)
        self.emulator = os.path.join(self.path, "qemu-system-x86_64")
        os.symlink(os.path.realpath(emulator or VMM), self.emulator)
        for packer in ("gzip", "zstd"):
            if found := shutil.which(packer, path="/usr/bin:/bin"):
                os.symlink(found, os.path.join(self.path, packer))
        self.daemons = []
        self.start()

    def configure(self, etc, pristine):
        """Reached by TCP as well, as from another host."""
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
        self.uri_from_afar = f"qemu+tcp://127.0.0.1:{port}/system"
        shutil.copytree(pristine, etc)
        with open(os.path.join(etc, "qemu.conf"), "a") as f:
            f.write(QEMU_CONF)
        with open(os.path.join(etc, "libvirtd.conf"), "a") as f:
            f.write(f'auth_unix_rw="none"\nlog_outputs="1:file:/var/log/libvirt/libvirtd.log"\nlog_filters="{MONITOR_LOG}"\nlisten_tls=0\nlisten_tcp=1\n'
                    f'listen_addr="127.0.0.1"\ntcp_port="{port}"\nauth_tcp="none"\nhost_uuid="{uuid.uuid4()}"\n')

    @staticmethod
    def mounts(etc):
        """What the daemon has for itself, as a shell's words."""
        return "\n".join([*(f"mount -t tmpfs none {path}" for path in OWN),
                          "mkdir -p /run/libvirt /run/lock /run/user /var/lib/libvirt/qemu /var/lib/libvirt/images /var/log/libvirt/qemu",
                          f"mount --bind {etc} /etc/libvirt"])

    def start(self):
        """It says READY=1 on the socket that systemd would have."""
        path = os.path.join(self.folder, self.name)
        if os.path.exists(path):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            self.daemon = subprocess.Popen([*self.words, "/usr/sbin/libvirtd", "--listen"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                           env={**os.environ, "NOTIFY_SOCKET": path, "PATH": self.path + ":/usr/sbin:/sbin"})
            self.daemons.append(self.daemon)
            ended = os.pidfd_open(self.daemon.pid)
            deadline = time.monotonic() + 300
            words = b""
            while b"READY=1" not in words:
                ready, _, _ = select.select([notify, ended], [], [], max(0, deadline - time.monotonic()))
                if notify not in ready:
                    raise Failed("libvirtd does not get ready: " + self.tail())
                words = notify.recv(4096)
            os.close(ended)
        self.events = Events(self.uri)

    def stop(self):
        self.events.close()
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(20)

    def console(self, domain):
        return Console(self, domain)

    def try_virsh(self, *words, seconds=300):
        return subprocess.run(["virsh", "-q", "-c", self.uri, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)

    def virsh(self, *words, seconds=300):
        started = time.monotonic()
        done = self.try_virsh(*words, seconds=seconds)
        if done.returncode:
            raise Failed(f"virsh {' '.join(words)}: {done.stderr.strip()}\n{self.tail()}")
        if os.environ.get("VMM_LIBVIRT_VERBOSE"):
            print(f"virsh {' '.join(words)}: {time.monotonic() - started:.2f} s", flush=True)
        return done.stdout

    def tail(self, lines=12):
        text = []
        for folder, _, files in os.walk(os.path.join(self.logs, "qemu")):
            for name in files:
                text += [name + ": " + row for row in open(os.path.join(folder, name), errors="replace").read().splitlines()[-6:]]
        if os.path.exists(self.log):
            text += [row for row in open(self.log, errors="replace").read().splitlines() if " error : " in row][-lines:]
        return "\n".join(text)

    @property
    def log(self):
        return os.path.join(self.logs, "libvirtd.log")

    def conversation(self):
        """What went over the monitors, as libvirtd logged it."""
        return re.findall(r"QEMU_MONITOR_(?:SEND_MSG|RECV_REPLY|RECV_EVENT|IO_WRITE): .*", open(self.log, errors="replace").read())

    def end(self):
        """The daemon, and the guests it has."""
        self.events.close()
        for line in self.try_virsh("list", "--name").stdout.split():
            self.try_virsh("destroy", line)
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()

    def close(self):
        for host in self.others:
            host.close()
        self.end()
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


class OtherHost(Libvirt):
    """A second libvirtd, that takes `first` for another host: mounts, name and UUID of its own. Files of the tests' folder
    are there for both, as on a common file system. Its guests end with it."""
    name = "other"

    def __init__(self, first):
        self.folder, self.path, self.emulator = first.folder, first.path, first.emulator
        etc, self.logs = (os.path.join(self.folder, f"{what}.other") for what in ("etc", "log"))
        os.mkdir(self.logs)
        self.configure(etc, first.pristine)
        self.uri = self.uri_from_afar
        script = (f"own=$PATH; PATH=/usr/sbin:/usr/bin:/sbin:/bin\n{self.mounts(etc)}\nmount --bind {self.logs} /var/log/libvirt\n"
                  'mkdir -p /var/log/libvirt/qemu; hostname other; PATH=$own; exec "$@"')
        self.words = ["/usr/bin/unshare", "-m", "-u", "--propagation", "unchanged", "/bin/sh", "-ec", script, "sh"]
        self.daemons = []
        first.others.append(self)
        self.start()

    def close(self):
        self.end()


class Events:
    """What libvirtd tells of its domains, kept until it is waited for. A thread listens: the connection answers the daemon's questions
    whether it is still there, too."""

    running = None

    def __init__(self, uri):
        sys.path.append("/usr/lib/python3/dist-packages")  # Debian's, where another python runs this
        try:
            import libvirt
        except ImportError:
            skip("no python3-libvirt (package python3-libvirt)")
        if not Events.running:
            libvirt.virEventRegisterDefaultImpl()
            Events.running = threading.Thread(target=self.listen, args=(libvirt,), daemon=True)
            Events.running.start()
        self.news, self.seen = threading.Condition(), []
        self.connection = libvirt.open(uri)
        life = {libvirt.VIR_DOMAIN_EVENT_STARTED: "started", libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped", libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
                libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed", libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown"}
        listen = lambda kind, f: self.connection.domainEventRegisterAny(None, kind, f, None)  # noqa: E731
        listen(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda c, d, event, detail, o: self.tell("lifecycle", life.get(event, event)))
        listen(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, lambda c, d, alias, o: self.tell("removed", alias))
        listen(libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, lambda c, d, actual, o: self.tell("balloon", actual))
        listen(libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, lambda c, d, state, reason, o: self.tell("agent", state))
        listen(libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, lambda c, d, number, o: self.tell("pass", number))
        listen(libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, lambda c, d, info, o: self.tell("job", info))

    @staticmethod
    def listen(api):
        while True:
            api.virEventRunDefaultImpl()

    def tell(self, kind, value):
        with self.news:
            self.seen.append((kind, value))
            self.news.notify()

    def wait(self, kind, fits, seconds=300):
        """The value of the first event of that kind that fits; it and what came before of its kind is forgotten."""
        deadline = time.monotonic() + seconds
        with self.news:
            while True:
                for i, (name, value) in enumerate(self.seen):
                    if name == kind and fits(value):
                        self.seen = [e for e in self.seen[:i] if e[0] != kind] + self.seen[i + 1:]
                        return value
                if not self.news.wait(deadline - time.monotonic()):
                    raise Failed(f"libvirt tells of no {kind} that was waited for; seen: {self.seen}")

    def clear(self):
        with self.news:
            self.seen = []

    def close(self):
        if self.connection:
            try:
                self.connection.close()
            except Exception:  # the daemon has gone first
                pass
        self.connection = None


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

    def wait_for(self, pattern, seconds=300):
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text)
            if found:
                self.last, self.text = self.text[:found.end()], self.text[found.end():]
                return found
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise Failed(f"'{pattern}' did not come on the console; last: {self.text[-600:]!r}")
            try:
                self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
            except BlockingIOError:
                pass

    def expect(self):
        """What comes from now on is what is waited for; what has come already is not."""
        while select.select([self.fd], [], [], 0)[0]:
            try:
                if not os.read(self.fd, 65536):
                    break
            except BlockingIOError:
                break
        self.text = ""

    def say(self, line, pattern, seconds=300):
        self.text = ""
        self.type(line + "\r")
        return self.wait_for(pattern, seconds)

    def close(self):
        os.close(self.fd)
