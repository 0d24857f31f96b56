// The log of a vhdx image: an entry made by hand is carried out when the image is opened for writing, and only if all of it is sound.
#include "block/format/vhdx_log.h"
#include "src/base/bits.h"
#include "tests/unit/block/format/recording_file.h"
#include "tests/unit/test.h"

namespace vmm::block {
namespace {
using test::disks;
using vhdx::crc32c;

// One entry at the log's beginning: `at` gets 4096 bytes of `value`, and the sector behind it zeros.
std::vector<u8> log_entry(std::span<const u8, 16> id, u64 sequence, u64 at, u8 value, u64 file_bytes) {
  std::vector<u8> e(8192);
  std::memcpy(e.data(), "loge", 4);
  store_le(&e[8], u32{8192}), store_le(&e[12], u32{0}), store_le(&e[16], sequence), store_le(&e[24], u32{2});
  std::ranges::copy(id, e.begin() + 32);
  store_le(&e[48], file_bytes), store_le(&e[56], file_bytes);
  u8* d = &e[64];
  std::memcpy(d, "desc", 4), std::memset(d + 4, value, 12);
  store_le(d + 16, at), store_le(d + 24, sequence);
  d += 32;
  std::memcpy(d, "zero", 4), store_le(d + 8, u64{4096}), store_le(d + 16, at + 4096), store_le(d + 24, sequence);
  u8* s = &e[4096];
  std::memcpy(s, "data", 4), store_le(s + 4, u32(sequence >> 32)), std::memset(s + 8, value, 4084), store_le(s + 4092, u32(sequence));
  store_le(&e[4], crc32c(e, 4));
  return e;
}

struct Bench {
  EventLoop loop;
  Result<NodeRef> open(bool read_only) {
    Value tree = Value::object();
    tree.set("driver", Value{"vhdx"}).set("read-only", read_only);
    tree.set("file", Value{Value::Members{{"driver", Value{"recording"}}, {"filename", Value{"disk"}}}});
    return run_task(loop, open_node(loop, std::move(tree)));
  }
  // An image whose log asks for 4096 times 0x5a at `at`.
  void make(u64 at) {
    OK(run_task(loop, create_image(loop, "recording:disk", "vhdx", {.length_bytes = 16 * MiB})));
    auto& bytes = disks()["disk"].bytes;
    std::array<u8, 16> id;
    id.fill(0x77);
    for (const u64 head : {64 * KiB, 128 * KiB}) {
      std::ranges::copy(id, bytes.begin() + i64(head) + 48);
      const std::span<u8> header = std::span{bytes}.subspan(head, 4096);
      store_le(&header[4], crc32c(header, 4));
    }
    const u64 log = load_le<u64>(&bytes[64 * KiB + 72]);
    const auto entry = log_entry(id, 7, at, 0x5a, bytes.size());
    std::ranges::copy(entry, bytes.begin() + i64(log));
  }
};
}  // namespace

TEST(vhdx_carries_out_what_its_log_promises) {
  Bench b;
  // Behind the metadata items, where nothing is.
  b.make(2 * MiB + 512 * KiB);
  auto& bytes = disks()["disk"].bytes;
  bytes[2 * MiB + 516 * KiB] = 1;
  const std::vector<u8> before = bytes;
  CHECK(!b.open(true));
  CHECK(bytes == before);
  NodeRef node = OK(b.open(false));
  OK(run_task(b.loop, release(std::move(node))));
  for (u64 i = 0; i < 4096; i++) CHECK(bytes[2 * MiB + 512 * KiB + i] == 0x5a && bytes[2 * MiB + 516 * KiB + i] == 0);
  node = OK(b.open(true));
  OK(run_task(b.loop, release(std::move(node))));
}

TEST(vhdx_refuses_a_log_that_is_not_sound) {
  Bench b;
  for (const u64 damage : {0, 5, 70, 100, 4100, 8000}) {
    b.make(2 * MiB + 512 * KiB);
    auto& bytes = disks()["disk"].bytes;
    bytes[load_le<u64>(&bytes[64 * KiB + 72]) + damage] ^= 0x40;
    const std::vector<u8> before = bytes;
    CHECK(!b.open(false));
    CHECK(bytes == before);
  }
  // A sound entry that writes past the end that it names itself.
  b.make(u64{1} << 40);
  CHECK(!b.open(false));
}

}  // namespace vmm::block
