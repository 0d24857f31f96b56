// Decodes one instruction by the rows of map_*.h. Sources: SDM 2A chapter 2 (format), 2D appendix A (maps).
#include "accel/tcg/guest/x86/insn.h"
#include "accel/tcg/guest/x86/map_0f.h"
#include "accel/tcg/guest/x86/map_0f38.h"
#include "accel/tcg/guest/x86/map_one.h"
#include "accel/tcg/guest/x86/map_sse.h"
#include "accel/tcg/guest/x86/map_system.h"
#include "accel/tcg/guest/x86/map_vex.h"
#include "accel/tcg/guest/x86/map_x87.h"
#include "src/base/bits.h"

namespace vmm::tcg::x86 {

namespace {

constexpr MapRows tables[] = {
    {Map::one, rows_one},         {Map::one, rows_system_one}, {Map::one, rows_x87},      {Map::two, rows_0f},
    {Map::two, rows_system_0f},   {Map::two, rows_sse_0f},     {Map::two, rows_vex_0f},   {Map::m38, rows_0f38},
    {Map::m38, rows_system_0f38}, {Map::m38, rows_sse_0f38},   {Map::m38, rows_vex_0f38}, {Map::m3a, rows_0f3a},
    {Map::m3a, rows_sse_0f3a},    {Map::m3a, rows_vex_0f3a},
};

constexpr bool names_modrm(const Row& row) {
  if (row.t.modrm || row.t.reg >= 0 || row.t.rm >= 0 || row.t.mod != Mod::any) return true;
  for (const Operand& o : row.operands) {
    if (o.role == Role::modrm_rm || o.role == Role::modrm_reg) return true;
  }
  return false;
}

constexpr usize count_rows() {
  usize n = 0;
  for (const MapRows& m : tables) n += m.rows.size();
  return n;
}

// Candidates by (VEX, map, opcode), in the order of the tables.
struct Index {
  std::array<u16, 8 * 256 + 1> begin{};
  std::array<bool, 8 * 256> modrm{};
  std::array<const Row*, count_rows()> rows{};
};
constexpr usize slot_of(bool vex, Map map, u8 opcode) { return ((vex ? 4u : 0u) + static_cast<unsigned>(map)) * 256 + opcode; }

constexpr Index make_index() {
  Index index;
  std::array<u16, 8 * 256> count{};
  for (const MapRows& m : tables)
    for (const Row& row : m.rows) count[slot_of(row.t.vex, m.map, row.opcode)]++;
  u16 at = 0;
  for (usize i = 0; i < count.size(); i++) index.begin[i] = at, at += count[i], count[i] = index.begin[i];
  index.begin[count.size()] = at;
  for (const MapRows& m : tables) {
    for (const Row& row : m.rows) {
      const usize slot = slot_of(row.t.vex, m.map, row.opcode);
      index.rows[count[slot]++] = &row;
      if (names_modrm(row)) index.modrm[slot] = true;
    }
  }
  return index;
}
constexpr Index index_of_rows = make_index();

constexpr bool every_row_has_a_meaning() {
  for (const MapRows& m : tables)
    for (const Row& row : m.rows)
      if (!row.emit && !row.t.pass && !row.t.undefined) return false;
  return true;
}
static_assert(every_row_has_a_meaning(), "a row without emitter, .pass or .undefined");

struct Reader {
  std::span<const u8> bytes;
  usize at = 0;
  bool short_ = false;
  u8 next() {
    if (at >= bytes.size()) return short_ = true, u8{0};
    return bytes[at++];
  }
  u64 little(unsigned size) {
    u64 v = 0;
    for (unsigned i = 0; i < size; i++) v |= u64{next()} << (8 * i);
    return v;
  }
};

void read_modrm_memory(Reader& in, Insn& insn, bool code64) {
  insn.memory = true;
  insn.base = insn.index = 0xff;
  if (insn.addrsize == 2) {
    constexpr u8 bases[8] = {3, 3, 5, 5, 6, 7, 5, 3}, indexes[8] = {6, 7, 6, 7, 0xff, 0xff, 0xff, 0xff};
    insn.base = bases[insn.rm], insn.index = indexes[insn.rm];
    if (insn.mod == 0 && insn.rm == 6) insn.base = 0xff, insn.disp = static_cast<i64>(in.little(2));
    if (insn.mod == 1) insn.disp = static_cast<i8>(in.next());
    if (insn.mod == 2) insn.disp = static_cast<i16>(in.little(2));
    if (!insn.segment_override) insn.segment = insn.base == 5 ? 2 : 3;
    return;
  }
  if (insn.rm == 4) {
    const u8 sib = in.next();
    insn.scale = sib >> 6;
    if (const unsigned index = ((sib >> 3) & 7) | insn.rex_x; index != 4) insn.index = static_cast<u8>(index);
    if ((sib & 7) == 5 && insn.mod == 0) {
      insn.disp = static_cast<i32>(in.little(4));
    } else {
      insn.base = (sib & 7) | insn.rex_b;
    }
  } else if (insn.rm == 5 && insn.mod == 0) {
    insn.disp = static_cast<i32>(in.little(4));
    insn.ip_relative = code64;
  } else {
    insn.base = insn.rm | insn.rex_b;
  }
  if (insn.mod == 1) insn.disp = static_cast<i8>(in.next());
  if (insn.mod == 2) insn.disp = static_cast<i32>(in.little(4));
  if (!insn.segment_override) insn.segment = insn.base == 4 || insn.base == 5 ? 2 : 3;
}

bool matches(const Row& row, const Insn& insn, bool code64, const FeatureSet& features) {
  const Traits& t = row.t;
  switch (t.prefix) {
    case Prefix::any: break;
    case Prefix::none:
      if (insn.rep || insn.p66) return false;
      break;
    case Prefix::p66:
      if (insn.rep || !insn.p66) return false;
      break;
    case Prefix::f3:
      if (insn.rep != 0xf3) return false;
      break;
    case Prefix::f2:
      if (insn.rep != 0xf2) return false;
      break;
    case Prefix::no_rep:
      if (insn.rep) return false;
      break;
  }
  if (t.reg >= 0 && insn.reg != t.reg) return false;
  if (t.mod != Mod::any && (insn.mod == 3) != (t.mod == Mod::reg)) return false;
  if (t.rm >= 0 && (insn.mod != 3 || insn.rm != t.rm)) return false;
  if (t.mode != Mode::any && code64 != (t.mode == Mode::only64)) return false;
  if (t.w >= 0 && insn.w != (t.w != 0)) return false;
  if (t.l >= 0 && insn.vex_l != t.l) return false;
  if (insn.has_modrm) {
    for (const Operand& o : row.operands) {
      if (o.form != Operand::any && (insn.mod == 3) != (o.form == Operand::reg_only)) return false;
    }
  }
  return features.has(t.needs);
}

}  // namespace

std::span<const MapRows> all_rows() { return tables; }

unsigned width_of(const Insn& insn, const Operand& operand) {
  switch (operand.size) {
    case Size::none:
    case Size::any: return 0;
    case Size::b: return 1;
    case Size::w: return 2;
    case Size::d: return 4;
    case Size::q: return 8;
    case Size::v: return insn.opsize;
    case Size::y: return insn.w && insn.code64 ? 8 : 4;
    case Size::z: return insn.opsize < 4 ? insn.opsize : 4;
    case Size::dq: return 16;
    case Size::x: return insn.vex_l ? 32 : 16;
    case Size::qq: return 32;
    case Size::p: return insn.opsize + 2u;
    case Size::t: return 10;
    case Size::native: return insn.code64 ? 8 : 4;
    case Size::hx: return insn.vex_l ? 16 : 8;
    case Size::fx: return insn.vex_l ? 8 : 4;
    case Size::ex: return insn.vex_l ? 4 : 2;
    case Size::dup: return insn.vex_l ? 32 : 8;
    case Size::db: return insn.memory ? 1 : 4;
    case Size::dw: return insn.memory ? 2 : 4;
  }
  return 0;
}

Decoded decode(std::span<const u8> all, ModeKey key, const FeatureSet& features, Insn& insn) {
  insn = Insn{};
  Reader in{all.first(std::min<usize>(all.size(), 15))};
  const Decoded out_of_bytes = all.size() >= 15 ? Decoded::too_long : Decoded::more;
  const bool code64 = key.has(ModeKey::code64);
  insn.code64 = code64;
  bool p67 = false;
  u8 rex = 0, byte = 0;
  for (;; rex = 0) {
    byte = in.next();
    if (in.short_) return out_of_bytes;
  again:
    switch (byte) {
      case 0x66: insn.p66 = true; continue;
      case 0x67: p67 = true; continue;
      case 0xf0: insn.lock = true; continue;
      case 0xf2:
      case 0xf3: insn.rep = byte; continue;
      case 0x26:
      case 0x2e:
      case 0x36:
      case 0x3e:
        if (!code64) insn.segment = (byte >> 3) & 3, insn.segment_override = true;
        continue;
      case 0x64:
      case 0x65: insn.segment = byte - 0x60, insn.segment_override = true; continue;
      default:
        if (code64 && (byte & 0xf0) == 0x40) {
          rex = byte;
          byte = in.next();
          if (in.short_) return out_of_bytes;
          if ((byte & 0xf0) == 0x40) goto again;  // the last REX counts
          switch (byte) {                         // a REX that is not last is ignored
            case 0x66:
            case 0x67:
            case 0xf0:
            case 0xf2:
            case 0xf3:
            case 0x26:
            case 0x2e:
            case 0x36:
            case 0x3e:
            case 0x64:
            case 0x65: rex = 0; goto again;
            default: break;
          }
        }
    }
    break;
  }
  insn.rex = rex != 0, insn.w = rex & 8, insn.rex_r = (rex & 4) << 1, insn.rex_x = (rex & 2) << 2, insn.rex_b = (rex & 1) << 3;
  if (byte == 0x0f) {
    insn.map = Map::two, byte = in.next();
    if (byte == 0x38)
      insn.map = Map::m38, byte = in.next();
    else if (byte == 0x3a)
      insn.map = Map::m3a, byte = in.next();
  } else if ((byte == 0xc4 || byte == 0xc5) && key.has(ModeKey::protected_)) {
    const u8 second = in.at < in.bytes.size() ? in.bytes[in.at] : (in.short_ = true, u8{0});
    if (in.short_) return out_of_bytes;
    if (code64 || second >= 0xc0) {
      if (insn.p66 || insn.rep || insn.lock || rex) return Decoded::undefined;
      insn.vex = true;
      u8 last = in.next();
      insn.rex_r = last & 0x80 ? 0 : 8;
      if (byte == 0xc4) {
        insn.rex_x = last & 0x40 ? 0 : 8, insn.rex_b = last & 0x20 ? 0 : 8;
        const unsigned map = last & 31;
        if (map < 1 || map > 3) return Decoded::undefined;
        insn.map = static_cast<Map>(map);
        last = in.next();
        insn.w = last & 0x80;
      } else {
        insn.map = Map::two;
      }
      insn.vvvv = (~last >> 3) & 15, insn.vex_l = (last >> 2) & 1;
      constexpr u8 reps[4] = {0, 0, 0xf3, 0xf2};
      insn.p66 = (last & 3) == 1, insn.rep = reps[last & 3];
      if (!code64) insn.rex_r = insn.rex_x = insn.rex_b = 0, insn.vvvv &= 7;
      byte = in.next();
    }
  }
  insn.opcode = byte;
  if (in.short_) return out_of_bytes;

  const usize slot = slot_of(insn.vex, insn.map, byte);
  const Row* const* from = &index_of_rows.rows[index_of_rows.begin[slot]];
  const Row* const* const to = index_of_rows.rows.data() + index_of_rows.begin[slot + 1];
  if (from == to) return Decoded::undefined;
  insn.addrsize = code64 ? (p67 ? 4 : 8) : (key.has(ModeKey::code32) != p67) ? 4 : 2;
  if (index_of_rows.modrm[slot]) {
    insn.has_modrm = true;
    insn.modrm = in.next();
    if (in.short_) return out_of_bytes;
    insn.mod = insn.modrm >> 6, insn.reg = (insn.modrm >> 3) & 7, insn.rm = insn.modrm & 7;
  }
  while (from != to && !matches(**from, insn, code64, features)) from++;
  if (from == to || (*from)->t.undefined) return Decoded::undefined;
  const Row& row = **from;
  insn.row = &row;
  // mov to and from control and debug registers has a register whatever mod says.
  const bool mod_ignored = row.operands[0].size == Size::native || row.operands[1].size == Size::native;
  if (insn.has_modrm && insn.mod != 3 && !mod_ignored) {
    read_modrm_memory(in, insn, code64);
  }
  const Traits& t = row.t;
  if (code64) {
    insn.opsize = insn.w || t.f64 ? 8 : insn.p66 ? 2 : t.d64 ? 8 : 4;
  } else {
    insn.opsize = key.has(ModeKey::code32) != insn.p66 ? 4 : 2;
  }
  bool names_vvvv = false, second_imm = false;
  for (const Operand& o : row.operands) {
    switch (o.role) {
      case Role::none: goto operands_done;
      case Role::vvvv: names_vvvv = true; break;
      case Role::imm:
      case Role::imm_sx:
      case Role::rel: {
        unsigned size = width_of(insn, o);
        if (o.role == Role::rel && code64 && o.size == Size::z) size = 4;
        u64 v = in.little(size);
        if (o.role != Role::imm) v = sign_extend(v, size * 8);
        if (second_imm)
          insn.imm2 = v;
        else
          insn.imm = v, insn.imm_size = static_cast<u8>(size);
        second_imm = true;
        break;
      }
      case Role::is4: insn.imm = in.next() & (code64 ? 0xff : 0x7f), insn.imm_size = 1; break;
      case Role::moffs: insn.memory = true, insn.disp = static_cast<i64>(in.little(insn.addrsize)); break;
      case Role::far_ptr:
        insn.imm = in.little(insn.opsize), insn.imm2 = in.little(2), insn.imm_size = static_cast<u8>(insn.opsize + 2);
        break;
      default: break;
    }
  }
operands_done:
  if (in.short_) return out_of_bytes;
  if (insn.vex && !names_vvvv && insn.vvvv != 0) return Decoded::undefined;
  // LOCK MOV CR0 is MOV CR8 (AMD APM vol. 3 "MOV CRn"); whether the model has that is the helper's question.
  const bool task_priority = insn.map == Map::two && (insn.opcode | 2) == 0x22 && insn.reg_number() == 0;
  if (insn.lock && !task_priority && !(t.lock && insn.memory && row.operands[0].role == Role::modrm_rm)) return Decoded::undefined;
  // Control registers that there are none of come before the level that may name them; elements by index need more than 16 bits of address.
  constexpr unsigned control_registers = 0x11d;
  if (insn.map == Map::two && (insn.opcode | 2) == 0x22 && !(control_registers >> insn.reg_number() & 1)) return Decoded::undefined;
  if (insn.vex && insn.map == Map::m38 && (insn.opcode & ~3) == 0x90 && (insn.addrsize == 2 || (insn.modrm & 7) != 4))
    return Decoded::undefined;
  // mov to CS, and segment registers that there are none of: before memory is looked at.
  const bool to_segment = insn.map == Map::one && insn.opcode == 0x8e, from_segment = insn.map == Map::one && insn.opcode == 0x8c;
  if ((to_segment || from_segment) && (insn.reg >= 6 || (to_segment && insn.reg == 1))) return Decoded::undefined;
  // As Zen has it: outside 64-bit mode there is no quadword to insert or extract, and W does not make it a doubleword.
  if (insn.vex && insn.map == Map::m3a && !code64 && insn.w && (insn.opcode == 0x22 || insn.opcode == 0x16)) return Decoded::undefined;
  insn.length = static_cast<u8>(in.at);
  std::memcpy(insn.bytes.data(), all.data(), in.at);
  return Decoded::ok;
}

}  // namespace vmm::tcg::x86
