// Guest memory that users make by -object: where it comes from, whether it is shared, and its host policy. Properties as QEMU's
// memory-backend-ram, -file and -memfd have them.
#pragma once

#include "src/memory/memory.h"
#include "src/object/object.h"

namespace vmm::vm {

enum class HostMemoryPolicy : u8 { default_, preferred, bind, interleave };

class MemoryBackend : public Object {
 public:
  static const TypeInfo type;
  ~MemoryBackend() override;
  Result<> complete() override;  // makes the block
  Result<> may_remove() const override;
  bool properties_frozen() const override { return bool(block_); }

  u64 size_bytes() const { return size_; }
  const std::shared_ptr<memory::RamBlock>& block() const { return block_; }
  // One user at a time: the machine's RAM, a NUMA node, a DIMM, ivshmem.
  Result<> take(std::string_view user);
  void give_back() { user_.clear(); }
  bool in_use() const { return !user_.empty(); }
  std::vector<u16> host_nodes() const;
  // Defaults that -mem-prealloc and -machine mem-merge=, dump-guest-core= give; before complete().
  void set_defaults(bool prealloc, bool merge, bool dump) { prealloc_ = prealloc_ || prealloc, merge_ = merge, dump_ = dump; }

 protected:
  virtual Result<> fill_in(memory::RamBlock::Options&) { return {}; }

  Bytes64 size_{};
  bool share_ = false;
  std::shared_ptr<memory::RamBlock> block_;

 private:
  Result<> set_size(const Bytes64& size);
  Bytes64 size() const { return size_; }
  Result<> bind_to_nodes();
  Result<std::vector<u64>> node_mask() const;
  static const Field properties[];
  bool merge_ = true, dump_ = true, prealloc_ = false, reserve_ = true, canonical_name_ = false;
  u32 prealloc_threads_ = 1;
  std::string prealloc_context_;
  Value host_nodes_ = Value::list();
  HostMemoryPolicy policy_ = HostMemoryPolicy::default_;
  std::string user_;
};

}  // namespace vmm::vm

namespace vmm {
template <>
inline constexpr std::array enum_names<vm::HostMemoryPolicy> = {
    EnumNameOf{vm::HostMemoryPolicy::default_, std::string_view{"default"}},
    EnumNameOf{vm::HostMemoryPolicy::preferred, std::string_view{"preferred"}},
    EnumNameOf{vm::HostMemoryPolicy::bind, std::string_view{"bind"}},
    EnumNameOf{vm::HostMemoryPolicy::interleave, std::string_view{"interleave"}}};
}  // namespace vmm
