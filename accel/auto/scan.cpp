// See scan.h. Source: SDM 2, opcodes of the two-byte map.
#include "accel/auto/scan.h"

#include <algorithm>
#include <cstring>

namespace vmm::both {
namespace {

// After 0x0f.
Shows of_opcode(u8 opcode, u8 modrm) {
  const unsigned reg = modrm >> 3 & 7;
  const bool memory = modrm < 0xc0;
  const auto host = [](bool b) { return b ? Shows::host : Shows::nothing; };
  switch (opcode) {
    case 0xa2: return Shows::host;  // cpuid
    case 0x31: return Shows::counter;
    case 0x01: return modrm == 0xf9 ? Shows::counter : host(modrm == 0xc1 || modrm == 0xd9 || modrm == 0xd0);  // vmcall, vmmcall, xgetbv
    case 0x02:
    case 0x03: return host(!memory);                                   // lar, lsl: the host's descriptors
    case 0xae: return host(memory && reg >= 4 && reg <= 6);            // xsave, xrstor, xsaveopt: by the host's XCR0
    case 0xc7: return host(memory ? reg >= 3 && reg <= 5 : reg == 7);  // xrstors, xsavec, xsaves; rdpid
    default: return Shows::nothing;
  }
}
bool wants_modrm(u8 opcode) { return opcode == 1 || opcode == 2 || opcode == 3 || opcode == 0xae || opcode == 0xc7; }

usize prefixes(std::span<const u8> bytes) {
  usize n = 0;
  while (n < bytes.size() && (std::memchr("\x66\x67\xf2\xf3\x2e\x36\x3e\x26\x64\x65\xf0", bytes[n], 11) || (bytes[n] & 0xf0) == 0x40)) n++;
  return n;
}

// Does an instruction have its opcode's first byte there, in one of the ways to read what comes before?
bool may_begin(std::span<const u8> page, usize at, tcg::x86::ModeKey key, const tcg::x86::FeatureSet& features) {
  constexpr usize way = 64, sweeps = 16;
  const usize first = at > way ? at - way : 0;
  for (usize start = first; start < first + sweeps && start <= at; start++) {
    for (usize here = start; here <= at;) {
      tcg::x86::Insn insn;
      const auto rest = page.subspan(here);
      const tcg::x86::Decoded decoded = tcg::x86::decode(rest, key, features, insn);
      const usize length = decoded == tcg::x86::Decoded::ok ? insn.length : decoded == tcg::x86::Decoded::more ? rest.size() : 1;
      if (at < here + std::max<usize>(length, 1) || here == at) {
        if (const usize n = prefixes(rest); here + n == at) {
          // rdseed is rdpid without F3.
          const bool random = at + 2 < page.size() && page[at + 1] == 0xc7 && page[at + 2] >= 0xc0;
          if (!random || std::ranges::find(rest.first(n), u8{0xf3}) != rest.first(n).end()) return true;
        }
        break;
      }
      here += std::max<usize>(length, 1);
    }
  }
  return false;
}

}  // namespace

Shows shown_by(std::span<const u8> bytes, usize before, tcg::x86::ModeKey key, const tcg::x86::FeatureSet& features) {
  Shows worst = Shows::nothing;
  for (usize at = before; at < bytes.size(); at++) {
    const void* const found = std::memchr(bytes.data() + at, 0x0f, bytes.size() - at);
    if (!found) break;
    at = static_cast<usize>(static_cast<const u8*>(found) - bytes.data());
    if (at + 1 == bytes.size() || (wants_modrm(bytes[at + 1]) && at + 2 == bytes.size())) break;  // shown_over_the_end()
    const Shows here = of_opcode(bytes[at + 1], at + 2 < bytes.size() ? bytes[at + 2] : 0);
    if (here > worst && may_begin(bytes, at, key, features)) worst = here;
    if (worst == Shows::host) break;
  }
  return worst;
}

bool ends_open(std::span<const u8, 2> last) { return last[1] == 0x0f || (last[0] == 0x0f && wants_modrm(last[1])); }

bool shown_over_the_end(std::span<const u8, 2> last, std::span<const u8, 2> next) {
  if (last[1] == 0x0f && of_opcode(next[0], next[1]) != Shows::nothing) return true;
  return last[0] == 0x0f && wants_modrm(last[1]) && of_opcode(last[1], next[0]) != Shows::nothing;
}

}  // namespace vmm::both
