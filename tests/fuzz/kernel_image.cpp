// Kernel files of every kind: no input crashes a parser or makes it place bytes outside the memory it was told of.
#include "hw/firmware/kernel_image.h"
#include "src/base/assert.h"

extern "C" int LLVMFuzzerTestOneInput(const vmm::u8* data, size_t size) {
  constexpr vmm::u64 ram = 4 * vmm::MiB;
  if (const auto image = vmm::hw::parse_kernel({data, size}, ram))
    for (const auto& s : image->segments) ASSERT(vmm::u64{s.address} + s.bytes.size() <= ram);
  return 0;
}
