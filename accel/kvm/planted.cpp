#include "accel/kvm/planted.h"

namespace vmm::kvm {
namespace {
constexpr u8 int3 = 0xcc;
}

bool Planted::plant(memory::AddressSpace& memory, GuestPhys at) {
  const Lock lock{mutex_};
  if (const auto known = places_.find(at.value); known != places_.end()) return known->second.vcpus++, true;
  const memory::PageInfo page = memory.page(at);
  u8 byte = 0;
  if (!page.host || !memory.read(at, {&byte, 1}) || !memory.write_rom(at, {&int3, 1})) return false;
  places_[at.value] = {.byte = byte, .vcpus = 1, .page = page.page};
  return true;
}

// By its page number: memory that has left meanwhile has none.
void Planted::give_back(const Place& place, GuestPhys at) {
  memory::RamBlock* const block = memory::block_of(place.page);
  if (!block) return;
  const u64 offset = u64{place.page - block->first_page()} * memory::page_bytes + at.value % memory::page_bytes;
  const std::atomic_ref byte{block->host()[offset]};
  if (byte.load(std::memory_order_relaxed) != int3) return;
  byte.store(place.byte, std::memory_order_relaxed);
  block->mark_dirty(offset, 1);
}

void Planted::renew(memory::AddressSpace& memory, GuestPhys at) {
  const Lock lock{mutex_};
  const auto known = places_.find(at.value);
  u8 byte = 0;
  if (known == places_.end()) return;
  const memory::PageInfo page = memory.page(at);
  if (!page.host) return;
  if (page.page != known->second.page) give_back(known->second, at), known->second.page = page.page;
  if (!memory.read(at, {&byte, 1}) || byte == int3) return;
  if (memory.write_rom(at, {&int3, 1})) known->second.byte = byte;
}

void Planted::lift(memory::AddressSpace& memory, GuestPhys at) {
  const Lock lock{mutex_};
  const auto known = places_.find(at.value);
  if (known == places_.end() || --known->second.vcpus) return;
  u8 byte = 0;
  if (memory.page(at).page != known->second.page) give_back(known->second, at);
  if (memory.read(at, {&byte, 1}) && byte == int3) memory.write_rom(at, {&known->second.byte, 1});
  places_.erase(known);
}

}  // namespace vmm::kvm
