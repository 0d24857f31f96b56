"""Runs vmm for functional tests: waits are for events (text on a console, a QMP event, the end of the process), each with a deadline."""
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.environ.get("VMM_ROOT") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VMM = os.environ.get("VMM_BINARY") or os.path.join(ROOT, "build/release/vmm")


class Failed(Exception):
    pass


def skip(reason):
    print(f"SKIP {reason}")
    sys.exit(77)


def kernels(pattern=""):
    """Debian kernels of this host, oldest first."""
    names = [n for n in os.listdir("/boot") if n.startswith("vmlinuz-") and pattern in n] if os.path.isdir("/boot") else []
    return ["/boot/" + n for n in sorted(names, key=lambda n: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", n)])]


def full_kernel():
    """Debian's full kernel, its version, and the folder above its lib/modules (of which it has those of disks and network cards)."""
    made = subprocess.run([os.path.join(ROOT, "tests/guests/fetch-kernels")], capture_output=True, text=True)
    if made.returncode == 77:
        skip(made.stdout.strip().removeprefix("SKIP "))
    if made.returncode:
        raise Failed(f"fetch-kernels: {made.stdout} {made.stderr}")
    root = os.path.join(ROOT, "build/kernels/full-6.1.root")
    return os.path.join(ROOT, "build/kernels/full-6.1"), os.listdir(os.path.join(root, "lib/modules"))[0], root


def initramfs(name="plain", command="", files=(), modules="", kernel="", modules_of="", without=""):
    """An initramfs made by tests/guests/make-initramfs, cached by name and recipe; `files` are programs of this host, `modules` names of
    modules of `kernel` (an image in /boot, or a version), found in the tree `modules_of` (default: this host's). Libraries in `without` are
    left out."""
    version = os.path.basename(kernel).removeprefix("vmlinuz-")
    out = os.path.join(ROOT, "build/check", f"initramfs-{name}.gz")
    recipe = os.path.join(ROOT, "tests/guests/make-initramfs")
    stamp = out + ".recipe"
    sums = [hashlib.sha256(open(file, "rb").read()).hexdigest() for file in files]
    want = "\n".join([open(recipe).read(), command, *files, *sums, modules, version, modules_of, without])
    with open(os.path.join(ROOT, "build", ".initramfs"), "w") as lock:  # tests run two at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (os.path.exists(out) and os.path.exists(stamp) and open(stamp).read() == want):
            subprocess.run([recipe, out, command, *files], check=True,
                           env={**os.environ, "MODULES": modules, "KERNEL": version, "MODULES_OF": modules_of, "WITHOUT": without})
            open(stamp, "w").write(want)
    return out


def fetched(script, *names):
    """Runs tests/guests/SCRIPT, which fetches from Debian's archive."""
    done = subprocess.run([os.path.join(ROOT, "tests/guests", script), *names], capture_output=True, text=True)
    if done.returncode == 77:
        skip(done.stdout.strip().removeprefix("SKIP "))
    if done.returncode:
        raise Failed(f"{script}: {done.stdout}{done.stderr}")


def packages(*names):
    """Folders with the files of Debian packages."""
    fetched("fetch-packages", *names)
    return [os.path.join(ROOT, "build/packages", name) for name in names]


class Guest:
    """One vmm process. Its stdin/stdout is `console`; QMP, where asked for, is a unix socket."""

    def __init__(self, *args, qmp=False, binary=None, keep_log=None):
        self.dir = tempfile.mkdtemp(prefix="vmm-test-")
        self.args = [binary or VMM, *args]
        self.qmp_socket = None
        if qmp:
            self.qmp_path = os.path.join(self.dir, "qmp")
            self.args += ["-qmp", f"unix:{self.qmp_path}"]
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.qmp_path)
            listener.listen(1)
        self.process = subprocess.Popen(self.args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""
        self.seen = self.runs = 0
        self.started = time.monotonic()
        if qmp:
            self._connect(listener)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        ended = self.process.poll()
        if ended is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if kind is not None:
            self.text += (self.process.stdout.read() or b"").decode("utf-8", "replace")
            print(f"--- last output of {' '.join(self.args)}" + ("" if ended is None else f", which had ended with status {ended}"))
            print(self.text[-4000:])
        shutil.rmtree(self.dir, ignore_errors=True)

    def _read(self, deadline):
        """One batch of console output; False at the end of the process."""
        left = max(0, deadline - time.monotonic())
        ready, _, _ = select.select([self.process.stdout], [], [], left)
        if not ready:
            raise Failed(f"no answer in time; waited {time.monotonic() - self.started:.0f} s")
        data = os.read(self.process.stdout.fileno(), 65536)
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def wait_for(self, pattern, seconds=60):
        """Waits until the console shows a match that was not waited for before; returns the match."""
        deadline = time.monotonic() + seconds
        expression = re.compile(pattern)
        while True:
            found = expression.search(self.text, self.seen)
            if found:
                self.seen = found.end()
                return found
            try:
                alive = self._read(deadline)
            except Failed as error:
                raise Failed(f"'{pattern}' did not come: {error}") from None
            if not alive:
                raise Failed(f"'{pattern}' did not come: vmm ended with status {self.process.wait()}")

    def type(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def run(self, line, seconds=30):
        """Types a shell line in the guest; its status and its output: what stands between two marks, so no echo and nothing of before."""
        self.runs += 1
        self.type(f"echo B''EGIN-{self.runs}; {line}; echo E''ND-{self.runs}-$?\n")
        self.wait_for(rf"BEGIN-{self.runs}\b[^\n]*\n", seconds)
        start = self.seen
        found = self.wait_for(rf"END-{self.runs}-(\d+)", seconds)
        return int(found.group(1)), self.text[start:found.start()]

    def wait_end(self, seconds=30):
        """Exit status of vmm."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(timeout=max(0.1, deadline - time.monotonic()))

    # --- QMP
    def _connect(self, listener, seconds=20):
        """vmm comes to us: neither side has to try again."""
        ended = os.pidfd_open(self.process.pid)
        ready, _, _ = select.select([listener, ended], [], [], seconds)
        os.close(ended)
        if listener not in ready:
            os.set_blocking(self.process.stdout.fileno(), False)
            self.text += (self.process.stdout.read() or b"").decode("utf-8", "replace")
            raise Failed("vmm ended before it connected for QMP" if ready else "vmm does not connect for QMP")
        s, _ = listener.accept()
        listener.close()
        self.qmp_socket = s
        self.qmp_file = s.makefile("r", encoding="utf-8")
        self.events = []
        greeting = json.loads(self.qmp_file.readline())
        if "QMP" not in greeting:
            raise Failed(f"strange greeting {greeting}")
        self.qmp("qmp_capabilities")

    def qmp_raw(self, command, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.qmp_socket.sendall((json.dumps(request) + "\n").encode())
        while True:
            line = self.qmp_file.readline()
            if not line:
                raise Failed(f"QMP connection ended at {command}")
            answer = json.loads(line)
            if "event" in answer:
                self.events.append(answer)
            else:
                return answer

    def qmp(self, command, **arguments):
        answer = self.qmp_raw(command, **arguments)
        if "error" in answer:
            raise Failed(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def wait_event(self, name, seconds=30):
        deadline = time.monotonic() + seconds
        while True:
            for i, event in enumerate(self.events):
                if event["event"] == name:
                    return self.events.pop(i)
            self.qmp_socket.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                line = self.qmp_file.readline()
            except TimeoutError:
                raise Failed(f"event {name} did not come") from None
            finally:
                self.qmp_socket.settimeout(None)
            if not line:
                raise Failed(f"QMP ended before event {name}")
            self.events.append(json.loads(line))


def boot_args(kernel, initrd, machine="pc", cpus=1, memory=256, cpu="max", append="console=ttyS0", accel="tcg"):
    return ["-machine", machine, "-accel", accel, "-cpu", cpu, "-smp", str(cpus), "-m", str(memory), "-kernel", kernel, "-initrd", initrd,
            "-append", append, "-display", "none", "-nic", "none", "-no-reboot", "-serial", "stdio", "-monitor", "none"]


# Lines that a healthy boot must not print; allowed.txt names the harmless ones that Debian's kernel always prints.
TROUBLE = re.compile(r"Oops|BUG:|WARNING:|soft lockup|rcu.*stall|TSC unstable|[Ss]purious|Kernel panic|segfault|invalid opcode|general protection|lost interrupt|hung task|Call Trace")


def kernel_trouble(text, cpu="max"):
    """Lines of a kernel's log that a boot on this CPU model must not print."""
    allowed = []
    for line in open(os.path.join(ROOT, "tests/functional/allowed.txt")):
        if line.strip() and not line.startswith("#"):
            models, expression = line.rstrip("\n").split(": ", 1)
            if cpu in models.split(","):
                allowed.append(re.compile(expression))
    return [line for line in text.splitlines() if TROUBLE.search(line) and not any(a.search(line) for a in allowed)]


def main(test):
    """Runs one test function; prints what failed and exits with 1."""
    try:
        test()
    except Failed as error:
        print(f"FAILED: {error}")
        sys.exit(1)
