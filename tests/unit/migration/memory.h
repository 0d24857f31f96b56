// A stream of state in memory: what a sink has taken, a source gives back.
#pragma once

#include <algorithm>
#include <vector>

#include "migration/stream.h"

namespace vmm::test {

class Memory final : public migration::Sink, public migration::Source {
 public:
  std::vector<u8> bytes;
  usize at = 0;
  Result<> write(std::span<const u8> b) override {
    bytes.insert(bytes.end(), b.begin(), b.end());
    return {};
  }
  Result<> read(std::span<u8> b) override {
    if (b.size() > bytes.size() - at) return fail("the stream ends too early");
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), b.size(), b.begin());
    at += b.size();
    return {};
  }
};

}  // namespace vmm::test
