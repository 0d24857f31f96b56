// See machine_in.h.
#include "migration/machine_in.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "src/base/bits.h"
#include "src/base/lock.h"
#include "src/memory/ram.h"
#include "src/memory/stored.h"
#include "src/value/cbor.h"
#include "src/vm/state.h"

namespace vmm::migration {

namespace {
constexpr u64 page = memory::page_bytes, most_image_bytes = 64 * MiB;
constexpr unsigned most_lanes = 255;
}  // namespace

Result<unsigned> MachineIn::begin(Reader& reader) {
  TRY(reader.head());
  const auto first = TRY(reader.next());
  if (first.kind != Part::machine) return fail("the stream does not begin with the machine");
  const Value machine = TRY(parse_cbor(first.payload));
  TRY(take_machine(machine));
  if (const Value* placed = machine.find("placed")) TRY(take_layout(*placed));
  const Value* lanes = machine.find("lanes");
  const u64 n = lanes ? TRY(lanes->as_u64("lanes")) : 0;
  if (n > most_lanes) return fail("the stream comes on {} connections; {} are the most", n, most_lanes);
  return static_cast<unsigned>(n);
}

Result<> MachineIn::take_layout(const Value& placed) {
  const Value *at = placed.find("at"), *rest = placed.find("rest");
  if (!at || !at->is_list() || !rest) return fail("the stream does not say where its RAM lies");
  for (const Value& v : at->items()) {
    at_.push_back(TRY(v.as_u64("at")));
    if (at_.back() > Channel::furthest_place) return fail("RAM lies beyond the end of any file");
  }
  if (at_.size() != blocks_.size()) return fail("the stream has places for {} RAMs of {}", at_.size(), blocks_.size());
  rest_ = TRY(rest->as_u64("rest"));
  if (rest_ == 0 || rest_ > Channel::furthest_place) return fail("the rest of the stream lies beyond the end of any file");
  return {};
}

// The pages as one part would have brought them.
Result<> MachineIn::take_placed(Channel& file, std::span<const u8> payload) {
  if (payload.size() < 16) return fail("pages without a head");
  const u32 n = load_le<u32>(&payload[0]), count = load_le<u32>(&payload[4]);
  const u64 first = load_le<u64>(&payload[8]);
  if (n >= at_.size()) return fail("pages of the unknown RAM {}", n);
  const usize map_bytes = (usize{count} + 7) / 8;
  if (!count || count > pages_a_part || first >= blocks_[n]->size_bytes() / page || payload.size() < 16 + map_bytes)
    return fail("pages without their map");
  const std::span<const u8> map = payload.subspan(16, map_bytes), sums = payload.subspan(16 + map_bytes);
  gathered_.assign(payload.begin(), payload.begin() + static_cast<std::ptrdiff_t>(16 + map_bytes));
  usize known = 0;
  const auto is_there = [&](u32 i) { return i < count && (map[i / 8] >> (i % 8) & 1); };
  for (u32 i = 0; i < count; i++) {
    u32 run = 0;
    while (is_there(i + run)) run++;
    if (!run) continue;
    const usize begin = gathered_.size();
    gathered_.resize(begin + run * page);
    const std::span<u8> bytes = std::span{gathered_}.subspan(begin);
    TRY(file.read_at(at_[n] + (first + i) * page, bytes));
    for (u32 k = 0; k < run; k++, known += 4) {
      if (sums.size() < known + 4) return fail("pages without their sums");
      if (sum_of(bytes.subspan(k * page, page)) != load_le<u32>(&sums[known]))
        return fail("the stream is damaged: page {} of RAM '{}'", first + i + k, blocks_[n]->name());
    }
    i += run;
  }
  return take_pages(gathered_);
}

Result<> MachineIn::take(const Reader::Read& part) {
  switch (part.kind) {
    case Part::pages: return take_pages(part.payload);
    case Part::packed: {
      thread_local std::vector<u8> plain(longest_pages);
      thread_local const std::unique_ptr<ZSTD_DCtx, usize (*)(ZSTD_DCtx*)> context{::ZSTD_createDCtx(), ::ZSTD_freeDCtx};
      if (!context) return fail("out of memory");
      const usize n = ::ZSTD_decompressDCtx(context.get(), plain.data(), plain.size(), part.payload.data(), part.payload.size());
      if (::ZSTD_isError(n)) return fail("packed pages: {}", ::ZSTD_getErrorName(n));
      return take_pages(std::span{plain}.first(n));
    }
    case Part::section: return take_section(part.payload);
    case Part::image: return take_image(part.payload);
    default: return fail("a part of the kind {} where none is due", static_cast<u32>(part.kind));
  }
}

Result<> MachineIn::take_machine(const Value& machine) {
  const MachineLockedIfNot lock;
  const Value *type = machine.find("type"), *ram = machine.find("ram");
  if (!type || !type->is_string() || !ram || !ram->is_list()) return fail("the stream does not say which machine it is");
  if (type->get_string() != machine_.type_info().name)
    return fail("the machine that comes is a '{}', this one a '{}'", type->get_string(), machine_.type_info().name);
  auto mine = memory::ram_blocks();
  for (const Value& v : ram->items()) {
    const Value *name = v.find("name"), *bytes = v.find("bytes");
    if (!name || !name->is_string() || !bytes) return fail("RAM of the stream has no name");
    const u64 size = TRY(bytes->as_u64("bytes"));
    const auto found = std::ranges::find_if(mine, [&](memory::RamBlock* b) { return b && b->name() == name->get_string(); });
    if (found == mine.end()) return fail("RAM '{}' is not there on this side", name->get_string());
    if ((*found)->size_bytes() != size)
      return fail("RAM '{}' has {} bytes there and {} here", name->get_string(), size, (*found)->size_bytes());
    blocks_.push_back(*found);
    *found = nullptr;
  }
  for (const memory::RamBlock* b : mine)
    if (b) return fail("RAM '{}' is not there on the other side", b->name());
  return {};
}

Result<> MachineIn::take_pages(std::span<const u8> payload) {
  if (payload.size() < 16) return fail("pages without a head");
  const u32 n = load_le<u32>(&payload[0]), count = load_le<u32>(&payload[4]);
  const u64 first = load_le<u64>(&payload[8]);
  if (n >= blocks_.size()) return fail("pages of the unknown RAM {}", n);
  memory::RamBlock& block = *blocks_[n];
  const u64 pages = block.size_bytes() / page;
  if (!count || count > pages_a_part || first >= pages || count > pages - first)
    return fail("pages beyond the end of RAM '{}'", block.name());
  const std::span<const u8> map = payload.subspan(16);
  if (map.size() < (count + 7) / 8) return fail("pages without their map");
  std::span<const u8> bytes = map.subspan((count + 7) / 8);
  static constexpr std::array<u8, page> zeros{};
  for (u32 i = 0; i < count; i++) {
    u8* const host = block.host() + (first + i) * page;
    const u8* from = zeros.data();
    if (map[i / 8] >> (i % 8) & 1) {
      if (bytes.size() < page) return fail("pages that end too early");
      from = bytes.data();
      bytes = bytes.subspan(page);
    }
    // What is the same already stays untouched: no host page is made for zeros, no code is translated anew.
    if ((live_ || block.read_only() || from == zeros.data()) && memory::ram_equal(host, from, page)) continue;
    if (block.read_only() && block.fd() >= 0)
      return fail("RAM '{}' is a read-only file here, and holds something else there", block.name());
    memory::ram_copy_in(host, from, page);
    if (live_) memory::ram_stored(block, (first + i) * page, page);
  }
  if (!bytes.empty()) return fail("pages with more than their bytes");
  return {};
}

Result<> MachineIn::take_section(std::span<const u8> payload) {
  if ((section_bytes_ += payload.size()) > longest_section) return fail("sections are too long in all");
  Value v = TRY(parse_cbor(payload));
  const Value *name = v.find("name"), *state = v.find("state");
  if (!name || !name->is_string() || !state) return fail("a section without a name");
  if (name->get_string() == "run-state") {
    const Value* status = state->find("status");
    if (!status || !status->is_string()) return fail("section 'run-state': 'status' is missing");
    const auto known = vm::status_of_name(status->get_string());
    if (!known) return fail("section 'run-state': 'status' has the unknown value '{}'", status->get_string().substr(0, 100));
    status_ = *known;
    return {};
  }
  if (!sections_.emplace(name->get_string(), *state).second) return fail("section '{}' comes twice", name->get_string());
  return {};
}

Result<> MachineIn::take_image(std::span<const u8> payload) {
  const Value v = TRY(parse_cbor(payload));
  const Value *name = v.find("name"), *bytes = v.find("bytes");
  if (!name || !name->is_string() || !bytes || !bytes->is_bytes()) return fail("a disk without name or bytes");
  if ((image_bytes_ += bytes->bytes().size()) > most_image_bytes) return fail("disks within the stream are too long in all");
  auto& image = images_[name->get_string()];
  const Value* at = v.find("at");
  if (!at || TRY(at->as_u64("at")) != image.size()) return fail("disk '{}' comes in the wrong order", name->get_string());
  image.insert(image.end(), bytes->bytes().begin(), bytes->bytes().end());
  return {};
}

Result<> MachineIn::check() const {
  const vm::StateSections all = vm::state_sections(machine_);
  for (const vm::StateSection& s : all.sections)
    if (!sections_.contains(s.name)) return fail("section '{}' is missing: that machine has no such device", s.name);
  for (const auto& [name, state] : sections_)
    if (std::ranges::none_of(all.sections, [&](const vm::StateSection& s) { return s.name == name; }))
      return fail("section '{}' is unknown: this machine has no such device", name);
  return {};
}

Result<> MachineIn::commit() {
  TRY(check());
  vm::StateSections all = vm::state_sections(machine_);
  memory::Transaction transaction;
  for (const vm::StateSection& s : all.sections)
    if (auto loaded = s.load(sections_.at(s.name)); !loaded)
      return std::unexpected(std::move(loaded.error()).within(format("section '{}'", s.name)));
  for (auto& f : all.afterwards) f();
  return {};
}

}  // namespace vmm::migration
