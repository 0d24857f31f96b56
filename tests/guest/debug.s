# Debug registers, single step, general detect, shadows, RF. Source: SDM 3A chapter 17.
.include "lib.inc"

.globl main
main:
  # Single step: the trap comes after the instruction, with BS, and TF is off in the handler.
  mov %rsp, recover_rsp
  pushq $0x102
  movl $1f, recover
  movq $-2, last_vector
  popfq
  nop
1: CAME 1, -1, single step
  mov %dr6, %rax
  and $0xe00f, %rax
  IS %rax, 0x4000, BS
  xor %eax, %eax
  mov %rax, %dr6

  # A data breakpoint: trap after the instruction that wrote; reads do not count for R/W = 01.
  mov $page_a, %eax
  mov %rax, %dr0
  mov $0x000d0101, %eax        # 4 bytes, writes, G0... L0 with LE
  mov %rax, %dr7
  RUNS mov page_a, %eax
  FAULTS 1, -1, movb $1, page_a + 3
  mov %dr6, %rax
  and $0xe00f, %rax
  IS %rax, 1, B0
  RUNS movb $1, page_a + 4
  FAULTS 1, -1, movl $1, page_a - 1
  mov $0x000f0101, %eax        # reads too
  mov %rax, %dr7
  xor %eax, %eax
  mov %rax, %dr6
  FAULTS 1, -1, mov page_a, %al
  mov %dr6, %rax
  and $0xe00f, %rax
  IS %rax, 1, B0 by a read

  # An instruction breakpoint is a fault; RF lets the instruction pass.
  xor %eax, %eax
  mov %rax, %dr6
  mov $target, %eax
  mov %rax, %dr1
  mov $0x00000404, %eax
  mov %rax, %dr7
  movl $1f, recover
  mov %rsp, recover_rsp
  jmp target
target: nop
  nop
1: CAME 1, -1, instruction breakpoint
  IS_AT last_rip, target, before the instruction
  mov %dr6, %rax
  and $0xe00f, %rax
  IS %rax, 2, B1
  movl $set_rf, hook
  movq $0, events
  jmp 1f
1: mov $target, %eax
  mov %rax, %dr1
  call target_2
  IS events, 0, no breakpoint there
  mov $target_2, %eax
  mov %rax, %dr1
  call target_2
  IS events, 1, once
  movq $0, hook

  # Lengths and ranges: eight bytes in 64-bit mode.
  mov $page_b, %eax
  mov %rax, %dr2
  mov $0x09000410, %eax        # R/W2 = 01, LEN2 = 10
  mov %rax, %dr7
  FAULTS 1, -1, movb $0, page_b + 7
  RUNS movb $0, page_b + 8

  # General detect.
  xor %eax, %eax
  mov %rax, %dr6
  mov $0x2400, %eax
  mov %rax, %dr7
  FAULTS 1, -1, mov %dr0, %rax
  mov %dr6, %rax
  and $0xe00f, %rax
  IS %rax, 0x2000, BD
  mov %dr7, %rax
  IS %rax, 0x400, GD is off after it

  # DR4 and DR5 are DR6 and DR7, but for CR4.DE.
  .byte 0x0f, 0x21, 0xe8       # mov %dr5, %rax
  IS %rax, 0x400, DR5
  SET_CR4 8
  movl $1f, recover
  mov %rsp, recover_rsp
  .byte 0x0f, 0x21, 0xe8
1: CAME 6, -1, DR5 with DE
  # An I/O breakpoint.
  mov $0x80, %eax
  mov %rax, %dr3
  mov $0x20000440, %eax        # R/W3 = 10
  mov %rax, %dr7
  xor %eax, %eax
  mov %rax, %dr6
  FAULTS 1, -1, out %al, $0x80
  mov %dr6, %rax
  and $0xe00f, %rax
  IS %rax, 8, B3
  RUNS out %al, $0x81
  mov $0x400, %eax
  mov %rax, %dr7
  CLEAR_CR4 8
  # High halves of DR6 and DR7 must be zero; level 3 may not.
  mov $1, %eax
  shl $32, %rax
  FAULTS 13, 0, mov %rax, %dr7
  FAULTS 13, 0, mov %rax, %dr6
  USER user_debug
  CAME 13, 0, mov from DR7 at level 3

  # Traps wait for the end of a MOV SS shadow.
  xor %eax, %eax
  mov %rax, %dr6
  mov $page_a, %eax
  mov %rax, %dr0
  movw $0, page_a
  mov $0x000f0401, %eax
  mov %rax, %dr7
  movl $1f, recover
  mov %rsp, recover_rsp
  mov page_a, %ss
  nop
shadow_end:
  nop
1: CAME 1, -1, mov ss
  IS_AT last_rip, shadow_end, one instruction late
  mov $0x400, %eax
  mov %rax, %dr7
  # INT1 and INT3.
  FAULTS 3, -1, int3
  FAULTS 1, -1, .byte 0xf1
  ret

target_2: nop
  ret
set_rf:                         # rdi: the frame (vector, code, rip, cs, flags…)
  orl $0x10000, 32(%rdi)
  ret

.section .user
user_debug: mov %dr7, %rax
  int3
.section .text
