"""Images made by one tool and used by the other: the option sets, and the kill test. Used by images.test and tests/long/kills."""
import fcntl
import itertools
import os
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import time

from guest import VMM, Failed

OURS, THEIRS = "ours", "theirs"


def tool(which, program, *args, ok=(0,), cwd=None, stdin=None):
    """Runs `img` or `io` of vmm or of QEMU; returns (status, stdout, stderr)."""
    line = ([VMM, program] if which == OURS else ["qemu-" + program]) + [str(a) for a in args]
    p = subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=240, input=stdin, env={**os.environ, "LC_ALL": "C", "TZ": "UTC"})
    if ok is not None and p.returncode not in ok:
        raise Failed(f"{' '.join(line)} ended with {p.returncode}: {p.stdout[-300:]}{p.stderr[-300:]}")
    return p.returncode, p.stdout, p.stderr


AXES = {
    "cluster_size": ["512", "1k", "2k", "4k", "16k", "32k", "64k", "256k", "1M", "2M"],
    "refcount_bits": ["1", "2", "4", "8", "16", "32", "64"],
    "compat": ["0.10", "1.1"],
    "lazy_refcounts": ["off", "on"],
    "extended_l2": ["off", "on"],
    "preallocation": ["off", "metadata", "falloc", "full"],
    "compression_type": ["zlib", "zstd"],
    "data_file": ["none", "plain", "raw"],
    "backing": ["none", "qcow2", "raw"],
    "nocow": ["off", "on"],
    "extent_size_hint": ["0", "1M"],
}


def valid(case):
    if case["compat"] == "0.10" and (case["refcount_bits"] != "16" or case["lazy_refcounts"] == "on" or case["extended_l2"] == "on"
                                     or case["compression_type"] != "zlib" or case["data_file"] != "none"):
        return False
    if case["extended_l2"] == "on" and case["cluster_size"] in ("512", "1k", "2k", "4k"):
        return False
    if case["backing"] != "none" and (case["data_file"] == "raw" or (case["preallocation"] != "off" and case["extended_l2"] == "off")):
        return False
    return True


def pairwise():
    """Every pair of values that may stand together stands together in some case. The same list each time."""
    rnd = random.Random(5)
    names = list(AXES)
    every = [dict(zip(names, values)) for values in itertools.product(*AXES.values())]
    every = [c for c in every if valid(c)]

    def pairs(c):
        return {(a, c[a], b, c[b]) for a, b in itertools.combinations(names, 2)}

    left = set().union(*(pairs(c) for c in every))
    chosen = []
    while left:
        best = max(rnd.sample(every, 300), key=lambda c: len(pairs(c) & left))
        if not pairs(best) & left:
            pair = min(left)
            best = next(c for c in every if pair in pairs(c))
        chosen.append(best)
        left -= pairs(best)
    return chosen


SIZE = 6 << 20


class Cross:
    """One option set: `maker` makes the image, the other writes to it, then the maker; both check it and both compare it with a model."""

    def __init__(self, folder, case, maker):
        self.dir, self.case, self.maker = folder, case, maker
        self.other = THEIRS if maker == OURS else OURS
        self.model = bytearray(SIZE)

    def path(self, name):
        return os.path.join(self.dir, name)

    def io(self, who, *commands):
        _, out, err = tool(who, "io", "-f", "qcow2", *itertools.chain.from_iterable(("-c", c) for c in commands), self.path("x.qcow2"))
        if "failed" in out + err:
            raise Failed(f"{who} io {commands}: {out}{err}")

    def run(self):
        options = [f"{k}={v}" for k, v in self.case.items() if k not in ("data_file", "backing")]
        extra = []
        if self.case["data_file"] != "none":
            options += ["data_file=" + self.path("x.data")]
            options += ["data_file_raw=on"] if self.case["data_file"] == "raw" else []
        if self.case["backing"] != "none":
            tool(self.other, "img", "create", "-q", "-f", self.case["backing"], self.path("base"), SIZE - 4096)
            tool(self.other, "io", "-f", self.case["backing"], "-c", "write -P 17 0 3M", self.path("base"))
            self.model[: 3 << 20] = bytes([17]) * (3 << 20)
            extra = ["-b", self.path("base"), "-F", self.case["backing"]]
        tool(self.maker, "img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), *extra, self.path("x.qcow2"), SIZE)
        rnd = random.Random(str(sorted(self.case.items())))
        for who in (self.other, self.maker):
            commands = []
            for _ in range(8):
                at, n, what = rnd.randrange(SIZE // 512) * 512, rnd.choice((512, 4096, 30000, 200000)), rnd.randrange(10)
                n = min(n, SIZE - at)
                if what < 7:
                    pattern = rnd.randrange(1, 256)
                    commands.append(f"write -P {pattern} {at} {n}")
                    self.model[at:at + n] = bytes([pattern]) * n
                else:
                    commands.append(f"write -z {'-u ' if what == 9 else ''}{at} {n}")
                    self.model[at:at + n] = bytes(n)
            self.io(who, *commands)
            self.check()
        # Compressed clusters, by converting: what both tools then read is the same.
        if self.case["data_file"] == "none":
            tool(self.maker, "img", "convert", "-c", "-f", "qcow2", "-O", "qcow2", "-o", "compression_type=" + self.case["compression_type"],
                 self.path("x.qcow2"), self.path("packed.qcow2"))
            tool(self.other, "img", "compare", "-f", "qcow2", "-F", "qcow2", self.path("x.qcow2"), self.path("packed.qcow2"))
            tool(self.other, "img", "check", "-f", "qcow2", self.path("packed.qcow2"))

    def check(self):
        answers = []
        with open(self.path("model"), "wb") as f:
            f.write(self.model)
        for who in (OURS, THEIRS):
            answers.append(tool(who, "img", "check", "-f", "qcow2", self.path("x.qcow2"), ok=None)[:2])
            tool(who, "img", "compare", "-f", "qcow2", "-F", "raw", self.path("x.qcow2"), self.path("model"))
        if answers[0] != answers[1] or answers[0][0] != 0:
            raise Failed(f"check: {answers}")


def cross(cases):
    done = 0
    for n, case in enumerate(cases):
        for maker in (OURS, THEIRS):
            with tempfile.TemporaryDirectory(prefix="vmm-images-") as folder:
                try:
                    Cross(folder, case, maker).run()
                except Failed as e:
                    raise Failed(f"case {n} {case}, made by {maker}: {e}") from None
                done += 1
    return done


# Each option of the other formats alone, by its values.
OTHERS = [(kind, option) for kind, options in {
    "raw": ["", "preallocation=falloc", "preallocation=full", "nocow=on", "extent_size_hint=1M"],
    "vdi": ["", "static=on", "preallocation=falloc", "preallocation=full", "nocow=on", "extent_size_hint=1M"],
    "vpc": ["force_size=on", "subformat=fixed,force_size=on", "preallocation=falloc,force_size=on", "nocow=on,force_size=on",
            "extent_size_hint=1M,force_size=on"],
    "vmdk": ["", "adapter_type=lsilogic", "adapter_type=buslogic", "adapter_type=legacyESX", "compat6=on", "hwversion=10", "toolsversion=9",
             "zeroed_grain=on", "preallocation=falloc", "nocow=on", "extent_size_hint=1M"],
    "vhdx": ["", "block_size=1M", "block_size=64M", "log_size=2M", "subformat=fixed", "block_state_zero=off", "preallocation=falloc", "nocow=on",
             "extent_size_hint=1M"],
}.items() for option in options]
# The small form: one option of each kind.
FEW_OTHERS = [("raw", "preallocation=full"), ("vdi", "static=on"), ("vdi", ""), ("vpc", "force_size=on"), ("vpc", "subformat=fixed,force_size=on"),
              ("vmdk", ""), ("vmdk", "zeroed_grain=on"), ("vhdx", "block_size=1M"), ("vhdx", "subformat=fixed")]


def cross_other(kind, options):
    """Made by one, written by the other, then by its maker; read the same by both, and converted."""
    with tempfile.TemporaryDirectory(prefix="vmm-images-") as folder:
        for maker, writer in ((OURS, THEIRS), (THEIRS, OURS)):
            name, model, back = f"{maker}.{kind}", f"{maker}.model", f"{maker}.back"
            tool(maker, "img", "create", "-q", "-f", kind, *(["-o", options] if options else []), name, "9M", cwd=folder)
            tool(THEIRS, "img", "create", "-q", "-f", "raw", model, "9M", cwd=folder)
            for who, words in ((writer, ["write -P 5 100k 2M", "write -P 6 8M 512"]), (maker, ["write -P 7 1M 3k", "write -P 8 5M 1M"])):
                words = [x for w in words for x in ("-c", w)]
                _, out, err = tool(who, "io", "-f", kind, *words, name, cwd=folder)
                if "failed" in out + err:
                    raise Failed(f"{kind} {options} made by {maker}, written by {who}: {out}{err}")
                tool(THEIRS, "io", "-f", "raw", *words, model, cwd=folder)
            for who in (OURS, THEIRS):
                tool(who, "img", "compare", "-f", kind, "-F", "raw", name, model, cwd=folder)
            tool(writer, "img", "convert", "-f", kind, "-O", kind, name, back, cwd=folder)  # a fixed VHD looks raw
            tool(maker, "img", "compare", "-f", kind, "-F", "raw", back, model, cwd=folder)
            if kind in ("vdi", "vhdx"):  # the others have no check
                tool(THEIRS, "img", "check", "-q", "-f", kind, name, cwd=folder)
    return 2


# --- Kills ----------------------------------------------------------------------------------------------------------------------------

KILL_FLAVOURS = ["cluster_size=64k", "cluster_size=4k", "cluster_size=64k,lazy_refcounts=on", "cluster_size=16k,extended_l2=on", "cluster_size=4k,backing"]
KILL_SIZE = 4 << 20
UNIT = 4096


def wait_unlocked(image):
    """Blocks until no descriptor holds an image lock: requests that the kernel still carries out for a killed process keep its file, and so
    its locks, until they have ended (which is what keeps a second writer away from them)."""
    with open(image, "r+b") as f:
        for start, length in ((100, 4), (200, 4)):
            for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK):
                fcntl.fcntl(f, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


def image_of_bytes(image, folder, who, *more):
    """What a guest would read."""
    raw = os.path.join(folder, "k.raw")
    tool(who, "img", "convert", "-f", "qcow2", "-O", "raw", *more, image, raw)
    with open(raw, "rb") as f:
        return f.read()


def settle(image, where):
    """Checks and mends an image whose user was killed; both tools then find nothing. Returns how many clusters had leaked."""
    status, out, err = tool(THEIRS, "img", "check", "-f", "qcow2", image, ok=None)
    leaks = 0
    # Who opens an image with this mark counts anew: nothing is leaked there. Lazy refcounts carry it always, others while a flush of more
    # than a few clusters, or a snapshot, is on its way.
    with open(image, "rb") as f:
        dirty = f.read(80)[79] & 1
    if not dirty:
        if status not in (0, 3):
            raise Failed(f"{where}: check says {status}: {out}{err}")
        found = re.search(r"(\d+) leaked clusters", out)
        leaks = int(found.group(1)) if found else 0
        if leaks > 3:
            raise Failed(f"{where}: {leaks} clusters leaked, 3 may")
    tool(OURS, "img", "check", "-q", "-r", "all" if dirty else "leaks", "-f", "qcow2", image)
    for who in (OURS, THEIRS):
        tool(who, "img", "check", "-q", "-f", "qcow2", image)
    return leaks


class Victim:
    """An image of some flavour, with what was written to it: by units, 0 where nothing was."""

    def __init__(self, seed, folder):
        self.random, self.folder = random.Random(seed), folder
        options = KILL_FLAVOURS[seed % len(KILL_FLAVOURS)]
        self.where = f"kill {seed} ({options})"
        self.image, base = os.path.join(folder, "k.qcow2"), os.path.join(folder, "base.raw")
        self.units = [0] * (KILL_SIZE // UNIT)
        extra = []
        if "backing" in options:
            options = options.replace(",backing", "")
            with open(base, "wb") as f:
                f.write(bytes([77]) * KILL_SIZE)
            extra = ["-b", base, "-F", "raw"]
            self.units = [77] * len(self.units)
        tool(OURS, "img", "create", "-q", "-f", "qcow2", "-o", options, *extra, self.image, KILL_SIZE)

    def place(self):
        at, n = self.random.randrange(len(self.units)), self.random.choice((1, 1, 2, 5, 40))
        return at, min(n, len(self.units) - at)

    def fill(self, writes):
        """Writes that nobody disturbs."""
        words = []
        for _ in range(writes):
            (at, n), pattern = self.place(), self.random.randrange(1, 256)
            words += ["-c", f"write -q -P {pattern} {at * UNIT} {n * UNIT}"]
            self.units[at:at + n] = [pattern] * n
        tool(OURS, "io", "-f", "qcow2", *words, self.image)

    def snapshot(self, *words):
        tool(OURS, "img", "snapshot", *words, self.image)

    def compare(self, who, possible, *more):
        """Each unit holds one of what is possible there."""
        data = image_of_bytes(self.image, self.folder, who, *more)
        for i, values in enumerate(possible):
            unit = data[i * UNIT:(i + 1) * UNIT]
            if unit[0] not in values or unit != unit[:1] * UNIT:
                raise Failed(f"{self.where}, read by {who} {' '.join(more)}: unit {i} holds {unit[0]}, not one of {sorted(values)}")


def kill_writer(seed, folder):
    """SIGKILL of `vmm io` at a random moment of a seeded script; a third of the images share their clusters with a snapshot. Returns how many
    clusters leaked."""
    v = Victim(seed, folder)
    rnd, image = v.random, v.image
    saved = None
    if seed % 3 == 0:
        v.fill(20)
        v.snapshot("-c", "saved")
        saved = [{u} for u in v.units]
    # The script: a line `length` after each flush answers only when the flush has.
    lines, steps = [], []
    for _ in range(400):
        kind = rnd.randrange(10)
        at, n = v.place()
        if kind < 6:
            pattern = rnd.randrange(1, 256)
            lines.append(f"write -q -P {pattern} {at * UNIT} {n * UNIT}")
            steps.append(("write", at, n, (pattern,)))
        elif kind < 7:
            lines.append(f"write -q -z {at * UNIT} {n * UNIT}")
            steps.append(("write", at, n, (0,)))
        elif kind < 8:
            lines.append(f"discard -q {at * UNIT} {n * UNIT}")
            steps.append(("discard", at, n, (0, 77)))
        else:
            lines.append("flush\nlength")
            steps.append(("flush", 0, 0, ()))
    p = subprocess.Popen([VMM, "io", "-f", "qcow2", image], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    os.set_blocking(p.stdin.fileno(), False)
    text, sent, flushed = ("\n".join(lines) + "\n").encode(), 0, 0
    goal = rnd.randrange(1, sum(1 for s in steps if s[0] == "flush"))
    while flushed < goal:
        readable, writable, _ = select.select([p.stdout], [p.stdin] if sent < len(text) else [], [], 60)
        if not readable and not writable:
            raise Failed("vmm io says nothing for a minute")
        if writable:
            sent += os.write(p.stdin.fileno(), text[sent:sent + 4096])
        if readable:
            data = os.read(p.stdout.fileno(), 65536)
            if not data:
                raise Failed("vmm io has ended by itself")
            flushed += data.count(b"MiB")
    # Somewhere within what the next steps take.
    select.select([], [], [], rnd.random() * 0.004)
    p.send_signal(signal.SIGKILL)
    rest = p.stdout.read()
    flushed += rest.count(b"MiB")
    p.wait()
    wait_unlocked(image)
    # What each unit may hold: the last write before the last flush that answered, or anything sent since.
    possible = [{u} for u in v.units]
    count = 0
    for kind, at, n, values in steps:
        if kind == "flush":
            count += 1
            continue
        for i in range(at, at + n):
            possible[i] = set(values) if kind == "write" and count < flushed else possible[i] | set(values)
    v.compare(THEIRS, possible)
    leaks = settle(image, v.where)
    v.compare(OURS, possible)
    if saved:
        v.compare(OURS, saved, "-l", "saved")
    return leaks


def kill_snapshot(seed, folder):
    """SIGKILL of `vmm img snapshot` that makes, applies or deletes one: the disk is as before (or, applied, as the snapshot), and so are
    the snapshots that are there. Returns how many clusters leaked."""
    v = Victim(seed, folder)
    v.fill(20)
    v.snapshot("-c", "one")
    one = list(v.units)
    v.fill(20)
    work = v.random.choice((("-c", "two"), ("-a", "one"), ("-d", "one")))
    v.where += f" of snapshot {' '.join(work)}"
    # How long it takes is seen on a copy.
    copy = os.path.join(folder, "copy.qcow2")
    shutil.copy(v.image, copy)
    begun = time.monotonic()
    tool(OURS, "img", "snapshot", *work, copy)
    took = time.monotonic() - begun
    p = subprocess.Popen([VMM, "img", "snapshot", *work, v.image], stderr=subprocess.DEVNULL)
    select.select([], [], [], v.random.random() * took * 1.1)
    p.send_signal(signal.SIGKILL)
    p.wait()
    wait_unlocked(v.image)
    now = v.units
    if work[0] == "-a" and image_of_bytes(v.image, folder, THEIRS)[::UNIT] == bytes(one):
        now = one
    v.compare(THEIRS, [{u} for u in now])
    leaks = settle(v.image, v.where)
    v.compare(OURS, [{u} for u in now])
    there = re.findall(r"^\S+\s+(one|two)\s", tool(OURS, "img", "snapshot", "-l", v.image)[1], re.M)
    if work[0] != "-d" and "one" not in there:
        raise Failed(f"{v.where}: snapshot 'one' is lost")
    for name in there:
        v.compare(OURS, [{u} for u in (one if name == "one" else v.units)], "-l", name)
    return leaks


def kills(first, count):
    """Returns the leaks of each kill."""
    found = []
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(prefix="vmm-kill-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            found.append((kill_snapshot if seed % 10 == 9 else kill_writer)(seed, folder))
    return found
