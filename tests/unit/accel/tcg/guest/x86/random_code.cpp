#include "tests/unit/accel/tcg/guest/x86/random_code.h"

namespace vmm::tcg::differential {

using x86::Prefix, x86::Role, x86::Size;

void append(const Choice& c, Numbers& n, unsigned bits, u64 here, std::vector<u8>& code) {
  const auto& t = c.row->t;
  const bool wide = bits == 64;
  const auto put = [&](u64 v) { code.push_back(static_cast<u8>(v)); };
  const auto put_all = [&](u64 v, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) put(v >> (8 * i));
  };
  bool p66 = false, p67 = false, w = false;
  if (t.lock && n.below(4) == 0) put(0xf0);
  if (t.rep && n.below(2)) put(n.below(2) ? 0xf2 : 0xf3);
  if (t.prefix == Prefix::any && n.below(6) == 0) put(0x66), p66 = true;
  if (n.below(24) == 0) put(0x67), p67 = true;
  if (n.below(24) == 0) put(wide || n.below(2) ? 0x64 + n.below(2) : 0x26 + 8 * n.below(4));
  if (t.vex) {
    const unsigned pp = t.prefix == Prefix::p66 ? 1 : t.prefix == Prefix::f3 ? 2 : t.prefix == Prefix::f2 ? 3 : 0;
    const unsigned l = t.l >= 0 ? static_cast<unsigned>(t.l) : n.below(2);
    w = t.w >= 0 ? t.w : n.below(2);
    put(0xc4), put((wide ? n.next() & 0xe0 : 0xe0) | static_cast<unsigned>(c.map));
    put(u64{w} << 7 | (wide ? n.below(16) : 8 + n.below(8)) << 3 | l << 2 | pp);
  } else {
    if (t.prefix == Prefix::p66) put(0x66);
    if (t.prefix == Prefix::f3) put(0xf3);
    if (t.prefix == Prefix::f2) put(0xf2);
    if (wide && n.below(2)) {
      const unsigned rex = 0x40 | n.below(16) | (t.w == 1 ? 8 : 0);
      put(rex), w = rex & 8;
    }
    if (c.map != x86::Map::one) put(0x0f);
    if (c.map == x86::Map::m38) put(0x38);
    if (c.map == x86::Map::m3a) put(0x3a);
  }
  put(c.row->opcode);
  const unsigned address = wide ? (p67 ? 4 : 8) : (bits == 32) != p67 ? 4 : 2, operand = w ? 8 : (bits == 16) != p66 ? 2 : 4;
  unsigned modrm = n.below(256);
  if (n.below(2))
    modrm |= 0xc0;
  else if (n.below(3) == 0)
    modrm = (modrm & 0x38) | (address == 2 ? 6 : 5);  // an address in the instruction: mostly one that is there
  if (t.reg >= 0) modrm = (modrm & ~0x38u) | static_cast<unsigned>(t.reg) << 3;
  if (t.rm >= 0) modrm = (modrm & ~7u) | static_cast<unsigned>(t.rm) | 0xc0;
  if (t.mod == x86::Mod::memory && modrm >= 0xc0) modrm &= 0x3f;
  if (t.mod == x86::Mod::reg) modrm |= 0xc0;
  bool has_modrm = t.modrm || t.reg >= 0 || t.rm >= 0 || t.mod != x86::Mod::any;
  for (const auto& o : c.row->operands) has_modrm |= o.role == Role::modrm_rm || o.role == Role::modrm_reg;
  const u64 there = n.near + n.below(n.near_bytes / 2);
  if (has_modrm) {
    put(modrm);
    if (modrm < 0xc0 && address != 2 && (modrm & 7) == 4) put(n.next());
    if (address == 2) {
      if ((modrm & 0xc7) == 6)
        put_all(there, 2);
      else if (modrm >> 6 == 1)
        put(n.next());
      else if (modrm >> 6 == 2)
        put_all(n.below(3) ? n.below(0x200) : n.next(), 2);
    } else if ((modrm & 0xc7) == 5) {
      put_all(wide ? there - here - code.size() : there, 4);
    } else if (modrm >> 6 == 1) {
      put(n.next());
    } else if (modrm >> 6 == 2) {
      put_all(n.below(3) ? n.below(0x200) : n.next(), 4);
    }
  }
  for (const auto& o : c.row->operands) {
    if (o.role == Role::moffs) put_all(n.below(4) ? there : n.edge(), address);
    if (o.role == Role::far_ptr) put_all(n.next(), operand == 2 ? 2 : 4), put_all(n.below(4) ? n.below(20) << 3 | 7 : n.next(), 2);
    if (o.role != Role::imm && o.role != Role::imm_sx && o.role != Role::is4 && o.role != Role::rel) continue;
    unsigned bytes = 4;
    if (o.size == Size::b || o.role == Role::is4)
      bytes = 1;
    else if (o.size == Size::w)
      bytes = 2;
    else if (o.size == Size::v && o.role != Role::rel)
      bytes = operand;
    else if (operand == 2 && !(wide && o.role == Role::rel))
      bytes = 2;
    if (o.role == Role::rel)
      put(n.below(3) ? n.below(24) : n.next()), put_all(0, bytes - 1);
    else
      put_all(n.below(3) ? n.edge() : n.below(64), bytes);
  }
}

}  // namespace vmm::tcg::differential
