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

namespace vmm {
template <>
inline constexpr std::array fields<block::qcow2::CreateFields> = {
    field<&block::qcow2::CreateFields::backing_file>("backing_file", "File name of a base image"),
    field<&block::qcow2::CreateFields::backing_fmt>("backing_fmt", "Image format of the base image"),
    field<&block::qcow2::CreateFields::cluster_size>("cluster_size", "qcow2 cluster size"),
    field<&block::qcow2::CreateFields::compat>("compat", "Compatibility level (v2 [0.10] or v3 [1.1])"),
    field<&block::qcow2::CreateFields::compression_type>("compression_type", "Compression method used for image cluster compression"),
    field<&block::qcow2::CreateFields::data_file>("data_file", "File name of an external data file"),
    field<&block::qcow2::CreateFields::data_file_raw>("data_file_raw", "The external data file must stay valid as a raw image"),
    field<&block::qcow2::CreateFields::extended_l2>("extended_l2", "Extended L2 tables"),
    field<&block::qcow2::CreateFields::lazy_refcounts>("lazy_refcounts", "Postpone refcount updates"),
    field<&block::qcow2::CreateFields::preallocation>("preallocation", "Preallocation mode (allowed values: off, metadata, falloc, full)"),
    field<&block::qcow2::CreateFields::refcount_bits>("refcount_bits", "Width of a reference count entry in bits"),
};
}  // namespace vmm
