"""A client of gdb's protocol."""
import re
import socket

from guest import Failed


class Remote:
    """A client of the protocol that says exactly what it is told to."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.buffer = b""

    def byte(self):
        while not self.buffer:
            data = self.socket.recv(65536)
            if not data:
                raise Failed("the stub closed the connection")
            self.buffer += data
        first, self.buffer = self.buffer[:1], self.buffer[1:]
        return first

    def send_raw(self, data):
        self.socket.sendall(data)

    def answer(self):
        """The next packet; acknowledgments before it are passed over, and it is acknowledged."""
        while self.byte() != b"$":
            pass
        data = b""
        while (c := self.byte()) != b"#":
            data += c
        want = int(self.byte() + self.byte(), 16)
        if sum(data) & 255 != want:
            raise Failed(f"bad checksum of {data!r}")
        try:
            self.send_raw(b"+")
        except OSError:
            pass  # its last word
        return data.decode("latin-1")

    def send(self, data):
        self.send_raw(b"$%s#%02x" % (data, sum(data) & 255))

    def ask(self, text):
        self.send(text.encode("latin-1"))
        return self.answer()

    def is_(self, text, want):
        got = self.ask(text)
        if not re.fullmatch(want, got):
            raise Failed(f"{text}: {got!r}, not {want!r}")
        return got
