// JSON text: what parses prints, and what is printed parses to the same value.
#include "src/base/assert.h"
#include "src/value/value.h"

extern "C" int LLVMFuzzerTestOneInput(const vmm::u8* data, size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  if (const auto value = vmm::parse_json(text)) {
    const auto again = vmm::parse_json(vmm::to_json(*value));
    ASSERT(again.has_value());
    ASSERT(vmm::to_json(*again) == vmm::to_json(*value));
  }
  vmm::JsonStream stream;
  stream.feed(text, [](const auto&) {});
  return 0;
}
