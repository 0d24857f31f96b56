// The interpreter on small programs: loops, calls, faults in the middle, and what a block is.
#include "accel/tcg/host/interp.h"

#include <cstring>

#include "accel/tcg/guest/x86/translate.h"
#include "accel/tcg/ir/builder.h"
#include "tests/unit/accel/tcg/native.h"
#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::tcg;
using namespace vmm::tcg::x86;

namespace {

FeatureSet every_feature() {
  FeatureSet f;
  for (unsigned i = 1; i < static_cast<unsigned>(Feature::count); i++) f.add(static_cast<Feature>(i));
  return f;
}

struct Bench {
  vmm::x86::State state;
  std::unique_ptr<Cpu> cpu;
  Bench() {
    test::prepare(state);
    cpu = std::make_unique<Cpu>(state);
    cpu->features = every_feature();
    cpu->key = key_of(*cpu);
  }
};

ir::Block block_of(std::initializer_list<u8> bytes, u64 key = ModeKey::code64 | ModeKey::flat | ModeKey::protected_,
                   Form form = Form::portable, u16 offset = 0) {
  ir::Block block;
  std::vector<u8> code(bytes);
  code.resize(std::max<usize>(code.size(), 64), 0x90);
  CHECK(translate_block(every_feature(), ModeKey{key}, code, offset, form, 64, block) == Translated::ok);
  return block;
}

}  // namespace

TEST(a_loop_of_the_interpreter_counts_and_leaves_exact_state) {
  Bench b;
  // mov ecx, 1000; xor eax, eax; L: add rax, rcx; dec rcx; jnz L
  const std::initializer_list<u8> code = {0xb9, 0xe8, 3, 0, 0, 0x31, 0xc0, 0x48, 0x01, 0xc8, 0x48, 0xff, 0xc9, 0x75, 0xf8};
  b.state.rip = 0x5000;
  std::vector<u8> bytes(code);
  bytes.resize(64, 0x90);
  for (int blocks = 0; b.state.rip != 0x500f && blocks < 2000; blocks++) {
    ir::Block block;
    const u16 at = b.state.rip & 0xfff;
    translate(*b.cpu, b.cpu->key.raw, std::span<const u8>(bytes).subspan(at), at, Form::portable, 64, block);
    interpret(*b.cpu, block);
  }
  CHECK_EQ(b.state.gpr[rax], u64{500500});
  CHECK_EQ(b.state.gpr[rcx], u64{0});
  CHECK(b.state.rflags & flag_zf);
}

TEST(flags_that_nobody_sees_are_not_computed) {
  const ir::Block block = block_of({0x01, 0xc8, 0x01, 0xd8, 0x29, 0xd0, 0xeb, 0xfe});  // add; add; sub; jmp
  unsigned with_flags = 0;
  for (const ir::Op& op : block.ops) with_flags += op.code == ir::OpCode::add_cc || op.code == ir::OpCode::sub_cc;
  CHECK_EQ(with_flags, 1u);
  // A load between them may fault: then the first one's flags count.
  const ir::Block faulting = block_of({0x01, 0xc8, 0x8b, 0x03, 0x29, 0xd0, 0xeb, 0xfe});
  with_flags = 0;
  for (const ir::Op& op : faulting.ops) with_flags += op.code == ir::OpCode::add_cc || op.code == ir::OpCode::sub_cc;
  CHECK_EQ(with_flags, 2u);
}

TEST(a_block_ends_at_the_page_and_a_straddling_instruction_is_alone) {
  ir::Block block;
  std::vector<u8> code(64, 0x90);
  CHECK(translate_block(every_feature(), ModeKey{ModeKey::code64 | ModeKey::flat}, code, 4090, Form::portable, 64, block) ==
        Translated::ok);
  CHECK_EQ(block.bytes, u16{6});
  const u8 long_mov[] = {0x48, 0xb8, 1, 2, 3};
  CHECK(translate_block(every_feature(), ModeKey{ModeKey::code64 | ModeKey::flat}, long_mov, 4091, Form::portable, 64, block) ==
        Translated::more);
  const u8 whole[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90};
  CHECK(translate_block(every_feature(), ModeKey{ModeKey::code64 | ModeKey::flat}, whole, 4091, Form::portable, 64, block) ==
        Translated::ok);
  CHECK(block.straddles);
  CHECK_EQ(block.instructions[0].length, u8{10});
}

TEST(decoding_knows_lengths_prefixes_and_what_is_undefined) {
  const FeatureSet all = every_feature();
  const ModeKey k64{ModeKey::code64 | ModeKey::flat | ModeKey::protected_},
      k32{ModeKey::code32 | ModeKey::stack32 | ModeKey::flat | ModeKey::protected_}, k16{0};
  auto decoded = [&](std::initializer_list<u8> bytes, ModeKey key, Insn& insn) {
    std::vector<u8> v(bytes);
    return decode(v, key, all, insn);
  };
  Insn i;
  CHECK(decoded({0x48, 0x8b, 0x84, 0x88, 1, 0, 0, 0x80}, k64, i) == Decoded::ok && i.length == 8 && i.base == 0 && i.index == 1 &&
        i.scale == 2 && i.disp == -0x7fffffff);
  CHECK(decoded({0x8b, 0x05, 4, 0, 0, 0}, k64, i) == Decoded::ok && i.ip_relative);
  CHECK(decoded({0x8b, 0x05, 4, 0, 0, 0}, k32, i) == Decoded::ok && !i.ip_relative && i.disp == 4);
  CHECK(decoded({0x8b, 0x46, 0xfe}, k16, i) == Decoded::ok && i.base == 5 && i.disp == -2 && i.segment == ss && i.opsize == 2);
  CHECK(decoded({0x66, 0x67, 0x8b, 0x04, 0x24}, k16, i) == Decoded::ok && i.base == 4 && i.opsize == 4 && i.segment == ss);
  CHECK(decoded({0xf0, 0x01, 0x03}, k64, i) == Decoded::ok);
  CHECK(decoded({0xf0, 0x01, 0xc3}, k64, i) == Decoded::undefined);  // LOCK with a register
  CHECK(decoded({0xf0, 0x8b, 0x03}, k64, i) == Decoded::undefined);
  CHECK(decoded({0x27}, k64, i) == Decoded::undefined);  // daa
  CHECK(decoded({0x27}, k32, i) == Decoded::ok);
  CHECK(decoded({0x48, 0xb8, 1, 2}, k64, i) == Decoded::more);
  CHECK(decoded({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90}, k64, i) ==
        Decoded::too_long);
  CHECK(decoded({0xc4, 0xe2, 0x60, 0xf2, 0xc1}, k64, i) == Decoded::ok && i.vvvv == 3);  // andn eax, ebx, ecx
  CHECK(decoded({0x66, 0xc4, 0xe2, 0x60, 0xf2, 0xc1}, k64, i) == Decoded::undefined);
  CHECK(decoded({0x48, 0x66, 0x01, 0xc8}, k64, i) == Decoded::ok && i.opsize == 2 && !i.w);  // a REX before a prefix does not count
}

TEST(native_form_tells_what_a_host_needs_to_re_encode) {
  const ir::Block block = block_of({0x48, 0x03, 0x44, 0x8b, 0x10, 0x75, 0xf9},
                                   ModeKey::code64 | ModeKey::flat | ModeKey::protected_ | ModeKey::fs_plain, Form::native);
  CHECK(block.natives.size() >= 2);  // a loop's body stands there several times
  CHECK(!block.natives[1].ends && block.natives.back().ends);
  const ir::Native& add = block.natives[0];
  CHECK(add.pass && add.memory && add.mem_read && !add.mem_write && add.mem_width == 8 && add.base == rbx && add.index == rcx &&
        add.scale == 2 && add.disp == 16);
  CHECK(add.reg.file == ir::RegFile::gpr && add.reg.number == rax && add.reg.read && add.reg.written && add.w);
  const ir::Native& jump = block.natives[1];
  CHECK(jump.kind == ir::NativeKind::branch && jump.cond == 5 && jump.target == 0);
}

TEST(a_32_bit_block_addresses_wrap_and_16_bit_code_masks_its_ip) {
  Bench b;
  b.state.efer = 0, b.state.segment[cs].attributes = 0xc0fb;
  const ModeKey key = key_of(*b.cpu);
  CHECK(key.has(ModeKey::code32) && key.has(ModeKey::flat));
  b.state.gpr[rax] = 0xffff'fff0;
  b.state.rip = 0xffff'f000;
  ir::Block block = block_of({0x8d, 0x40, 0x20, 0xe9, 0xf8, 0x1f, 0, 0}, key.raw);  // lea eax, [eax+32]; jmp +0x1ff8
  b.cpu->key = key;
  interpret(*b.cpu, block);
  CHECK_EQ(b.state.gpr[rax], u64{0x10});
  CHECK_EQ(b.state.rip, u64{0x1000});
}

TEST(interpreter_speed_is_printed) {
  Bench b;
  u8* const box = test::sandbox();
  for (u64 at = reinterpret_cast<u64>(box), n = 0; n < 2; n++, at += 4096)
    b.cpu->tlb->line[SoftTlb::index(at)] = {.read = at, .write = at, .addend = 0};
  // L: mov eax,[rsi+rcx*4]; add eax,[rsi+4]; xor edx,eax; mov [rsi+8],edx; lea rdi,[rdi+rax*2+1]; shl eax,3; test edi,edi; dec ecx; jnz L
  const std::initializer_list<u8> code = {0x8b, 0x04, 0x8e, 0x03, 0x46, 4, 0x31, 0xc2, 0x89, 0x56, 8,    0x48, 0x8d,
                                          0x7c, 0x47, 1,    0xc1, 0xe0, 3, 0x85, 0xff, 0xff, 0xc9, 0x75, 0xe7};
  const ir::Block block = block_of(code, b.cpu->key.raw);
  b.state.gpr[rsi] = reinterpret_cast<u64>(box);
  b.state.gpr[rcx] = 1000000;
  b.state.rip = 0x7000;
  const auto begin = std::chrono::steady_clock::now();
  unsigned loops = 0;
  for (; loops < 100000; loops++) {
    b.state.rip = 0x7000;
    b.state.gpr[rcx] = 50;
    interpret(*b.cpu, block);
  }
  const double ns = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count();
  CHECK(!b.cpu->fault);
  if (getenv("VMM_PRINT_SPEED"))
    fmt::print("interpreter: {:.1f} ns an instruction\n{}", ns / (9.0 * loops), ir::print(block, state_slots()));
  const auto begin2 = std::chrono::steady_clock::now();
  ir::Block scratch;
  std::vector<u8> bytes(code);
  bytes.resize(64, 0x90);
  for (unsigned i = 0; i < 20000; i++) translate_block(b.cpu->features, b.cpu->key, bytes, 0, Form::portable, 64, scratch);
  const double ns2 = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin2).count();
  Insn insn;
  const auto begin3 = std::chrono::steady_clock::now();
  for (unsigned i = 0; i < 20000; i++)
    for (usize at = 0; at < code.size(); at += insn.length)
      decode(std::span<const u8>(bytes).subspan(at), b.cpu->key, b.cpu->features, insn);
  const double ns3 = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin3).count();
  if (getenv("VMM_PRINT_SPEED")) fmt::print("translate {:.1f} ns, decode {:.1f} ns an instruction\n", ns2 / (9 * 20000), ns3 / (9 * 20000));
}
