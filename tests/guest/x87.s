# The x87's pointers of the last instruction, its exceptions by #MF and, with CR0.NE = 0, by the PC's IRQ 13. Source: SDM 1 §8.1.8, §8.7.
.include "lib.inc"

.globl main
main:
  fninit
  fldl number
first: faddl number
  nop
  fnstenv page_a
  mov page_a + 12, %eax
  IS_AT %rax, first, FIP
  movzwl page_a + 18, %eax
  and $0x7ff, %eax
  IS %rax, 0x404, FOP
  mov page_a + 20, %eax
  IS_AT %rax, number, FDP
  # A register form leaves FDP; control instructions leave all.
second: fchs
  fnstcw page_b
  fnclex
  fnstenv page_a
  mov page_a + 12, %eax
  IS_AT %rax, second, FIP of a register form
  mov page_a + 20, %eax
  IS_AT %rax, number, FDP stays
  NOT_BY_KVM no_pointers        # AMD hosts store them only with an exception
  mov $page_b, %ebx
third: fstpl 8(%rbx)
  fxsave64 page_a
  mov page_a + 8, %rax
  IS_AT %rax, third, FIP by FXSAVE
  mov page_a + 16, %rax
  sub %rbx, %rax
  IS %rax, 8, FDP by FXSAVE
  movzwl page_a + 6, %eax
  IS %rax, 0x55b, FOP by FXSAVE
  # A fault between: the pointers are those of the last x87 instruction all the same.
  fld1
fourth: fld1
  FAULTS 14, 0, mov TEST_VA, %al
  fxsave64 page_a
  mov page_a + 8, %rax
  IS_AT %rax, fourth, FIP over a fault
  movq $-1, page_a + 8
  fxrstor64 page_a
  fxsave64 page_b
  IS page_b + 8, -1, FXRSTOR loads them
no_pointers:
  # An unmasked exception comes with the next waiting instruction.
  fninit
  fldcw unmasked
  fld1
  fldz
  RUNS fdivrp %st, %st(1)
  FAULTS 16, -1, fwait
  FAULTS 16, -1, fld1
  RUNS fnstsw %ax
  fnclex
  RUNS fwait

  # CR0.NE = 0: the same by IRQ 13, which the handler acknowledges by port F0h.
  NOT_BY_KVM no_ferr
  mov $0x11, %al
  out %al, $0x20
  out %al, $0xa0
  mov $0x20, %al
  out %al, $0x21
  mov $0x28, %al
  out %al, $0xa1
  mov $4, %al
  out %al, $0x21
  mov $2, %al
  out %al, $0xa1
  mov $1, %al
  out %al, $0x21
  out %al, $0xa1
  mov $0xfb, %al
  out %al, $0x21
  mov $0xdf, %al
  out %al, $0xa1
  mov %cr0, %rax
  and $~0x20, %rax
  mov %rax, %cr0
  fninit
  fldcw unmasked
  fld1
  fldz
  fdivrp %st, %st(1)
  movl $irq13, hook
  movq $0, events
  sti
fifth: fwait
  cli
  movq $0, hook
  IS events, 1, one interrupt
  IS last_vector, 0x2d, IRQ 13
  IS_AT last_rip, fifth, before the waiting instruction
  RUNS fwait
  mov %cr0, %rax
  or $0x20, %rax
  mov %rax, %cr0
no_ferr:
  fninit
  ret

irq13:
  push %rax
  out %al, $0xf0
  fnclex
  mov $0x20, %al
  out %al, $0xa0
  out %al, $0x20
  pop %rax
  ret

.section .data
.balign 8
number: .quad 0x3ff8000000000000
unmasked: .word 0x37b
.section .text
