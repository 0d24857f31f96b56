# SMAP: supervisor accesses to user pages by EFLAGS.AC; implicit ones whatever it says. Source: SDM 3A §4.6.
.include "lib.inc"

.globl main
main:
  NEEDS 7, 0, ebx, 20, no_smap
  RUNS mov user_data, %al
  SET_CR4 0x200000
  FAULTS 14, 1, mov user_data, %al
  FAULTS 14, 3, movb $0, user_data
  stac
  RUNS mov user_data, %al
  RUNS movb $0, user_data
  clac
  FAULTS 14, 1, mov user_data, %al
  # Implicit supervisor accesses do not look at AC: an LDT in user memory.
  mov gdt + DATA, %rax
  stac
  mov %rax, user_data
  clac
  mov $user_data, %eax
  movw $0xff, gdt + SPARE
  mov %ax, gdt + SPARE + 2
  shr $16, %eax
  mov %al, gdt + SPARE + 4
  mov %ah, gdt + SPARE + 7
  movb $0x82, gdt + SPARE + 5
  movq $0, gdt + SPARE + 8
  mov $SPARE, %eax
  lldt %ax
  mov $4, %eax
  stac
  FAULTS 14, 1, mov %eax, %fs
  clac
  CLEAR_CR4 0x200000
no_smap:
  ret
