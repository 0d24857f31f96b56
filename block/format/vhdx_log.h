// The log of a vhdx image: changes of metadata that were promised and may not have been carried out. Source: [MS-VHDX] §2.3.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::block::vhdx {

using Guid = std::array<u8, 16>;

// CRC-32C over all but the four bytes at `skip_at`, which count as zeros.
u32 crc32c(std::span<const u8> bytes, usize skip_at);

// One change: 4096 bytes, or zeros.
struct LogWrite {
  u64 at = 0, zeros = 0;  // zeros: so many, `bytes` is empty
  std::vector<u8> bytes;
};
struct Replay {
  std::vector<LogWrite> writes;  // in order
  u64 file_bytes = 0;            // the file is at least this long afterwards
};
// What the log (all of its bytes) asks for. An error if its id says that there is something and nothing sound is found.
Result<Replay> read_log(std::span<const u8> log, const Guid& id, u64 file_bytes);

}  // namespace vmm::block::vhdx
