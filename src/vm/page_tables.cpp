// `info tlb` and `info mem`: what the current CPU's page tables map. Source: SDM 3A §4.3–4.5. A guest may make tables that contain
// themselves, so that the walk is bounded.
#include <algorithm>

#include "src/control/command.h"
#include "src/vm/cpu_registers.h"
#include "src/vm/machine.h"

namespace vmm::vm {
namespace {

using namespace x86;

constexpr u64 present = 1, writable = 2, user = 4, large = 0x80, no_execute = u64{1} << 63;

struct Mapping {
  u64 address = 0, size = 0, physical = 0;
  u64 entry = 0;   // of the last level
  u64 rights = 0;  // writable, user: of all levels together; no_execute of any
};

struct Paging {
  unsigned levels = 0;  // 0: off
  unsigned index_bits = 9, entry_bytes = 8;
  u64 root = 0;
  bool pse = true, execute_disable = false;
};

Paging paging_of(const State& s) {
  Paging p;
  if (!(s.cr0 & cr0_pg)) return p;
  p.execute_disable = s.efer & efer_nxe;
  if (s.long_mode()) {
    p.levels = s.cr4 & cr4_la57 ? 5 : 4;
    p.root = s.cr3 & 0x000f'ffff'ffff'f000;
  } else if (s.cr4 & cr4_pae) {
    p.levels = 3;
    p.root = s.cr3 & 0xffff'ffe0;
  } else {
    p = {.levels = 2,
         .index_bits = 10,
         .entry_bytes = 4,
         .root = s.cr3 & 0xffff'f000,
         .pse = (s.cr4 & cr4_pse) != 0,
         .execute_disable = false};
  }
  return p;
}

class Walk {
 public:
  Walk(const memory::AddressSpace& memory, const Paging& paging, std::function<void(const Mapping&)> visit)
      : memory_(memory), paging_(paging), visit_(std::move(visit)) {}
  // False: cut short.
  bool run() { return table(paging_.root, paging_.levels, 0, writable | user); }

 private:
  static constexpr usize most_entries = 8u << 20;

  bool table(u64 base, unsigned level, u64 address, u64 rights) {
    const unsigned shift = 12 + (level - 1) * paging_.index_bits;
    const unsigned entries = paging_.levels == 3 && level == 3 ? 4 : 1u << paging_.index_bits;
    std::vector<u8> bytes(usize{entries} * paging_.entry_bytes);
    if (!memory_.read(GuestPhys{base}, bytes)) return true;
    for (unsigned i = 0; i < entries; i++) {
      if (++seen_ > most_entries) return false;
      u64 entry = 0;
      std::memcpy(&entry, &bytes[usize{i} * paging_.entry_bytes], paging_.entry_bytes);
      if (!(entry & present)) continue;
      u64 at = address | u64{i} << shift;
      if (level == paging_.levels && level >= 4 && at >> (shift + paging_.index_bits - 1)) at |= ~u64{0} << (shift + paging_.index_bits);
      // PAE: the top level carries no rights (SDM 3A table 4-8).
      const bool plain = paging_.levels == 3 && level == 3;
      u64 here = plain ? rights : (rights & entry & (writable | user)) | ((rights | entry) & no_execute);
      const u64 mask = paging_.entry_bytes == 4 ? 0xffff'f000 : 0x000f'ffff'ffff'f000;
      if (level == 1 || (entry & large && level <= (paging_.levels == 2 ? 2u : 3u) && !plain && paging_.pse)) {
        const u64 size = u64{1} << shift;
        visit_({.address = at, .size = size, .physical = entry & mask & ~(size - 1), .entry = entry, .rights = here});
      } else if (!table(entry & mask, level - 1, at, here)) {
        return false;
      }
    }
    return true;
  }

  const memory::AddressSpace& memory_;
  const Paging& paging_;
  std::function<void(const Mapping&)> visit_;
  usize seen_ = 0;
};

Result<std::string> info_tlb(control::Context& context, std::span<const std::string>) {
  Vcpu* vcpu = TRY(find_vcpu(context.cpu_index()));
  Paging paging;
  with_state(*vcpu, [&](State& s) { paging = paging_of(s); });
  if (!paging.levels) return "PG disabled\n";
  constexpr usize most_lines = 100'000;
  usize lines = 0;
  std::string out;
  const bool all = Walk{
      vcpu->memory(), paging, [&](const Mapping& m) {
        if (++lines > most_lines) return;
        const auto letter = [&](u64 bit, char c) { return m.entry & bit ? c : '-'; };
        format_to(std::back_inserter(out), "{:016x}: {:016x} {}{}{}{}{}{}{}{}{}\n", m.address, m.physical,
                  letter(paging.execute_disable ? no_execute : 0, 'X'), letter(0x100, 'G'), letter(m.size > 4096 ? large : 0, 'P'),
                  letter(0x40, 'D'), letter(0x20, 'A'), letter(0x10, 'C'), letter(8, 'T'), letter(user, 'U'), letter(writable, 'W'));
      }}.run();
  if (!all || lines > most_lines) out += "(more is not shown)\n";
  return out;
}

Result<std::string> info_mem(control::Context& context, std::span<const std::string>) {
  Vcpu* vcpu = TRY(find_vcpu(context.cpu_index()));
  Paging paging;
  with_state(*vcpu, [&](State& s) { paging = paging_of(s); });
  if (!paging.levels) return "PG disabled\n";
  std::string out;
  Mapping run;
  const unsigned digits = paging.levels >= 4 ? 16 : 8;
  const auto flush = [&] {
    if (run.size && out.size() < 16 * MiB)
      format_to(std::back_inserter(out), "{:0{}x}-{:0{}x} {:0{}x} {}r{}\n", run.address, digits, run.address + run.size, digits, run.size,
                digits, run.rights & user ? 'u' : '-', run.rights & writable ? 'w' : '-');
  };
  const bool all = Walk{
      vcpu->memory(), paging, [&](const Mapping& m) {
        const u64 rights = m.rights & (user | writable);
        if (run.size && run.address + run.size == m.address && run.rights == rights) {
          run.size += m.size;
          return;
        }
        flush();
        run = m;
        run.rights = rights;
      }}.run();
  flush();
  if (!all) out += "(more is not shown)\n";
  return out;
}

control::Registered registered[] = {
    control::Registered{
        control::human<info_tlb>({.human = "info tlb", .human_help = "info tlb -- show virtual to physical memory mappings"})},
    control::Registered{
        control::human<info_mem>({.human = "info mem", .human_help = "info mem -- show the active virtual memory mappings"})},
};

}  // namespace
}  // namespace vmm::vm
