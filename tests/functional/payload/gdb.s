# What gdb.test debugs: a loop with a variable that changes, a string instruction, and known values in registers.
.include "lib.inc"

.globl main
main:
  movq $0x1122334455667788, %rbx
  movl $0x5a5a, %r12d
1: call turn
  jmp 1b

.globl turn, wrote, copy, copied
turn:
  incq counter
wrote:
  movl $source, %esi
  movl $target, %edi
  movl $8, %ecx
copy:
  rep movsb
copied:
  movq counter, %rax
  cmpq $0, stop_here
  jne halted
  ret
.globl halted
halted:
  cli
  hlt
  jmp halted

.section .data
.balign 4096
.globl counter, target, stop_here
counter: .quad 0
source: .ascii "abcdefgh"
target: .quad 0
stop_here: .quad 0
