#include "tests/fuzz/support/memory_file.h"

#include <algorithm>

namespace vmm::fuzz {

std::vector<u8> contents;

namespace {
using namespace block;

constexpr u64 most_bytes = 64 * MiB;  // what an image may grow to while we write

class Memory final : public BlockNode {
 public:
  Task<> open(Value) override { co_return Result<>{}; }
  Task<> read(u64 offset, IoVector into) override {
    std::vector<u8> out(into.size());
    if (offset < contents.size())
      std::copy_n(contents.begin() + i64(offset), std::min<u64>(out.size(), contents.size() - offset), out.begin());
    into.copy_in(out);
    co_return Result<>{};
  }
  Task<> write(u64 offset, IoVector from, WriteFlags) override {
    if (offset > most_bytes || from.size() > most_bytes - offset) co_return fail_os(ENOSPC);
    if (contents.size() < offset + from.size()) contents.resize(offset + from.size());
    from.copy_out(std::span{contents}.subspan(offset));
    co_return Result<>{};
  }
  Task<> flush() override { co_return Result<>{}; }
  Task<> zero(u64 offset, u64 length, ZeroFlags) override {
    if (offset > most_bytes || length > most_bytes - offset) co_return fail_os(ENOSPC);
    if (contents.size() < offset + length) contents.resize(offset + length);
    std::fill_n(contents.begin() + i64(offset), length, u8{0});
    co_return Result<>{};
  }
  Task<> truncate(u64 length, Preallocation) override {
    if (length > most_bytes) co_return fail_os(ENOSPC);
    contents.resize(length);
    co_return Result<>{};
  }
  u64 length_bytes() const override { return contents.size(); }
  bool grows() const override { return true; }
};
constexpr std::string_view prefixes[] = {"fuzz-memory"};
RegisteredDriver registered{{.name = "fuzz-memory",
                             .doc = "A file in memory.",
                             .kind = BlockDriver::Kind::protocol,
                             .make = make_node<Memory>,
                             .prefixes = prefixes,
                             .create_file = [](EventLoop&, std::string, CreateOptions) -> Task<> {
                               contents.clear();
                               co_return Result<>{};
                             }}};
}  // namespace
}  // namespace vmm::fuzz
