// The system side on a bare machine, by the interpreter: what a guest sees of faults, frames, gates, tasks, modes.
#include "tests/unit/accel/tcg/bench.h"

using namespace vmm;
using namespace vmm::tcg;
using namespace vmm::x86;

// Found by user code against the host (user_code.cpp): each with the exception that came, and where.
static int exception_of(std::initializer_list<u8> code, u64 rflags = 2, bool wide = true) {
  X86Bench b;
  wide ? b.start_long(0x4000) : b.start_protected(0x4000);
  for (unsigned v = 0; v < (wide ? 128u : 256u); v++) b.interrupt_gate(v, 8, 0x6000 + v), b.code(0x6000 + v, {0xf4});
  b.code(0x4000, code), b.code(0x4000 + code.size(), {0xf4});
  b.state.gpr[vmm::x86::rbx] = 0x10'0000;
  b.state.rflags = rflags;
  CHECK(b.run());
  return b.state.rip > 0x6000 ? static_cast<int>(b.state.rip - 0x6001) : -1;
}
TEST(a_control_register_that_there_is_none_of_is_undefined_at_any_level) { CHECK_EQ(exception_of({0x0f, 0x20, 0xf0}), 6); }
TEST(a_move_to_cs_is_undefined_before_memory_is_read) { CHECK_EQ(exception_of({0x8e, 0x0c, 0x25, 0xff, 0xff, 0xff, 0xff}), 6); }
TEST(a_prefetch_of_a_register_is_undefined) { CHECK_EQ(exception_of({0x0f, 0x0d, 0xc8}), 6); }
TEST(a_store_through_cs_is_refused_in_flat_code) { CHECK_EQ(exception_of({0x2e, 0x89, 0x03}, 2, false), 13); }
TEST(a_load_through_cs_is_allowed_in_flat_code) { CHECK_EQ(exception_of({0x2e, 0x8b, 0x03}, 2, false), -1); }
TEST(a_move_of_a_string_heeds_gs) {
  X86Bench b;
  b.start_long(0x4000);
  b.code(0x4000, {0x65, 0xa4, 0xf4});
  b.state.segment[vmm::x86::gs].base = 0x1000;
  b.state.gpr[vmm::x86::rsi] = 0x10'0000, b.state.gpr[vmm::x86::rdi] = 0x11'0000;
  *b.ram(0x10'0000) = 1, *b.ram(0x10'1000) = 2;
  CHECK(b.run());
  CHECK_EQ(*b.ram(0x11'0000), 2);
}

TEST(a_boot_sector_prints_through_a_port) {
  X86Bench b;
  b.code(0x7c00, {0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x20, 0x7c, 0xba, 0x02, 0x04, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xf4});
  std::memcpy(b.ram(0x7c20), "Hello", 6);
  b.start_real(0x7c00);
  CHECK(b.run());
  CHECK_EQ(b.printed, std::string{"Hello"});
  CHECK(b.state.activity == Activity::halted);
}

TEST(real_mode_interrupts_push_flags_cs_ip) {
  X86Bench b;
  b.code(0x7c00, {0xcd, 0x21, 0xf4});
  b.code(0x600, {0xf4});
  b.put<u32>(0x21 * 4, 0x0600);
  b.state.gpr[rsp] = 0x7000;
  b.state.rflags |= flag_if;
  b.start_real(0x7c00);
  CHECK(b.run());
  CHECK_EQ(b.state.rip, 0x601u);
  CHECK_EQ(b.get<u16>(0x6ffa), 0x7c02u);
  CHECK_EQ(b.get<u16>(0x6ffc), 0u);
  CHECK_EQ(b.get<u16>(0x6ffe), 0x202u);
  CHECK(!(b.state.rflags & flag_if));
}

TEST(a_store_to_the_next_instruction_is_seen) {
  X86Bench b;
  b.code(0x7c00, {0xc6, 0x06, 0x06, 0x7c, 0xf4, 0x90, 0x90, 0x90, 0xeb, 0xfe});  // mov byte [0x7c06], hlt
  b.start_real(0x7c00);
  CHECK(b.run());
  CHECK_EQ(b.state.rip, 0x7c07u);
}

TEST(iretq_to_level_3_and_a_page_fault_back) {
  X86Bench b;
  b.start_long(0x4000);
  b.put<u64>(0x2004, 0x7000);
  b.code(0x4000, {0x48, 0xcf});
  const u64 frame[] = {0x5000, 0x33, 0x2, 0x9000, 0x23};
  std::memcpy(b.ram(0x7f00), frame, sizeof frame);
  b.state.gpr[rsp] = 0x7f00;
  b.code(0x5000, {0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x40});  // mov rax, [0x40000000]
  b.interrupt_gate(14, 8, 0x6000);
  b.code(0x6000, {0xf4});
  CHECK(b.run());
  CHECK_EQ(b.state.rip, 0x6001u);
  CHECK_EQ(b.state.cr2, 0x4000'0000u);
  CHECK_EQ(b.state.cpl(), 0u);
  CHECK_EQ(b.state.gpr[rsp], 0x6fd0u);
  CHECK_EQ(b.get<u64>(0x6fd0), 4u);  // user, read, not present
  CHECK_EQ(b.get<u64>(0x6fd8), 0x5000u);
  CHECK_EQ(b.get<u64>(0x6fe0), 0x33u);
  CHECK_EQ(b.get<u64>(0x6fe8), 0x10002u);
  CHECK_EQ(b.get<u64>(0x6ff0), 0x9000u);
  CHECK_EQ(b.get<u64>(0x6ff8), 0x23u);
  CHECK_EQ(b.get<u64>(0x12000) & 0x60, 0x60u);  // accessed, dirty
  CHECK_EQ(b.get<u64>(0x12008) & 0x60, 0u);
}

TEST(walk_faults_have_their_codes) {
  struct Case {
    u64 entry;
    u64 cr4;
    u64 efer;
    std::initializer_list<u8> code;
    u32 error;
  };
  const std::initializer_list<u8> write{0x89, 0x04, 0x25, 0, 0, 0x20, 0}, read{0x8b, 0x04, 0x25, 0, 0, 0x20, 0},
      jump{0xb8, 0, 0, 0x20, 0, 0xff, 0xe0};
  const Case cases[] = {
      {0x20'0085, 0, 0, write, 3},                          // read-only, WP
      {0x20'0080, 0, 0, write, 2},                          // not present
      {0x20'2083 | u64{1} << 51, 0, 0, read, 9},            // reserved bits
      {0x20'0087, cr4_smap, 0, read, 1},                    // a user page under SMAP
      {0x20'0087, cr4_smep, 0, jump, 0x11},                 // and under SMEP
      {0x20'0083 | u64{1} << 63, 0, efer_nxe, jump, 0x11},  // no execute
  };
  for (const Case& c : cases) {
    X86Bench b;
    b.start_long(0x4000);
    for (u64 i = 0; i < 512; ++i) b.put<u64>(0x12000 + i * 8, (i << 21) | 0x83);
    b.put<u64>(0x12008, c.entry);
    b.state.cr4 |= c.cr4;
    tcg::x86::mode_changed(b.cpu);
    b.code(0x4000, c.code);
    b.interrupt_gate(14, 8, 0x6000);
    b.code(0x6000, {0xf4});
    b.state.gpr[rsp] = 0x8000;
    CHECK(b.run());
    CHECK_EQ(b.state.rip, 0x6001u);
    CHECK_EQ(b.state.cr2, 0x20'0000u);
    CHECK_EQ(b.get<u64>(0x7fd0), u64{c.error});
    CHECK_EQ(b.get<u64>(0x12008) & 0x60, c.entry & 0x60);
  }
}

TEST(segment_limits_are_checked_to_the_byte) {
  X86Bench b;
  b.start_protected(0x4000);
  b.state.segment[ds].limit = 0x1002;
  tcg::x86::mode_changed(b.cpu);
  b.code(0x4000, {0xa0, 0x02, 0x10, 0, 0, 0xa1, 0x00, 0x10, 0, 0});  // mov al, [0x1002]; mov eax, [0x1000]
  b.interrupt_gate(13, 8, 0x6000);
  b.code(0x6000, {0xf4});
  CHECK(b.run());
  CHECK_EQ(b.state.rip, 0x6001u);
  CHECK_EQ(b.get<u32>(0x7ff0), 0u);
  CHECK_EQ(b.get<u32>(0x7ff4), 0x4005u);
  CHECK_EQ(b.get<u32>(0x7ff8), 8u);
}

TEST(a_null_or_wrong_stack_segment_is_refused) {
  X86Bench b;
  b.start_protected(0x4000);
  b.code(0x4000, {0xb8, 0x08, 0, 0, 0, 0x8e, 0xd0});  // mov eax, 8; mov ss, ax: a code segment
  b.interrupt_gate(13, 8, 0x6000);
  b.code(0x6000, {0xf4});
  CHECK(b.run());
  CHECK_EQ(b.get<u32>(0x7ff0), 8u);
  CHECK_EQ(b.get<u32>(0x7ff4), 0x4005u);
  CHECK_EQ(b.state.segment[ss].selector, 0x10u);
}

TEST(tasks_are_switched_by_call_and_iret) {
  X86Bench b;
  b.start_protected(0x4000);
  b.put<u64>(0x1028, 0x0000'8b00'2000'0067);
  b.put<u64>(0x1030, 0x0000'8900'2100'0067);
  b.put<u32>(0x2120, 0x5000), b.put<u32>(0x2124, 0x2), b.put<u32>(0x2138, 0x8800);
  for (const u32 at : {0x48, 0x50, 0x54, 0x58, 0x5c}) b.put<u32>(0x2100 + at, 0x10);
  b.put<u32>(0x214c, 8);
  b.code(0x4000, {0x9a, 0, 0, 0, 0, 0x30, 0, 0xf4});  // call 0x30:0; hlt
  b.code(0x5000, {0xba, 0x02, 0x04, 0, 0, 0xb0, 'T', 0xee, 0xcf});
  CHECK(b.run());
  CHECK_EQ(b.printed, std::string{"T"});
  CHECK_EQ(b.state.rip, 0x4008u);
  CHECK_EQ(b.state.tr.selector, 0x28u);
  CHECK_EQ(b.get<u16>(0x2100), 0x28u);    // link
  CHECK_EQ(b.get<u32>(0x2120), 0x5009u);  // where the task left off
  CHECK_EQ(b.get<u8>(0x1035) & 2, 0u);    // not busy any more
  CHECK(b.state.cr0 & cr0_ts);
  CHECK(!(b.state.rflags & flag_nt));
}

TEST(calls_through_a_gate_change_the_stack_and_retf_goes_back) {
  X86Bench b;
  b.start_protected(0x4000);
  b.put<u64>(0x1030, u64{0xec01} << 32 | 0x0008'5000);  // call gate, level 3, one parameter, 8:0x5000
  b.put<u32>(0x2004, 0x7000), b.put<u32>(0x2008, 0x10);
  const u32 frame[] = {0x4800, 0x1b, 0x3002, 0x9000, 0x23};
  std::memcpy(b.ram(0x7f00), frame, sizeof frame);
  b.state.gpr[rsp] = 0x7f00;
  b.code(0x4000, {0xcf});
  b.code(0x4800,
         {0x6a, 0x55, 0x9a, 0, 0, 0, 0, 0x33, 0, 0xba, 0x02, 0x04, 0, 0, 0xb0, 'U', 0xee, 0xcc});  // push 0x55; call 0x33:0; out 'U'; int3
  b.code(0x5000, {0x8b, 0x44, 0x24, 0x08, 0xca, 0x04, 0});                                         // mov eax, [esp+8]; retf 4
  b.interrupt_gate(3, 8, 0x6000, 0xee);
  b.code(0x6000, {0xf4});
  CHECK(b.run());
  CHECK_EQ(b.printed, std::string{"U"});
  CHECK_EQ(b.state.gpr[rax] & 0xffff, u64{0x0055});
  CHECK_EQ(b.get<u32>(0x6ffc), 0x23u);    // the frame of int3 from level 3
  CHECK_EQ(b.get<u32>(0x6ff8), 0x9000u);  // the parameter was released
  CHECK_EQ(b.get<u32>(0x6ff0), 0x1bu);
}

TEST(single_steps_trap_after_each_instruction) {
  X86Bench b;
  b.start_protected(0x4000);
  b.state.rflags |= flag_tf;
  b.code(0x4000, {0x90, 0x90});
  b.interrupt_gate(1, 8, 0x6000);
  b.code(0x6000, {0xf4});
  CHECK(b.run());
  CHECK_EQ(b.get<u32>(0x7ff4), 0x4001u);
  CHECK(b.state.dr6 & 1 << 14);
}

TEST(data_breakpoints_trap_and_instruction_breakpoints_fault) {
  X86Bench b;
  b.start_protected(0x4000);
  b.code(0x4000, {0xb8, 0x00, 0x30, 0, 0, 0x0f, 0x23, 0xc0, 0xb8, 0x01, 0x04, 0x01, 0, 0x0f, 0x23, 0xf8, 0xa2, 0x01, 0x30, 0, 0, 0x90});
  b.interrupt_gate(1, 8, 0x6000);
  b.code(0x6000, {0xf4});
  b.code(0x4008, {0xb8, 0x01, 0x04, 0x0d, 0});  // DR7: L0, write, four bytes
  CHECK(b.run());
  CHECK_EQ(b.get<u32>(0x7ff4), 0x4015u);
  CHECK(b.state.dr6 & 1);
}

TEST(a_fault_without_handlers_shuts_down) {
  X86Bench b;
  b.start_protected(0x4000);
  b.state.idtr.limit = 0;
  b.code(0x4000, {0x0f, 0x0b});
  CHECK(b.run());
  CHECK(b.shut_down && b.state.activity == Activity::shutdown);
}

TEST(two_contributory_faults_make_a_double_fault) {
  X86Bench b;
  b.start_protected(0x4000);
  b.code(0x4000, {0xb8, 0x08, 0, 0, 0, 0x8e, 0xd0});  // #GP, whose gate is not present: #NP
  b.interrupt_gate(13, 8, 0x6000, 0x0e);
  b.interrupt_gate(8, 8, 0x6100);
  b.code(0x6100, {0xf4});
  CHECK(b.run());
  CHECK_EQ(b.state.rip, 0x6101u);
  CHECK_EQ(b.get<u32>(0x7ff0), 0u);
}

TEST(big_real_mode_keeps_its_limits) {
  X86Bench b;
  b.start_protected(0x4000);
  b.put<u64>(0x1030, 0x0000'9b00'0000'ffff);  // 16-bit code
  // jmp 0x30:0x5000; there: mov eax, cr0; and al, 0xfe; mov cr0, eax; jmp 0:0x5010; there: mov eax, [0x180000]; hlt
  b.code(0x4000, {0xea, 0x00, 0x50, 0, 0, 0x30, 0});
  b.code(0x5000, {0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0, 0xea, 0x10, 0x50, 0, 0});
  b.code(0x5010, {0x31, 0xdb, 0x8e, 0xdb, 0x67, 0x66, 0xa1, 0x00, 0x00, 0x18, 0x00, 0xf4});
  b.put<u32>(0x18'0000, 0x1234'5678);
  CHECK(b.run());
  CHECK_EQ(b.state.gpr[rax], 0x1234'5678u);
  CHECK(b.state.real_mode());
}

TEST(syscall_and_sysret_swap_levels) {
  X86Bench b;
  b.start_long(0x4000);
  b.state.star = u64{0x18} << 48 | u64{0x08} << 32;
  b.state.lstar = 0x5000;
  b.state.sfmask = flag_if | flag_tf;
  b.put<u64>(0x1028, 0x00af'fb00'0000'ffff);
  b.state.gpr[rcx] = 0x4800, b.state.gpr[r11] = 0x202;
  b.code(0x4000, {0x48, 0x0f, 0x07});
  b.code(0x4800, {0x0f, 0x05});
  b.code(0x5000, {0xf4});
  CHECK(b.run());
  CHECK_EQ(b.state.rip, 0x5001u);
  CHECK_EQ(b.state.gpr[rcx], 0x4802u);
  CHECK_EQ(b.state.gpr[r11], 0x202u);
  CHECK_EQ(b.state.cpl(), 0u);
  CHECK(!(b.state.rflags & flag_if));
}

TEST(init_with_sipi_right_behind_starts_the_cpu) {
  X86Bench b;
  b.code(0x9000, {0xf4});
  std::atomic<u8> vector{9};
  b.system.sipi_vector = &vector;
  b.system.bootstrap = false;
  b.state.activity = Activity::wait_for_sipi;
  b.system.requests = static_cast<u32>(vm::Request::init) | static_cast<u32>(vm::Request::sipi);
  CHECK(b.run());
  CHECK(b.state.activity == Activity::halted);
  CHECK_EQ(b.state.rip, 1u);
  CHECK_EQ(b.state.segment[cs].base, 0x9000u);
}

TEST(smm_is_entered_and_left_with_nothing_changed) {
  X86Bench b;
  b.start_long(0x4000);
  b.state.gpr[r13] = 0x1234'5678'9abc'def0;
  b.state.segment[fs].base = 0x1111'2222'3333;
  const State before = b.state;
  b.code(0x38000, {0x66, 0xba, 0x02, 0x04, 0, 0, 0xb0, 'S', 0xee, 0x0f, 0xaa});  // out 'S'; rsm
  b.code(0x4000, {0x90, 0xf4});
  b.system.requests = static_cast<u32>(vm::Request::smi);
  CHECK(b.run());
  CHECK_EQ(b.printed, std::string{"S"});
  CHECK_EQ(b.state.rip, 0x4002u);
  CHECK_EQ(b.get<u32>(0x3fefc), 0x20064u);
  CHECK(!b.state.smm && b.state.code64());
  CHECK_EQ(b.state.gpr[r13], before.gpr[r13]);
  CHECK_EQ(b.state.gpr[rdx], before.gpr[rdx]);
  CHECK_EQ(b.state.segment[fs].base, before.segment[fs].base);
  CHECK_EQ(b.state.cr0, before.cr0);
  CHECK_EQ(b.state.cr4, before.cr4);
  CHECK_EQ(b.state.efer, before.efer);
}

TEST(smbase_moves_by_the_saved_state) {
  X86Bench b;
  b.start_real(0x7c00);
  // mov eax, 0x50000; mov [cs:0xff00], eax; rsm: the SMRAM is read through CS, flat from its base
  b.code(0x38000, {0x66, 0xb8, 0, 0, 0x05, 0, 0x2e, 0x66, 0xa3, 0x00, 0xff, 0x0f, 0xaa});
  b.code(0x7c00, {0xf4});
  b.system.requests = static_cast<u32>(vm::Request::smi);
  CHECK(b.run());
  CHECK_EQ(b.state.smbase, 0x5'0000u);
}

TEST(virtual_8086_mode_is_entered_by_iret_and_left_by_interrupts) {
  X86Bench b;
  b.start_protected(0x4000);
  b.state.tr.limit = 0x1ff;
  b.put<u16>(0x2066, 0x68);                                                                // all ports
  const u32 frame[] = {0x10, 0x500, 0x2'3202, 0x8ff0, 0x600, 0x100, 0x200, 0x300, 0x400};  // ip cs flags sp ss es ds fs gs
  std::memcpy(b.ram(0x7f00), frame, sizeof frame);
  b.state.gpr[rsp] = 0x7f00;
  b.code(0x4000, {0xcf});
  b.code(0x5010, {0xba, 0x02, 0x04, 0xb0, 'V', 0xee, 0x8c, 0xd8, 0xa3, 0x00, 0x00, 0xcd, 0x40});  // out; mov ax, ds; mov [0], ax; int 0x40
  b.interrupt_gate(0x40, 8, 0x6000, 0xee);
  b.code(0x6000, {0xf4});
  CHECK(b.run());
  CHECK_EQ(b.printed, std::string{"V"});
  CHECK_EQ(b.get<u16>(0x2000), 0x200u);
  CHECK_EQ(b.state.rip, 0x6001u);
  CHECK(!b.state.v86());
  CHECK_EQ(b.get<u32>(0x6ffc), 0x400u);  // gs, fs, ds, es on the inner stack
  CHECK_EQ(b.get<u32>(0x6ff0), 0x100u);
  CHECK_EQ(b.get<u32>(0x6fec), 0x600u);  // ss, esp
  CHECK_EQ(b.get<u32>(0x6fe8), 0x8ff0u);
  CHECK_EQ(b.get<u32>(0x6fe4), 0x2'3202u);  // flags, cs, ip
  CHECK_EQ(b.get<u32>(0x6fe0), 0x500u);
  CHECK_EQ(b.get<u32>(0x6fdc), 0x1du);
  CHECK_EQ(b.state.segment[ds].selector, 0u);
}

TEST(the_io_bitmap_decides_at_level_3) {
  X86Bench b;
  b.start_protected(0x4000);
  b.put<u64>(0x1028, 0x0000'8900'2000'00ff);
  b.state.tr.limit = 0x1ff;
  b.put<u16>(0x2066, 0x68);
  std::memset(b.ram(0x2068), 0xff, 0x198);
  b.put<u8>(0x2068 + 0x402 / 8, 0xfb);  // port 0x402 alone
  const u32 frame[] = {0x4800, 0x1b, 0x2, 0x9000, 0x23};
  std::memcpy(b.ram(0x7f00), frame, sizeof frame);
  b.state.gpr[rsp] = 0x7f00;
  b.code(0x4000, {0xcf});
  b.code(0x4800, {0xba, 0x02, 0x04, 0, 0, 0xb0, 'P', 0xee, 0xef});  // out dx, al goes; out dx, eax does not
  b.interrupt_gate(13, 8, 0x6000);
  b.code(0x6000, {0xf4});
  CHECK(b.run());
  CHECK_EQ(b.printed, std::string{"P"});
  CHECK_EQ(b.state.rip, 0x6001u);
  CHECK_EQ(b.get<u32>(0x6fec), 0x4808u);
}
