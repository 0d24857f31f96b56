// A server's bytes against the driver: its handshake, then reads, block status, writes and zeros at once. Cookies count from 1.
#include <sys/socket.h>

#include "block/core/node.h"
#include "block/nbd/wire.h"

namespace {
using namespace vmm;
using namespace vmm::block;
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  static EventLoop& loop = *new EventLoop;
  if (size < 1 || size > 64 * KiB) return 0;
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends)) return 0;
  const Fd mine{ends[0]};
  std::vector<u8> bytes;
  if (data[0] & 1) {
    // A good handshake: structured replies unless a bit is set, base:allocation as 1, 1 MiB.
    nbd::Message m;
    m.u64be(nbd::hello_magic).u64be(nbd::option_magic).u16be(3);
    m.u64be(nbd::option_reply_magic).u32be(8).u32be(data[0] & 2 ? 0x8000'0001 : 1).u32be(0);
    if (!(data[0] & 2)) {
      m.u64be(nbd::option_reply_magic).u32be(10).u32be(4).u32be(19).u32be(1).text("base:allocation");
      m.u64be(nbd::option_reply_magic).u32be(10).u32be(1).u32be(0);
    }
    m.u64be(nbd::option_reply_magic).u32be(7).u32be(3).u32be(12).u16be(0).u64be(1 * MiB).u16be(0xffd);
    m.u64be(nbd::option_reply_magic).u32be(7).u32be(1).u32be(0);
    bytes.assign(m.bytes().begin(), m.bytes().end());
  }
  bytes.insert(bytes.end(), data + 1, data + size);
  if (::send(mine.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) return 0;
  ::shutdown(mine.get(), SHUT_WR);
  Value where = Value::object(), tree = Value::object();
  where.set("type", "fd").set("str", std::to_string(ends[1]));
  tree.set("driver", "nbd").set("server", std::move(where)).set("auto-read-only", true);
  auto node = run_task(loop, open_node(loop, std::move(tree)));
  if (!node) return 0;
  {
    const u8 needs = (*node)->read_only() ? permit_read : permit_read | permit_write;
    auto edge = *Edge::make(*node, "root", "fuzz", Role::user, needs, permit_all);
    const u64 length = edge->length_bytes();
    static u8 memory[5][8192];
    u32 left = 0;
    const auto ended = [&](auto) { left--; };
    const u64 n = std::min<u64>(length, 8192);
    if (n) {
      left = 3;
      edge->read(0, IoVector{memory[0], n}).start(ended);
      edge->read(length - n, IoVector{memory[1], n}).start(ended);
      edge->map(0, length).start([&](Result<Extent> e) {
        if (e && (!e->length || e->length > length)) __builtin_trap();
        left--;
      });
      if (needs & permit_write) {
        left += 4;
        edge->write(0, IoVector{memory[2], n}).start(ended);
        edge->zero(0, n, {.may_unmap = true}).start(ended);
        edge->discard(0, n).start(ended);
        edge->flush().start(ended);
      }
    }
    while (left) {
      static u8 away[1 << 16];
      while (::recv(mine.get(), away, sizeof away, MSG_DONTWAIT) > 0) {
      }
      loop.run_once(true);
    }
  }
  (void)run_task(loop, release(std::move(*node)));
  return 0;
}
