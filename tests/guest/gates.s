# Call gates and far returns of 32-bit and 16-bit protected mode, conforming code, expand-down and bounded segments, descriptor checks.
# Source: SDM 3A chapter 5, SDM 2 ("CALL", "RET", "IRET", "BOUND", "ARPL").
.include "lib32.inc"

.globl main
main:
  xor %eax, %eax
  lldt %ax
  # A gate to level 0 with two parameters: they are copied, CS:EIP and SS:ESP of the caller stand around them.
  GATE 0, CODE, inner, 0xec, 2
  USER user_calls
  CAME 3, -1, back at level 3
  IS last_cs, USER_CODE, level 3
  IS seen_cs, CODE, level 0
  IS seen_first, 0x1111, the first parameter
  IS seen_second, 0x2222, the second
  IS seen_old_cs, USER_CODE, the caller's CS
  IS seen_old_ss, USER_DATA, the caller's SS
  IS last_esp, user_stack_top, RET 8 dropped them on both stacks
  # Data segments of level 0 are taken away by the way out.
  IS seen_fs, DATA, FS inside
  mov user_fs, %eax
  IS %eax, 0, FS outside
  # Refusals.
  GATE 0, CODE, inner, 0x8c, 2
  USER user_calls
  CAME 13, SPARE, DPL of the gate
  GATE 0, CODE, inner, 0x6c, 2
  USER user_calls
  CAME 11, SPARE, presence of the gate
  GATE 0, 0, inner, 0xec, 2
  USER user_calls
  CAME 13, 0, null code segment
  GATE 0, DATA, inner, 0xec, 2
  USER user_calls
  CAME 13, DATA, a data segment
  GATE 0, CODE, inner, 0xec, 2
  # A jump through it changes no level.
  USER user_jumps
  CAME 13, CODE, jmp to another level
  GATE 0, CODE, gate_here, 0x8c
  movl $1f, gate_back
  ljmp $SPARE, $0
1: IS %ebx, 0x77, jmp at the same level
  # 16-bit gates push words.
  GATE 0, SPARE + 8, 0, 0xe4
  mov $inner16, %eax
  movw $0xffff, gdt + SPARE + 8
  mov %ax, gdt + SPARE + 10
  shr $16, %eax
  mov %al, gdt + SPARE + 12
  movw $0x409b, gdt + SPARE + 13
  mov %ah, gdt + SPARE + 15
  mov %esp, %ecx
  lcall $SPARE, $0
after_16:
  sub seen_esp, %ecx
  IS %ecx, 4, a 16-bit gate pushes two words
  # Conforming code runs at the caller's level.
  RAW 2, 0x0000ffff, 0x00cf9e00
  USER user_conforming
  CAME 3, -1, conforming code
  IS last_cs, SPARE + 16 + 3, at level 3
  # RETF refuses an inner level and what is no code.
  USER user_returns_in
  CAME 13, CODE, to an inner level
  FAULTS 13, DATA, call retf_to_data
  # Bounded and expand-down segments.
  RAW 3, 0x00000fff, 0x00409300         # 4 KiB
  mov $SPARE + 24, %eax
  mov %eax, %fs
  RUNS mov %fs:0xffc, %eax
  FAULTS 13, 0, mov %fs:0xffd, %eax
  FAULTS 13, 0, mov %fs:0x1000, %al
  FAULTS 13, 0, movb $0, %fs:-1
  RAW 3, 0x00000fff, 0x00409700         # expand-down: from 1000h on
  mov $SPARE + 24, %eax
  mov %eax, %fs
  FAULTS 13, 0, mov %fs:0xfff, %al
  RUNS mov %fs:0x1000, %al
  RAW 3, 0x0000ffff, 0x00cf9100         # read-only
  mov $SPARE + 24, %eax
  mov %eax, %fs
  RUNS mov %fs:0, %al
  FAULTS 13, 0, movb %al, %fs:page_a
  mov $CODE, %eax
  mov %eax, %fs
  FAULTS 13, 0, movb %al, %fs:page_a
  xor %eax, %eax
  mov %eax, %fs
  FAULTS 13, 0, mov %fs:0, %al
  # BOUND, ARPL, INTO.
  movl $10, page_a
  movl $20, page_a + 4
  mov $10, %eax
  RUNS bound %eax, page_a
  mov $20, %eax
  RUNS bound %eax, page_a
  mov $21, %eax
  FAULTS 5, -1, bound %eax, page_a
  mov $9, %eax
  FAULTS 5, -1, bound %eax, page_a
  mov $0x10, %eax
  mov $3, %ebx
  arpl %bx, %ax
  setz %cl
  movzbl %cl, %ecx
  IS %ecx, 1, arpl changed it
  IS %eax, 0x13, arpl
  mov $0x7fffffff, %eax
  add $1, %eax
  FAULTS 4, -1, into
  xor %eax, %eax
  RUNS into
  # Descriptors are marked as accessed.
  RAW 3, 0x0000ffff, 0x00cf9200
  mov $SPARE + 24, %eax
  mov %eax, %fs
  movzbl gdt + SPARE + 24 + 5, %eax
  IS %eax, 0x93, accessed
  # Level 3 may not.
  movl $2, user_flags
  USER user_hlt
  CAME 13, 0, hlt at level 3
  USER user_out
  CAME 13, 0, out at level 3
  USER user_lgdt
  CAME 13, 0, lgdt at level 3
  USER user_ss
  CAME 13, DATA, SS of level 0 at level 3
  ret

inner:
  mov %cs, seen_cs
  mov %fs, seen_fs
  push %eax
  mov 8(%esp), %eax
  mov %eax, seen_old_cs
  mov 12(%esp), %eax
  mov %eax, seen_second
  mov 16(%esp), %eax
  mov %eax, seen_first
  mov 24(%esp), %eax
  mov %eax, seen_old_ss
  mov $DATA, %eax
  mov %eax, %fs
  mov %fs, seen_fs
  pop %eax
  lretl $8
gate_here:
  mov $0x77, %ebx
  jmp *gate_back
inner16:
  mov %esp, seen_esp              # 16 bits of EIP lead nowhere here
  mov %ecx, %esp
  ljmp $CODE, $after_16
retf_to_data:
  push $DATA
  push $0
  lretl
user_calls:
  mov $USER_DATA, %eax
  mov %eax, %ds
  mov %eax, %es
  push $0x1111
  push $0x2222
  lcall $SPARE + 3, $0
  mov %fs, %eax
  mov %eax, user_fs
  int3
user_jumps: ljmp $SPARE + 3, $0
user_conforming: ljmp $SPARE + 16, $conforming
conforming: int3
user_returns_in:
  push $CODE
  push $conforming
  lretl
user_hlt: hlt
user_out: out %al, $0x80
user_lgdt: lgdt page_a
user_ss: mov $DATA, %eax
  mov %eax, %ss

.section .data
.balign 4
seen_cs: .long 0
seen_fs: .long 0
seen_first: .long 0
seen_second: .long 0
seen_old_cs: .long 0
seen_old_ss: .long 0
seen_esp: .long 0
user_fs: .long -1
gate_back: .long 0
.section .text
