// Images of the formats beside qcow2, each byte of whose tables may be hostile: an image of each is made, bent by the input, opened, read,
// mapped and written. A vmdk descriptor and a vhdx log are read by their parsers alone, too.
//
// An input is a list of bends: 3 bytes of place in units of 4 bytes, 1 byte of length, that many bytes. The last byte names the format;
// sums of a vhdx image are made right again afterwards, so that what they guard is reached.
#include <algorithm>

#include "block/core/node.h"
#include "block/format/vhdx_log.h"
#include "block/format/vmdk_descriptor.h"
#include "src/base/assert.h"
#include "src/base/bits.h"
#include "tests/fuzz/support/memory_file.h"

namespace vmm::block {
namespace {

using fuzz::contents;

constexpr const char* formats[] = {"vdi", "vpc", "vmdk", "vhdx"};

const std::vector<u8>& fresh(EventLoop& loop, unsigned which) {
  static std::vector<u8> made[std::size(formats)];
  if (made[which].empty()) {
    Value options = Value::object();
    if (which == 3) options.set("block_size", Value{"1M"});
    auto done = run_task(loop, create_image(loop, "fuzz-memory:x", formats[which], {.length_bytes = 9 * MiB, .options = options}));
    ASSERT(done);
    made[which] = contents;
  }
  return made[which];
}

void mend_sums() {
  const auto mend = [](u64 at, u64 bytes) {
    if (contents.size() >= at + bytes) store_le(&contents[at + 4], vhdx::crc32c(std::span{contents}.subspan(at, bytes), 4));
  };
  for (const u64 at : {64 * KiB, 128 * KiB}) mend(at, 4096);
  for (const u64 at : {192 * KiB, 256 * KiB}) mend(at, 64 * KiB);
  // Entries of a log of one MiB, where there are any.
  for (u64 at = MiB; at + 4096 <= std::min<u64>(2 * MiB, contents.size()); at += 4096)
    if (std::memcmp(&contents[at], "loge", 4) == 0)
      if (const u32 bytes = load_le<u32>(&contents[at + 8]); bytes >= 64 && bytes <= 64 * KiB) mend(at, bytes);
}

void use(EventLoop& loop, unsigned which, bool writes) {
  Value tree = Value::object();
  tree.set("driver", Value{formats[which]}).set("read-only", !writes);
  tree.set("file", Value{Value::Members{{"driver", Value{"fuzz-memory"}}}});
  auto node = run_task(loop, open_node(loop, std::move(tree)));
  if (!node) return;
  auto edge = Edge::make(*node, "root", "the fuzzer", Role::user, writes ? permit_read | permit_write : permit_read, permit_all);
  if (edge) {
    const u64 length = (*edge)->length_bytes();
    std::vector<u8> buffer(20'000, 0x5a);
    for (const u64 at : {u64{0}, length / 2, length > buffer.size() ? length - buffer.size() : 0}) {
      if (at >= length) continue;
      const auto e = run_task(loop, (*edge)->map(at, length - at));
      if (e) ASSERT(e->length > 0 && e->length <= length - at);
      const u64 n = std::min<u64>(buffer.size(), length - at);
      (void)run_task(loop, (*edge)->read(at, IoVector{buffer.data(), n}));
      if (writes) (void)run_task(loop, (*edge)->write(at / 512 * 512, IoVector{buffer.data(), std::min<u64>(n, 1024) / 512 * 512}));
    }
    (void)run_task(loop, (*edge)->flush());
    edge = fail("");
  }
  (void)run_task(loop, release(std::move(*node)));
}

}  // namespace
}  // namespace vmm::block

extern "C" int LLVMFuzzerTestOneInput(const vmm::u8* data, size_t size) {
  using namespace vmm;
  using namespace vmm::block;
  static EventLoop loop;
  if (!size) return 0;
  const unsigned which = data[size - 1] % 5;
  const std::span<const u8> bends{data, size - 1};
  if (which == 4) {
    (void)vmdk::parse_descriptor({reinterpret_cast<const char*>(bends.data()), bends.size()});
    return 0;
  }
  const auto bend = [&] {
    contents = fresh(loop, which);
    for (usize i = 0; i + 4 <= bends.size();) {
      const u64 at = (u64{bends[i]} | u64{bends[i + 1]} << 8 | u64{bends[i + 2]} << 16) * 4,
                n = std::min<u64>(bends[i + 3], bends.size() - i - 4);
      for (u64 k = 0; k < n && at + k < contents.size(); k++) contents[at + k] = bends[i + 4 + k];
      i += 4 + n;
    }
    if (which == 3) mend_sums();
  };
  bend();
  use(loop, which, false);
  bend();
  use(loop, which, true);
  return 0;
}
