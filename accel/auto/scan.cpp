// See scan.h. Source: SDM 2, opcodes of the two-byte map.
#include "accel/auto/scan.h"

#include <algorithm>
#include <cstring>

namespace vmm::both {
namespace {

// After 0x0f; what is not there any more counts as the worst.
bool bad_opcode(std::span<const u8> bytes) {
  if (bytes.empty()) return true;
  const u8 opcode = bytes[0];
  if (opcode == 0x31 || opcode == 0xa2) return true;  // rdtsc, cpuid
  if (opcode != 0x01 && opcode != 0x02 && opcode != 0x03 && opcode != 0xae && opcode != 0xc7) return false;
  if (bytes.size() < 2) return true;
  const u8 modrm = bytes[1];
  const unsigned reg = modrm >> 3 & 7;
  const bool memory = modrm < 0xc0;
  switch (opcode) {
    case 0x01: return modrm == 0xc1 || modrm == 0xd9 || modrm == 0xd0 || modrm == 0xf9;  // vmcall, vmmcall, xgetbv, rdtscp
    case 0xae: return memory && reg >= 4 && reg <= 6;                                    // xsave, xrstor, xsaveopt: by the host's XCR0
    case 0xc7: return memory ? reg >= 3 && reg <= 5 : reg == 7;  // xrstors, xsavec, xsaves; rdpid (rdseed looks the same)
    default: return !memory;                                     // lar, lsl: the host's descriptors
  }
}

usize prefixes(std::span<const u8> bytes) {
  usize n = 0;
  while (n < bytes.size() && (std::memchr("\x66\x67\xf2\xf3\x2e\x36\x3e\x26\x64\x65\xf0", bytes[n], 11) || (bytes[n] & 0xf0) == 0x40)) n++;
  return n;
}

// Does an instruction have its opcode's first byte there, in one of the ways to read what comes before?
bool may_begin(std::span<const u8> page, usize at, tcg::x86::ModeKey key, const tcg::x86::FeatureSet& features) {
  constexpr usize before = 64, sweeps = 16;
  const usize first = at > before ? at - before : 0;
  for (usize start = first; start < first + sweeps && start <= at; start++) {
    for (usize here = start; here <= at;) {
      tcg::x86::Insn insn;
      const auto rest = page.subspan(here);
      const tcg::x86::Decoded decoded = tcg::x86::decode(rest, key, features, insn);
      const usize length = decoded == tcg::x86::Decoded::ok ? insn.length : decoded == tcg::x86::Decoded::more ? rest.size() : 1;
      if (at < here + std::max<usize>(length, 1) || here == at) {
        if (here + prefixes(rest) == at) return true;
        break;
      }
      here += std::max<usize>(length, 1);
    }
  }
  return false;
}

}  // namespace

bool shows_the_host(std::span<const u8> page, tcg::x86::ModeKey key, const tcg::x86::FeatureSet& features) {
  for (usize at = 0; at < page.size(); at++) {
    const void* const found = std::memchr(page.data() + at, 0x0f, page.size() - at);
    if (!found) return false;
    at = static_cast<usize>(static_cast<const u8*>(found) - page.data());
    if (bad_opcode(page.subspan(at + 1)) && may_begin(page, at, key, features)) return true;
  }
  return false;
}

}  // namespace vmm::both
