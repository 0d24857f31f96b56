// A bank of 8/16/32-bit registers described by a table: unlisted offsets and bits read 0, writes to them are logged as guest errors.
#pragma once

#include <span>

#include "hw/core/device.h"

namespace vmm::hw {

struct Register {
  u64 at = 0;
  std::string_view name;
  u32 reset = 0;
  u32 writable = 0;          // bits that a write sets as given
  u32 write_one_clears = 0;  // bits that a written 1 clears
  u32 write_one_sets = 0;
  u32 read_clears = 0;  // bits that a read clears
  // After the new value is stored: f(before, now) or f(). Type-erased members of the device.
  struct Hook {
    void (*call)(void* device, u32 before, u32 now) = nullptr;
    constexpr Hook() = default;
    template <auto Method>
    constexpr Hook(On<Method>) : call(&invoke<Method>) {}
    template <auto Method>
    static void invoke(void* device, u32 before, u32 now) {
      invoke_as(Method, device, before, now);
    }
    template <class C>
    static void invoke_as(void (C::*method)(u32, u32), void* device, u32 before, u32 now) {
      (static_cast<C*>(static_cast<Device*>(device))->*method)(before, now);
    }
    template <class C>
    static void invoke_as(void (C::*method)(), void* device, u32, u32) {
      (static_cast<C*>(static_cast<Device*>(device))->*method)();
    }
  } written;
  struct ReadHook {
    u32 (*call)(void* device, u32 stored) = nullptr;
    constexpr ReadHook() = default;
    template <auto Method>
    constexpr ReadHook(On<Method>) : call(&invoke<Method>) {}
    template <auto Method>
    static u32 invoke(void* device, u32 stored) {
      return invoke_as(Method, device, stored);
    }
    template <class C>
    static u32 invoke_as(u32 (C::*method)(u32), void* device, u32 stored) {
      return (static_cast<C*>(static_cast<Device*>(device))->*method)(stored);
    }
  } read;       // computes what a read gives from what is stored
  u8 size = 4;  // bytes
};

class RegisterBank {
 public:
  template <usize N>
  RegisterBank(const Register (&table)[N], Device& device) : table_(table), device_(&device), values_(N) {
    reset();
  }
  RegisterBank(std::span<const Register> table, Device& device) : table_(table), device_(&device), values_(table.size()) { reset(); }
  void reset();
  u32 get(u64 at) const;        // the register must be in the table
  void set(u64 at, u32 value);  // any bits; no hook
  // The guest's side.
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  memory::IoOps ops() { return memory::MemoryRegion::member_ops<&RegisterBank::read, &RegisterBank::write, RegisterBank>(); }
  const std::vector<u32>& values() const { return values_; }
  Result<> load_values(const std::vector<u32>& values);

 private:
  usize index_of(u64 at) const;  // table_.size() if absent
  std::span<const Register> table_;
  Device* device_;
  std::vector<u32> values_;
};

}  // namespace vmm::hw

namespace vmm {
template <>
struct Codec<hw::RegisterBank> {
  static constexpr TypeDescription description{.name = "registers", .kind = TypeDescription::Kind::list};
  static Value to_value(const hw::RegisterBank& bank) { return Codec<std::vector<u32>>::to_value(bank.values()); }
  static Result<> from_value(hw::RegisterBank& to, const Value& v, std::string_view what, const FieldLimits& limits) {
    std::vector<u32> values;
    TRY(Codec<std::vector<u32>>::from_value(values, v, what, limits));
    return to.load_values(values);
  }
};
// Time left until a timer is due, in nanoseconds; null while it is not armed.
template <>
struct Codec<Timer> {
  static constexpr TypeDescription description{.name = "timer", .kind = TypeDescription::Kind::integer};
  static Value to_value(const Timer& t) { return t.armed() ? Value{(t.due() - t.now()).count()} : Value{}; }
  static Result<> from_value(Timer& to, const Value& v, std::string_view what, const FieldLimits&) {
    if (v.is_null()) return to.cancel(), Result<>{};
    to.arm_in(Nanoseconds{TRY(v.as_i64(what))});
    return {};
  }
};
}  // namespace vmm
