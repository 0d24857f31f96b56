// The text that describes a VMware disk. Source: "Virtual Disk Format 5.0" (VMware technical note), "The Descriptor File".
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::block::vmdk {

constexpr u64 most_descriptor_bytes = 1 << 20, most_extents = 4096;

struct ExtentLine {
  enum class Kind : u8 { flat, sparse, zero } kind = Kind::flat;
  bool writable = true;
  u64 sectors = 0, offset = 0;  // of 512 bytes; where it begins in its file
  std::string file;
};
struct Descriptor {
  std::string type;  // createType
  std::vector<ExtentLine> extents;
};

bool is_descriptor(std::span<const u8> head);
// The value of `key=`, without quotes.
std::string value_of(std::string_view text, std::string_view key);
// An extent's file lies beside the descriptor or below: other names are refused.
Result<Descriptor> parse_descriptor(std::string_view text);

}  // namespace vmm::block::vmdk
