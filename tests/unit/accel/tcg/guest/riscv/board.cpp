// A board like QEMU's `virt` in small: RAM at 2 GiB, a 16550 at 10000000h, the finisher at 100000h. Programs are written by the functions
// below. Sources: RISC-V manual volume I chapter 24 (encodings); NS16550A data sheet (THR, LSR).
#include "accel/tcg/run/portable.h"
#include "accel/tcg/run/smc.h"
#include "tests/unit/accel/tcg/guest/riscv/rv64.h"
#include "tests/unit/test.h"

namespace vmm::tcg::riscv {

namespace {

constexpr u64 ram_base = 0x8000'0000, uart = 0x1000'0000, finisher = 0x10'0000;

class Board {
 public:
  Board() {
    MachineLocked locked;
    static unsigned number = 0;
    ram_ = OK(memory::RamBlock::make({.name = format("virt.ram{}", number++), .size_bytes = 256 * KiB}));
    cpu_ = std::make_unique<Cpu>(*ram_, ram_base);
    cpu_->self = this;
    cpu_->device_read = [](void*, u64 address, unsigned, u64& v) { return v = 0x60, address == uart + 5; };
    cpu_->device_write = [](void* self, u64 address, unsigned, u64 v) {
      Board& b = *static_cast<Board*>(self);
      if (address == uart) return b.printed += static_cast<char>(v), true;
      if (address != finisher) return false;
      return b.finished = v == 0x5555, b.stopped = true;
    };
    cpu_->code_written = [](void* self, u64 page, u64 offset, unsigned size) {
      return static_cast<Board*>(self)->store_.invalidate(page, offset, size);
    };
    runner_ = std::make_unique<PortableRunner>(
        store_, *cpu_, guest_ops,
        [](void* self, u64, const u8*) {
          for (SoftLine& l : static_cast<Board*>(self)->cpu_->lines.line) l.write = SoftLine::none;
        },
        this);
    cpu_->state.pc = ram_base;
  }
  ~Board() {
    MachineLocked locked;
    runner_.reset();
    store_.invalidate_all();
  }
  void load(std::span<const u32> words) { std::memcpy(ram_->host(), words.data(), words.size_bytes()); }
  // The loop of a vCPU: blocks and faults, until the finisher is written.
  bool run(unsigned blocks = 100'000) {
    for (; blocks && !stopped; --blocks) {
      ir::ExitReason reason = ir::ExitReason::next;
      runner_->run(ir::Block::max_instructions, 0, reason);
      if (cpu_->fault) guest_ops.deliver(*cpu_);
      if (!guest_ops.leave(*cpu_)) break;
    }
    return stopped && finished;
  }
  State& state() { return cpu_->state; }
  u64 instructions() const { return cpu_->instructions; }
  std::string printed;
  bool stopped = false, finished = false;

 private:
  std::shared_ptr<memory::RamBlock> ram_;
  BlockStore store_{code_pages()};
  std::unique_ptr<Cpu> cpu_;
  std::unique_ptr<PortableRunner> runner_;
};

// ---- an assembler of one line an instruction
constexpr u32 i_type(u32 op, u32 f3, u32 rd, u32 rs1, i32 imm) { return op | rd << 7 | f3 << 12 | rs1 << 15 | static_cast<u32>(imm) << 20; }
constexpr u32 r_type(u32 op, u32 f3, u32 f7, u32 rd, u32 rs1, u32 rs2) {
  return op | rd << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | f7 << 25;
}
constexpr u32 addi(u32 rd, u32 rs, i32 v) { return i_type(0x13, 0, rd, rs, v); }
constexpr u32 lui(u32 rd, u32 upper) { return 0x37 | rd << 7 | upper << 12; }
constexpr u32 load_byte(u32 rd, u32 rs, i32 v) { return i_type(0x03, 4, rd, rs, v); }
constexpr u32 s_type(u32 f3, u32 rs1, u32 rs2, i32 v) {
  const u32 u = static_cast<u32>(v);
  return 0x23 | (u & 31) << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | (u >> 5 & 127) << 25;
}
constexpr u32 b_type(u32 f3, u32 rs1, u32 rs2, i32 v) {
  const u32 u = static_cast<u32>(v);
  return 0x63 | (u >> 11 & 1) << 7 | (u & 0x1e) << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | (u >> 5 & 63) << 25 | (u >> 12 & 1) << 31;
}
constexpr u32 jal(u32 rd, i32 v) {
  const u32 u = static_cast<u32>(v);
  return 0x6f | rd << 7 | (u & 0xff000) | (u >> 11 & 1) << 20 | (u & 0x7fe) << 20 | (u >> 20 & 1) << 31;
}
constexpr u32 ret = i_type(0x67, 0, 0, 1, 0);
constexpr u32 finish[] = {lui(31, 0x100), lui(30, 5), addi(30, 30, 0x555), s_type(2, 31, 30, 0)};

void append(std::vector<u32>& to, std::initializer_list<u32> words) { to.insert(to.end(), words); }

}  // namespace

TEST(a_second_instruction_set_prints_in_a_loop_over_its_uart) {
  Board b;
  std::vector<u32> code;
  append(code, {lui(10, 0x10000),  // a0: the UART
                addi(11, 0, 5)});  // a1: turns
  const usize again = code.size();
  append(code, {i_type(0x67, 0, 0, 0, 0)});                                                     // replaced below: auipc
  code[again] = 0x17 | 12 << 7;                                                                 // a2 = pc
  append(code, {addi(12, 12, 13 * 4),                                                           // the text
                load_byte(13, 12, 0),                                                           // character
                b_type(0, 13, 0, 5 * 4),                                                        // beq a3, zero, end of the text
                load_byte(14, 10, 5),                                                           // LSR, whose bits 5 and 6 say: empty
                s_type(0, 10, 13, 0),                                                           // sb
                addi(12, 12, 1), jal(0, -5 * 4), addi(11, 11, -1), b_type(1, 11, 0, -9 * 4)});  // bne a1, zero, again
  code.insert(code.end(), std::begin(finish), std::end(finish));
  CHECK_EQ(code.size() - again, 14u);
  // The text stands behind: 13 words after `again`, were it not for the last one.
  code[again + 1] = addi(12, 12, static_cast<i32>((code.size() - again) * 4));
  append(code, {0x6c6c6548, 0x52202c6f, 0x21343656, 0x0000000a});  // "Hello, RV64!\n"
  b.load(code);
  CHECK(b.run());
  CHECK_EQ(b.printed, "Hello, RV64!\nHello, RV64!\nHello, RV64!\nHello, RV64!\nHello, RV64!\n");
  CHECK(b.instructions() > 300);
}

// Each operation on edge values, against C++.
TEST(a_second_instruction_set_computes) {
  constexpr u64 edges[] = {0, 1, 2, 31, 32, 63, 0x7fff'ffff, 0x8000'0000, 0xffff'ffff, u64{1} << 63, ~u64{0}, 0x0123'4567'89ab'cdef};
  struct Operation {
    u32 word;
    u64 (*want)(u64, u64);
  };
  static constexpr auto i = [](u64 v) { return static_cast<i64>(v); };
  static constexpr auto w = [](u64 v) { return static_cast<u64>(i64{static_cast<i32>(v)}); };
  const Operation operations[] = {
      {r_type(0x33, 0, 0, 5, 6, 7), [](u64 a, u64 b) { return a + b; }},
      {r_type(0x33, 0, 32, 5, 6, 7), [](u64 a, u64 b) { return a - b; }},
      {r_type(0x33, 1, 0, 5, 6, 7), [](u64 a, u64 b) { return a << (b & 63); }},
      {r_type(0x33, 2, 0, 5, 6, 7), [](u64 a, u64 b) -> u64 { return i(a) < i(b); }},
      {r_type(0x33, 3, 0, 5, 6, 7), [](u64 a, u64 b) -> u64 { return a < b; }},
      {r_type(0x33, 4, 0, 5, 6, 7), [](u64 a, u64 b) { return a ^ b; }},
      {r_type(0x33, 5, 0, 5, 6, 7), [](u64 a, u64 b) { return a >> (b & 63); }},
      {r_type(0x33, 5, 32, 5, 6, 7), [](u64 a, u64 b) { return static_cast<u64>(i(a) >> (b & 63)); }},
      {r_type(0x33, 6, 0, 5, 6, 7), [](u64 a, u64 b) { return a | b; }},
      {r_type(0x33, 7, 0, 5, 6, 7), [](u64 a, u64 b) { return a & b; }},
      {r_type(0x3b, 0, 0, 5, 6, 7), [](u64 a, u64 b) { return w(a + b); }},
      {r_type(0x3b, 0, 32, 5, 6, 7), [](u64 a, u64 b) { return w(a - b); }},
      {r_type(0x3b, 1, 0, 5, 6, 7), [](u64 a, u64 b) { return w(a << (b & 31)); }},
      {r_type(0x3b, 5, 0, 5, 6, 7), [](u64 a, u64 b) { return w(static_cast<u32>(a) >> (b & 31)); }},
      {r_type(0x3b, 5, 32, 5, 6, 7), [](u64 a, u64 b) { return w(static_cast<u64>(static_cast<i32>(a) >> (b & 31))); }},
      {i_type(0x13, 0, 5, 6, -3), [](u64 a, u64) { return a - 3; }},
      {i_type(0x13, 2, 5, 6, -3), [](u64 a, u64) -> u64 { return i(a) < -3; }},
      {i_type(0x13, 3, 5, 6, -3), [](u64 a, u64) -> u64 { return a < static_cast<u64>(-3); }},
      {i_type(0x13, 4, 5, 6, -1), [](u64 a, u64) { return ~a; }},
      {i_type(0x13, 5, 5, 6, 0x400 | 33), [](u64 a, u64) { return static_cast<u64>(i(a) >> 33); }},
      {i_type(0x13, 1, 5, 6, 33), [](u64 a, u64) { return a << 33; }},
      {i_type(0x1b, 0, 5, 6, 7), [](u64 a, u64) { return w(a + 7); }},
      {i_type(0x1b, 5, 5, 6, 0x400 | 3), [](u64 a, u64) { return w(static_cast<u64>(static_cast<i32>(a) >> 3)); }},
  };
  for (const Operation& o : operations) {
    Board b;
    std::vector<u32> code{o.word};
    code.insert(code.end(), std::begin(finish), std::end(finish));
    b.load(code);
    for (u64 a : edges)
      for (u64 c : edges) {
        b.stopped = b.finished = false;
        b.state().pc = ram_base, b.state().x[6] = a, b.state().x[7] = c;
        CHECK(b.run());
        if (b.state().x[5] != o.want(a, c))
          test::failed("operation", __FILE__, __LINE__,
                       format("{:08x} of {:x}, {:x}: {:x}, not {:x}", o.word, a, c, b.state().x[5], o.want(a, c)));
      }
  }
}

// A trap to mtvec and back; code that writes code.
TEST(a_second_instruction_set_traps_and_changes_its_own_code) {
  Board b;
  std::vector<u32> code;
  append(code, {0x17 | 5 << 7,                 // t0 = pc
                addi(5, 5, 17 * 4),            // the handler
                i_type(0x73, 1, 0, 5, 0x305),  // csrw mtvec, t0
                0x0000'0073,                   // ecall
                i_type(0x03, 3, 6, 0, 0x100),  // ld from 100h, where nothing is
                0x0000'0000,                   // illegal
                addi(20, 0, 1),                // replaced by the store below: addi s4, zero, 2
                0x17 | 7 << 7,                 // t2 = pc
                load_byte(28, 7, 0)});
  const i32 store_to = -4;                                                     // of t2: the word before the auipc
  code[8] = i_type(0x03, 2, 28, 7, store_to);                                  // lw t3, -4(t2)
  append(code, {lui(29, 0x100),                                                // 100000h: one more in the immediate
                r_type(0x33, 0, 0, 28, 28, 29), b_type(1, 21, 0, 4 * 4),       // the second time: on to the end
                addi(21, 0, 1), s_type(2, 7, 28, store_to), jal(0, -8 * 4)});  // to what was changed
  code.push_back(addi(0, 0, 0));
  code.push_back(jal(0, 5 * 4));  // over the handler
  CHECK_EQ(code.size(), 17u);
  append(code, {addi(22, 22, 1),                                   // counts
                i_type(0x73, 2, 23, 0, 0x341),                     // csrr s7, mepc
                addi(23, 23, 4), i_type(0x73, 1, 0, 23, 0x341)});  // csrw mepc, s7
  code.push_back(0x3020'0073);                                     // mret
  code[16] = jal(0, 6 * 4);
  code.insert(code.end(), std::begin(finish), std::end(finish));
  b.load(code);
  CHECK(b.run());
  CHECK_EQ(b.state().x[22], 3u);  // ecall, load fault, illegal
  CHECK_EQ(b.state().mcause, illegal);
  CHECK_EQ(b.state().x[20], 2u);  // by the new code
}

}  // namespace vmm::tcg::riscv
