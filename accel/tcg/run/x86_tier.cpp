// See x86_tier.h.
#include "accel/tcg/run/x86_tier.h"

#include "accel/tcg/run/fault.h"
#include "src/memory/memory.h"

namespace vmm::tcg {

using x86::ModeKey;

Result<> X86Tier::start() {
  TRY(engine_.start());
  TRY(prepare_signal_stack());
  cpu_.caches = &engine_;
  return {};
}

bool X86Tier::takes(u64 raw) const {
  const ModeKey key{raw};
  const x86::State& s = cpu_.state;
  if (s.rflags & x86::flag_tf || s.sti_shadow || s.mov_ss_shadow || s.activity != vmm::x86::Activity::running) return false;
  for (unsigned i = 0; i < 4; i++)
    if (s.dr7 >> (2 * i) & 3 && (s.dr7 >> (16 + 4 * i) & 3) == 0) return false;  // an instruction breakpoint
  if (!key.has(ModeKey::protected_) || !(raw & (ModeKey::cpl3 | ModeKey::cpl0))) return false;
  if (key.has(ModeKey::code64)) return true;
  return key.has(ModeKey::flat) && key.has(ModeKey::code32) && key.has(ModeKey::stack32);
}

Tables::Which X86Tier::context() const {
  const x86::State& s = cpu_.state;
  const bool ac = s.rflags & x86::flag_ac;
  if (s.cpl() == 3) return ac && s.cr0 & x86::cr0_am ? Tables::UA : Tables::U;
  return s.cr4 & x86::cr4_smap && !ac ? Tables::KS : Tables::KU;
}

bool X86Tier::global_code(u64 address) {
  if (!(address >> 63)) return false;
  PageView view;
  return cpu_.memory->probe(cpu_, address, ir::Access::fetch, view) && view.global;
}

void X86Tier::step() {
  ir::ExitReason reason = ir::ExitReason::next;
  if (!portable_.run(1, 0, reason)) return;
  if (reason != ir::ExitReason::next) cpu_.leave = true;
}

void X86Tier::drop_writes(u64 page) {
  const memory::RamBlock* const block = memory::block_of(static_cast<memory::PageNumber>(page));
  if (!block) return;
  const u8* const host_page = block->host() + (page - block->first_page()) * page_bytes;
  const u64 host = reinterpret_cast<u64>(host_page);
  for (SoftTlb* tlb : {&cpu_.user_tlb, &cpu_.supervisor_tlb, &cpu_.supervisor_user_tlb})
    for (SoftLine& line : tlb->line)
      if (line.write != SoftLine::none && line.write + static_cast<u64>(line.addend) == host) line.write = SoftLine::none;
  engine_.drop_writes_of(page, host_page);
}

}  // namespace vmm::tcg
