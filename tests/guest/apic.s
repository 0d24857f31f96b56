# The local APIC as the CPU meets it: self-IPIs, priorities by TPR and CR8, the timer, x2APIC mode, the TSC deadline. Source: SDM 3A chapter 10.
.include "lib.inc"
.set APIC, 0xfee00000

.globl main
main:
  # The APIC's page lies above the first GiB.
  movl $APIC + 0x1b, test_pt
  .set LAPIC, TEST_VA
  mov $0x1b, %ecx
  rdmsr
  or $0x800, %eax
  wrmsr
  movl $0x1ff, LAPIC + 0xf0
  movl $count, hook
  # A self-IPI waits for IF, and for the instruction after STI.
  movq $0, events
  movl $0x44050, LAPIC + 0x300
  IS events, 0, IF clear
  sti
after_sti:
  nop
  nop
  IS events, 1, one interrupt
  IS last_vector, 0x50, its vector
  cli
  # Higher classes first.
  movq $0, events
  movl $0x44050, LAPIC + 0x300
  movl $0x44060, LAPIC + 0x300
  sti
  nop
  nop
  cli
  IS events, 2, both
  IS last_vector, 0x50, the lower one last
  # TPR holds back its class and below; CR8 is its upper half.
  movq $0, events
  mov $5, %eax
  mov %rax, %cr8
  mov LAPIC + 0x80, %eax
  IS %rax, 0x50, TPR by CR8
  movl $0x44050, LAPIC + 0x300
  sti
  nop
  nop
  cli
  IS events, 0, held back
  xor %eax, %eax
  sti
  mov %rax, %cr8
  nop
  nop
  cli
  IS events, 1, let through
  # HLT ends by the timer.
  movq $0, events
  movl $0x70, LAPIC + 0x320
  movl $0xb, LAPIC + 0x3e0
  movl $100000, LAPIC + 0x380
  sti
  hlt
  cli
  IS events, 1, one shot
  IS last_vector, 0x70, its vector
  mov LAPIC + 0x390, %eax
  IS %rax, 0, counted down
  # The TSC deadline.
  NEEDS 1, 0, ecx, 24, no_deadline
  movl $0x40071, LAPIC + 0x320
  movq $0, events
  rdtsc
  shl $32, %rdx
  or %rdx, %rax
  add $200000, %rax
  mov %rax, %rdx
  shr $32, %rdx
  mov $0x6e0, %ecx
  wrmsr
  sti
  hlt
  cli
  IS events, 1, deadline
  IS last_vector, 0x71, its vector
  mov $0x6e0, %ecx
  rdmsr
  IS %rax, 0, disarmed
no_deadline:
  movl $0x10000, LAPIC + 0x320
  # x2APIC: registers are MSRs, 64-bit ICR, self-IPI register; the page is gone.
  NEEDS 1, 0, ecx, 21, no_x2apic
  movq $0, hook
  mov $0x802, %ecx
  FAULTS 13, 0, rdmsr
  mov $0x1b, %ecx
  rdmsr
  or $0x400, %eax
  wrmsr
  mov $0x802, %ecx
  RUNS rdmsr
  mov $0x80e, %ecx
  FAULTS 13, 0, rdmsr            # no DFR here
  mov $0x808, %ecx
  mov $0x100, %eax
  xor %edx, %edx
  FAULTS 13, 0, wrmsr            # reserved bits of TPR
  movl $count_x2, hook
  movq $0, events
  mov $0x83f, %ecx
  mov $0x52, %eax
  xor %edx, %edx
  wrmsr
  sti
  nop
  nop
  cli
  IS events, 1, SELF IPI
  movq $0, hook
  # From x2APIC mode there is no way back but through off.
  mov $0x1b, %ecx
  rdmsr
  btr $10, %eax
  FAULTS 13, 0, wrmsr
no_x2apic:
  movq $0, hook
  ret

count:
  movl $0, LAPIC + 0xb0          # EOI
  ret
count_x2:
  push %rax
  push %rcx
  push %rdx
  mov $0x80b, %ecx
  xor %eax, %eax
  xor %edx, %edx
  wrmsr
  pop %rdx
  pop %rcx
  pop %rax
  ret
