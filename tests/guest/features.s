# Instructions and registers of single features: UMIP, FSGSBASE, RTM in its weakest form, CLZERO, MOVDIRI, MOVDIR64B, XSAVE's rules, alignment
# checks, TSC_ADJUST, MSRs. Source: SDM 2 (each instruction), SDM 1 chapter 13.
.include "lib.inc"

.globl main
main:
  # UMIP: level 3 may not read the system registers; level 0 may.
  NEEDS 7, 0, ecx, 2, no_umip
  USER user_sgdt
  CAME 3, -1, sgdt at level 3 without UMIP
  SET_CR4 0x800
  USER user_sgdt
  CAME 13, 0, sgdt at level 3
  USER user_sidt
  CAME 13, 0, sidt at level 3
  USER user_sldt
  CAME 13, 0, sldt at level 3
  USER user_str
  CAME 13, 0, str at level 3
  USER user_smsw
  CAME 13, 0, smsw at level 3
  RUNS sgdt page_a
  RUNS smsw %ax
  CLEAR_CR4 0x800
no_umip:

  # FSGSBASE.
  NEEDS 7, 0, ebx, 0, no_bases
  NOT_BY_KVM 1f
  FAULTS 6, -1, rdfsbase %rax
1:
  SET_CR4 0x10000
  movabs $0x123456789ab, %rbx
  RUNS wrfsbase %rbx
  RUNS rdfsbase %rcx
  IS %rcx, 0x123456789ab, fs base
  RUNS wrgsbase %ebx
  RUNS rdgsbase %rcx
  IS %rcx, 0x456789ab, 32-bit form
  mov $0xc0000102, %ecx
  mov $0x1000, %eax
  xor %edx, %edx
  wrmsr
  swapgs
  rdgsbase %rcx
  IS %rcx, 0x1000, swapgs
  bts $63, %rbx
  FAULTS 13, 0, wrfsbase %rbx
  CLEAR_CR4 0x10000
  xor %eax, %eax
  mov %eax, %gs
  mov %eax, %fs
no_bases:

  # RTM: no transaction ever begins.
  NEEDS 7, 0, ebx, 11, no_rtm
  NOT_BY_KVM no_rtm
  mov $-1, %rax
  xbegin 1f
  mov $0x55, %rax
1: IS %rax, 0, xbegin aborts with EAX = 0
  xtest
  setz %al
  movzx %al, %eax
  IS %rax, 1, xtest
  FAULTS 13, 0, xend
  RUNS xabort $5
no_rtm:

  # CLZERO, MOVDIRI, MOVDIR64B.
  mov $0x80000008, %eax
  cpuid
  bt $0, %ebx
  jnc no_clzero
  movq $-1, page_a
  movq $-1, page_a + 56
  movq $-1, page_a + 64
  mov $page_a + 17, %eax
  RUNS clzero
  IS page_a, 0, clzero
  IS page_a + 56, 0, clzero
  IS page_a + 64, -1, the next line
  mov $TEST_VA, %eax
  FAULTS 14, 2, clzero
no_clzero:
  NEEDS 7, 0, ecx, 27, no_movdiri
  mov $0x87654321, %ebx
  RUNS movdiri %ebx, page_a
  IS page_a, 0x87654321, movdiri
no_movdiri:
  NEEDS 7, 0, ecx, 28, no_movdir64b
  mov $page_b, %eax
  movq $77, page_a + 56
  RUNS movdir64b page_a, %rax
  IS page_b + 56, 77, movdir64b
  add $8, %eax
  FAULTS 13, 0, movdir64b page_a, %rax
no_movdir64b:
  NEEDS 7, 0, edx, 14, no_serialize
  RUNS serialize
no_serialize:

  # XSAVE: off until CR4.OSXSAVE; XCR0's rules; what XRSTOR refuses.
  NEEDS 1, 0, ecx, 26, no_xsave
  xor %ecx, %ecx
  FAULTS 6, -1, xgetbv
  SET_CR4 0x40000
  mov $1, %eax
  cpuid
  bt $27, %ecx
  setc %al
  movzx %al, %eax
  IS %rax, 1, CPUID shows OSXSAVE
  xor %ecx, %ecx
  xor %edx, %edx
  mov $2, %eax
  FAULTS 13, 0, xsetbv
  mov $5, %eax
  FAULTS 13, 0, xsetbv
  mov $0x80000003, %eax
  FAULTS 13, 0, xsetbv
  mov $1, %ecx
  mov $3, %eax
  FAULTS 13, 0, xsetbv
  xor %ecx, %ecx
  mov $3, %eax
  RUNS xsetbv
  RUNS xgetbv
  IS %rax, 3, xgetbv
  mov $-1, %eax
  mov $-1, %edx
  FAULTS 13, 0, xsave page_a + 8
  RUNS xsave page_a
  IS page_a + 520, 0, XCOMP_BV of the plain form
  movq $8, page_a + 512
  FAULTS 13, 0, xrstor page_a
  movq $0, page_a + 512
  movq $1, page_a + 520
  FAULTS 13, 0, xrstor page_a
  movq $0, page_a + 520
  movl $0x10000, page_a + 24
  FAULTS 13, 0, xrstor page_a
  movl $0x1f80, page_a + 24
  RUNS xrstor page_a
  mov $0xd, %eax
  mov $1, %ecx
  cpuid
  bt $1, %eax
  jnc no_xsavec
  movl $0x3f80, page_b + 24
  mov $-1, %eax
  mov $-1, %edx
  ldmxcsr page_b + 24
  xorps %xmm0, %xmm0
  RUNS xsavec page_a
  mov page_a + 520, %rax
  btr $63, %rax
  IS %rax, 3, XCOMP_BV of the compact form
  movl $0x1f80, page_b + 24
  ldmxcsr page_b + 24
  mov $-1, %eax
  RUNS xrstor page_a
  stmxcsr page_b
  mov page_b, %eax
  IS %rax, 0x3f80, MXCSR comes back
  movl $0x1f80, page_b + 24
  ldmxcsr page_b + 24
  movb $1, page_a + 540
  mov $-1, %eax
  FAULTS 13, 0, xrstor page_a
no_xsavec:
  mov %cr0, %rax
  or $8, %rax
  mov %rax, %cr0
  mov $-1, %eax
  FAULTS 7, -1, xsave page_a
  clts
  CLEAR_CR4 0x40000
no_xsave:

  # Alignment checks: level 3, AM and AC.
  mov %cr0, %rax
  or $0x40000, %rax
  mov %rax, %cr0
  USER user_unaligned
  CAME 3, -1, AC clear
  movq $0x40002, user_flags
  USER user_unaligned
  CAME 17, 0, AC set
  USER user_unaligned_vector
  CAME 17, 0, AC set and a vector
  USER user_aligned
  CAME 3, -1, aligned accesses
  movq $2, user_flags
  mov %cr0, %rax
  btr $18, %rax
  mov %rax, %cr0

  # MSRs.
  mov $0x4fff, %ecx
  NOT_BY_KVM 1f
  mov $0x4fff, %ecx
  FAULTS 13, 0, rdmsr
  FAULTS 13, 0, wrmsr
1: mov $0xc0000082, %ecx
  xor %eax, %eax
  mov $0x8000, %edx
  FAULTS 13, 0, wrmsr
  mov $0x277, %ecx
  mov $0x02, %eax
  xor %edx, %edx
  FAULTS 13, 0, wrmsr
  mov $0xc0000080, %ecx
  rdmsr
  btc $8, %eax
  FAULTS 13, 0, wrmsr          # LME while paging
  mov $0xc0000080, %ecx
  rdmsr
  bts $30, %eax
  FAULTS 13, 0, wrmsr
  NEEDS 7, 0, ebx, 1, no_adjust
  mov $0x3b, %ecx
  xor %eax, %eax
  xor %edx, %edx
  wrmsr
  rdtsc
  mov %eax, %esi
  shl $32, %rdx
  or %rdx, %rsi
  mov $0x3b, %ecx
  xor %eax, %eax
  mov $0x100, %edx
  wrmsr
  rdtsc
  shl $32, %rdx
  or %rdx, %rax
  sub %rsi, %rax
  shr $40, %rax
  IS %rax, 1, TSC_ADJUST moves the counter
  mov $0x3b, %ecx
  xor %eax, %eax
  xor %edx, %edx
  wrmsr
no_adjust:
  # CR4.TSD.
  SET_CR4 4
  RUNS rdtsc
  USER user_rdtsc
  CAME 13, 0, rdtsc at level 3
  CLEAR_CR4 4
  USER user_rdtsc
  CAME 3, -1, rdtsc at level 3
  # LOCK MOV CR0 is MOV CR8.
  NEEDS 0x80000001, 0, ecx, 4, no_cr8
  NOT_BY_KVM no_cr8
  mov $5, %eax
  RUNS .byte 0xf0, 0x0f, 0x22, 0xc0
  mov %cr8, %rbx
  IS %rbx, 5, cr8
  RUNS .byte 0xf0, 0x0f, 0x20, 0xc1
  IS %rcx, 5, cr8 read by it
  xor %eax, %eax
  mov %rax, %cr8
no_cr8:
  # RDPID, RDTSCP.
  NEEDS 0x80000001, 0, edx, 27, no_rdtscp
  WRMSR 0xc0000103, 0x1234
  rdtscp
  IS %rcx, 0x1234, rdtscp
  NEEDS 7, 0, ecx, 22, no_rdtscp
  rdpid %rbx
  IS %rbx, 0x1234, rdpid
no_rdtscp:
  ret

.section .user
user_sgdt: sgdt user_data
  int3
user_sidt: sidt user_data
  int3
user_sldt: sldt %ax
  int3
user_str: str %ax
  int3
user_smsw: smsw %ax
  int3
user_unaligned: mov user_data + 1, %eax
  int3
user_unaligned_vector: movups user_data + 1, %xmm0   # implementations may check it (SDM 3, interrupt 17); this host's do
  int3
user_aligned: mov user_data, %eax
  mov user_data + 2, %ax
  mov user_data + 3, %al
  int3
user_rdtsc: rdtsc
  int3
.section .text
