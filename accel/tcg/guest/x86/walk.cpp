// Page-table walks: 32-bit, PAE, 4 and 5 levels. Source: SDM 3A chapter 4.
#include "accel/tcg/guest/x86/system.h"
#include "src/base/bits.h"
#include "src/memory/ram.h"

namespace vmm::tcg::x86 {

namespace {

constexpr u64 pte_present = 1, pte_write = 2, pte_user = 4, pte_accessed = 0x20, pte_dirty = 0x40, pte_large = 0x80, pte_global = 0x100;
constexpr u64 pte_nx = u64{1} << 63;
constexpr u32 code_present = 1, code_write = 2, code_user = 4, code_reserved = 8, code_fetch = 16, code_key = 32;

struct Entry {
  u64 at = 0;  // physical
  u64 value = 0;
  u8* host = nullptr;
  memory::PageInfo page;
};

template <class T>
Entry read_entry(Cpu& cpu, u64 at) {
  at &= cpu.state.a20 ? ~u64{0} : ~(u64{1} << 20);
  Entry e{.at = at};
  const memory::PageInfo& page = physical_page(cpu, at);
  if (page.host) [[likely]] {
    e.host = page.host + (at & 0xfff);
    e.page = page;
    e.value = memory::ram_load<T>(e.host);
  } else {
    T value = 0;
    read_physical(cpu, at, &value, sizeof value);
    e.value = value;
  }
  return e;
}

// Sets bits with a locked compare-exchange; false: the entry has changed meanwhile.
template <class T>
bool set_bits(Cpu& cpu, const Entry& e, u64 bits) {
  if ((e.value & bits) == bits) return true;
  if (!e.host) {
    const T value = static_cast<T>(e.value | bits);
    write_physical(cpu, e.at, &value, sizeof value);
    return true;
  }
  if (e.page.read_only) return true;  // tables in ROM: nothing to set
  T expected = static_cast<T>(e.value);
  if (!__atomic_compare_exchange_n(reinterpret_cast<T*>(e.host), &expected, static_cast<T>(e.value | bits), false, __ATOMIC_SEQ_CST,
                                   __ATOMIC_RELAXED))
    return false;
  ram_modified(cpu, e.page, e.at & 0xfff, sizeof(T));
  return true;
}

struct Walked {
  Entry path[5];
  unsigned depth = 0;  // entries in path; the last is the leaf
  u64 page_bytes = 4096;
  u64 base = 0;
  bool write = true, user = true, nx = false;
  u32 fault = 0;  // error-code bits; not_present is fault with no bit
  bool ok = false;
};

// Long mode and PAE share the form of their entries.
Walked walk64(Cpu& cpu, u64 linear) {
  const State& s = cpu.state;
  const System& system = system_of(cpu);
  Walked w;
  const bool long_mode = s.long_mode();
  const u64 high_reserved = system.physical_mask | (s.efer & efer_nxe ? 0 : pte_nx) | (long_mode ? 0 : u64{0x7ff} << 52);
  unsigned level = long_mode ? (s.cr4 & cr4_la57 ? 5 : 4) : 2;
  u64 table = s.cr3 & 0x000f'ffff'ffff'f000;
  if (!long_mode) {
    const u64 pdpte = s.pae_pdpte[linear >> 30 & 3];
    if (!(pdpte & pte_present)) return w;
    table = pdpte & 0x000f'ffff'ffff'f000;
  }
  for (;; --level) {
    const unsigned shift = 12 + 9 * (level - 1);
    const Entry e = read_entry<u64>(cpu, table + (linear >> shift & 511) * 8);
    w.path[w.depth++] = e;
    if (!(e.value & pte_present)) return w;
    u64 reserved = high_reserved;
    const bool leaf = level == 1 || (e.value & pte_large && level <= 3);
    if (e.value & pte_large && (level > 3 || (level == 3 && !system.model->has(CpuFeature::pdpe1gb)))) reserved |= pte_large;
    if (leaf && level > 1) reserved |= ((u64{1} << shift) - 1) & ~u64{0x1fff};
    if (e.value & reserved) {
      w.fault = code_present | code_reserved;
      return w;
    }
    w.write = w.write && (e.value & pte_write);
    w.user = w.user && (e.value & pte_user);
    w.nx = w.nx || (e.value & pte_nx);
    if (leaf) {
      w.page_bytes = u64{1} << shift;
      w.base = e.value & 0x000f'ffff'ffff'f000 & ~(w.page_bytes - 1);
      w.ok = true;
      return w;
    }
    table = e.value & 0x000f'ffff'ffff'f000;
  }
}

Walked walk32(Cpu& cpu, u64 linear) {
  const State& s = cpu.state;
  Walked w;
  Entry e = read_entry<u32>(cpu, (s.cr3 & 0xffff'f000) + (linear >> 22 & 1023) * 4);
  w.path[w.depth++] = e;
  if (!(e.value & pte_present)) return w;
  w.write = e.value & pte_write, w.user = e.value & pte_user;
  if (e.value & pte_large && s.cr4 & cr4_pse) {
    if (e.value >> 21 & 1) {
      w.fault = code_present | code_reserved;
      return w;
    }
    w.page_bytes = 4 * MiB;
    w.base = (e.value & 0xffc0'0000) | (e.value >> 13 & 0xff) << 32;  // PSE-36
    w.ok = true;
    return w;
  }
  e = read_entry<u32>(cpu, (e.value & 0xffff'f000) + (linear >> 12 & 1023) * 4);
  w.path[w.depth++] = e;
  if (!(e.value & pte_present)) return w;
  w.write = w.write && (e.value & pte_write), w.user = w.user && (e.value & pte_user);
  w.base = e.value & 0xffff'f000;
  w.ok = true;
  return w;
}

}  // namespace

bool canonical(const Cpu& cpu, u64 linear) {
  const unsigned unused = cpu.state.cr4 & cr4_la57 ? 7 : 16;
  return static_cast<u64>(static_cast<i64>(linear << unused) >> unused) == linear;
}

bool load_pdptes(Cpu& cpu, u64 cr3, std::array<u64, 4>& out) {
  const u64 table = cr3 & 0xffff'ffe0;
  const u64 reserved = system_of(cpu).physical_mask | u64{0x7ff} << 52 | pte_nx | 0x1e6;
  for (unsigned i = 0; i < 4; ++i) {
    out[i] = read_entry<u64>(cpu, table + i * 8).value;
    if (out[i] & pte_present && out[i] & reserved) return false;
  }
  return true;
}

bool translate(Cpu& cpu, u64 linear, Rights want, Privilege who, Translation& out, bool quiet) {
  const State& s = cpu.state;
  const u64 a20 = s.a20 ? ~u64{0} : ~(u64{1} << 20);
  out = {};
  if (!(s.cr0 & cr0_pg)) {
    out.physical = linear & 0xffff'ffff & a20;
    out.write_ready = true;
    return true;
  }
  const bool entries64 = s.cr4 & cr4_pae;
  const bool user = who == Privilege::user;
  if (!s.long_mode()) linear &= 0xffff'ffff;
  for (unsigned tries = 0; tries < 1000; ++tries) {
    const Walked w = entries64 ? walk64(cpu, linear) : walk32(cpu, linear);
    bool allowed = w.ok, write_allowed = false;
    u32 code = w.fault;
    u8 key = 0;
    if (w.ok) {
      code = code_present;
      const u64 leaf = w.path[w.depth - 1].value;
      if (user && !w.user) allowed = false;
      write_allowed = w.write || (!user && !(s.cr0 & cr0_wp));
      if (want == Rights::fetch) {
        if (entries64 && s.efer & efer_nxe && w.nx) allowed = false;
        if (!user && w.user && s.cr4 & cr4_smep) allowed = false;
      } else {
        if (!user && w.user && s.cr4 & cr4_smap && (who == Privilege::implicit || !(s.rflags & flag_ac))) allowed = false;
        if (want == Rights::write && !write_allowed) allowed = false;
        if (w.user && s.cr4 & cr4_pke && s.long_mode()) {
          key = static_cast<u8>(leaf >> 59 & 15);
          const u32 rights = s.pkru >> (2 * key) & 3;
          const bool write_denied = rights & 2 && (user || s.cr0 & cr0_wp);
          if (allowed && (rights & 1 || (want == Rights::write && write_denied))) allowed = false, code |= code_key;
          if (write_denied) write_allowed = false;
        }
      }
    }
    if (quiet) allowed = w.ok;  // debuggers may look everywhere
    if (!allowed) {
      if (quiet) return false;
      if (want == Rights::write) code |= code_write;
      if (user) code |= code_user;
      if (want == Rights::fetch && ((entries64 && s.efer & efer_nxe) || s.cr4 & cr4_smep)) code |= code_fetch;
      cpu.raise_page_fault(linear, code);
      return false;
    }
    const Entry& leaf = w.path[w.depth - 1];
    const u64 leaf_bits = pte_accessed | (want == Rights::write ? pte_dirty : 0);
    if (!quiet) {
      bool same = true;
      for (unsigned i = 0; same && i < w.depth; ++i) {
        const u64 bits = i + 1 == w.depth ? leaf_bits : pte_accessed;
        same = entries64 ? set_bits<u64>(cpu, w.path[i], bits) : set_bits<u32>(cpu, w.path[i], bits);
      }
      if (!same) continue;  // another CPU has changed the tables: look again
    }
    out.physical = (w.base | (linear & (w.page_bytes - 1))) & a20;
    out.page_bytes = w.page_bytes;
    out.write_ready = write_allowed && (leaf.value | leaf_bits) & pte_dirty;
    out.global = leaf.value & pte_global && s.cr4 & cr4_pge;
    out.key = key;
    return true;
  }
  cpu.raise_page_fault(linear, user ? code_user : 0);
  return false;
}

}  // namespace vmm::tcg::x86
