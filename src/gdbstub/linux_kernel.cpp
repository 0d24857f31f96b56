// Finding Linux in a guest's memory. Source: the kernel's own Documentation/x86/x86_64/mm.rst (kernel text mapping from
// ffffffff80000000, 1 GiB at most), linked at 16 MiB into it (CONFIG_PHYSICAL_START) and moved by multiples of 2 MiB (KASLR).
#include "src/gdbstub/session.h"

namespace vmm::gdb {

namespace {

constexpr u64 text_map = 0xffff'ffff'8000'0000, text_map_bytes = u64{1} << 30, link_offset = u64{16} << 20, step = u64{2} << 20;

// User mode may run on tables that map no more of the kernel than its doors; those of the kernel lie in the page before
// (page-table isolation: bit 12 of CR3).
std::optional<u64> first_mapped(vm::Vcpu& vcpu) {
  x86::State& s = vcpu.state();
  const u64 cr3 = s.cr3;
  if (s.cpl() == 3) s.cr3 &= ~u64{0x1000};
  std::optional<u64> found;
  for (u64 at = text_map; at >= text_map && at - text_map < text_map_bytes && !found; at += step)
    if (vcpu.translate(GuestVirt{at})) found = at;
  s.cr3 = cr3;
  return found;
}

}  // namespace

std::optional<u64> linux_text_offset(vm::Machine& machine) {
  std::optional<u64> offset;
  for (const auto& vcpu : machine.vcpus()) {
    vcpu->run([&] {
      const x86::State& s = vcpu->state();
      // Its system calls enter by its text.
      if (!s.long_mode() || !(s.efer & x86::efer_sce) || s.lstar < text_map || s.lstar - text_map >= text_map_bytes) return;
      const auto text = first_mapped(*vcpu);
      if (!text || s.lstar < *text || s.lstar - *text > (u64{64} << 20) || *text - text_map < link_offset) return;
      offset = *text - text_map - link_offset;
    });
    if (offset) break;
  }
  return offset;
}

}  // namespace vmm::gdb
