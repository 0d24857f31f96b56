"""Guests with network cards: a kernel with the card's driver and an initramfs with the modules; a host on the other side of a socket netdev that
answers ARP and pings, tags and all, and remembers what it saw."""
import glob
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guest import Failed, ROOT, fetched, initramfs, kernels  # noqa: E402

CARDS = {  # modules, in the order to load them
    "virtio-net-pci": ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover", "virtio_net"],
    "e1000": ["e1000"],
    "e1000e": ["pps_core", "ptp", "e1000e"],
    "rtl8139": ["mii", "8139cp"],
}
VLAN = ["llc", "stp", "garp", "mrp", "8021q"]
JUMBO = {"rtl8139": 3000}  # the largest MTU that is tried; else 9000
DHCP = """#!/bin/sh
case $1 in bound|renew) ifconfig $interface $ip netmask $subnet; [ -n "$router" ] && route add default gw $router; echo "lease $ip $router $dns $domain $search $boot_file";; esac
"""


def check(condition, what):
    if not condition:
        raise Failed(what)


def modules(card):
    """A kernel that has the card's driver, and paths of the modules: the host's own, or Debian's full kernel."""
    def found(root):
        paths = [glob.glob(f"{root}/**/{m}.ko", recursive=True) for m in CARDS[card] + VLAN]
        return [p[0] for p in paths if p] if paths[len(CARDS[card]) - 1] and paths[-1] else None
    for kernel in reversed(kernels()):
        if paths := found("/lib/modules/" + os.path.basename(kernel).removeprefix("vmlinuz-")):
            return kernel, paths
    fetched("fetch-kernels")
    paths = found(ROOT + "/build/kernels/full-6.1.modules")
    check(paths, f"Debian's full kernel has no driver for {card}")
    return ROOT + "/build/kernels/full-6.1", paths


def guest_image(folder, paths):
    """The plain initramfs with the modules and a DHCP script behind it."""
    base = initramfs("net", "[ -f /net/start ] && . /net/start")
    os.makedirs(folder + "/net")
    lines = ["ifconfig lo 127.0.0.1 up"]
    for path in paths:
        data = open(path, "rb").read()
        open(f"{folder}/net/{os.path.basename(path)}", "wb").write(data)
        lines.append(f"insmod /net/{os.path.basename(path)}")
    open(folder + "/net/start", "w").write("\n".join(lines) + "\n")
    open(folder + "/net/dhcp", "w").write(DHCP)
    os.chmod(folder + "/net/dhcp", 0o755)
    extra = subprocess.run("find net -print0 | cpio -0 -o -H newc --quiet | gzip -1n", shell=True, cwd=folder, check=True, capture_output=True).stdout
    with open(folder + "/initrd", "wb") as f:
        f.write(open(base, "rb").read() + extra)
    return folder + "/initrd"


def start(work, *words):
    thread = threading.Thread(target=work, args=words, daemon=True)
    thread.start()
    return thread


def listen(address="127.0.0.1", backlog=4):
    s = socket.socket()
    s.bind((address, 0))
    s.listen(backlog)
    s.settimeout(120)
    return s


def receive_all(s):
    total = hashlib.sha256()
    while data := s.recv(1 << 16):
        total.update(data)
    return total.hexdigest()


class Peer:
    """The host 10.x.y.1 of every network, behind a `stream` or `dgram` netdev on unix sockets."""
    MAC = b"\x52\x54\x00\x99\x99\x99"
    FOREIGN = b"\x52\x54\x00\x77\x77\x77" + MAC + b"\x88\xb5" + bytes(100)  # a frame that is for somebody else

    def __init__(self, kind, folder, name):
        self.kind, self.path, self.back = kind, f"{folder}/{name}", f"{folder}/{name}.us"
        self.seen = []        # (source, VLAN or None, bytes) of each frame
        self.foreign = 0      # so many of them come before the next answer to a ping
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        if kind == "stream":
            self.socket.listen(1)
        start(self._serve)

    def netdev(self, id):
        if self.kind == "stream":
            return f"stream,id={id},addr.type=unix,addr.path={self.path}"
        return f"dgram,id={id},local.type=unix,local.path={self.back},remote.type=unix,remote.path={self.path}"

    def _serve(self):
        try:
            if self.kind == "dgram":
                while True:
                    for reply in self._answers(self.socket.recv(70000)):
                        self.socket.sendto(reply, self.back)
            link = self.socket.accept()[0].makefile("rwb", buffering=0)
            while head := self._exactly(link, 4):
                for reply in self._answers(self._exactly(link, int.from_bytes(head, "big"))):
                    link.write(len(reply).to_bytes(4, "big") + reply)
        except OSError:
            pass  # the emulator has ended

    @staticmethod
    def _exactly(link, size):
        data = b""
        while len(data) < size:
            more = link.read(size - len(data))
            if not more:
                return b""
            data += more
        return data

    def _answers(self, frame):
        tag = b""
        if frame[12:14] == b"\x81\x00":
            tag, frame = frame[12:16], frame[:12] + frame[16:]
        self.seen.append((frame[6:12].hex(":"), int.from_bytes(tag[2:], "big") & 0xfff if tag else None, len(frame) + len(tag)))
        reply = self._answer(frame)
        if not reply:
            return []
        replies = [reply[:12] + tag + reply[12:]]
        if frame[12:14] == b"\x08\x00" and self.foreign:
            replies = [self.FOREIGN] * self.foreign + replies
            self.foreign = 0
        return replies

    def _answer(self, frame):
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x01" and frame[38:39] == b"\x0a" and frame[41:42] == b"\x01":
            return frame[6:12] + self.MAC + frame[12:20] + b"\x00\x02" + self.MAC + frame[38:42] + frame[22:28] + frame[28:32]
        if frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 8:
            total = int.from_bytes(frame[16:18], "big")
            checksum = int.from_bytes(frame[36:38], "big") + 0x0800
            checksum = (checksum & 0xffff) + (checksum >> 16)
            return frame[6:12] + self.MAC + frame[12:26] + frame[30:34] + frame[26:30] + b"\0\0" + checksum.to_bytes(2, "big") + frame[38:14 + total]
        return None


def card_features(g, card, interface, peer):
    """Another address, what is for others, VLAN tags and long frames, as the card's driver sets them up; the card's cable ends at `peer`."""
    address, mtu = "52:54:00:aa:bb:cc", JUMBO.get(card, 9000)

    def ping(to, size=56):
        status, text = g.run(f"ping -A -c 3 -w 20 -s {size} {to}", 60)
        check(status == 0 and "3 packets received" in text, f"{card}: ping to {to} with {size} bytes: {text}")

    def received():
        # The console may show the line that was typed once more.
        return int(re.search(r"^(\d+)\s*$", g.run(f"cat /sys/class/net/{interface}/statistics/rx_packets", 30)[1], re.M)[1])

    status, text = g.run(f"ifconfig {interface} hw ether {address} && ifconfig {interface} 10.1.1.2 netmask 255.255.255.0 up", 30)
    check(status == 0, f"{card}: another address: {text}")
    ping("10.1.1.1")
    check({source for source, _, _ in peer.seen} == {address}, f"{card}: frames come from {set(peer.seen)}, not from {address}")
    # Frames for others come before the answer to a ping, so that they have passed when it is there.
    for mode, least, most in (("-promisc", 0, 9), ("promisc", 20, 29), ("-promisc", 0, 9)):
        g.run(f"ifconfig {interface} {mode}", 30)
        before, peer.foreign = received(), 20
        ping("10.1.1.1")
        check(peer.foreign == 0, "the peer was to send frames for others")
        check(least <= received() - before - 3 <= most, f"{card}, {mode}: {received() - before} frames came, 20 were for others")
    status, text = g.run(f"vconfig add {interface} 5 && ifconfig {interface}.5 10.1.5.2 netmask 255.255.255.0 up", 30)
    check(status == 0, f"{card}: VLAN: {text}")
    ping("10.1.5.1")
    check(any(vlan == 5 for _, vlan, _ in peer.seen), f"{card}: no frame had a tag")
    g.run(f"ifconfig {interface}.5 down; vconfig rem {interface}.5", 30)
    status, text = g.run(f"ifconfig {interface} mtu {mtu}", 30)
    check(status == 0, f"{card}: MTU of {mtu}: {text}")
    ping("10.1.1.1", mtu - 28)
    check(max(size for _, _, size in peer.seen) == mtu + 14, f"{card}: frames had {max(size for _, _, size in peer.seen)} bytes at most, not {mtu + 14}")
