// An NBD server and the driver that is its client, on one loop; what a client or a server must not say; names of disks on servers.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/core/dirty_bitmap.h"
#include "block/export/server.h"
#include "block/nbd/wire.h"
#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::block;

namespace {
struct Served {
  EventLoop loop;
  std::string path = format("/tmp/vmm-nbd-{}", ::getpid());
  NodeRef disk, remote;
  Child edge;
  nbd::Server server{loop, {}};

  explicit Served(ExportOptions options = {.id = "e", .name = "disk", .writable = true}, std::string format = "raw") {
    OK(run_task(loop, create_image(loop, path, format, {.length_bytes = 4 * MiB})));
    disk = OK(run_task(loop, open_image(loop, path, format, {})));
    if (!options.bitmaps.empty()) {
      auto bitmap = std::make_shared<DirtyBitmap>(options.bitmaps[0], 4 * MiB, 64 * KiB);
      OK(add_bitmap(*disk, bitmap));
    }
    OK(server.add(OK(Export::make(disk, std::move(options)))));
  }
  ~Served() {
    edge.reset();
    if (remote) (void)run_task(loop, release(std::move(remote)));
    OK(run_task(loop, server.stop()));
    while (backends_closing()) loop.run_once(true);
    (void)run_task(loop, release(std::move(disk)));
    ::unlink(path.c_str());
  }
  // The number of a socket whose other end the server has.
  int dial() {
    int ends[2];
    CHECK(!::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    server.adopt(Fd{ends[0]});
    return ends[1];
  }
  Result<NodeRef> open(Value extra = Value::object()) {
    Value where = Value::object(), tree = Value::object();
    where.set("type", "fd").set("str", std::to_string(dial()));
    tree.set("driver", "nbd").set("server", std::move(where)).set("export", "disk");
    for (const auto& [name, value] : extra.members()) tree.set(name, value);
    return run_task(loop, open_node(loop, std::move(tree)));
  }
  Edge& connect(Value extra = Value::object()) {
    remote = OK(open(std::move(extra)));
    const u8 needs = remote->read_only() ? permit_read : permit_read | permit_write;
    edge = OK(Edge::make(remote, "root", "test", Role::user, needs, permit_all));
    return *edge;
  }
};
Value object(std::initializer_list<Value::Member> members) { return Value{Value::Members{members}}; }
}  // namespace

TEST(nbd_disk_reads_what_was_written) {
  Served s;
  Edge& e = s.connect();
  CHECK_EQ(e.length_bytes(), 4 * MiB);
  std::vector<u8> out(300'000), in(300'000);
  for (usize i = 0; i < out.size(); i++) out[i] = u8(i * 13 + 5);
  OK(run_task(s.loop, e.write(12'345, IoVector::of(out), {.fua = true})));
  OK(run_task(s.loop, e.read(12'345, IoVector{in})));
  CHECK(in == out);
  OK(run_task(s.loop, e.zero(12'345, 100'000, {.may_unmap = true})));
  OK(run_task(s.loop, e.discard(1 * MiB, 64 * KiB)));
  OK(run_task(s.loop, e.flush()));
  OK(run_task(s.loop, e.read(12'345, IoVector{in})));
  CHECK(all_zero(std::span{in}.first(100'000)));
  CHECK(std::equal(in.begin() + 100'000, in.end(), out.begin() + 100'000));
}

TEST(nbd_requests_overtake_one_another) {
  Served s;
  Edge& e = s.connect();
  constexpr usize count = 40;
  std::vector<std::vector<u8>> blocks(count);
  usize done = 0;
  for (usize i = 0; i < count; i++) {
    blocks[i].assign(i % 3 ? 512 : 70'000, u8(i + 1));
    e.write(i * 100'000, IoVector::of(blocks[i])).start([&](Result<> r) { done += r.has_value(); });
  }
  while (done < count) s.loop.run_once(true);
  done = 0;
  for (auto& b : blocks) std::ranges::fill(b, u8{0});
  for (usize i = 0; i < count; i++) e.read(i * 100'000, IoVector{blocks[i]}).start([&](Result<> r) { done += r.has_value(); });
  while (done < count) s.loop.run_once(true);
  for (usize i = 0; i < count; i++) CHECK(std::ranges::all_of(blocks[i], [&](u8 b) { return b == u8(i + 1); }));
}

TEST(nbd_shows_where_a_sparse_image_has_data) {
  Served s{{.id = "e", .name = "disk", .writable = true}, "qcow2"};
  Edge& e = s.connect();
  std::vector<u8> some(64 * KiB, 7);
  OK(run_task(s.loop, e.write(1 * MiB, IoVector::of(some))));
  const Extent before = OK(run_task(s.loop, e.map(0, 4 * MiB)));
  CHECK(before.kind == Extent::Kind::zero);
  CHECK_EQ(before.length, 1 * MiB);
  const Extent there = OK(run_task(s.loop, e.map(1 * MiB, 3 * MiB)));
  CHECK(there.kind == Extent::Kind::data);
  CHECK_EQ(there.length, 64 * KiB);
  std::vector<u8> in(2 * MiB, 1);  // zeros and data in one reply
  OK(run_task(s.loop, e.read(0, IoVector{in})));
  CHECK(all_zero(std::span{in}.first(1 * MiB)) && in[1 * MiB] == 7 && in[1 * MiB + 64 * KiB] == 0);
}

TEST(nbd_shows_a_dirty_bitmap) {
  Served s{{.id = "e", .name = "disk", .writable = true, .bitmaps = {"b0"}}};
  Edge& e = s.connect(object({{"x-dirty-bitmap", "qemu:dirty-bitmap:b0"}}));
  std::vector<u8> some(1000, 7);
  OK(run_task(s.loop, e.write(130 * KiB, IoVector::of(some))));
  const Extent clean = OK(run_task(s.loop, e.map(0, 4 * MiB)));
  CHECK_EQ(clean.length, 128 * KiB);
  const auto bitmap = find_bitmap(*s.disk, "b0");
  CHECK_EQ(bitmap->dirty_bytes(), 64 * KiB);
  CHECK(bitmap->busy());
  CHECK(!s.open(object({{"x-dirty-bitmap", "qemu:dirty-bitmap:nope"}})));
}

TEST(nbd_export_that_is_read_only_is_not_written) {
  Served s{{.id = "e", .name = "disk"}};
  const auto refused = s.open();
  CHECK(!refused && refused.error().message.starts_with("NBD export is read-only"));
  Edge& e = s.connect(object({{"auto-read-only", true}}));
  CHECK(e.node().read_only());
  u8 byte;
  OK(run_task(s.loop, e.read(0, IoVector{&byte, 1})));
}

TEST(nbd_server_names_what_it_lacks) {
  Served s;
  const auto missing = s.open(object({{"export", "nope"}}));
  CHECK(!missing && missing.error().message.contains("no such export"));
  CHECK(!s.server.add(OK(Export::make(s.disk, {.id = "e2", .name = "disk"}))));
}

TEST(nbd_request_fails_when_the_server_goes_and_succeeds_when_it_is_back) {
  Served s;
  // The second server takes the place of the first at a socket of that name.
  const std::string path = s.path + ".sock";
  Value where = object({{"type", "unix"}, {"path", path}});
  const nbd::Address address = OK(nbd::read_address(where));
  OK(s.server.listen(address));
  s.remote = OK(run_task(s.loop, open_node(s.loop, object({{"driver", "nbd"}, {"server", where}, {"export", "disk"}}))));
  s.edge = OK(Edge::make(s.remote, "root", "test", Role::user, permit_read, permit_all));
  u8 byte;
  OK(run_task(s.loop, s.edge->read(0, IoVector{&byte, 1})));
  OK(run_task(s.loop, s.server.stop()));
  CHECK(!run_task(s.loop, s.edge->read(0, IoVector{&byte, 1})));
  while (backends_closing()) s.loop.run_once(true);
  OK(s.server.add(OK(Export::make(s.disk, {.id = "e", .name = "disk", .writable = true}))));
  OK(s.server.listen(address));
  OK(run_task(s.loop, s.edge->read(0, IoVector{&byte, 1})));
}

TEST(nbd_server_ends_a_client_that_speaks_nonsense) {
  Served s;
  for (const std::string_view text : {"GET / HTTP/1.0\r\n\r\n", "\0\0\0\3IHAVEOPT\0\0\0\7\377\377\377\377"}) {
    const Fd end{s.dial()};
    const std::string words{text.data(), text.size() ? text.size() : 1};
    CHECK(::write(end.get(), words.data(), words.size()) > 0);
    ::shutdown(end.get(), SHUT_WR);
    while (s.server.clients()) s.loop.run_once(true);
  }
}

TEST(nbd_client_refuses_a_server_that_speaks_nonsense) {
  EventLoop loop;
  nbd::Message good;
  good.u64be(nbd::hello_magic).u64be(nbd::option_magic).u16be(3);
  nbd::Message old;
  old.u64be(nbd::hello_magic).u64be(nbd::oldstyle_magic);
  nbd::Message alien = good;
  alien.u64be(nbd::option_reply_magic).u32be(8).u32be(1).u32be(~u32{0});
  for (nbd::Message* m : {&good, &old, &alien}) {
    int ends[2];
    CHECK(!::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    const Fd mine{ends[0]};
    CHECK(::write(mine.get(), m->bytes().data(), m->size()) > 0);
    ::shutdown(mine.get(), SHUT_WR);
    Value where = object({{"type", "fd"}, {"str", std::to_string(ends[1])}});
    CHECK(!run_task(loop, open_node(loop, object({{"driver", "nbd"}, {"server", where}}))));
  }
}

TEST(nbd_names_are_taken_apart) {
  const auto shown = [](std::string_view name) { return to_json(OK(options_of_filename(name))); };
  const auto inet = [](std::string host, std::string port, std::string tail) {
    return format(R"({{"server": {{"type": "inet", "host": "{}", "port": "{}"}}{}, "driver": "nbd"}})", host, port, tail);
  };
  CHECK_EQ(shown("nbd://h/"), inet("h", "10809", ""));
  CHECK_EQ(shown("nbd://h:1/x%20y"), inet("h", "1", R"(, "export": "x y")"));
  CHECK_EQ(shown("nbd://[::1]:2"), inet("::1", "2", ""));
  CHECK_EQ(shown("nbd:h:3:exportname=e"), inet("h", "3", R"(, "export": "e")"));
  CHECK_EQ(shown("nbd+unix:///e?socket=/s"), R"({"server": {"type": "unix", "path": "/s"}, "export": "e", "driver": "nbd"})");
  CHECK_EQ(shown("nbd:unix:/s"), R"({"server": {"type": "unix", "path": "/s"}, "driver": "nbd"})");
  for (const std::string_view wrong : {"nbd:h", "nbds://h", "nbd+unix:///e", "nbd://h?x=1", "nbd://%zz", "nbd:unix:", "nbd+tcp:h:1"})
    CHECK(!options_of_filename(wrong));
}

TEST(dirty_bitmap_counts_and_merges) {
  DirtyBitmap fine{"a", 1 * MiB, 512}, coarse{"b", 1 * MiB, 64 * KiB};
  fine.set(511, 2);
  fine.set(600 * KiB, 100 * KiB);
  CHECK_EQ(fine.dirty_bytes(), 1024 + 100 * KiB);
  CHECK(fine.run_at(0, 1 * MiB) == std::pair(true, u64{1024}));
  CHECK(fine.run_at(1024, 1 * MiB - 1024) == std::pair(false, 600 * KiB - 1024));
  CHECK(fine.run_at(600 * KiB, 10) == std::pair(true, u64{10}));
  coarse.add_bitmap(fine);
  CHECK(coarse.run_at(0, 1 * MiB) == std::pair(true, 64 * KiB));
  CHECK_EQ(coarse.dirty_bytes(), 64 * KiB + 128 * KiB);
  const auto bits = coarse.take_bits();
  CHECK_EQ(coarse.dirty_bytes(), u64{0});
  coarse.add_bits(bits);
  CHECK_EQ(coarse.dirty_bytes(), 192 * KiB);
}
