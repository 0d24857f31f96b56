#include "accel/tcg/host/x64/assembler.h"

#include <capstone/capstone.h>

#include "tests/unit/test.h"

namespace vmm::tcg::x64 {
namespace {

std::string disassemble(void (*emit)(Assembler&)) {
  u8 bytes[64];
  Buffer buffer{bytes};
  Assembler a{buffer};
  emit(a);
  csh handle;
  if (cs_open(CS_ARCH_X86, CS_MODE_64, &handle) != CS_ERR_OK) return "no capstone";
  cs_insn* insn = nullptr;
  const usize n = cs_disasm(handle, bytes, a.here(), 0, 0, &insn);
  std::string text;
  for (usize i = 0; i < n; i++) text += format("{}{} {}", i ? "; " : "", insn[i].mnemonic, insn[i].op_str);
  cs_free(insn, n);
  cs_close(&handle);
  return text;
}

TEST(assembler_says_what_capstone_reads) {
  CHECK_EQ(disassemble([](Assembler& a) { a.mov(Reg::rax, Mem{.base = Reg::rsp, .disp = 8}); }), "mov rax, qword ptr [rsp + 8]");
  CHECK_EQ(disassemble([](Assembler& a) { a.mov(Reg::r9, Mem{.base = Reg::r13}); }), "mov r9, qword ptr [r13]");
  CHECK_EQ(disassemble([](Assembler& a) { a.mov(Reg::rcx, Mem{.index = Reg::rcx, .scale = 3, .disp = 0x100000, .gs = true}); }),
           "mov rcx, qword ptr gs:[rcx*8 + 0x100000]");
  CHECK_EQ(disassemble([](Assembler& a) { a.lea(Reg::r13, {.base = Reg::r12, .index = Reg::r8, .scale = 2, .disp = -0x1234}); }),
           "lea r13, [r12 + r8*4 - 0x1234]");
  CHECK_EQ(disassemble([](Assembler& a) { a.pext(Reg::rcx, Reg::rbp, Reg::r12); }), "pext rcx, rbp, r12");
  CHECK_EQ(disassemble([](Assembler& a) { a.pext(Reg::rcx, Reg::r13, Mem{.base = Reg::rsp, .disp = 24}); }),
           "pext rcx, r13, qword ptr [rsp + 0x18]");
  CHECK_EQ(disassemble([](Assembler& a) { a.not_(Reg::rcx); }), "not rcx");
  CHECK_EQ(disassemble([](Assembler& a) { a.mov(Reg::r10, 0xffff'ffff'8000'0000); }), "mov r10, -0x80000000");
  CHECK_EQ(disassemble([](Assembler& a) { a.mov(Reg::rdx, 0x1234'5678'9abc); }), "movabs rdx, 0x123456789abc");
  CHECK_EQ(disassemble([](Assembler& a) { a.wrgsbase(Reg::rcx); }), "wrgsbase rcx");
  CHECK_EQ(disassemble([](Assembler& a) { a.vmovups_load256(12, {.base = Reg::rcx, .disp = 0x180}); }),
           "vmovups ymm12, ymmword ptr [rcx + 0x180]");
  CHECK_EQ(disassemble([](Assembler& a) { a.instruction({.opcode = 0x88, .rex_needed = true}, 6, Rm::of(Reg::rdi)); }), "mov dil, sil");
  CHECK_EQ(disassemble([](Assembler& a) { a.instruction({.map = 1, .opcode = 0xb8, .simd = 0xf3, .size66 = true}, 1, Rm::of(Reg::r9)); }),
           "popcnt cx, r9w");
}

TEST(assembler_drops_what_does_not_fit_and_says_so) {
  u8 bytes[3] = {};
  Buffer buffer{bytes};
  Assembler a{buffer};
  a.mov(Reg::rax, 0x1234'5678'9abc);
  CHECK(buffer.overflowed());
}

}  // namespace
}  // namespace vmm::tcg::x64
