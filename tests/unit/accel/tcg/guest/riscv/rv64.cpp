// See rv64.h. The eight functions of the seam: fetch, key, translate, deliver, leave, walk, print, states.
#include "tests/unit/accel/tcg/guest/riscv/rv64.h"

#include <cstring>

#include "accel/tcg/run/smc.h"
#include "src/base/bits.h"
#include "src/base/format.h"

namespace vmm::tcg::riscv {

namespace {

using ir::OpCode, ir::Type, ir::Value;

Cpu& cpu_of(GuestCpu& g) { return static_cast<Cpu&>(g); }

// ---- memory: RAM by line, everything else a device

u8* host_of(const Cpu& cpu, u64 address) { return cpu.ram.host() + (address - cpu.base); }
u64 page_of(const Cpu& cpu, u64 address) { return cpu.ram.first_page() + ((address - cpu.base) >> page_bits); }

void fill(Cpu& cpu, u64 address, bool write) {
  const u64 page = address & ~page_offset_mask;
  SoftLine& line = cpu.tlb->line[SoftTlb::index(address)];
  const i64 addend = static_cast<i64>(reinterpret_cast<u64>(host_of(cpu, page)) - page);
  if (line.addend != addend) line = {.addend = addend};
  line.read = page;
  if (write && !page_has_code(static_cast<memory::PageNumber>(page_of(cpu, address)))) line.write = page;
}

bool read(GuestCpu& g, u64 address, unsigned size, u16, void* to) {
  Cpu& cpu = cpu_of(g);
  if (cpu.in_ram(address, size)) {
    memory::ram_copy_out(to, host_of(cpu, address), size);
    return fill(cpu, address, false), true;
  }
  u64 v = 0;
  if (!cpu.device_read || !cpu.device_read(cpu.self, address, size, v)) return cpu.raise(load_fault, address);
  return std::memcpy(to, &v, size), true;
}

bool write(GuestCpu& g, u64 address, unsigned size, u16, const void* from) {
  Cpu& cpu = cpu_of(g);
  if (!cpu.in_ram(address, size)) {
    u64 v = 0;
    std::memcpy(&v, from, size);
    return (cpu.device_write && cpu.device_write(cpu.self, address, size, v)) || cpu.raise(store_fault, address);
  }
  memory::ram_copy_in(host_of(cpu, address), from, size);
  for (unsigned i = 0; i < size; i += size - 1 ? size - 1 : 1)  // its first and its last byte
    if (cpu.code_written && cpu.code_written(cpu.self, page_of(cpu, address + i), (address + i) & page_offset_mask, 1)) cpu.leave = true;
  return fill(cpu, address, true), true;
}

constexpr MemoryOps memory_ops{.read = read, .write = write, .rmw = nullptr};

// ---- helpers: what is not arithmetic

enum HelperIds : u16 { h_csr, h_raise, h_mret };

u64* csr(Cpu& cpu, u64 number) {
  State& s = cpu.state;
  switch (number) {
    case 0x300: return &s.mstatus;
    case 0x305: return &s.mtvec;
    case 0x340: return &s.mscratch;
    case 0x341: return &s.mepc;
    case 0x342: return &s.mcause;
    case 0x343: return &s.mtval;
    case 0xf14: return &s.mhartid;
    default: return nullptr;
  }
}
// a: number; b: operand; c: 0 read, 1 write, 2 set, 3 clear.
u64 do_csr(GuestCpu& g, u64 a, u64 b, u64 c) {
  Cpu& cpu = cpu_of(g);
  u64* const r = csr(cpu, a);
  if (!r || (c && a >> 10 == 3)) return cpu.raise(illegal, 0), 0;
  const u64 old = *r;
  if (c == 1) *r = b;
  if (c == 2) *r = old | b;
  if (c == 3) *r = old & ~b;
  return old;
}
u64 do_raise(GuestCpu& g, u64 a, u64 b, u64) { return cpu_of(g).raise(static_cast<Cause>(a), b), 0; }
u64 do_mret(GuestCpu& g, u64, u64, u64) {
  State& s = cpu_of(g).state;
  s.mstatus = (s.mstatus & ~u64{8}) | (s.mstatus >> 4 & 8);  // MIE = MPIE
  s.pc = s.mepc;
  return 0;
}
constexpr Helper helpers[] = {do_csr, do_raise, do_mret};

// ---- the front end

#define SLOT(n) {"x" #n, offsetof(State, x) + 8 * n, Type::i64}
constexpr ir::StateSlot slots[] = {SLOT(0),  SLOT(1),  SLOT(2),  SLOT(3),  SLOT(4),  SLOT(5),  SLOT(6),  SLOT(7),
                                   SLOT(8),  SLOT(9),  SLOT(10), SLOT(11), SLOT(12), SLOT(13), SLOT(14), SLOT(15),
                                   SLOT(16), SLOT(17), SLOT(18), SLOT(19), SLOT(20), SLOT(21), SLOT(22), SLOT(23),
                                   SLOT(24), SLOT(25), SLOT(26), SLOT(27), SLOT(28), SLOT(29), SLOT(30), SLOT(31)};
#undef SLOT

class Emitter : public ir::Builder {
 public:
  explicit Emitter(ir::Block& block) : Builder(block, slots) {}
  void instruction(u32 word, u16 offset);

 private:
  Value x(unsigned n) { return n ? get(static_cast<u16>(n), Type::i64) : constant(0); }
  void set_x(unsigned n, Value v) {
    if (n) set(static_cast<u16>(n), Type::i64, v);
  }
  Value number(i64 v) { return constant(static_cast<u64>(v)); }
  Value less_signed(Value a, Value b) {
    const Value top = constant(u64{1} << 63);
    return emit(OpCode::less, Type::i64, xor_(Type::i64, a, top), xor_(Type::i64, b, top));
  }
  Value arithmetic(unsigned funct3, bool other, Type t, Value a, Value b);
  Value call_helper(u16 id, Value a = 0, Value b = 0, Value c = 0) { return sync_ip(), call(id, false, a, b, c).value; }
  void bad(u32 word) { call_helper(h_raise, constant(illegal), constant(word)), exit_set(ir::ExitReason::next); }
};

Value Emitter::arithmetic(unsigned funct3, bool other, Type t, Value a, Value b) {
  switch (funct3) {
    case 0: return other ? sub(t, a, b) : add(t, a, b);
    case 1: return emit(OpCode::shl, t, a, b);
    case 2: return less_signed(a, b);
    case 3: return emit(OpCode::less, Type::i64, a, b);
    case 4: return xor_(t, a, b);
    case 5: return emit(other ? OpCode::sar : OpCode::shr, t, a, b);
    case 6: return or_(t, a, b);
    default: return and_(t, a, b);
  }
}

void Emitter::instruction(u32 w, u16 offset) {
  begin(offset, 4);
  const unsigned rd = w >> 7 & 31, rs1 = w >> 15 & 31, rs2 = w >> 20 & 31, funct3 = w >> 12 & 7, funct7 = w >> 25;
  const i64 imm_i = static_cast<i32>(w) >> 20;
  const i64 imm_s = (imm_i & ~i64{31}) | rd;
  const i64 imm_b = static_cast<i64>(static_cast<i32>(w) >> 31) << 12 | (w << 4 & 0x800) | (w >> 20 & 0x7e0) | (w >> 7 & 0x1e);
  const i64 imm_u = static_cast<i32>(w & 0xffff'f000);
  const i64 imm_j = static_cast<i64>(static_cast<i32>(w) >> 31) << 20 | (w & 0xff000) | (w >> 9 & 0x800) | (w >> 20 & 0x7fe);
  const i32 next = offset + 4;
  switch (w & 0x7f) {
    case 0x37: return set_x(rd, number(imm_u));                                  // lui
    case 0x17: return set_x(rd, add_imm(Type::i64, ip_page(), offset + imm_u));  // auipc
    case 0x6f:                                                                   // jal
      set_x(rd, add_imm(Type::i64, ip_page(), next));
      return jump(static_cast<i32>(offset + imm_j));
    case 0x67: {  // jalr
      if (funct3) return bad(w);
      const Value target = and_(Type::i64, add_imm(Type::i64, x(rs1), imm_i), number(-2));
      set_x(rd, add_imm(Type::i64, ip_page(), next));
      return indirect(target);
    }
    case 0x63: {  // branches
      const Value a = x(rs1), b = x(rs2);
      if (funct3 == 2 || funct3 == 3) return bad(w);
      const Value v = funct3 < 2 ? equal(a, b) : funct3 < 6 ? less_signed(a, b) : emit(OpCode::less, Type::i64, a, b);
      const i32 taken = static_cast<i32>(offset + imm_b);
      return funct3 & 1 ? branch(equal(v, constant(0)), taken, next) : branch(v, taken, next);
    }
    case 0x03: {  // loads
      if (funct3 == 7) return bad(w);
      const Type t = ir::int_type(1u << (funct3 & 3));
      const Value v = load(t, add_imm(Type::i64, x(rs1), imm_i));
      return set_x(rd, funct3 & 4 ? v : sext(t, v));
    }
    case 0x23:  // stores
      if (funct3 > 3) return bad(w);
      return store(ir::int_type(1u << funct3), add_imm(Type::i64, x(rs1), imm_s), x(rs2));
    case 0x13: {
      const bool shifts = funct3 == 1 || funct3 == 5;
      if (shifts && (funct7 & ~1u) != 0 && !(funct3 == 5 && (funct7 & ~1u) == 0x20)) return bad(w);
      return set_x(rd, arithmetic(funct3, funct3 == 5 && funct7 & 0x20, Type::i64, x(rs1), number(shifts ? imm_i & 63 : imm_i)));
    }
    case 0x1b: {
      if (funct3 != 0 && funct3 != 1 && funct3 != 5) return bad(w);
      const Value v =
          arithmetic(funct3, funct3 == 5 && funct7 & 0x20, Type::i32, trunc(Type::i32, x(rs1)), number(funct3 ? imm_i & 31 : imm_i));
      return set_x(rd, sext(Type::i32, v));
    }
    case 0x33:
      if (funct7 & ~0x20u || (funct7 && funct3 != 0 && funct3 != 5)) return bad(w);
      return set_x(rd, arithmetic(funct3, funct7 & 0x20, Type::i64, x(rs1), x(rs2)));
    case 0x3b: {
      if (funct7 & ~0x20u || (funct3 != 0 && funct3 != 1 && funct3 != 5)) return bad(w);
      const Value v = arithmetic(funct3, funct7 & 0x20, Type::i32, trunc(Type::i32, x(rs1)), and_imm(Type::i64, x(rs2), 0xffff'ffff));
      return set_x(rd, sext(Type::i32, v));
    }
    case 0x0f: return;  // fence, fence.i: blocks whose bytes change are dropped as it happens
    case 0x73:
      if (w == 0x0000'0073 || w == 0x0010'0073) {  // ecall, ebreak
        call_helper(h_raise, constant(w >> 20 ? breakpoint : call_from_machine), constant(0));
        return exit_set(ir::ExitReason::next);
      }
      if (w == 0x3020'0073) return call_helper(h_mret), exit_set(ir::ExitReason::next);
      if (w == 0x1050'0073) return;  // wfi
      if (!(funct3 & 3)) return bad(w);
      {
        const Value operand = funct3 & 4 ? constant(rs1) : x(rs1);
        const unsigned what = (funct3 & 3) == 1 ? 1 : rs1 ? funct3 & 3 : 0;
        return set_x(rd, call_helper(h_csr, constant(w >> 20), operand, constant(what)));
      }
    default: return bad(w);
  }
}

// ---- the seam

bool fetch(GuestCpu& g, bool next, Code& code) {
  Cpu& cpu = cpu_of(g);
  const u64 at = next ? (cpu.state.pc & ~page_offset_mask) + page_bytes : cpu.state.pc;
  if (at & 3 || !cpu.in_ram(at, 4)) return cpu.raise(fetch_fault, at);
  const u16 offset = static_cast<u16>(at & page_offset_mask);
  code = {.bytes = {host_of(cpu, at), page_bytes - offset}, .page = page_of(cpu, at), .offset = offset};
  return true;
}

Translated translate(GuestCpu&, u64 key, std::span<const u8> bytes, u16 offset, Form, unsigned limit, ir::Block& block) {
  block.clear();
  block.start = offset, block.key = key;
  Emitter e{block};
  usize at = 0;
  for (unsigned n = 0; n < std::min(limit, ir::Block::max_instructions) && at + 4 <= bytes.size() && !e.ended(); ++n, at += 4)
    e.instruction(load_le<u32>(bytes.data() + at), static_cast<u16>(offset + at));
  if (!e.ended()) {
    e.begin(static_cast<u16>(offset + at), 0);
    e.exit(ir::ExitReason::next, static_cast<i32>(offset + at));
  }
  block.bytes = static_cast<u16>(at), block.end = static_cast<u16>(offset + at);
  return Translated::ok;
}

void deliver(GuestCpu& g) {
  Cpu& cpu = cpu_of(g);
  State& s = cpu.state;
  cpu.fault = false;
  s.mepc = s.pc, s.mcause = cpu.cause, s.mtval = cpu.value;
  s.mstatus = (s.mstatus & ~u64{0x88}) | (s.mstatus << 4 & 0x80);
  s.pc = s.mtvec & ~u64{3};
}

}  // namespace

Cpu::Cpu(memory::RamBlock& ram_block, u64 ram_base) : ram(ram_block), base(ram_base) {
  state_base = reinterpret_cast<u8*>(&state), ip = &state.pc, tlb = &lines;
  memory = &memory_ops, GuestCpu::helpers = riscv::helpers;
}

const GuestOps guest_ops{
    .name = "riscv64",
    .fetch = fetch,
    .key = [](const GuestCpu&) -> u64 { return 0; },
    .translate = translate,
    .deliver = deliver,
    .leave = [](GuestCpu& g) { return g.leave = false, true; },
    .walk = [](GuestCpu& g, u64 address, u16, u64& physical) { return physical = address, cpu_of(g).in_ram(address, 1); },
    .print =
        [](u64, std::span<const u8> bytes, u64 address) {
          std::string out;
          for (usize i = 0; i + 4 <= bytes.size(); i += 4) out += format("{:#x}: {:08x}\n", address + i, load_le<u32>(bytes.data() + i));
          return out;
        },
    .states = [] { return std::span<const ir::StateSlot>{slots}; },
};

}  // namespace vmm::tcg::riscv
