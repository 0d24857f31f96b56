# System-management mode: entry by an SMI from the local APIC, the save state, RSM and what it brings back, SMBASE moved; SMRAM that only
# this mode sees, and its lock (a board with an i440FX only). Source: SDM 3C chapter 31, AMD APM vol. 2 chapter 10, 82441FX data sheet §3.2.19.
.include "lib.inc"
.set APIC, 0xfee00000
.set LAPIC, TEST_VA
.set STATE, 0x30000
.set SEEN, 0x20000         # where the handler says what it saw

# It comes within some instructions; RSI counts them.
.macro SMI
  mov SEEN, %edi
  mov $1000000, %esi
  stc
  movl $0, LAPIC + 0x310
  movl $0x4200, LAPIC + 0x300
1: mov SEEN, %edx
  lea -1(%rsi), %rsi
  xchg %rsi, %rcx
  jrcxz 2f
  xchg %rsi, %rcx
  cmp %edi, %edx
  je 1b
2:
.endm
# The handler as seen from SMBASE.
.macro INSTALL base:req
  mov $handler, %esi
  mov $\base + 0x8000, %edi
  mov $handler_end - handler, %ecx
  rep movsb
.endm
.macro CONFIG value:req     # byte 72h of the host bridge
  mov $0x80000070, %eax
  mov $0xcf8, %edx
  out %eax, %dx
  mov $\value, %al
  mov $0xcfe, %edx
  out %al, %dx
.endm

.globl main
main:
  movl $APIC + 0x1b, test_pt
  movl $0x1ff, LAPIC + 0xf0
  FAULTS 6, -1, rsm
  # Firmware may have moved SMBASE into the SMRAM of the board.
  mov $STATE, %r12d
  mov $0x80000000, %eax
  mov $0xcf8, %edx
  out %eax, %dx
  mov $0xcfc, %edx
  in %dx, %eax
  mov %eax, %r13d
  cmp $0x12378086, %eax
  jne 1f
  mov $0xa0000, %r12d
  CONFIG 0x4a                     # open
1: mov $handler, %esi
  lea 0x8000(%r12), %edi
  mov $handler_end - handler, %ecx
  rep movsb
  cmp $0x12378086, %r13d
  jne 1f
  CONFIG 0x0a                     # closed
1: movq $0, SEEN
  movl $0x1234, SEEN + 0x40       # RAX to be
  movl $0x40000, SEEN + 0x44      # SMBASE to be
  SET_CR4 0x80
  mov $0x5566, %eax
  mov $0x7788, %ebx
  mov %ebx, %r15d
  SMI
  mov SEEN, %edx
  cmp $0, %edx
  jne 1f
  NOT_BY_KVM no_smm               # its SMM may be off
1:
  IS %rax, 0x1234, RAX as the handler left it
  IS %r15, 0x7788, R15 came back
  mov SEEN, %eax
  IS %rax, 1, one SMI
  mov SEEN + 4, %eax
  and $0x8000000d, %eax
  IS %rax, 0, PE EM TS and PG are clear in the handler
  mov SEEN + 8, %eax
  IS %rax, 0, CR4 in the handler
  mov SEEN + 12, %eax
  IS %rax, 0, EFER in the handler
  movzwl SEEN + 16, %eax
  shl $4, %eax
  sub %r12d, %eax
  IS %rax, 0, CS in the handler
  mov SEEN + 20, %eax
  IS %rax, 0x5566, RAX in the save state
  mov SEEN + 24, %eax
  and $0xffff, %eax
  IS %rax, 0x64, form of the save state
  mov SEEN + 28, %eax
  sub %r12d, %eax
  IS %rax, 0, SMBASE in the save state
  mov SEEN + 32, %eax
  and $0xd00, %eax
  IS %rax, 0xd00, EFER in the save state
  mov %cr4, %rax
  and $0xa0, %eax
  IS %rax, 0xa0, CR4 came back
  mov $0xc0000080, %ecx
  rdmsr
  and $0xd00, %eax
  IS %rax, 0xd00, EFER came back
  # The next one at the new base, which the handler does not move again.
  INSTALL 0x40000
  movl $0x40000, SEEN + 0x44
  SMI
  mov SEEN, %eax
  IS %rax, 2, two SMIs
  movzwl SEEN + 16, %eax
  IS %rax, 0x4000, CS by the new base
  CLEAR_CR4 0x80

  # SMRAM of the board.
  cmp $0x12378086, %r13d
  jne no_smm
  CONFIG 0x4a                     # open
  INSTALL 0xa0000
  movl $0x600dcafe, 0xaeff0
  CONFIG 0x0a                     # closed
  mov 0xaeff0, %eax
  cmp $0x600dcafe, %eax
  sete %al
  movzbl %al, %eax
  IS %rax, 0, closed SMRAM is not seen
  movl $0xa0000, SEEN + 0x44
  SMI
  SMI
  mov SEEN, %eax
  IS %rax, 4, the handler in SMRAM ran
  movzwl SEEN + 16, %eax
  IS %rax, 0xa000, CS in SMRAM
  mov SEEN + 36, %eax
  IS %rax, 0x600dcafe, the handler sees SMRAM
  CONFIG 0x1a                     # locked
  CONFIG 0x4a                     # which is refused
  mov 0xaeff0, %eax
  cmp $0x600dcafe, %eax
  sete %al
  movzbl %al, %eax
  IS %rax, 0, locked SMRAM stays closed
  SMI
  mov SEEN, %eax
  IS %rax, 5, and goes on working
no_smm:
  ret

.code16
handler:
  mov $SEEN, %edi
  mov %cs, %bx
  mov %bx, 16(%edi)
  movzwl %bx, %esi
  shl $4, %esi                    # SMBASE
  mov %cr0, %eax
  mov %eax, 4(%edi)
  mov %cr4, %eax
  mov %eax, 8(%edi)
  mov $0xc0000080, %ecx
  rdmsr
  mov %eax, 12(%edi)
  mov 0xfff8(%esi), %eax
  mov %eax, 20(%edi)
  mov 0xfefc(%esi), %eax
  mov %eax, 24(%edi)
  mov 0xff00(%esi), %eax
  mov %eax, 28(%edi)
  mov 0xfed0(%esi), %eax
  mov %eax, 32(%edi)
  mov $0xaeff0, %ecx
  mov (%ecx), %eax
  mov %eax, 36(%edi)
  mov 0x40(%edi), %eax
  mov %eax, 0xfff8(%esi)
  mov 0x44(%edi), %eax
  mov %eax, 0xff00(%esi)
  incl (%edi)
  rsm
handler_end:
.code64
