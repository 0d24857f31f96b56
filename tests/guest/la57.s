# Five levels of page tables: 57-bit addresses. Run with -cpu max,+la57. Source: SDM 3A §4.5, "5-Level Paging and 5-Level EPT" white paper.
.set LA57, 1
.include "lib.inc"

.globl main
main:
  movl $pml4 + 7, pml5 + 8 * 0xff
  movl $pml4 + 7, pml5 + 8 * 0x100
  movq $5, page_a
  movabs $0x00ff000000000000, %rbx
  add $page_a, %rbx
  mov (%rbx), %rax
  IS %rax, 5, lower half above 47 bits
  RUNS movq $6, (%rbx)
  IS page_a, 6, written there
  movabs $0xff00000000000000, %rbx
  add $page_a, %rbx
  mov (%rbx), %rax
  IS %rax, 6, upper half
  movq $7, page_a + 8
  mov 8(%rbx), %rax
  IS %rax, 7, the same page again
  # The low 48 bits alone do not name a page.
  movabs $0x00fe000000000000, %rbx
  add $page_a, %rbx
  FAULTS 14, 0, mov (%rbx), %rax
  mov %rbx, %rax
  sub last_cr2, %rax
  IS %rax, 0, CR2 has all bits
  movabs $0x0100000000000000, %rbx
  FAULTS 13, 0, mov (%rbx), %rax
  mov %rbx, %rbp
  FAULTS 12, 0, mov (%rbp), %rax
  FAULTS 13, 0, jmp *%rbx
  # Code there.
  movb $0xc3, page_b
  movabs $0x00ff000000000000, %rbx
  add $page_b, %rbx
  call *%rbx
  # MSRs and descriptor-table bases take 57 bits.
  mov $0xc0000082, %ecx
  xor %eax, %eax
  mov $0x00ff0000, %edx
  RUNS wrmsr
  mov $0x01000000, %edx
  FAULTS 13, 0, wrmsr
  # It cannot be switched off here.
  mov %cr4, %rax
  btr $12, %rax
  FAULTS 13, 0, mov %rax, %cr4
  ret
