// The form of a stream: what was written is read back; whatever is flipped, cut or put in another order is refused.
#include "migration/stream.h"

#include <zlib.h>

#include <cstring>

#include "src/value/cbor.h"
#include "tests/unit/migration/memory.h"
#include "tests/unit/test.h"

namespace vmm::test {
namespace {

using migration::Part;

Memory sample() {
  Memory m;
  migration::Writer writer{m};
  OK(writer.head());
  OK(writer.described(Part::machine, Value::object().set("type", "pc-machine")));
  OK(writer.part(Part::pages, std::vector<u8>(300, 7)));
  OK(writer.described(Part::section, Value::object().set("name", "cpu/0").set("state", 5)));
  OK(writer.part(Part::end, std::span<const u8>{}));
  return m;
}
// How many parts come before the end, or the first error.
Result<unsigned> read_all(Memory m) {
  migration::Reader reader{m};
  TRY(reader.head());
  for (unsigned n = 0;; n++)
    if (TRY(reader.next()).kind == Part::end) return n;
}

}  // namespace

TEST(a_stream_reads_back) { CHECK(OK(read_all(sample())) == 3); }

TEST(a_stream_with_any_bit_flipped_is_refused) {
  const Memory whole = sample();
  for (usize i = 0; i < whole.bytes.size(); i++) {
    if (i >= 12 && i < 16) continue;  // of the head, reserved
    for (const u8 bit : {1, 16, 128}) {
      Memory broken = whole;
      broken.bytes[i] ^= bit;
      CHECK(!read_all(broken));
    }
  }
}

TEST(a_stream_that_is_cut_anywhere_is_refused) {
  const Memory whole = sample();
  for (usize n = 0; n < whole.bytes.size(); n++) {
    Memory cut = whole;
    cut.bytes.resize(n);
    const auto read = read_all(cut);
    CHECK(!read && !read.error().message.empty());
  }
}

TEST(parts_of_a_stream_keep_their_order) {
  const Memory whole = sample();
  Memory twice = whole;  // the first part again
  Memory first;
  migration::Writer writer{first};
  OK(writer.head());
  OK(writer.described(Part::machine, Value::object().set("type", "pc-machine")));
  twice.bytes.insert(twice.bytes.begin() + static_cast<std::ptrdiff_t>(first.bytes.size()), first.bytes.begin() + 16, first.bytes.end());
  const auto read = read_all(twice);
  CHECK(!read && read.error().message.find("follows where") != std::string::npos);
}

TEST(a_stream_may_not_ask_for_memory_without_bound) {
  Memory m;
  migration::Writer writer{m};
  OK(writer.head());
  OK(writer.part(Part::section, std::vector<u8>(8)));
  // A head that is right in itself, with a length beyond all sense, is refused by its sum or by its length.
  for (usize i = 24; i < 32; i++) {
    Memory broken = m;
    broken.bytes[i] = 0xff;
    CHECK(!read_all(broken));
  }
}

TEST(the_sum_of_a_part_is_that_of_zlib) {
  std::vector<u8> bytes(5000);
  u32 x = 1;
  for (u8& b : bytes) x = x * 1664525 + 1013904223, b = static_cast<u8>(x >> 24);
  for (usize at = 0; at < 3; at++)
    for (usize n = 0; n < 700; n++) CHECK(migration::sum_of({&bytes[at], n}) == ::crc32_z(0, &bytes[at], n));
  CHECK(migration::sum_of(bytes) == ::crc32_z(0, bytes.data(), bytes.size()));
}

}  // namespace vmm::test
