# Page tables as the CPU reads them: rights, error codes, accessed and dirty bits, reserved bits, protection keys, SMEP, canonical addresses. Source: SDM 3A chapter 4.
.include "lib.inc"

.globl main
main:
  # Not present, then read-only under WP, then writable; A and D.
  FAULTS 14, 0, mov TEST_VA, %al
  IS last_cr2, TEST_VA, after a read
  FAULTS 14, 2, movb $1, TEST_VA + 0xfff
  IS last_cr2, TEST_VA + 0xfff, after a write
  MAP 0, page_a, 1
  RUNS mov TEST_VA, %al
  mov test_pt, %rax
  and $0x60, %rax
  IS %rax, 0x20, read sets A alone
  FAULTS 14, 3, movb $1, TEST_VA
  mov test_pt, %rax
  and $0x60, %rax
  IS %rax, 0x20, a refused write sets no D
  mov %cr0, %rax
  and $~0x10000, %rax
  mov %rax, %cr0
  RUNS movb $1, TEST_VA
  mov test_pt, %rax
  and $0x60, %rax
  IS %rax, 0x60, WP off: the write sets D
  mov %cr0, %rax
  or $0x10000, %rax
  mov %rax, %cr0
  FAULTS 14, 3, movb $1, TEST_VA
  MAP 0, page_a, 3
  RUNS movb $0xc3, TEST_VA
  # A write over the end of a page: nothing is written if the second page is not there.
  NOT_BY_KVM no_split
  movabs $0x1111111111111111, %rax
  mov %rax, page_a + 0xff8
  FAULTS 14, 2, movq $0, TEST_VA + 0xffc
  IS last_cr2, TEST_VA + 0x1000, second page
  IS page_a + 0xff8, 0x1111111111111111, untouched
no_split:

  # No execute.
  MAP 0, page_a, 0x8000000000000003
  movl $1f, recover
  mov %rsp, recover_rsp
  mov $TEST_VA, %eax
  jmp *%rax
1: CAME 14, 0x11, fetch from an NX page
  MAP 0, page_a, 3
  mov $TEST_VA, %eax
  call *%rax

  # A return goes where its address leads now, not where it led at the call: two pages with `call *%rdi; mov $N, %eax; ret`.
  movabs $0xc300000001b8d7ff, %rax
  mov %rax, page_a
  movabs $0xc300000002b8d7ff, %rax
  mov %rax, page_b
  mov $TEST_VA, %ebx
  mov $returns, %edi
  call *%rbx
  IS %rax, 1, a return to the page it came from
  mov $maps_b, %edi
  call *%rbx
  IS %rax, 2, a return after invlpg
  mov $maps_a, %edi
  call *%rbx
  IS %rax, 1, a return after a write to CR3
  movb $0xc3, page_a
  movl $1f, recover
  mov %rsp, recover_rsp
  push $-1
  ret
1: CAME 14, 0x10, a return to the last address
  IS last_cr2, -1, the last address

  # Reserved bits: physical width, NX off, large-page alignment.
  MAP 0, page_a, 0x8000000000003
  FAULTS 14, 9, mov TEST_VA, %al
  MAP 0, page_a, 0x8000000000000003
  mov $0xc0000080, %ecx
  rdmsr
  and $~0x800, %eax
  wrmsr
  FAULTS 14, 9, mov TEST_VA, %al
  mov $0xc0000080, %ecx
  rdmsr
  or $0x800, %eax
  wrmsr
  movl $0x00002083, test_pd + 8
  FAULTS 14, 9, mov TEST_VA + 0x200000, %al
  movl $0, test_pd + 8
  MAP 0, page_a, 3

  # Canonical addresses: #GP, #SS through the stack; a canonical but unmapped one is #PF.
  movabs $0x0000800000000000, %rbx
  FAULTS 13, 0, mov (%rbx), %al
  FAULTS 13, 0, mov %al, (%rbx)
  mov %rbx, %rbp
  FAULTS 12, 0, mov (%rbp), %al
  FAULTS 13, 0, jmp *%rbx
  FAULTS 13, 0, call *%rbx
  NOT_BY_KVM no_edge
  movabs $0x00007fffffffffff, %rbx
  FAULTS 13, 0, mov (%rbx), %ax
  FAULTS 14, 0, mov (%rbx), %al
no_edge:
  movabs $0xffff800000000000, %rbx
  FAULTS 14, 0, mov (%rbx), %al

  # Level 3.
  USER user_read_kernel
  CAME 14, 5, level 3 reads a supervisor page
  USER user_write_kernel
  CAME 14, 7, level 3 writes a supervisor page
  USER user_jump_kernel
  CAME 14, 0x15, level 3 runs a supervisor page

  # SMEP.
  NEEDS 7, 0, ebx, 7, no_smep
  SET_CR4 0x100000
  movl $1f, recover
  mov %rsp, recover_rsp
  mov $user_ret, %eax
  call *%rax
1: CAME 14, 0x11, SMEP
  CLEAR_CR4 0x100000
  mov $user_ret, %eax
  call *%rax
no_smep:

  # Protection keys.
  NEEDS 7, 0, ecx, 3, no_pku
  xor %ecx, %ecx
  FAULTS 6, -1, rdpkru
  SET_CR4 0x400000
  mov $1, %ecx
  FAULTS 13, 0, rdpkru
  xor %ecx, %ecx
  mov $1, %edx
  FAULTS 13, 0, wrpkru
  MAP 1, page_b, 0x2800000000000007   # key 5
  xor %edx, %edx
  mov $0x400, %eax                    # key 5: no access
  wrpkru
  RUNS rdpkru
  IS %rax, 0x400, rdpkru
  FAULTS 14, 0x21, mov TEST_VA + 0x1000, %al
  FAULTS 14, 0x23, movb $1, TEST_VA + 0x1000
  xor %ecx, %ecx
  xor %edx, %edx
  mov $0x800, %eax                    # no writes
  wrpkru
  RUNS mov TEST_VA + 0x1000, %al
  FAULTS 14, 0x23, movb $1, TEST_VA + 0x1000
  mov %cr0, %rax
  and $~0x10000, %rax
  mov %rax, %cr0
  RUNS movb $1, TEST_VA + 0x1000
  mov %cr0, %rax
  or $0x10000, %rax
  mov %rax, %cr0
  xor %ecx, %ecx
  xor %edx, %edx
  xor %eax, %eax
  wrpkru
  RUNS movb $1, TEST_VA + 0x1000
  CLEAR_CR4 0x400000
no_pku:

  # invlpg: until then the old translation may stay, after it the new one counts.
  MAP 2, page_a, 3
  MAP 3, page_b, 3
  movb $1, page_a
  movb $2, page_b
  mov TEST_VA + 0x2000, %al
  MAP 2, page_b, 3
  movzbq TEST_VA + 0x2000, %rax
  IS %rax, 2, invlpg
  # Global pages stay over a CR3 write and go with PGE.
  SET_CR4 0x80
  MAP 2, page_a, 0x103
  mov TEST_VA + 0x2000, %al
  movq $0, test_pt + 16
  CLEAR_CR4 0x80
  FAULTS 14, 0, mov TEST_VA + 0x2000, %al

  # 1 GiB pages.
  NEEDS 0x80000001, 0, edx, 26, no_1g
  movq $0x83, pdpt + 16
  mov $page_b + 0x80000000, %eax
  movzbq (%rax), %rax
  IS %rax, 2, through a 1 GiB page
  movq $0x2083, pdpt + 16
  mov %cr3, %rax
  mov %rax, %cr3
  mov $page_b + 0x80000000, %ebx
  FAULTS 14, 9, mov (%rbx), %al
  movq $0, pdpt + 16
no_1g:

  # Control registers refuse what cannot be.
  mov %cr0, %rax
  btr $31, %rax
  FAULTS 13, 0, mov %rax, %cr0       # PG in 64-bit mode
  NOT_BY_KVM no_high
  mov $0x1, %eax
  shl $40, %rax
  mov %cr4, %rbx
  or %rax, %rbx
  FAULTS 13, 0, mov %rbx, %cr4
no_high:
  mov %cr4, %rax
  and $~0x20, %rax
  FAULTS 13, 0, mov %rax, %cr4       # PAE in 64-bit mode
  mov %cr0, %rax
  or $0x20000000, %rax
  FAULTS 13, 0, mov %rax, %cr0       # NW without CD
  mov %cr3, %rax
  bts $62, %rax
  FAULTS 13, 0, mov %rax, %cr3
  mov $16, %eax
  FAULTS 13, 0, mov %rax, %cr8
  ret
maps_b:
  MAP 0, page_b, 3
returns: ret
maps_a:
  movq $page_a + 3, test_pt
  mov %cr3, %rax
  mov %rax, %cr3
  ret

.section .user
user_read_kernel: mov page_a, %al
  ud2
user_write_kernel: movb $1, page_a
  ud2
user_jump_kernel: mov $page_a, %eax
  jmp *%rax
user_ret: ret
