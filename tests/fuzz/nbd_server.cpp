// A client's bytes, in pieces, against a server of one export with a dirty bitmap; a bit says whether the handshake is done already.
#include <sys/socket.h>

#include "block/core/dirty_bitmap.h"
#include "block/export/server.h"
#include "block/nbd/wire.h"
#include "src/event/async.h"

namespace {
using namespace vmm;
using namespace vmm::block;

struct World {
  EventLoop loop;
  NodeRef disk;
  nbd::Server server{loop, {}};
  World() {
    Value tree = Value::object();
    tree.set("driver", "null-co").set("size", 1 * MiB).set("read-zeroes", true);
    disk = *run_task(loop, open_node(loop, std::move(tree)));
    (void)add_bitmap(*disk, std::make_shared<DirtyBitmap>("b", 1 * MiB, 4096));
    (void)server.add(*Export::make(
        disk, {.id = "e", .name = "x", .description = "a disk", .writable = true, .allocation_depth = true, .bitmaps = {"b"}}));
  }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  static World& world = *new World;
  if (size < 2 || size > 64 * KiB) return 0;
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends)) return 0;
  const Fd mine{ends[0]};
  world.server.adopt(Fd{ends[1]});
  const usize piece = data[0] % 250 + 1;
  std::vector<u8> bytes;
  if (data[1] & 1) {
    nbd::Message m;
    m.u32be(1).u64be(nbd::option_magic).u32be(8).u32be(0);
    m.u64be(nbd::option_magic).u32be(10).u32be(4 + 1 + 4 + 4 + 15 + 4 + 19).string("x").u32be(2).string("base:allocation");
    m.string("qemu:dirty-bitmap:b").u64be(nbd::option_magic).u32be(7).u32be(4 + 1 + 2).string("x").u16be(0);
    bytes.assign(m.bytes().begin(), m.bytes().end());
  }
  bytes.insert(bytes.end(), data + 2, data + size);
  static u8 away[1 << 16];
  usize at = 0;
  while (world.server.clients()) {
    if (at < bytes.size()) {
      const ssize_t n = ::send(mine.get(), &bytes[at], std::min(piece * (at < 100 ? 100 : 1), bytes.size() - at), MSG_NOSIGNAL);
      if (n > 0) at += usize(n);
      if (n < 0 && errno != EAGAIN) at = bytes.size();
    }
    if (at == bytes.size()) ::shutdown(mine.get(), SHUT_WR);  // also of a client that says nothing: the server would wait its ten seconds
    while (world.loop.run_once(false)) {
    }
    while (::recv(mine.get(), away, sizeof away, MSG_DONTWAIT) > 0) {
    }
  }
  return 0;
}
