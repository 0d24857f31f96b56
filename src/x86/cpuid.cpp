// The leaves that a model shows. Source: SDM 2A "CPUID", AMD APM vol. 3 appendix E.
#include <algorithm>
#include <bit>
#include <cstring>

#include "src/base/bits.h"
#include "src/x86/model.h"
#include "src/x86/state.h"

namespace vmm::x86 {

namespace {

using F = CpuFeature;

unsigned bits_for(unsigned count) { return count <= 1 ? 0 : static_cast<unsigned>(std::bit_width(count - 1)); }

struct Cache {
  unsigned type;  // 1 data, 2 instruction, 3 unified
  unsigned level, bytes, ways, line;
  bool inclusive;
};
constexpr Cache caches[] = {
    {1, 1, 32 << 10, 8, 64, false}, {2, 1, 32 << 10, 8, 64, false}, {3, 2, 4 << 20, 16, 64, false}, {3, 3, 16 << 20, 16, 64, true}};

// Leaf 4 and 0x8000001d share their form but for EAX 31:26 (cores a package).
CpuidResult cache_leaf(const CpuModel& model, const CpuidInput& in, bool intel) {
  if (in.subleaf >= std::size(caches)) return {};
  const Cache& cache = caches[in.subleaf];
  const Topology& t = in.topology;
  const unsigned sharing =
      cache.level == 3 ? (1u << (t.die_bits() ? t.thread_bits() + t.core_bits() : t.thread_bits() + t.core_bits())) : 1u << t.thread_bits();
  CpuidResult r;
  r.eax = cache.type | cache.level << 5 | 1 << 8 | (sharing - 1) << 14;
  if (intel) r.eax |= std::min((1u << (t.core_bits() + t.die_bits())) - 1, 63u) << 26;
  r.ebx = (cache.line - 1) | (cache.ways - 1) << 22;
  r.ecx = cache.bytes / cache.line / cache.ways - 1;
  r.edx = cache.inclusive ? 6 : 1;
  return r;
}

u32 ascii(std::string_view text, usize at) {
  u32 v = 0;
  for (usize i = 0; i < 4; ++i)
    if (at + i < text.size()) v |= u32{static_cast<u8>(text[at + i])} << (8 * i);
  return v;
}

CpuidResult xsave_leaf(const CpuModel& model, const CpuidInput& in) {
  if (!model.has(F::xsave)) return {};
  const u64 all = xcr0_mask(model);
  CpuidResult r;
  if (in.subleaf == 0) {
    r.eax = static_cast<u32>(all), r.edx = static_cast<u32>(all >> 32);
    r.ebx = xsave_bytes(in.xcr0, false);
    r.ecx = xsave_bytes(all, false);
  } else if (in.subleaf == 1) {
    r.eax = model.features[Word::xsave_eax];
    if (model.has(F::xsavec)) r.ebx = xsave_bytes(in.xcr0 | in.xss, true);
  } else if (in.subleaf < 63 && bit(all, in.subleaf)) {
    const XsaveComponent c = xsave_component(in.subleaf);
    r.eax = c.size, r.ebx = c.offset, r.ecx = c.aligned ? 2 : 0;
  }
  return r;
}

}  // namespace

unsigned Topology::thread_bits() const { return bits_for(threads); }
unsigned Topology::core_bits() const { return bits_for(cores); }
unsigned Topology::die_bits() const { return bits_for(dies); }
u32 Topology::apic_id(unsigned index) const {
  const unsigned thread = index % threads, core = index / threads % cores, die = index / threads / cores % dies,
                 socket = index / threads / cores / dies;
  return ((socket << die_bits() | die) << core_bits() | core) << thread_bits() | thread;
}

XsaveComponent xsave_component(unsigned number) {
  switch (number) {
    case 2: return {256, 576, false};
    case 9: return {8, 2688, false};
    default: return {};
  }
}

u32 xsave_bytes(u64 components, bool compact) {
  u32 size = 576;
  for (unsigned i = 2; i < 63; ++i) {
    if (!bit(components, i)) continue;
    const XsaveComponent c = xsave_component(i);
    size = compact ? (c.aligned ? static_cast<u32>(align_up(size, 64)) : size) + c.size : std::max(size, c.offset + c.size);
  }
  return size;
}

u64 xcr0_mask(const CpuModel& model) {
  if (!model.has(F::xsave)) return 1;
  return 3 | (model.has(F::avx) ? 4 : 0) | (model.has(F::pku) ? 1 << 9 : 0);
}

CpuidResult cpuid(const CpuModel& model, const CpuidInput& in) {
  CpuidInput n = in;
  const FeatureWords& f = model.features;
  const Topology& t = in.topology;
  const unsigned package_threads = 1u << (t.thread_bits() + t.core_bits() + t.die_bits());
  // Out of range: the data of the highest basic leaf (Intel), zeros (AMD; QEMU's models do as Intel for all).
  if (n.leaf >= 0x4000'0000 && n.leaf < 0x4000'0100) {
    if (!model.announce_vmm || !model.has(F::hypervisor)) return {};
  } else if (n.leaf >= 0x8000'0000) {
    if (n.leaf > model.xlevel) n.leaf = model.level;
  } else if (n.leaf > model.level) {
    n.leaf = model.level;
  }
  CpuidResult r;
  switch (n.leaf) {
    case 0:
      r.eax = model.level;
      r.ebx = ascii(model.vendor, 0), r.edx = ascii(model.vendor, 4), r.ecx = ascii(model.vendor, 8);
      break;
    case 1: {
      const unsigned family = std::min(model.family, 0xfu), extended = model.family > 0xf ? model.family - 0xf : 0;
      r.eax = extended << 20 | (model.model >> 4) << 16 | family << 8 | (model.model & 15) << 4 | model.stepping;
      r.ebx = (in.apic_id & 0xff) << 24 | (package_threads > 1 ? std::min(package_threads, 255u) << 16 : 0) | 8 << 8;
      r.ecx = f[Word::l1_ecx];
      if (model.has(F::xsave) && (in.cr4 & cr4_osxsave)) r.ecx |= 1u << 27;
      r.edx = f[Word::l1_edx];
      if (!in.apic_enabled) r.edx &= ~(1u << 9);
      if (package_threads > 1) r.edx |= 1u << 28;
      break;
    }
    case 2: r.eax = 1, r.ebx = 0, r.ecx = 0x4d, r.edx = 0x002c'307d; break;
    case 4:
      if (!model.has(F::topoext) || model.vendor == "GenuineIntel") r = cache_leaf(model, in, true);
      break;
    case 5:
      if (model.has(F::monitor)) r.eax = 0, r.ebx = 0, r.ecx = 3, r.edx = 0;
      break;
    case 6: r.eax = f[Word::l6_eax]; break;
    case 7:
      if (in.subleaf == 0) {
        r.eax = f[Word::l7_1_eax] | f[Word::l7_1_edx] ? 1 : 0;
        r.ebx = f[Word::l7_ebx], r.ecx = f[Word::l7_ecx], r.edx = f[Word::l7_edx];
        if (model.has(F::pku) && (in.cr4 & cr4_pke)) r.ecx |= 1u << 4;
      } else if (in.subleaf == 1) {
        r.eax = f[Word::l7_1_eax], r.edx = f[Word::l7_1_edx];
      }
      break;
    case 0xb:
      r.ecx = in.subleaf & 0xff, r.edx = in.apic_id;
      if (in.subleaf == 0) {
        r.eax = t.thread_bits(), r.ebx = t.threads, r.ecx |= 1 << 8;
      } else if (in.subleaf == 1) {
        r.eax = t.thread_bits() + t.core_bits() + t.die_bits(), r.ebx = t.threads * t.cores * t.dies, r.ecx |= 2 << 8;
      }
      break;
    case 0xd: r = xsave_leaf(model, in); break;
    case 0x15:
      // TSC = 1 × crystal (ECX hertz).
      if (model.has(F::invtsc)) r.eax = 1, r.ebx = 1, r.ecx = static_cast<u32>(std::min<u64>(model.tsc_hz, 0xffff'ffff));
      break;
    case 0x4000'0000:
      r.eax = 0x4000'0001;
      r.ebx = ascii("TCGTCGTCGTCG", 0), r.ecx = ascii("TCGTCGTCGTCG", 4), r.edx = ascii("TCGTCGTCGTCG", 8);
      break;
    case 0x8000'0000:
      r.eax = model.xlevel;
      r.ebx = ascii(model.vendor, 0), r.edx = ascii(model.vendor, 4), r.ecx = ascii(model.vendor, 8);
      break;
    case 0x8000'0001:
      r.eax = cpuid(model, {.leaf = 1}).eax;
      r.ecx = f[Word::e1_ecx];
      r.edx = f[Word::e1_edx];
      if (model.amd()) r.edx |= f[Word::l1_edx] & 0x0183'f3ff & ~(in.apic_enabled ? 0u : 1u << 9);
      if (package_threads > 1 && model.amd() && !model.has(F::topoext)) r.ecx |= 1 << 1;
      break;
    case 0x8000'0002:
    case 0x8000'0003:
    case 0x8000'0004: {
      const usize at = (n.leaf - 0x8000'0002) * 16;
      r = {ascii(model.model_id, at), ascii(model.model_id, at + 4), ascii(model.model_id, at + 8), ascii(model.model_id, at + 12)};
      break;
    }
    case 0x8000'0005: r = {0x01ff'01ff, 0x01ff'01ff, 0x4002'0140, 0x4002'0140}; break;
    case 0x8000'0006: r = {0, 0x4200'4200, 0x0200'8140, 0x0080'8140}; break;
    case 0x8000'0007: r.edx = f[Word::e7_edx]; break;
    case 0x8000'0008:
      r.eax = model.has(F::lm) ? model.physical_bits | model.linear_bits << 8 : (model.has(F::pse36) ? 36 : 32);
      r.ebx = f[Word::e8_ebx];
      if (t.cores * t.threads * t.dies > 1) r.ecx = (t.cores * t.threads * t.dies - 1) | bits_for(package_threads) << 12;
      break;
    case 0x8000'000a:
      if (model.has(F::svm)) r.eax = 1, r.ebx = 0x10, r.edx = f[Word::svm_edx];
      break;
    case 0x8000'001d:
      if (model.has(F::topoext)) r = cache_leaf(model, in, false);
      break;
    case 0x8000'001e:
      if (model.has(F::topoext)) {
        r.eax = in.apic_id;
        r.ebx = (in.apic_id >> t.thread_bits() & ((1u << (t.core_bits() + t.die_bits())) - 1)) | (t.threads - 1) << 8;
        r.ecx = (in.apic_id >> (t.thread_bits() + t.core_bits() + t.die_bits())) & 0xff;
      }
      break;
    case 0x8000'0021: r.eax = f[Word::e21_eax]; break;
    default: break;
  }
  return r;
}

}  // namespace vmm::x86
