#include "hw/storage/disk.h"

#include <bit>

namespace vmm::hw {

Result<> DiskProperties::settle(u32 most_cylinders, u32 most_heads, u32 most_sectors) {
  if (!drive) return fail("drive property not set");
  const auto block_size = [](std::string_view name, Bytes64& size, u64 by_default) -> Result<> {
    if (!size.value) size.value = by_default;
    if (size.value < 512 || size.value > 2 * MiB || !std::has_single_bit(size.value))
      return fail("'{}' takes a power of two between 512 and 2097152, not {}", name, size.value);
    return {};
  };
  TRY(block_size("logical_block_size", logical_block, 512));
  TRY(block_size("physical_block_size", physical_block, logical_block.value));
  if (logical_block > physical_block) return fail("logical_block_size > physical_block_size not supported");
  const auto multiple = [&](std::string_view name, u64 size, u64 most) -> Result<> {
    if (size % logical_block.value) return fail("{} must be a multiple of logical_block_size", name);
    if (size / logical_block.value > most) return fail("{} must not be more than {} logical blocks", name, most);
    return {};
  };
  TRY(multiple("min_io_size", min_io, 0xffff));
  TRY(multiple("opt_io_size", opt_io, 0xffff'ffff));
  if (discard_granularity.value != ~u32{0}) TRY(multiple("discard_granularity", discard_granularity, 0xffff'ffff));
  if (cylinders || heads || sectors) {
    if (!cylinders || cylinders > most_cylinders) return fail("cyls must be between 1 and {}", most_cylinders);
    if (!heads || heads > most_heads) return fail("heads must be between 1 and {}", most_heads);
    if (!sectors || sectors > most_sectors) return fail("secs must be between 1 and {}", most_sectors);
  } else if (drive->length_bytes()) {
    // A guess, as BIOSes make it: 16 heads of 63 sectors.
    heads = std::min(16u, most_heads), sectors = std::min(63u, most_sectors);
    cylinders = static_cast<u32>(std::clamp<u64>(drive->length_bytes() / 512 / (heads * sectors), 2, std::min(16383u, most_cylinders)));
  }
  if (legacy_cylinders || legacy_heads || legacy_sectors)
    if (!legacy_cylinders || !legacy_heads || !legacy_sectors) return fail("lcyls, lheads and lsecs must be given together");
  block::ErrorPolicy read = rerror, write = werror;
  if (read == block::ErrorPolicy::automatic) read = drive->options().read_error;
  if (write == block::ErrorPolicy::automatic) write = drive->options().write_error;
  drive->set_error_policies(read, write);
  if (write_cache != OnOffAuto::automatic) drive->set_write_cache(write_cache == OnOffAuto::on);
  return {};
}

}  // namespace vmm::hw
