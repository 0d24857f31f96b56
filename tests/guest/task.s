# Hardware tasks: switches by JMP, CALL, task gate, INT and exception, and back by IRET; busy bits, links, what the new task may not be;
# the debug trap. Source: SDM 3A chapter 7.
.include "lib32.inc"
.set B, SPARE              # the other task's TSS
.set B_GATE, SPARE + 8
.set BAD, SPARE + 16
.set SIXTEEN, SPARE + 24
.set C, SPARE + 40         # takes #TS, since the task that raises it may have no stack

.macro NEW_B entry:req
  movl $\entry, tss_b + 0x20
  movl $2, tss_b + 0x24
  movl $0x12345678, tss_b + 0x28
  movl $task_stack_top, tss_b + 0x38
  movl $DATA, tss_b + 0x48
  movl $CODE, tss_b + 0x4c
  movl $DATA, tss_b + 0x50
  movl $DATA, tss_b + 0x54
  movl $0, tss_b + 0x58
  movl $0, tss_b + 0x5c
  movl $0, tss_b + 0x60
  movl $0x680000, tss_b + 0x64
  movl $0, marks
.endm
# After a fault in the other task: this one again.
.macro AGAIN
  movb $0x89, gdt + TSS + 5
  movb $0x89, gdt + B + 5
  movb $0x89, gdt + C + 5
  mov $TSS, %eax
  ltr %ax
  clts
.endm

.globl main
main:
  SYSTEM 0, tss_b, 0x67, 0x0089
  RAW 1, B << 16, 0x8500        # the task gate

  # JMP: B runs with its own registers; this task is no longer busy, nothing is linked.
  NEW_B b_jumps
  mov $0x55, %ebx
  ljmp $B, $0
  IS marks, 1, jmp came back
  IS %ebx, 0x55, registers are back
  IS b_eax, 0x12345678, EAX out of the TSS
  IS b_esp, task_stack_top, ESP out of the TSS
  IS b_task, B, TR
  mov b_cr0, %eax
  and $8, %eax
  IS %eax, 8, TS is set
  mov b_flags, %eax
  and $0x4000, %eax
  IS %eax, 0, NT is clear after JMP
  movzbl gdt + B + 5, %eax
  IS %eax, 0x89, B is available again
  movzbl gdt + TSS + 5, %eax
  IS %eax, 0x8b, this task is busy
  IS b_main_type, 0x89, this task was available meanwhile
  clts

  # CALL: nested; IRET returns.
  NEW_B b_returns
  lcall $B, $0
  IS marks, 1, call came back
  mov b_flags, %eax
  and $0x4000, %eax
  IS %eax, 0x4000, NT is set after CALL
  IS b_main_type, 0x8b, the caller stays busy
  movzwl tss_b, %eax
  IS %eax, TSS, the link
  movzbl gdt + B + 5, %eax
  IS %eax, 0x89, IRET frees the nested task
  pushf
  pop %eax
  and $0x4000, %eax
  IS %eax, 0, NT is not ours
  IS tss_b + 0x20, after_iret, EIP of the task that returned
  # It goes on after its IRET.
  lcall $B, $0
  IS marks, 2, the second time
  clts

  # Through a task gate, by CALL, JMP, INT n.
  NEW_B b_returns
  lcall $B_GATE, $0
  IS marks, 1, by task gate
  mov idt + 0x40 * 8, %eax
  push %eax
  mov idt + 0x40 * 8 + 4, %eax
  push %eax
  movl $(B << 16), idt + 0x40 * 8
  movl $0x8500, idt + 0x40 * 8 + 4
  int $0x40
after_int:
  IS marks, 2, by INT n
  IS tss + 0x20, after_int, EIP behind INT
  # An exception with an error code: it lies on the new task's stack.
  movl $(B << 16), idt + 13 * 8
  movl $0x8500, idt + 13 * 8 + 4
  NEW_B b_takes_code
  mov $0x1000, %eax
faulting:
  mov %eax, %fs
  IS marks, 1, the exception was handled
  IS b_code, 0x1000, error code
  IS b_link_eip, faulting, EIP of the fault
  clts
  mov $stubs + 13 * 16, %eax
  mov %ax, idt + 13 * 8
  movw $CODE, idt + 13 * 8 + 2
  movw $0x8e00, idt + 13 * 8 + 4
  shr $16, %eax
  mov %ax, idt + 13 * 8 + 6
  pop %eax
  mov %eax, idt + 0x40 * 8 + 4
  pop %eax
  mov %eax, idt + 0x40 * 8

  # What is refused before the switch.
  NEW_B b_jumps
  FAULTS 13, TSS, lcall $TSS, $0             # busy
  movb $0x09, gdt + B + 5
  FAULTS 11, B, ljmp $B, $0
  movb $0x89, gdt + B + 5
  movw $0x66, gdt + B
  FAULTS 10, B, ljmp $B, $0
  movw $0x67, gdt + B
  RAW 1, DATA << 16, 0x8500
  FAULTS 13, DATA, ljmp $B_GATE, $0
  RAW 1, B << 16, 0x0500
  FAULTS 11, B_GATE, ljmp $B_GATE, $0
  RAW 1, B << 16, 0x8500
  # IRET with NT and a link to no busy task.
  movw $B, tss
  pushf
  orl $0x4000, (%esp)
  popf
  FAULTS 10, B, iretl
  movw $0, tss

  # What is refused after it: in the new task, #TS with the selector.
  SYSTEM 5, tss_c, 0x67, 0x0089
  movl $c_entry, tss_c + 0x20
  movl $2, tss_c + 0x24
  movl $inner_stack_top, tss_c + 0x38
  movl $DATA, tss_c + 0x48
  movl $CODE, tss_c + 0x4c
  movl $DATA, tss_c + 0x50
  movl $DATA, tss_c + 0x54
  movl $0xdfff0000, tss_c + 0x64
  movl $(C << 16), idt + 10 * 8
  movl $0x8500, idt + 10 * 8 + 4
  NEW_B b_jumps
  movl $0, tss_b + 0x50                      # SS
  FAULTS 10, 0, ljmp $B, $0
  IS last_task, B, in the context of the new task
  IS last_eip, b_jumps, at its first instruction
  AGAIN
  NEW_B b_jumps
  movl $DATA, tss_b + 0x4c                   # CS
  FAULTS 10, DATA, ljmp $B, $0
  AGAIN
  NEW_B b_jumps
  movl $0x1000, tss_b + 0x54                 # DS
  FAULTS 10, 0x1000, ljmp $B, $0
  AGAIN
  NEW_B b_jumps
  movl $DATA, tss_b + 0x60                   # LDTR
  FAULTS 10, DATA, ljmp $B, $0
  AGAIN
  movl $0, tss_b + 0x60

  # The debug trap: before the first instruction of the new task.
  NEW_B b_jumps
  movl $0x680001, tss_b + 0x64
  xor %eax, %eax
  mov %eax, %dr6
  FAULTS 1, -1, ljmp $B, $0
  mov %dr6, %eax
  and $0xe00f, %eax
  IS %eax, 0x8000, BT
  IS last_eip, b_jumps, before the first instruction
  AGAIN
  movl $0x680000, tss_b + 0x64
  xor %eax, %eax
  mov %eax, %dr6
  # Local breakpoints end with a switch.
  mov $0x455, %eax
  mov %eax, %dr7
  NEW_B b_jumps
  ljmp $B, $0
  mov %dr7, %eax
  and $0xff, %eax
  IS %eax, 0, L0 to L3 are off
  mov $0x400, %eax
  mov %eax, %dr7
  clts

  # A 16-bit TSS.
  mov $b16, %eax
  mov %ax, tss16 + 0x0e
  movw $2, tss16 + 0x10
  movw $0xabcd, tss16 + 0x12
  movw $0x7000, tss16 + 0x1a
  movw $DATA, tss16 + 0x22
  movw $SPARE + 32, tss16 + 0x24
  movw $DATA, tss16 + 0x26
  movw $DATA, tss16 + 0x28
  SYSTEM 3, tss16, 0x2b, 0x0081
  # Its code segment: 32-bit, beginning at this page, so that 16 bits of IP reach.
  mov $b16, %eax
  and $~0xffff, %eax
  movw $0xffff, gdt + SPARE + 32
  mov %ax, gdt + SPARE + 34
  shr $16, %eax
  mov %al, gdt + SPARE + 36
  movw $0x409b, gdt + SPARE + 37
  mov %ah, gdt + SPARE + 39
  movl $0, marks
  lcall $SIXTEEN, $0
  IS marks, 1, the 16-bit task ran
  movzwl b_eax, %eax
  IS %eax, 0xabcd, AX out of it
  movzwl tss16, %eax
  IS %eax, TSS, its link
  clts
  ret

c_entry:
  movl $10, last_vector
  pop last_code
  movzwl tss_c, %eax
  mov %eax, last_task
  mov tss_b + 0x20, %eax
  mov %eax, last_eip
  movl $c_entry, tss_c + 0x20
  movl $inner_stack_top, tss_c + 0x38
  mov recover, %eax
  movl $0, recover
  mov recover_esp, %esp
  push $2
  popf
  jmp *%eax
note_b:
  mov %eax, b_eax
  mov %esp, b_esp
  addl $4, b_esp
  str %ax
  movzx %ax, %eax
  mov %eax, b_task
  mov %cr0, %eax
  mov %eax, b_cr0
  pushf
  pop b_flags
  movzbl gdt + TSS + 5, %eax
  mov %eax, b_main_type
  incl marks
  ret
b_jumps:
  call note_b
  ljmp $TSS, $0
b_returns:
  call note_b
  iretl
after_iret:
  incl marks
  iretl
  jmp after_iret
b_takes_code:
  call note_b
  pop b_code
  mov tss + 0x20, %eax
  mov %eax, b_link_eip
  addl $2, tss + 0x20           # behind the MOV
  iretl
b16:
  mov %eax, b_eax
  incl marks
  iretl

.section .data
.balign 4
marks: .long 0
b_eax: .long 0
b_esp: .long 0
b_task: .long 0
b_cr0: .long 0
b_flags: .long 0
b_main_type: .long 0
b_code: .long 0
b_link_eip: .long 0
.balign 16
tss_b: .skip 0x68
.balign 16
tss_c: .skip 0x68
.balign 16
tss16: .skip 0x2c
.section .text
