# Waits for a machine check that the monitor injects (tests/functional/mce.test), and says what it found. Source: SDM 3B chapter 15.
.include "lib.inc"

.globl main
main:
  SET_CR4 0x40
  mov $0x404, %ecx               # bank 1 is on
  mov $-1, %eax
  mov $-1, %edx
  wrmsr
  movl $seen, hook
  movq $0, events
  mov $text_ready, %esi
  call print
1: pause
  cmpq $0, events
  je 1b
  IS last_vector, 18, machine check
  mov $0x17a, %ecx
  rdmsr
  IS %rax, 5, MCG_STATUS
  mov $0x405, %ecx
  rdmsr
  shl $32, %rdx
  or %rdx, %rax
  IS %rax, 0xb600000000000135, STATUS of bank 1
  mov $0x406, %ecx
  rdmsr
  IS %rax, 0x12345000, ADDR of bank 1
  mov $0x407, %ecx
  rdmsr
  IS %rax, 0x86, MISC of bank 1
  # It is over.
  mov $0x405, %ecx
  xor %eax, %eax
  xor %edx, %edx
  wrmsr
  mov $0x17a, %ecx
  wrmsr
  mov $text_over, %esi
  call print
  # A corrected error is only logged.
1: pause
  mov $0x405, %ecx
  rdmsr
  or %edx, %eax
  jz 1b
  IS events, 1, a corrected error raises nothing
  mov $text_logged, %esi
  call print
  ret
seen: ret

.section .rodata
text_ready: .asciz "ready for one\n"
text_over: .asciz "uncorrected: ok\n"
text_logged: .asciz "corrected: ok\n"
.section .text
