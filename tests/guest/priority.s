# Which of several exceptions comes, and what comes of exceptions in exceptions: double faults, the EXT bit, breakpoints and traps together.
# Source: SDM 3A §6.9, table 6-2, table 6-5; §17.3.
.include "lib.inc"

.globl main
main:
  # Fetch before decode: an instruction breakpoint before #UD; #UD before anything that the operand would raise.
  mov $bad_opcode, %eax
  mov %rax, %dr0
  mov $0x401, %eax
  mov %rax, %dr7
  FAULTS 1, -1, jmp bad_opcode
  mov $0x400, %eax
  mov %rax, %dr7
  FAULTS 6, -1, jmp bad_opcode
  movabs $0x0000800000000000, %rbx
  FAULTS 6, -1, .byte 0xf0, 0x8b, 0x03             # lock mov (%rbx), %eax
  FAULTS 6, -1, .byte 0xf0, 0x01, 0xc0             # lock add %eax, %eax
  # Fifteen bytes and no more, whatever they mean.
  FAULTS 13, 0, .byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90
  RUNS .byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90
  # Disabled units before what their operands raise.
  mov %cr0, %rax
  or $8, %rax
  mov %rax, %cr0
  FAULTS 7, -1, flds (%rbx)
  FAULTS 7, -1, movaps TEST_VA + 1, %xmm0
  CLEAR_CR4 0x200
  FAULTS 6, -1, movaps TEST_VA + 1, %xmm0
  SET_CR4 0x200
  clts
  # A pending x87 error before a page fault.
  fninit
  movw $0x37b, page_a
  fldcw page_a
  fld1
  fldz
  fdivrp %st, %st(1)
  FAULTS 16, -1, flds TEST_VA
  fninit
  # Alignment before the page.
  FAULTS 13, 0, movaps TEST_VA + 1, %xmm0
  FAULTS 14, 0, movaps TEST_VA, %xmm0
  # Privilege before the operand.
  USER user_lgdt
  CAME 13, 0, lgdt of nothing at level 3
  USER user_invlpg
  CAME 13, 0, invlpg at level 3
  # A fault has no trap: TF and a division by zero.
  mov %rsp, recover_rsp
  movl $1f, recover
  xor %ecx, %ecx
  xor %edx, %edx
  mov $1, %eax
  pushq $0x102
  popfq
  div %ecx
1: CAME 0, -1, division by zero while stepping
  # Data breakpoint and single step at once.
  xor %eax, %eax
  mov %rax, %dr6
  mov $page_a, %eax
  mov %rax, %dr1
  mov $0x00f00404, %eax
  mov %rax, %dr7
  mov %rsp, recover_rsp
  movl $1f, recover
  movq $-2, last_vector
  pushq $0x102
  popfq
  mov page_a, %eax
  nop
1: CAME 1, -1, both
  mov $0x400, %eax
  mov %rax, %dr7
  mov %dr6, %rax
  and $0xe00f, %rax
  IS %rax, 0x4002, BS and B1
  xor %eax, %eax
  mov %rax, %dr6

  # Exceptions while delivering exceptions. Benign, then contributory: the second alone, with EXT.
  movb $0x0e, idt + 6 * 16 + 5
  FAULTS 11, 0x33, ud2
  movb $0x8e, idt + 6 * 16 + 5
  # Contributory twice, page fault and contributory: double fault.
  movb $0x0e, idt + 13 * 16 + 5
  FAULTS 8, 0, mov (%rbx), %al
  movb $0x8e, idt + 13 * 16 + 5
  movb $0x0e, idt + 14 * 16 + 5
  FAULTS 8, 0, mov TEST_VA, %al
  movb $0x8e, idt + 14 * 16 + 5
  # Contributory, then page fault: the page fault alone. The stack of IST 2 is not there.
  movabs $TEST_VA + 0x10000, %rax
  mov %rax, tss + 0x2c
  movb $2, idt + 13 * 16 + 4
  FAULTS 14, 2, mov (%rbx), %al
  mov $TEST_VA + 0xfff8, %eax
  sub last_cr2, %rax
  IS %rax, 0, the address of the push
  movb $0, idt + 13 * 16 + 4
  # A page fault whose delivery faults on a page.
  movb $2, idt + 14 * 16 + 4
  FAULTS 8, 0, mov TEST_VA, %al
  movb $0, idt + 14 * 16 + 4
  # An IST stack that is no address.
  mov $1, %eax
  shl $47, %rax
  mov %rax, tss + 0x2c
  movb $2, idt + 6 * 16 + 4
  FAULTS 12, 1, ud2
  movb $0, idt + 6 * 16 + 4
  # A gate beyond the IDT; a gate of the wrong type.
  movw $0x5ff, idt_pointer
  lidt idt_pointer
  FAULTS 13, 0x302, int $0x60
  movw $0xfff, idt_pointer
  lidt idt_pointer
  movb $0x85, idt + 0x60 * 16 + 5
  FAULTS 13, 0x302, int $0x60
  movb $0x8e, idt + 0x60 * 16 + 5
  # Non-canonical targets are refused at the branch, and nothing has changed.
  mov %rsp, %r12
  FAULTS 13, 0, call *%rbx
  mov last_rsp, %rax
  sub %r12, %rax
  IS %rax, 0, call left RSP alone
  push %rbx
  mov %rsp, %r12
  FAULTS 13, 0, ret
  mov last_rsp, %rax
  sub %r12, %rax
  IS %rax, 0, ret left RSP alone
  pop %rax
  movl $1f, recover
  mov %rsp, recover_rsp
here: jmp *%rbx
1: IS_AT last_rip, here, jmp
  # Segment loads: null SS, selectors beyond the table.
  mov $3, %eax
  FAULTS 13, 0, mov %eax, %ss
  mov $0xfff8, %eax
  FAULTS 13, 0xfff8, mov %eax, %ss
  ret
bad_opcode: ud2

.section .user
user_lgdt: lgdt TEST_VA
user_invlpg: invlpg TEST_VA
.section .text
