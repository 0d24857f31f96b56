// Options for making an image.
#pragma once

#include "block/core/node.h"
#include "block/format/qcow2_layout.h"

namespace vmm::block::qcow2 {

struct CreateFields {
  std::optional<std::string> backing_file, backing_fmt, compat, compression_type, data_file;
  std::optional<Bytes64> cluster_size;
  std::optional<bool> data_file_raw, extended_l2, lazy_refcounts;
  std::optional<Preallocation> preallocation;
  std::optional<u32> refcount_bits;
};
// What the options mean, or why they cannot be; places of tables are left open.
Result<Header> header_of(const CreateFields& options, u64 length_bytes);

}  // namespace vmm::block::qcow2
