// A file in memory that remembers every write and flush, so that a test can cut the power at any point: what was flushed is there, of the
// rest any 512-byte sector may or may not be (safety.md §3 item 4).
#pragma once

#include <map>
#include <random>

#include "block/core/node.h"

namespace vmm::test {

struct Disk {
  struct Op {
    enum class Kind : u8 { write, truncate, flush } kind;
    u64 offset = 0;
    std::vector<u8> bytes;
  };
  std::vector<u8> bytes;
  std::vector<Op> log;
  bool recording = false;
  u64 fail_after = ~u64{0};  // writes until every one fails with EIO

  // The disk as it may be found after a cut before operation `cut`, which began from `start`.
  static std::vector<u8> after_cut(std::vector<u8> start, const std::vector<Op>& log, usize cut, std::mt19937_64& random) {
    usize flushed = 0;
    for (usize i = 0; i < cut; i++)
      if (log[i].kind == Op::Kind::flush) flushed = i;
    const u64 chance = random() % 101;
    for (usize i = 0; i < cut; i++) {
      const Op& op = log[i];
      if (op.kind == Op::Kind::truncate) start.resize(op.offset);
      if (op.kind != Op::Kind::write) continue;
      if (start.size() < op.offset + op.bytes.size()) start.resize(op.offset + op.bytes.size());
      for (u64 at = 0; at < op.bytes.size();) {
        const u64 n = std::min<u64>(512 - (op.offset + at) % 512, op.bytes.size() - at);
        if (i < flushed || random() % 100 < chance) std::copy_n(op.bytes.begin() + i64(at), n, start.begin() + i64(op.offset + at));
        at += n;
      }
    }
    return start;
  }
};
// Disks by name; the driver "recording" opens them.
std::map<std::string, Disk>& disks();

}  // namespace vmm::test
