// Register banks described by a table.
#include "hw/core/register_bank.h"

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

void RegisterBank::reset() {
  for (usize i = 0; i < table_.size(); i++) values_[i] = table_[i].reset;
}

usize RegisterBank::index_of(u64 at) const {
  for (usize i = 0; i < table_.size(); i++)
    if (table_[i].at == at) return i;
  return table_.size();
}

u32 RegisterBank::get(u64 at) const {
  const usize i = index_of(at);
  ASSERT(i < table_.size());
  return values_[i];
}

void RegisterBank::set(u64 at, u32 value) {
  const usize i = index_of(at);
  ASSERT(i < table_.size());
  values_[i] = value;
}

u64 RegisterBank::read(u64 offset, unsigned size) {
  const usize i = index_of(offset);
  if (i == table_.size()) {
    guest_error(device_->type_info().name, "read of unknown register {:#x}", offset);
    return 0;
  }
  const Register& r = table_[i];
  const u32 value = r.read.call ? r.read.call(device_, values_[i]) : values_[i];
  values_[i] &= ~r.read_clears;
  return value & mask_of_size(std::min<unsigned>(size, r.size));
}

void RegisterBank::write(u64 offset, unsigned size, u64 value) {
  const usize i = index_of(offset);
  if (i == table_.size()) {
    guest_error(device_->type_info().name, "write of {:#x} to unknown register {:#x}", value, offset);
    return;
  }
  const Register& r = table_[i];
  const u32 lanes = static_cast<u32>(mask_of_size(std::min<unsigned>(size, r.size)));
  const u32 v = static_cast<u32>(value) & lanes;
  const u32 before = values_[i];
  if (v & ~(r.writable | r.write_one_clears | r.write_one_sets) && !r.written.call)
    guest_error(device_->type_info().name, "write of {:#x} to read-only bits of {}", v, r.name);
  u32 now = (before & ~(r.writable & lanes)) | (v & r.writable);
  now = (now & ~(v & r.write_one_clears)) | (v & r.write_one_sets);
  values_[i] = now;
  if (r.written.call) r.written.call(device_, before, now);
}

Result<> RegisterBank::load_values(const std::vector<u32>& values) {
  if (values.size() != values_.size()) return fail("{} registers expected, not {}", values_.size(), values.size());
  values_ = values;
  return {};
}

}  // namespace vmm::hw
