// Near control flow against the host CPU: each condition, loops, calls and returns, by short programs that come back to their end.
#include "tests/unit/accel/tcg/native.h"
#include "tests/unit/test.h"

using namespace vmm;
using enum vmm::x86::Gpr;
using enum vmm::x86::Eflags;

namespace {

void same(std::vector<u8> code, bool wide = true, u64 seed = 7) {
  test::Random random{seed};
  for (unsigned i = 0; i < 24; i++) {
    x86::State s;
    wide ? test::prepare(s) : test::prepare32(s);
    for (unsigned r : {rax, rdx, rbx, rsi, rdi}) s.gpr[r] = wide ? random.edge() : static_cast<u32>(random.edge());
    s.gpr[rcx] = random.below(4);
    s.rflags = 0x202 | (random.next() & x86::arithmetic_flags);
    const std::string text = test::compare(code, s);
    if (!text.empty()) test::failed("host and interpreter agree", __FILE__, __LINE__, text);
  }
}

}  // namespace

TEST(conditions_jump_as_on_the_host) {
  for (unsigned cc = 0; cc < 16; cc++) {
    const u8 c = static_cast<u8>(cc);
    for (bool wide : {true, false}) {
      same({static_cast<u8>(0x70 | c), 2, 0xb0, 0x55}, wide);                       // jcc +2; mov al, 0x55
      same({0x0f, static_cast<u8>(0x80 | c), 5, 0, 0, 0, 0xb8, 1, 2, 3, 4}, wide);  // jcc +5; mov eax, …
    }
  }
}

TEST(loops_count_and_leave_flags_alone) {
  for (bool wide : {true, false}) {
    same({0xe3, 4, 0xff, 0xc0, 0xe2, 0xfc}, wide);  // jcxz end; L: inc eax; loop L
    same({0xe3, 4, 0xff, 0xc8, 0xe1, 0xfc}, wide);  // loope
    same({0xe3, 4, 0xff, 0xc8, 0xe0, 0xfc}, wide);  // loopne
    same({0x67, 0xe3, 2, 0xff, 0xc0}, wide);        // the other address size
  }
}

TEST(calls_return_and_the_stack_is_as_it_was) {
  // call F; jmp end; F: inc eax; ret; end: push 0; pop rdx (wipes the return address, which differs between host and guest)
  for (bool wide : {true, false}) {
    same({0xe8, 2, 0, 0, 0, 0xeb, 3, 0xff, 0xc0, 0xc3, 0x6a, 0, 0x5a}, wide);
    // the same with ret 8 after two pushes below it: sub rsp is undone by the operand
    same({0x6a, 1, 0xe8, 2, 0, 0, 0, 0xeb, 5, 0xff, 0xc0, 0xc2, static_cast<u8>(wide ? 8 : 4), 0, 0x6a, 0, 0x6a, 0, 0x5a, 0x5a}, wide);
  }
  // lea rbx,[rip+4]; call rbx; jmp end; F: …
  same({0x48, 0x8d, 0x1d, 4, 0, 0, 0, 0xff, 0xd3, 0xeb, 3, 0xff, 0xc0, 0xc3, 0x6a, 0, 0x5a, 0x31, 0xdb});
  // lea rbx,[rip+2]; jmp rbx; skipped; end
  same({0x48, 0x8d, 0x1d, 4, 0, 0, 0, 0xff, 0xe3, 0xff, 0xc0, 0x31, 0xdb});
}
