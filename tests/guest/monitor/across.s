# A machine that is carried from one engine to the other while it works: it looks again and again whether all that the CPU keeps is as it was put,
# and says a dot on port E9h each time that the APIC's timer has come meanwhile. It ends only when something is wrong.
.include "lib.inc"
.set APIC, 0xfee00000
.set LAPIC, TEST_VA

.macro SET_MSR number, value
  mov $\number, %ecx
  movabs $\value, %rax
  mov %rax, %rdx
  shr $32, %rdx
  wrmsr
.endm
.macro SAME value, text
  movabs $\value, %rdx
  cmp %rdx, %rax
  je 9f
  mov $8f, %esi
  jmp failed
8: .asciz "\text"
9:
.endm
.macro SAME_MSR number, value, text
  mov $\number, %ecx
  rdmsr
  shl $32, %rdx
  or %rdx, %rax
  SAME \value, "\text"
.endm

.globl main
main:
  movl $APIC + 0x1b, test_pt
  mov $0x1b, %ecx
  rdmsr
  or $0x800, %eax
  wrmsr
  movl $0x1ff, LAPIC + 0xf0
  movl $tick, hook
  SET_MSR 0xc0000100, 0x0000112233445566     # FS.base
  SET_MSR 0xc0000102, 0x0000665544332211     # KernelGSBase
  SET_MSR 0xc0000081, 0x0023001000000000     # STAR
  SET_MSR 0xc0000082, 0x0000000012345678     # LSTAR
  SET_MSR 0xc0000084, 0x0000000000047700     # FMASK
  SET_MSR 0x277, 0x0007040600070406          # PAT
  mov $0x00400000, %eax
  mov %rax, %dr0
  mov $0x5, %eax
  mov %rax, %cr8
  fxrstor image                              # what a KVM that interprets knows of the FPU
  movabs $0x5a5a5a5a12121212, %r15
  movl $0x20070, LAPIC + 0x320               # periodic
  movl $0xb, LAPIC + 0x3e0
  movl $3000000, LAPIC + 0x380
  mov $1, %r12
again:
  mov ticks, %r13
  sti
1: mov $2000, %ecx
2: imul $1664525, %r12, %r12
  add $1013904223, %r12
  rol $7, %r12
  dec %ecx
  jnz 2b
  cmp ticks, %r13
  je 1b
  hlt                                        # and once more, from a halt
  cli
  # A page of memory holds what the sum was; it moves on with each turn.
  mov sum, %rax
  cmp %rax, sum + 8
  je 1f
  mov $text_memory, %esi
  mov sum + 8, %rdx
  jmp failed
1: mov %r12, sum
  mov %r12, sum + 8
  rdtsc
  shl $32, %rdx
  or %rdx, %rax
  cmp clock, %rax
  ja 1f
  mov $text_clock, %esi
  mov clock, %rdx
  jmp failed
1: mov %rax, clock
  SAME_MSR 0xc0000100, 0x0000112233445566, "FS.base "
  SAME_MSR 0xc0000102, 0x0000665544332211, "KernelGSBase "
  SAME_MSR 0xc0000081, 0x0023001000000000, "STAR "
  SAME_MSR 0xc0000082, 0x0000000012345678, "LSTAR "
  SAME_MSR 0xc0000084, 0x0000000000047700, "FMASK "
  SAME_MSR 0x277, 0x0007040600070406, "PAT "
  mov %dr0, %rax
  SAME 0x400000, "DR0 "
  mov %cr8, %rax
  SAME 5, "CR8 "
  mov %r15, %rax
  SAME 0x5a5a5a5a12121212, "R15 "
  fxsave saved
  mov saved + 24, %eax
  SAME 0xbf80, "MXCSR "
.irp at, 0, 32, 48, 160, 168, 272, 400, 408   # words, ST0, ST1, XMM0, XMM7, XMM15
  mov saved + \at, %rax
  mov image + \at, %rdx
  mov $text_fpu, %esi
  cmp %rdx, %rax
  jne failed
.endr
  mov $'.', %al
  out %al, $0xe9
  jmp again

tick:
  incq ticks
  movl $0, LAPIC + 0xb0
  ret

text_memory: .asciz "memory "
text_clock: .asciz "the time stamp went back "
text_fpu: .asciz "the FPU "
.balign 16
image:
  .word 0x37f, 0x3000                        # FCW; FSW: the top is 6
  .byte 0xc0, 0                              # two are there
  .word 0
  .quad 0, 0
  .long 0xbf80, 0xffff
  .quad 0x8000000000000000, 0x3fff           # 1
  .quad 0xc90fdaa22168c235, 0x4000           # pi
  .fill 96, 1, 0
  .quad 0x0123456789abcdef, 0x1111222233334444
  .fill 96, 1, 0
  .quad 0xfedcba9876543210, 0
  .fill 112, 1, 0
  .quad 0x5555666677778888, 0x9999aaaabbbbcccc
  .fill 96, 1, 0
.section .bss
.balign 16
ticks: .quad 0
sum: .quad 0, 0
clock: .quad 0
.balign 16
saved: .fill 512, 1, 0
