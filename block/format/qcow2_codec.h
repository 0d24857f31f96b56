// Compressed clusters: raw deflate with a 4 KiB window, or one Zstandard frame. Functions of bytes; any thread.
#pragma once

#include "block/format/qcow2_layout.h"

namespace vmm::block::qcow2 {

// Exactly `bytes` of plain data, or an error; what follows the compressed data in `packed` is ignored.
Result<std::vector<u8>> unpack(Compression how, std::span<const u8> packed, u64 bytes);
// Empty if the data does not get smaller.
Result<std::vector<u8>> pack(Compression how, std::span<const u8> plain);

}  // namespace vmm::block::qcow2
