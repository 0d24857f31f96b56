#include "src/chardev/chardev.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/test.h"

using namespace vmm;

namespace {

// A front end that takes only as much as it is told to, and keeps what it wants to send.
struct Front : CharFrontEnd {
  Chardev* chardev = nullptr;
  std::string got;
  std::vector<u8> to_send;
  usize room = 4096;
  bool monitor = false;
  std::vector<ChardevEvent> events;
  usize can_receive() override { return room; }
  void receive(std::span<const u8> bytes) override {
    CHECK(bytes.size() <= room);
    got.append(bytes.begin(), bytes.end());
    room -= bytes.size();
  }
  void char_event(ChardevEvent e) override { events.push_back(e); }
  void can_send() override {
    while (!to_send.empty()) {
      const usize n = chardev->write(to_send);
      to_send.erase(to_send.begin(), to_send.begin() + std::ptrdiff_t(n));
      if (!n) return;
    }
  }
  bool takes_focus() const override { return !monitor; }
  void allow(usize more) {
    room += more;
    chardev->accept_input();
  }
  ~Front() {
    if (chardev) chardev->detach(*this);
  }
  void attach(Chardev& c) {
    OK(c.attach(*this));
    chardev = &c;
  }
};

struct Bench {
  MachineLocked lock;
  EventLoop loop{EventLoop::Kind::main};
  std::string folder;
  Bench() {
    char name[] = "/tmp/vmm-chardev-XXXXXX";
    folder = ::mkdtemp(name);
  }
  ~Bench() {
    while (!all_chardevs().empty()) {
      Chardev* last = all_chardevs().back();
      last->parent()->remove_child(*last);
    }
    reclaim_dropped_objects();
    std::filesystem::remove_all(folder);
  }
  Ref<Chardev> make(std::initializer_list<std::pair<std::string, Value>> options) {
    Value v = Value::object();
    for (auto& [key, value] : options) v.set(key, value);
    return OK(make_chardev(loop, v));
  }
  template <class Condition>
  void until(Condition condition) {
    const auto give_up = std::chrono::steady_clock::now() + 10s;
    while (!condition()) {
      CHECK(std::chrono::steady_clock::now() < give_up);
      loop.run_once(false);
    }
  }
};
std::span<const u8> bytes(std::string_view text) { return {reinterpret_cast<const u8*>(text.data()), text.size()}; }
std::vector<u8> pattern(usize size) {
  std::vector<u8> data(size);
  u32 state = 12345;
  for (u8& b : data) b = u8((state = state * 1664525 + 1013904223) >> 24);
  return data;
}
Fd connect_unix(const std::string& path) {
  Fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  std::snprintf(un.sun_path, sizeof un.sun_path, "%s", path.c_str());
  CHECK(::connect(fd.get(), reinterpret_cast<sockaddr*>(&un), sizeof un) == 0);
  return fd;
}
std::string read_now(int fd) {
  std::string all;
  char buffer[4096];
  for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) > 0;) all.append(buffer, usize(n));
  return all;
}

// Sends `data` both ways through a back end whose other side is `peer`, with a slow reader at each end; nothing is lost or reordered.
void exchange(Bench& bench, Chardev& chardev, int peer_in, int peer_out) {
  Front front;
  front.attach(chardev);
  front.room = 100;
  const std::vector<u8> data = pattern(300'000);
  front.to_send = data;
  front.can_send();
  CHECK(!front.to_send.empty());  // the host took what it has room for, no more
  std::string at_peer;
  usize sent = 0;
  bench.until([&] {
    if (peer_in >= 0 && sent < data.size())
      if (const ssize_t n = ::write(peer_in, data.data() + sent, std::min<usize>(5000, data.size() - sent)); n > 0) sent += usize(n);
    char buffer[1500];
    if (const ssize_t n = ::read(peer_out, buffer, sizeof buffer); n > 0) at_peer.append(buffer, usize(n));
    if (front.room < 50) front.allow(3000);
    return at_peer.size() == data.size() && (peer_in < 0 || front.got.size() == data.size());
  });
  const std::string expected{data.begin(), data.end()};
  CHECK(at_peer == expected);
  CHECK(peer_in < 0 || front.got == expected);
}

}  // namespace

TEST(chardev_socket_server_takes_one_client_after_another) {
  Bench bench;
  const std::string path = bench.folder + "/s";
  auto c = bench.make({{"backend", "socket"}, {"id", "c"}, {"path", path}, {"server", "on"}, {"wait", "off"}});
  CHECK_EQ(c->filename(), "disconnected:unix:" + path + ",server=on");
  Front front;
  front.attach(*c);
  CHECK(front.events.empty());
  CHECK_EQ(c->write(bytes("dropped")), usize{7});
  for (int round = 0; round < 2; round++) {
    front.events.clear(), front.got.clear();
    Fd client = connect_unix(path);
    bench.until([&] { return c->connected(); });
    CHECK_EQ(c->filename(), "unix:" + path + ",server=on");
    CHECK_EQ(::write(client.get(), "hello", 5), ssize_t{5});
    bench.until([&] { return front.got == "hello"; });
    CHECK_EQ(c->write(bytes("world")), usize{5});
    CHECK_EQ(read_now(client.get()), std::string{"world"});
    CHECK_EQ(::write(client.get(), "last words", 10), ssize_t{10});
    client.reset();
    bench.until([&] { return !c->connected(); });
    CHECK_EQ(front.got, std::string{"hellolast words"});
    CHECK((front.events == std::vector{ChardevEvent::opened, ChardevEvent::closed}));
  }
}

TEST(chardev_socket_tells_of_a_lost_client_after_the_write_that_found_it) {
  Bench bench;
  const std::string path = bench.folder + "/s";
  auto c = bench.make({{"backend", "socket"}, {"id", "c"}, {"path", path}, {"server", "on"}, {"wait", "off"}});
  Front front;
  front.attach(*c);
  for (int round = 0; round < 2; round++) {
    Fd client = connect_unix(path);
    bench.until([&] { return c->connected(); });
    client.reset();
    front.events.clear();
    CHECK_EQ(c->write(bytes("answer")), usize{6});
    CHECK(front.events.empty() && c->connected());
    bench.until([&] { return !c->connected(); });
    CHECK((front.events == std::vector{ChardevEvent::closed}));
  }
}

TEST(chardev_socket_loses_nothing_under_back_pressure) {
  Bench bench;
  const std::string path = bench.folder + "/s";
  auto c = bench.make({{"backend", "socket"}, {"id", "c"}, {"path", path}, {"server", true}, {"wait", false}});
  Fd client = connect_unix(path);
  bench.until([&] { return c->connected(); });
  exchange(bench, *c, client.get(), client.get());
}

TEST(chardev_socket_client_reconnects) {
  Bench bench;
  const std::string path = bench.folder + "/s";
  auto client = bench.make({{"backend", "socket"}, {"id", "client"}, {"path", path}, {"reconnect-ms", "10"}});
  CHECK(!client->connected());
  auto server = bench.make({{"backend", "socket"}, {"id", "server"}, {"path", path}, {"server", "on"}, {"wait", "off"}});
  bench.until([&] { return client->connected() && server->connected(); });
  CHECK(!make_chardev(bench.loop, Value::object()));
  Value v = Value::object();
  v.set("id", "x").set("backend", "socket").set("path", bench.folder + "/nobody");
  auto refused = make_chardev(bench.loop, v);
  CHECK_EQ(refused.error().message, "Failed to connect to '" + bench.folder + "/nobody': No such file or directory");
}

TEST(chardev_socket_takes_descriptors_and_telnet_codes) {
  Bench bench;
  const std::string path = bench.folder + "/s";
  auto c = bench.make({{"backend", "socket"}, {"id", "c"}, {"path", path}, {"server", "on"}, {"wait", "off"}, {"telnet", "on"}});
  Front front;
  front.attach(*c);
  Fd client = connect_unix(path);
  bench.until([&] { return c->connected(); });
  CHECK_EQ(read_now(client.get()).size(), usize{12});
  front.events.clear();
  const std::string text =
      "a\xff\xfd\x01"
      "b\xff\xff"
      "c\xff\xf3";
  iovec part{.iov_base = const_cast<char*>(text.data()), .iov_len = text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &part, message.msg_iovlen = 1, message.msg_control = control, message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
  const int given = 2;
  std::memcpy(CMSG_DATA(header), &given, sizeof given);
  CHECK_EQ(::sendmsg(client.get(), &message, 0), ssize_t(text.size()));
  bench.until([&] { return front.got.size() == 4; });
  CHECK_EQ(front.got, std::string{"ab\xff"
                                  "c"});
  CHECK((front.events == std::vector{ChardevEvent::break_}));
  CHECK(bool(c->take_fd()) && !c->take_fd());
}

TEST(chardev_udp_sends_and_takes_whole_datagrams) {
  Bench bench;
  const Fd peer{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  sockaddr_in here{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}}, there{};
  CHECK(::bind(peer.get(), reinterpret_cast<sockaddr*>(&here), sizeof here) == 0);
  socklen_t length = sizeof here;
  CHECK(::getsockname(peer.get(), reinterpret_cast<sockaddr*>(&here), &length) == 0);
  auto c = bench.make({{"backend", "udp"}, {"id", "c"}, {"host", "127.0.0.1"}, {"port", format("{}", ntohs(here.sin_port))}});
  Front front;
  front.attach(*c);
  char buffer[4096];
  ssize_t n = 0;
  const auto received = [&] {
    return (n = ::recvfrom(peer.get(), buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&there), &length)) > 0;
  };
  for (const std::string_view text : {"first", "second"}) {  // each write is one datagram
    CHECK_EQ(c->write(bytes(text)), text.size());
    bench.until(received);
    CHECK_EQ(std::string(buffer, usize(n)), std::string{text});
  }
  // A datagram that the front end takes piece by piece is not cut off; an empty one is no end.
  front.room = 10;
  const std::string large(3000, 'x');
  for (const std::string& text : {large, std::string{}, std::string{"end"}})
    CHECK(::sendto(peer.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&there), length) == ssize_t(text.size()));
  bench.until([&] {
    if (!front.room) front.allow(500);
    return front.got.size() == large.size() + 3;
  });
  CHECK(front.got == large + "end" && c->connected());
}

TEST(chardev_pty_drops_output_without_a_reader_and_loses_nothing_with_one) {
  Bench bench;
  auto c = bench.make({{"backend", "pty"}, {"id", "c"}});
  CHECK(c->filename().starts_with("pty:/dev/pts/"));
  const std::vector<u8> much(100'000);
  CHECK_EQ(c->write(much), much.size());
  Fd reader{::open(c->filename().substr(4).c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)};
  CHECK(bool(reader));
  bench.until([&] { return c->connected(); });
  exchange(bench, *c, reader.get(), reader.get());
  reader.reset();
  Front front;
  front.attach(*c);
  bench.until([&] { return !c->connected(); });
  Fd again{::open(c->filename().substr(4).c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)};
  bench.until([&] { return c->connected(); });
  CHECK_EQ(c->write(bytes("back")), usize{4});
  bench.until([&, got = std::string{}]() mutable { return (got += read_now(again.get())) == "back"; });
}

TEST(chardev_pipe_loses_nothing) {
  Bench bench;
  const std::string path = bench.folder + "/p";
  CHECK(::mkfifo((path + ".in").c_str(), 0600) == 0 && ::mkfifo((path + ".out").c_str(), 0600) == 0);
  auto c = bench.make({{"backend", "pipe"}, {"id", "c"}, {"path", path}});
  Fd to{::open((path + ".in").c_str(), O_WRONLY | O_NONBLOCK)}, from{::open((path + ".out").c_str(), O_RDONLY | O_NONBLOCK)};
  exchange(bench, *c, to.get(), from.get());
}

TEST(chardev_file_and_logfile_hold_what_was_written) {
  Bench bench;
  const auto read_file = [&](const std::string& name) {
    std::ifstream in{bench.folder + name};
    return std::string{std::istreambuf_iterator<char>{in}, {}};
  };
  for (const char* append : {"off", "on"}) {
    auto c = bench.make({{"backend", "file"},
                         {"id", "c"},
                         {"path", bench.folder + "/f"},
                         {"append", append},
                         {"logfile", bench.folder + "/log"},
                         {"logappend", append}});
    c->write_all(bytes("text\n"));
    c->parent()->remove_child(*c);
  }
  CHECK_EQ(read_file("/f"), std::string{"text\ntext\n"});
  CHECK_EQ(read_file("/log"), std::string{"text\ntext\n"});
}

TEST(chardev_write_all_keeps_what_does_not_go_at_once) {
  Bench bench;
  const std::string path = bench.folder + "/s";
  auto c = bench.make({{"backend", "socket"}, {"id", "c"}, {"path", path}, {"server", "on"}, {"wait", "off"}});
  Fd client = connect_unix(path);
  bench.until([&] { return c->connected(); });
  const std::vector<u8> data = pattern(900'000);
  c->write_all(data);
  Front front;
  front.attach(*c);
  front.to_send = {'e', 'n', 'd'};
  front.can_send();
  CHECK_EQ(front.to_send.size(), usize{3});  // behind what waits
  std::string got;
  bench.until([&] { return (got += read_now(client.get())).size() == data.size() + 3; });
  CHECK(got == std::string(data.begin(), data.end()) + "end");
}

TEST(chardev_ringbuf_keeps_the_last_bytes) {
  Bench bench;
  auto c = bench.make({{"backend", "ringbuf"}, {"id", "c"}, {"size", "8"}});
  CHECK_EQ(c->write(bytes("0123456789")), usize{10});
  const auto got = c->read_stored(3);
  CHECK_EQ(std::string(got.begin(), got.end()), std::string{"234"});
  CHECK_EQ(c->read_stored(100).size(), usize{5});
  Value bad = Value::object();
  bad.set("id", "r").set("backend", "ringbuf").set("size", "3");
  CHECK_EQ(make_chardev(bench.loop, bad).error().message, std::string{"size of ringbuf chardev must be power of two"});
}

TEST(chardev_mux_keys_choose_the_front_end) {
  Bench bench;
  const std::string path = bench.folder + "/s";
  auto c = bench.make({{"backend", "socket"}, {"id", "c"}, {"path", path}, {"server", "on"}, {"wait", "off"}, {"mux", "on"}});
  CHECK(c->is_mux() && find_chardev("c-base"));
  Fd client = connect_unix(path);
  bench.until([&] { return c->connected(); });
  Front serial, monitor;
  monitor.monitor = true;
  serial.attach(*c);
  monitor.attach(*c);  // leaves the keyboard to the serial line
  bool quit = false;
  set_mux_actions([&] { quit = true; }, nullptr);
  serial.room = 3;
  const auto type = [&](std::string_view text) {
    CHECK_EQ(::write(client.get(), text.data(), text.size()), ssize_t(text.size()));
    for (int i = 0; i < 5; i++) bench.loop.run_once(false);
  };
  type("abcdef");
  CHECK_EQ(serial.got, std::string{"abc"});
  serial.allow(100);
  bench.until([&] { return serial.got == "abcdef"; });
  type("\x01\x01");
  CHECK_EQ(serial.got, std::string{"abcdef\x01"});
  type(
      "\x01"
      "b");
  CHECK(serial.events.back() == ChardevEvent::break_);
  type(
      "\x01"
      "cinfo");
  CHECK_EQ(monitor.got, std::string{"info"});
  CHECK(serial.events.back() == ChardevEvent::mux_out && monitor.events.back() == ChardevEvent::mux_in);
  type(
      "\x01"
      "h");
  CHECK(read_now(client.get()).contains("C-a x    end the emulator"));
  type(
      "\x01"
      "t");
  c->write_all(bytes("one\ntwo"));
  const std::string stamped = read_now(client.get());
  CHECK(stamped.starts_with("[00:00:0") && stamped.contains("] one\n[") && stamped.ends_with("] two"));
  type(
      "\x01"
      "t");
  type(
      "\x01"
      "x");
  CHECK(quit && read_now(client.get()).ends_with("QEMU: Terminated\n\r"));
  set_mux_actions(nullptr, nullptr);
}

TEST(chardev_mux_passes_back_pressure_on) {
  Bench bench;
  const std::string path = bench.folder + "/s";
  auto c = bench.make({{"backend", "socket"}, {"id", "c"}, {"path", path}, {"server", "on"}, {"wait", "off"}, {"mux", "on"}});
  c->echr(0);  // the pattern has every byte but no escape pairs to lose
  Fd client = connect_unix(path);
  bench.until([&] { return c->connected(); });
  Front front;
  front.attach(*c);
  front.to_send = pattern(300'000);
  const std::string expected{front.to_send.begin(), front.to_send.end()};
  front.can_send();
  CHECK(!front.to_send.empty());
  std::string got;
  bench.until([&] { return (got += read_now(client.get())).size() == expected.size(); });
  CHECK(got == expected);
}

TEST(chardev_stdio_gives_the_terminal_back) {
  Bench bench;
  // Descriptors 0 and 1 become a terminal of our own for a while.
  Fd master{::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)};
  char name[128];
  CHECK(master && !::grantpt(master.get()) && !::unlockpt(master.get()) && !::ptsname_r(master.get(), name, sizeof name));
  Fd slave{::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC)}, in{::dup(0)}, out{::dup(1)};
  ::dup2(slave.get(), 0), ::dup2(slave.get(), 1);
  termios before{}, during{}, after{};
  ::tcgetattr(0, &before);
  std::string got, seen, second;
  {
    Front front;
    auto c = bench.make({{"backend", "stdio"}, {"id", "c"}, {"signal", "off"}});
    Value again = Value::object();
    again.set("id", "d").set("backend", "stdio");
    second = make_chardev(bench.loop, again).error().message;
    ::tcgetattr(0, &during);
    front.attach(*c);
    (void)!::write(master.get(), "key\x03", 4);
    const auto give_up = std::chrono::steady_clock::now() + 10s;
    while (front.got.size() < 4 && std::chrono::steady_clock::now() < give_up) bench.loop.run_once(false);
    got = front.got;
    c->write_all(bytes("out"));
    while ((seen += read_now(master.get())).size() < 3 && std::chrono::steady_clock::now() < give_up) {
    }
    c->parent()->remove_child(*c);
  }
  reclaim_dropped_objects();
  ::tcgetattr(0, &after);
  ::dup2(in.get(), 0), ::dup2(out.get(), 1);
  CHECK_EQ(got, std::string{"key\x03"});
  CHECK_EQ(seen, std::string{"out"});
  CHECK(before.c_lflag & ICANON && !(during.c_lflag & (ICANON | ECHO | ISIG)));
  CHECK_EQ(after.c_lflag, before.c_lflag);
  CHECK_EQ(second, std::string{"cannot use stdio by multiple character devices"});
}

TEST(chardev_words_mean_what_they_always_meant) {
  const auto words = [](std::string_view text) { return OK(chardev_options_from_legacy(text, "x")); };
  CHECK(words("none").is_null());
  CHECK(*words("mon:stdio").find("mux") == Value{true} && *words("mon:stdio").find("signal") == Value{false});
  const Value s = words("unix:/a,,b,server=on,wait=off");
  CHECK(*s.find("path") == Value{"/a,b"} && *s.find("server") == Value{"on"} && *s.find("wait") == Value{"off"});
  const Value t = words("tcp:[::1]:4444,server,nowait");
  CHECK(*t.find("host") == Value{"::1"} && *t.find("port") == Value{"4444"} && *t.find("wait") == Value{"off"});
  CHECK(*words("telnet::23").find("telnet") == Value{true});
  CHECK(*words("file:/x").find("path") == Value{"/x"});
  CHECK_EQ(chardev_options_from_legacy("foo", "x").error().message, std::string{"'foo' is not a valid char driver"});
}
