// Guest memory as the interpreter and the helpers reach it: soft TLBs, physical accesses, devices, code fetch. Rules: SDM 3A §4.6,
// §4.10 (invalidation); translator.md §4.2, §9 (order of dirty bits and code).
#include <algorithm>
#include <cstring>

#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"
#include "src/memory/ram.h"

namespace vmm::tcg::x86 {

using ir::Access;

namespace {

constexpr u64 line_global = 1, line_large = 2;

Privilege privilege(const Cpu& cpu, u16 access) { return access & Access::implicit ? Privilege::implicit : privilege_of(cpu); }

// Never filled: CPL 3 with alignment checks, where each access is looked at.
SoftTlb empty_tlb;

SoftTlb& tlb_for(Cpu& cpu, Privilege who) {
  const State& s = cpu.state;
  if (who == Privilege::user) return s.rflags & flag_ac && s.cr0 & cr0_am ? empty_tlb : cpu.user_tlb;
  const bool strict = s.cr4 & cr4_smap && (who == Privilege::implicit || !(s.rflags & flag_ac));
  return strict ? cpu.supervisor_tlb : cpu.supervisor_user_tlb;
}

unsigned number_of(Cpu& cpu, const SoftTlb& tlb) {
  return &tlb == &cpu.user_tlb ? 0 : &tlb == &cpu.supervisor_tlb ? 1 : &tlb == &cpu.supervisor_user_tlb ? 2 : 3;
}

bool watched(const Cpu& cpu, u64 page) {
  const State& s = cpu.state;
  for (unsigned i = 0; i < 4; ++i)
    if (s.dr7 >> (2 * i) & 3 && s.dr7 >> (16 + 4 * i) & 1 && (s.dr[i] & ~u64{0xfff}) == page) return true;
  const vm::Debug* const debug = static_cast<const System*>(cpu.owner)->debug;
  return debug && debug->watches_page(page);
}

void note_data_breakpoints(Cpu& cpu, u64 address, unsigned size, bool write) {
  const State& s = cpu.state;
  System& system = system_of(cpu);
  if (system.debug) {
    if (const vm::DebugPoint* const p = system.debug->watched(address, size, write)) {
      system.debug_stop = {.why = vm::DebugStop::Why::watch, .kind = p->kind, .address = p->address};
      cpu.leave = true;
    }
  }
  for (unsigned i = 0; i < 4; ++i) {
    if (!(s.dr7 >> (2 * i) & 3)) continue;
    const unsigned kind = s.dr7 >> (16 + 4 * i) & 3;
    if (!(kind == 3 || (kind == 1 && write))) continue;
    static constexpr u8 lengths[4] = {1, 2, 8, 4};
    const u64 length = lengths[s.dr7 >> (18 + 4 * i) & 3], at = s.dr[i] & ~(length - 1);
    if (address < at + length && at < address + size) system.debug_hits |= 1u << i, cpu.leave = true;
  }
}

void fill(Cpu& cpu, SoftTlb& tlb, u64 address, const Translation& t, const memory::PageInfo& page) {
  System& system = system_of(cpu);
  const unsigned which = number_of(cpu, tlb);
  if (which == 3 || !page.host || is_apic_page(cpu, t.physical)) return;
  const u64 linear_page = address & ~u64{0xfff};
  if (system.data_breakpoints && watched(cpu, linear_page)) return;
  const unsigned index = SoftTlb::index(address);
  SoftLine& line = tlb.line[index];
  line.read = linear_page;
  line.write = SoftLine::none;
  line.addend = static_cast<i64>(reinterpret_cast<u64>(page.host) - linear_page);
  line.unused = (t.global ? line_global : 0) | (t.page_bytes > 4096 ? line_large : 0);
  System::FillLog& log = system.fills[which];
  if (log.count < System::FillLog::size) log.line[log.count] = static_cast<u16>(index);
  if (log.count <= System::FillLog::size) ++log.count;
  if (t.page_bytes > 4096 && system.large_count <= std::size(system.large)) {
    const u64 base = address & ~(t.page_bytes - 1);
    bool known = false;
    for (unsigned i = 0; i < system.large_count && i < std::size(system.large); ++i)
      known = known || (system.large[i].base == base && system.large[i].bytes >= t.page_bytes);
    if (!known) {
      if (system.large_count < std::size(system.large)) system.large[system.large_count] = {base, t.page_bytes};
      ++system.large_count;
    }
  }
  if (!t.write_ready || page.read_only || page.block->dirty_logging_mask()) return;
  CodePage* const words = system.code_pages ? system.code_pages->get(page.page) : nullptr;
  if (words) words->writers.fetch_or(u64{1} << system.index % 64, std::memory_order_seq_cst);
  if (words && words->granules.load(std::memory_order_seq_cst)) return;
  log.note_store(reinterpret_cast<u64>(page.host), index);
  line.write = linear_page;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if ((words && words->granules.load(std::memory_order_relaxed)) || page.block->dirty_logging_mask()) line.write = SoftLine::none;
}

void copy_from_ram(void* to, const u8* host, unsigned size) {
  switch (size) {
    case 1: *static_cast<u8*>(to) = memory::ram_load<u8>(host); return;
    case 2: store_le(to, memory::ram_load<u16>(host)); return;
    case 4: store_le(to, memory::ram_load<u32>(host)); return;
    case 8: store_le(to, memory::ram_load<u64>(host)); return;
    default: memory::ram_copy_out(to, host, size);
  }
}
void copy_to_ram(u8* host, const void* from, unsigned size) {
  switch (size) {
    case 1: memory::ram_store<u8>(host, *static_cast<const u8*>(from)); return;
    case 2: memory::ram_store<u16>(host, load_le<u16>(from)); return;
    case 4: memory::ram_store<u32>(host, load_le<u32>(from)); return;
    case 8: memory::ram_store<u64>(host, load_le<u64>(from)); return;
    default: memory::ram_copy_in(host, from, size);
  }
}

// Faults that come before the walk: canonical form, alignment.
bool check_address(Cpu& cpu, u64& address, unsigned size, Privilege who, u16 access) {
  const State& s = cpu.state;
  if (!s.long_mode()) {
    address &= 0xffff'ffff;
  } else if (!canonical(cpu, address) || !canonical(cpu, address + size - 1)) {
    cpu.raise(access & Access::stack ? vector_ss : vector_gp, 0);
    return false;
  }
  if (access & Access::aligned && address & (size - 1)) {
    cpu.raise(vector_gp, 0);
    return false;
  }
  // Where 32-bit addresses end an operand does not go on at 0.
  if (!s.code64() && !(access & Access::implicit) && size > 1 && static_cast<u32>(address + size - 1) < static_cast<u32>(address)) {
    cpu.raise(access & Access::stack ? vector_ss : vector_gp, 0);
    return false;
  }
  if (s.rflags & flag_ac && s.cr0 & cr0_am && who == Privilege::user && size > 1 && size <= 32) {
    const unsigned alignment = std::bit_floor(size);  // of 80 bits: 8 bytes
    if (!(address & (alignment - 1))) return true;
    cpu.raise(vector_ac, 0);
    return false;
  }
  return true;
}

struct Part {
  Translation t;
  unsigned size = 0;
};
// One or two pages, all of them checked.
bool translate_parts(Cpu& cpu, u64 address, unsigned size, Rights want, Privilege who, Part (&part)[2], unsigned& count) {
  const unsigned first = static_cast<unsigned>(std::min<u64>(size, 4096 - (address & 0xfff)));
  part[0].size = first;
  if (!translate(cpu, address, want, who, part[0].t)) return false;
  count = 1;
  if (first == size) return true;
  u64 next = address + first;
  if (!cpu.state.long_mode()) next &= 0xffff'ffff;
  part[1].size = size - first;
  count = 2;
  return translate(cpu, next, want, who, part[1].t);
}

bool slow_read(Cpu& cpu, u64 address, unsigned size, Privilege who, u16 access, void* to) {
  if (!check_address(cpu, address, size, who, access)) return false;
  Part part[2];
  unsigned count = 0;
  if (!translate_parts(cpu, address, size, access & Access::intent ? Rights::write : Rights::read, who, part, count)) return false;
  if (system_of(cpu).data_breakpoints) note_data_breakpoints(cpu, address, size, false);
  read_physical(cpu, part[0].t.physical, to, part[0].size);
  if (count == 2) {
    read_physical(cpu, part[1].t.physical, static_cast<u8*>(to) + part[0].size, part[1].size);
  } else {
    fill(cpu, tlb_for(cpu, who), address, part[0].t, physical_page(cpu, part[0].t.physical));
  }
  return true;
}

bool slow_write(Cpu& cpu, u64 address, unsigned size, Privilege who, u16 access, const void* from) {
  if (!check_address(cpu, address, size, who, access)) return false;
  Part part[2];
  unsigned count = 0;
  if (!translate_parts(cpu, address, size, Rights::write, who, part, count)) return false;
  if (system_of(cpu).data_breakpoints) note_data_breakpoints(cpu, address, size, true);
  write_physical(cpu, part[0].t.physical, from, part[0].size);
  if (count == 2) {
    write_physical(cpu, part[1].t.physical, static_cast<const u8*>(from) + part[0].size, part[1].size);
  } else {
    fill(cpu, tlb_for(cpu, who), address, part[0].t, physical_page(cpu, part[0].t.physical));
  }
  return true;
}

bool read_as(Cpu& cpu, SoftTlb& tlb, Privilege who, u64 address, unsigned size, u16 access, void* to) {
  const SoftLine& line = tlb.line[SoftTlb::index(address)];
  const bool hit = access & Access::intent ? line.write == (address & ~u64{0xfff}) : line.read == (address & ~u64{0xfff});
  if (hit && (address & 0xfff) + size <= 4096 && !(access & Access::aligned && address & (size - 1))) {
    copy_from_ram(to, reinterpret_cast<const u8*>(address + static_cast<u64>(line.addend)), size);
    return true;
  }
  return slow_read(cpu, address, size, who, access, to);
}

bool write_as(Cpu& cpu, SoftTlb& tlb, Privilege who, u64 address, unsigned size, u16 access, const void* from) {
  const SoftLine& line = tlb.line[SoftTlb::index(address)];
  if (line.write == (address & ~u64{0xfff}) && (address & 0xfff) + size <= 4096 && !(access & Access::aligned && address & (size - 1))) {
    copy_to_ram(reinterpret_cast<u8*>(address + static_cast<u64>(line.addend)), from, size);
    return true;
  }
  return slow_write(cpu, address, size, who, access, from);
}

bool memory_read(GuestCpu& g, u64 address, unsigned size, u16 access, void* to) {
  Cpu& cpu = cpu_of(g);
  if (!(access & Access::implicit)) return read_as(cpu, *cpu.tlb, privilege_of(cpu), address, size, access, to);
  return read_as(cpu, tlb_for(cpu, Privilege::implicit), Privilege::implicit, address, size, access, to);
}

bool memory_write(GuestCpu& g, u64 address, unsigned size, u16 access, const void* from) {
  Cpu& cpu = cpu_of(g);
  if (!(access & Access::implicit)) return write_as(cpu, *cpu.tlb, privilege_of(cpu), address, size, access, from);
  return write_as(cpu, tlb_for(cpu, Privilege::implicit), Privilege::implicit, address, size, access, from);
}

template <class T>
T apply(ir::RmwKind kind, T old, T operand, T expected) {
  switch (kind) {
    case ir::RmwKind::add: return static_cast<T>(old + operand);
    case ir::RmwKind::and_: return old & operand;
    case ir::RmwKind::or_: return old | operand;
    case ir::RmwKind::xor_: return old ^ operand;
    case ir::RmwKind::xchg: return operand;
    case ir::RmwKind::cas: return old == expected ? operand : old;
    case ir::RmwKind::neg: return static_cast<T>(0 - old);
  }
  return old;
}

template <class T>
u64 rmw_host(u8* host, ir::RmwKind kind, u64 operand, u64 expected) {
  T* const p = reinterpret_cast<T*>(host);
  const T value = static_cast<T>(operand);
  switch (kind) {
    case ir::RmwKind::add: return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
    case ir::RmwKind::and_: return __atomic_fetch_and(p, value, __ATOMIC_SEQ_CST);
    case ir::RmwKind::or_: return __atomic_fetch_or(p, value, __ATOMIC_SEQ_CST);
    case ir::RmwKind::xor_: return __atomic_fetch_xor(p, value, __ATOMIC_SEQ_CST);
    case ir::RmwKind::xchg: return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);
    case ir::RmwKind::cas: {
      T old = static_cast<T>(expected);
      __atomic_compare_exchange_n(p, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
      return old;
    }
    case ir::RmwKind::neg: {
      T old = __atomic_load_n(p, __ATOMIC_RELAXED);
      while (!__atomic_compare_exchange_n(p, &old, static_cast<T>(0 - old), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
      }
      return old;
    }
  }
  return 0;
}

u64 rmw_host(u8* host, unsigned size, ir::RmwKind kind, u64 operand, u64 expected) {
  switch (size) {
    case 1: return rmw_host<u8>(host, kind, operand, expected);
    case 2: return rmw_host<u16>(host, kind, operand, expected);
    case 4: return rmw_host<u32>(host, kind, operand, expected);
    default: return rmw_host<u64>(host, kind, operand, expected);
  }
}

bool memory_rmw(GuestCpu& g, u64 address, unsigned size, u16 access, ir::RmwKind kind, u64 operand, u64 expected, u64& old) {
  Cpu& cpu = cpu_of(g);
  const Privilege who = privilege(cpu, access);
  SoftTlb& tlb = access & Access::implicit ? tlb_for(cpu, who) : *cpu.tlb;
  const SoftLine& line = tlb.line[SoftTlb::index(address)];
  if (line.write == (address & ~u64{0xfff}) && (address & 0xfff) + size <= 4096) {
    old = rmw_host(reinterpret_cast<u8*>(address + static_cast<u64>(line.addend)), size, kind, operand, expected);
    return true;
  }
  if (!check_address(cpu, address, size, who, access)) return false;
  Part part[2];
  unsigned count = 0;
  if (!translate_parts(cpu, address, size, Rights::write, who, part, count)) return false;
  if (system_of(cpu).data_breakpoints) note_data_breakpoints(cpu, address, size, true);
  const memory::PageInfo page = physical_page(cpu, part[0].t.physical);
  if (count == 1 && page.host && !page.read_only && !is_apic_page(cpu, part[0].t.physical)) {
    const u64 offset = part[0].t.physical & 0xfff;
    old = rmw_host(page.host + offset, size, kind, operand, expected);
    ram_modified(cpu, page, offset, size);
    fill(cpu, tlb, address, part[0].t, page);
    return true;
  }
  const ExclusiveScope exclusive{cpu};
  check_generation(cpu);
  if (!translate_parts(cpu, address, size, Rights::write, who, part, count)) return false;
  u64 before = 0;
  read_physical(cpu, part[0].t.physical, &before, part[0].size);
  if (count == 2) read_physical(cpu, part[1].t.physical, reinterpret_cast<u8*>(&before) + part[0].size, part[1].size);
  old = before;
  const u64 after = apply<u64>(kind, before, operand & mask_of_size(size), expected & mask_of_size(size));
  write_physical(cpu, part[0].t.physical, &after, part[0].size);
  if (count == 2) write_physical(cpu, part[1].t.physical, reinterpret_cast<const u8*>(&after) + part[0].size, part[1].size);
  return true;
}

bool memory_probe(GuestCpu& g, u64 address, u16 access, PageView& view) {
  Cpu& cpu = cpu_of(g);
  System& system = system_of(cpu);
  const State& s = cpu.state;
  const Privilege who = privilege(cpu, access);
  view = {};
  if (!s.long_mode()) {
    address &= 0xffff'ffff;
  } else if (!canonical(cpu, address)) {
    return false;
  }
  if (who == Privilege::user && s.rflags & flag_ac && s.cr0 & cr0_am) return false;
  if (system.data_breakpoints && watched(cpu, address & ~u64{0xfff})) return false;
  Translation t;
  const bool write = access & (Access::write | Access::intent);
  if (!translate(cpu, address, access & Access::fetch ? Rights::fetch : write ? Rights::write : Rights::read, who, t)) {
    cpu.fault = false;
    return false;
  }
  const memory::PageInfo& page = physical_page(cpu, t.physical);
  if (!page.host || is_apic_page(cpu, t.physical)) return false;
  view.host = page.host;
  view.page = page.page;
  view.global = t.global;
  view.mapped_bytes = t.page_bytes;
  view.writable = t.write_ready && !page.read_only && !page.block->dirty_logging_mask() &&
                  (!system.code_pages || system.code_pages->writable_without_asking(page.page));
  return !write || view.writable;
}

void flush_one(Cpu& cpu, SoftTlb& tlb, System::FillLog& log, bool keep_global) {
  if (log.count <= System::FillLog::size) {
    unsigned kept = 0;
    for (unsigned i = 0; i < log.count; ++i) {
      SoftLine& line = tlb.line[log.line[i]];
      if (keep_global && line.unused & line_global) {
        log.line[kept++] = log.line[i];
      } else {
        line = SoftLine{};
      }
    }
    log.count = kept;
  } else {
    unsigned kept = 0;
    for (unsigned i = 0; i < SoftTlb::lines; ++i) {
      SoftLine& line = tlb.line[i];
      if (!(keep_global && line.unused & line_global)) {
        line = SoftLine{};
      } else if (kept++ < System::FillLog::size) {
        log.line[kept - 1] = static_cast<u16>(i);
      }
    }
    log.count = kept;
  }
  if (log.count == 0) log.stores = {};
}

}  // namespace

const MemoryOps memory_ops{.read = memory_read, .write = memory_write, .rmw = memory_rmw, .probe = memory_probe};

memory::AddressSpace& space_of(Cpu& cpu) {
  System& system = system_of(cpu);
  return cpu.state.smm && system.smm_memory ? *system.smm_memory : *system.memory;
}

const memory::PageInfo& physical_page(Cpu& cpu, u64 physical) {
  System& system = system_of(cpu);
  memory::AddressSpace& space = space_of(cpu);
  if (system.space != &space || system.generation != space.generation()) [[unlikely]] {
    for (System::Physical& p : system.physical) p.tag = ~u64{0};
    system.space = &space;
    system.generation = space.generation();
  }
  const u64 page = physical >> 12;
  System::Physical& slot = system.physical[page % System::physical_lines];
  if (slot.tag != page) {
    slot.info = space.page(GuestPhys{page << 12});
    slot.tag = page;
  }
  return slot.info;
}

bool is_apic_page(Cpu& cpu, u64 physical) {
  const System& system = system_of(cpu);
  if (!system.interrupts) return false;
  const u64 base = system.interrupts->base_msr();
  return ((physical ^ base) & ~u64{0xfff}) == 0 && (base & 0xc00) == 0x800;
}

void ram_modified(Cpu& cpu, const memory::PageInfo& page, u64 offset_in_page, unsigned length) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (page.block->dirty_logging_mask()) page.block->mark_dirty(page.block_offset + offset_in_page, length);
  System& system = system_of(cpu);
  if (!system.code_pages || !system.code_pages->hit(page.page, offset_in_page, length)) return;
  // The running block may be one of those: it is left after this instruction.
  cpu.leave = true;
  if (memory::CodeListener* listener = memory::code_listener.load(std::memory_order_acquire))
    listener->ram_written(*page.block, page.block_offset + offset_in_page, length);
}

void read_physical(Cpu& cpu, u64 physical, void* to, unsigned size) {
  if (is_apic_page(cpu, physical)) {
    u8 bytes[8] = {};
    const u32 offset = static_cast<u32>(physical & 0xfff);
    // Registers are 32 bits wide, 16 bytes apart; other forms of access are undefined: the word's bytes.
    {
      const ParkedScope parked{system_of(cpu)};
      store_le(bytes, system_of(cpu).interrupts->read_page(offset & ~3u));
    }
    const unsigned shift = offset & 3, n = std::min(size, 4 - shift);
    std::memset(to, 0, size);
    std::memcpy(to, bytes + shift, n);
    check_generation(cpu);
    return;
  }
  const memory::PageInfo& page = physical_page(cpu, physical);
  if (page.host) [[likely]] {
    copy_from_ram(to, page.host + (physical & 0xfff), size);
    return;
  }
  {
    const ParkedScope parked{system_of(cpu)};
    memory::AddressSpace& space = space_of(cpu);
    if (size == 1 || size == 2 || size == 4 || size == 8) {
      const u64 value = space.load(GuestPhys{physical}, size);
      std::memcpy(to, &value, size);
    } else {
      space.read(GuestPhys{physical}, {static_cast<u8*>(to), size});
    }
  }
  check_generation(cpu);
}

void write_physical(Cpu& cpu, u64 physical, const void* from, unsigned size) {
  if (is_apic_page(cpu, physical)) {
    u32 value = 0;
    std::memcpy(&value, from, std::min(size, 4u));
    const ParkedScope parked{system_of(cpu)};
    system_of(cpu).interrupts->write_page(static_cast<u32>(physical & 0xfff), value);
    cpu.leave = true;
    return;
  }
  const memory::PageInfo& page = physical_page(cpu, physical);
  if (page.host && !page.read_only) [[likely]] {
    copy_to_ram(page.host + (physical & 0xfff), from, size);
    ram_modified(cpu, page, physical & 0xfff, size);
    return;
  }
  {
    const ParkedScope parked{system_of(cpu)};
    memory::AddressSpace& space = space_of(cpu);
    if (size == 1 || size == 2 || size == 4 || size == 8) {
      u64 value = 0;
      std::memcpy(&value, from, size);
      space.store(GuestPhys{physical}, size, value);
    } else {
      space.write(GuestPhys{physical}, {static_cast<const u8*>(from), size});
    }
  }
  check_generation(cpu);
}

bool read_linear(Cpu& cpu, u64 linear, void* to, unsigned size, Privilege who, u16 access) {
  return read_as(cpu, tlb_for(cpu, who), who, linear, size, access, to);
}
bool write_linear(Cpu& cpu, u64 linear, const void* from, unsigned size, Privilege who, u16 access) {
  return write_as(cpu, tlb_for(cpu, who), who, linear, size, access, from);
}

void mode_changed(Cpu& cpu) { cpu.tlb = &tlb_for(cpu, privilege_of(cpu)); }

namespace {
// What the interpreter keeps: one address space at a time.
void flush_soft(Cpu& cpu, bool keep_global) {
  System& system = system_of(cpu);
  flush_one(cpu, cpu.user_tlb, system.fills[0], keep_global);
  flush_one(cpu, cpu.supervisor_tlb, system.fills[1], keep_global);
  flush_one(cpu, cpu.supervisor_user_tlb, system.fills[2], keep_global);
  for (System::Fetched& f : system.fetched) f.tag = ~u64{0};
  if (!keep_global) system.large_count = 0;
  cpu.leave = true;
}
}  // namespace

void flush_tlb(Cpu& cpu, bool keep_global) {
  flush_soft(cpu, keep_global);
  if (cpu.caches) cpu.caches->flush(keep_global);
}

void enter_space(Cpu& cpu, u32 pcid, bool keep) {
  flush_soft(cpu, true);
  if (cpu.caches) cpu.caches->enter_space(pcid, keep);
}

void flush_page(Cpu& cpu, u64 linear) {
  System& system = system_of(cpu);
  SoftTlb* const tlbs[] = {&cpu.user_tlb, &cpu.supervisor_tlb, &cpu.supervisor_user_tlb};
  bool large = system.large_count > std::size(system.large);
  for (unsigned i = 0; i < system.large_count && i < std::size(system.large); ++i)
    large = large || linear - system.large[i].base < system.large[i].bytes;
  for (SoftTlb* tlb : tlbs) {
    if (large) {
      for (SoftLine& line : tlb->line)
        if (line.unused & line_large) line = SoftLine{};
    }
    SoftLine& line = tlb->line[SoftTlb::index(linear)];
    if (line.read == (linear & ~u64{0xfff}) || line.write == (linear & ~u64{0xfff})) line = SoftLine{};
  }
  for (System::Fetched& f : system.fetched)
    if (large || (f.tag & ~u64{0xfff}) == (linear & ~u64{0xfff})) f.tag = ~u64{0};
  if (cpu.caches) cpu.caches->invalidate_page(linear);
  cpu.leave = true;
}

void flush_writes(Cpu& cpu) {
  for (SoftTlb* tlb : {&cpu.user_tlb, &cpu.supervisor_tlb, &cpu.supervisor_user_tlb})
    for (SoftLine& line : tlb->line) line.write = SoftLine::none;
  if (cpu.caches) cpu.caches->flush_writes();
}

void drop_writes_of(Cpu& cpu, memory::PageNumber page) {
  memory::RamBlock* const block = memory::block_of(page);
  if (!block) return;
  const u64 host = reinterpret_cast<u64>(block->host()) + u64{page - block->first_page()} * memory::page_bytes;
  SoftTlb* const tlbs[] = {&cpu.user_tlb, &cpu.supervisor_tlb, &cpu.supervisor_user_tlb};
  const auto drop = [&](SoftLine& line) {
    if (line.write != SoftLine::none && line.write + static_cast<u64>(line.addend) == host) line.write = SoftLine::none;
  };
  for (unsigned i = 0; i < std::size(tlbs); i++) {
    const u16 which = system_of(cpu).fills[i].storing(host);
    if (which == System::FillLog::many)
      std::ranges::for_each(tlbs[i]->line, drop);
    else if (which)
      drop(tlbs[i]->line[which - 1]);
  }
}

void flush_everything(Cpu& cpu) {
  System& system = system_of(cpu);
  system.space = nullptr;
  flush_tlb(cpu, false);
  if (cpu.caches) cpu.caches->drop_everything();
}

void check_generation(Cpu& cpu) {
  System& system = system_of(cpu);
  if (system.space == &space_of(cpu) && system.generation == system.space->generation()) return;
  flush_everything(cpu);
}

bool fetch(GuestCpu& g, bool next, Code& code) {
  Cpu& cpu = cpu_of(g);
  System& system = system_of(cpu);
  const State& s = cpu.state;
  const bool wide = s.code64();
  u64 ip = s.rip;
  u64 linear = wide ? ip : (s.segment[cs].base + (ip & 0xffff'ffff)) & 0xffff'ffff;
  u64 room = 4096 - (linear & 0xfff);
  if (next) {
    ip += room, linear += room;
    room = 4096;
    if (!wide) linear &= 0xffff'ffff;
  }
  if (wide) {
    if (!canonical(cpu, linear)) return cpu.raise(vector_gp, 0), false;
  } else {
    const u64 limit = s.segment[cs].limit;
    if (ip > limit) return cpu.raise(vector_gp, 0), false;
    room = std::min(room, limit - ip + 1);
  }
  const bool user = s.cpl() == 3;
  const u64 tag = (linear & ~u64{0xfff}) | user;
  System::Fetched& slot = system.fetched[(linear >> 12) % System::fetched_lines];
  if (slot.tag != tag || system.space != &space_of(cpu) || system.generation != system.space->generation()) {
    Translation t;
    if (!translate(cpu, linear, Rights::fetch, user ? Privilege::user : Privilege::supervisor, t)) return false;
    slot = {.tag = tag, .physical = t.physical & ~u64{0xfff}, .info = physical_page(cpu, t.physical)};
  }
  const u64 offset = linear & 0xfff;
  code.offset = static_cast<u16>(offset);
  if (slot.info.host && !is_apic_page(cpu, slot.physical)) [[likely]] {
    code.bytes = {slot.info.host + offset, room};
    code.page = slot.info.page;
    return true;
  }
  // Code in a device or in part of a page: copied, never kept.
  const unsigned n = static_cast<unsigned>(std::min<u64>(room, next ? 16 : 16));
  for (unsigned i = 0; i < n; ++i) read_physical(cpu, slot.physical + offset + i, system.fetch_buffer + (next ? 32 : 0) + i, 1);
  code.bytes = {system.fetch_buffer + (next ? 32 : 0), n};
  code.page = Code::no_page;
  return true;
}

bool debug_walk(GuestCpu& g, u64 address, u16 access, u64& physical) {
  Cpu& cpu = cpu_of(g);
  Translation t;
  if (!translate(cpu, address, access & Access::write ? Rights::write : Rights::read, Privilege::supervisor, t, true)) return false;
  physical = t.physical;
  return true;
}

}  // namespace vmm::tcg::x86
