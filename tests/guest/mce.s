# Machine-check banks: how many, what may be written, the enabling bit. Source: SDM 3B chapter 15.
.include "lib.inc"

.globl main
main:
  NEEDS 1, 0, edx, 14, no_mca
  mov $0x179, %ecx               # MCG_CAP
  rdmsr
  movzx %al, %r12d               # banks
  bt $8, %eax
  setc %r13b
  cmp $2, %r12d
  setae %al
  movzbl %al, %eax
  IS %rax, 1, two banks at least
  mov $0x179, %ecx
  NOT_BY_KVM 1f
  mov $0x179, %ecx
  xor %eax, %eax
  xor %edx, %edx
  FAULTS 13, 0, wrmsr
1:
  # MCG_STATUS keeps its three bits; MCG_CTL if there is one.
  mov $0x17a, %ecx
  mov $4, %eax
  xor %edx, %edx
  RUNS wrmsr
  rdmsr
  IS %rax, 4, MCG_STATUS
  xor %eax, %eax
  wrmsr
  test %r13b, %r13b
  jz 1f
  mov $0x17b, %ecx
  mov $-1, %eax
  mov $-1, %edx
  RUNS wrmsr
  xor %eax, %eax
  xor %edx, %edx
  rdmsr
  and %edx, %eax
  not %eax
  IS %rax, 0, MCG_CTL
1:
  # Bank 1: CTL takes all ones, STATUS takes zero.
  mov $0x404, %ecx
  mov $-1, %eax
  mov $-1, %edx
  RUNS wrmsr
  mov $0x405, %ecx
  xor %eax, %eax
  xor %edx, %edx
  RUNS wrmsr
  rdmsr
  IS %rax, 0, STATUS is empty
  xor %eax, %eax
  cpuid
  cmp $0x68747541, %ebx              # AMD's may be written by software that asked for it
  je 1f
  mov $0x405, %ecx
  mov $1, %eax
  xor %edx, %edx
  FAULTS 13, 0, wrmsr
1:
  # Behind the last bank there is nothing.
  NOT_BY_KVM 1f
  mov %r12d, %ecx
  shl $2, %ecx
  add $0x400, %ecx
  FAULTS 13, 0, rdmsr
1: NEEDS 1, 0, edx, 7, no_mca
  SET_CR4 0x40
  mov %cr4, %rax
  and $0x40, %eax
  IS %rax, 0x40, CR4.MCE
no_mca:
  ret
