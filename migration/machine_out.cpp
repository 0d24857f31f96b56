// See machine_out.h.
#include "migration/machine_out.h"

#include <algorithm>
#include <bit>

#include "migration/pages.h"
#include "src/base/bits.h"
#include "src/base/lock.h"
#include "src/memory/ram.h"
#include "src/vm/state.h"

namespace vmm::migration {

namespace {
constexpr u64 page = memory::page_bytes;
}

void MachineOut::list() {
  for (memory::RamBlock* b : memory::ram_blocks()) {
    const u64 pages = b->size_bytes() / page;
    Block& block = blocks_.emplace_back(Block{b, std::vector<u64>((pages + 63) / 64, ~u64{0})});
    if (pages % 64) block.due.back() = (u64{1} << (pages % 64)) - 1;
    total_ += b->size_bytes();
  }
}

void MachineOut::begin() {
  if (blocks_.empty()) list();
  for (Block& b : blocks_) b.block->set_dirty_logging(memory::DirtyClient::migration, true);
  logging_ = true;
}

Result<> MachineOut::freeze() {
  std::vector<memory::RamBlock*> blocks;
  for (const Block& b : blocks_) blocks.push_back(b.block);
  frozen_ = TRY(FrozenRam::take(blocks));
  return {};
}

void MachineOut::end() {
  if (!std::exchange(logging_, false)) return;
  const MachineLockedIfNot locked;
  for (Block& b : blocks_) b.block->set_dirty_logging(memory::DirtyClient::migration, false);
}

Result<> MachineOut::write_first(Writer& writer, Value machine) {
  TRY(writer.head());
  Value ram = Value::list();
  for (const Block& b : blocks_) ram.append(Value::object().set("name", b.block->name()).set("bytes", b.block->size_bytes()));
  machine.set("type", machine_.type_info().name).set("ram", std::move(ram));
  return writer.described(Part::machine, machine);
}

Result<> MachineOut::write_machine(Writer& writer, unsigned lanes) {
  return write_first(writer, lanes ? Value::object().set("lanes", u64{lanes}) : Value::object());
}

Result<> MachineOut::write_machine_with_places(Writer& writer, Channel& file) {
  constexpr u64 aligned = 1 * MiB;  // which no file system's block exceeds
  u64 next = aligned;
  Value at = Value::list();
  for (Block& b : blocks_) {
    at.append(b.at = next);
    next += align_up(b.block->size_bytes(), aligned);
    b.sums.assign(b.block->size_bytes() / page, std::nullopt);
  }
  TRY(write_first(writer, Value::object().set("placed", Value::object().set("at", std::move(at)).set("rest", next))));
  if (file.bytes() > aligned) return fail("the machine has too many RAMs for a file with places");
  return file.go_to(next);
}

Result<> MachineOut::place_pages(Channel& file, u32 block, u64 first, u64 count) {
  Block& b = blocks_[block];
  run_.clear();
  const auto flush = [&](u64 end) -> Result<> {  // what was gathered ends before that page
    if (run_.empty()) return {};
    TRY(file.write_at(b.at + end * page - run_.size(), run_));
    run_.clear();
    return {};
  };
  for (u64 i = first; i < first + count; i++) {
    const u8* const from = b.block->host() + i * page;
    if (page_is_zero(from)) {
      TRY(flush(i));
      b.sums[i].reset();
      zero_pages.fetch_add(1, std::memory_order_relaxed);
      continue;
    }
    run_.resize(run_.size() + page);
    u8* const copy = run_.data() + run_.size() - page;
    memory::ram_copy_out(copy, from, page);
    b.sums[i] = sum_of({copy, page});  // of what is written: the guest may store meanwhile, and the page comes again
    normal_pages.fetch_add(1, std::memory_order_relaxed);
  }
  return flush(first + count);
}

Result<> MachineOut::write_places(Writer& writer) const {
  std::vector<u8> payload;
  for (u32 n = 0; n < blocks_.size(); n++) {
    const auto& sums = blocks_[n].sums;
    for (usize first = 0; first < sums.size(); first += pages_a_part) {
      const usize count = std::min(pages_a_part, sums.size() - first);
      payload.assign(16 + (count + 7) / 8, 0);
      store_le<u32>(&payload[0], n), store_le<u32>(&payload[4], static_cast<u32>(count)), store_le<u64>(&payload[8], first);
      for (usize i = 0; i < count; i++) {
        if (!sums[first + i]) continue;
        payload[16 + i / 8] |= static_cast<u8>(1 << (i % 8));
        payload.resize(payload.size() + 4);
        store_le<u32>(&payload[payload.size() - 4], *sums[first + i]);
      }
      TRY(writer.part(Part::placed, payload));
    }
  }
  return {};
}

void MachineOut::harvest() {
  std::vector<u64> fresh;
  for (Block& b : blocks_) {
    b.block->fetch_and_clear_dirty(memory::DirtyClient::migration, 0, b.block->size_bytes() / page, fresh);
    for (usize i = 0; i < b.due.size() && i < fresh.size(); i++) b.due[i] |= fresh[i];
  }
}

u64 MachineOut::due_pages() const {
  u64 n = 0;
  for (const Block& b : blocks_)
    for (const u64 word : b.due) n += static_cast<u64>(std::popcount(word));
  return n;
}

std::span<const u8> MachineOut::build_pages(u32 block, u64 first, u64 count, std::vector<u8>& room) {
  room.resize(longest_pages);
  u64 normal = 0;
  const usize bytes = put_pages(room.data(), block, blocks_[block].block->host(), first, count, &normal);
  zero_pages.fetch_add(count - normal, std::memory_order_relaxed);
  normal_pages.fetch_add(normal, std::memory_order_relaxed);
  return std::span<const u8>{room}.first(bytes);
}

Result<> MachineOut::send_due(const Send& send) {
  for (u32 n = 0; n < blocks_.size(); n++) {
    std::vector<u64>& due = blocks_[n].due;
    const u64 pages = blocks_[n].block->size_bytes() / page;
    for (u64 at = 0; at < pages;) {
      const u64 word = due[at / 64] >> (at % 64);
      if (!word) {
        at = (at / 64 + 1) * 64;
        continue;
      }
      at += static_cast<u64>(std::countr_zero(word));
      u64 count = 0;
      while (at + count < pages && count < pages_a_part && due[(at + count) / 64] >> ((at + count) % 64) & 1) {
        due[(at + count) / 64] &= ~(u64{1} << ((at + count) % 64));
        count++;
      }
      TRY(send(n, at, count));
      at += count;
    }
  }
  return {};
}

std::vector<Value> MachineOut::sections(vm::Status status) {
  std::vector<Value> out;
  out.push_back(Value::object().set("name", "run-state").set("state", Value::object().set("status", vm::status_name(status))));
  const vm::StateSections all = vm::state_sections(machine_);
  for (const vm::StateSection& s : all.sections) out.push_back(Value::object().set("name", s.name).set("state", s.save()));
  return out;
}

}  // namespace vmm::migration
