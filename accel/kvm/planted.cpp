#include "accel/kvm/planted.h"

namespace vmm::kvm {
namespace {
constexpr u8 int3 = 0xcc;
}

bool Planted::plant(memory::AddressSpace& memory, GuestPhys at) {
  const Lock lock{mutex_};
  if (const auto known = places_.find(at.value); known != places_.end()) return known->second.vcpus++, true;
  u8 byte = 0;
  if (!memory.page(at).host || !memory.read(at, {&byte, 1}) || !memory.write_rom(at, {&int3, 1})) return false;
  places_[at.value] = {.byte = byte, .vcpus = 1};
  return true;
}

void Planted::renew(memory::AddressSpace& memory, GuestPhys at) {
  const Lock lock{mutex_};
  const auto known = places_.find(at.value);
  u8 byte = 0;
  if (known == places_.end() || !memory.read(at, {&byte, 1}) || byte == int3) return;
  if (memory.write_rom(at, {&int3, 1})) known->second.byte = byte;
}

void Planted::lift(memory::AddressSpace& memory, GuestPhys at) {
  const Lock lock{mutex_};
  const auto known = places_.find(at.value);
  if (known == places_.end() || --known->second.vcpus) return;
  u8 byte = 0;
  if (memory.read(at, {&byte, 1}) && byte == int3) memory.write_rom(at, {&known->second.byte, 1});
  places_.erase(known);
}

}  // namespace vmm::kvm
