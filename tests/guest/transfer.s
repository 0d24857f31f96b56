# Far transfers and levels: gates, IRET, RETF, INT n, IST, SYSCALL, SYSENTER, descriptors looked at by LAR and its kin.
# Source: SDM 3A chapters 5 and 6, SDM 2 (each instruction's "Operation").
.include "lib.inc"

.macro SPARE_IS number:req, value:req
  movabs $\value, %rax
  mov %rax, gdt + SPARE + 8 * (\number)
.endm

.globl main
main:
  # A call gate to level 0 from level 3 changes the stack; RETF goes back.
  mov $gate_target, %eax
  mov %ax, gdt + SPARE
  movw $CODE64, gdt + SPARE + 2
  movw $0xec00, gdt + SPARE + 4
  shr $16, %eax
  mov %ax, gdt + SPARE + 6
  movq $0, gdt + SPARE + 8
  USER user_gate
  CAME 3, -1, back at level 3
  mov gate_cs, %rax
  IS %rax, USER64, the gate pushed CS
  mov last_cs, %rax
  IS %rax, USER64, RETF went back to level 3
  # Its DPL counts; its upper half's type must be zero.
  movw $0x8c00, gdt + SPARE + 4
  USER user_gate
  CAME 13, SPARE, DPL of the gate
  movw $0x0c00, gdt + SPARE + 4
  USER user_gate
  CAME 13, SPARE, DPL before presence
  movw $0xec00, gdt + SPARE + 4
  movb $0x0c, gdt + SPARE + 13
  USER user_gate
  CAME 13, SPARE, type of the upper half
  movq $0, gdt + SPARE + 8
  movw $0x6c00, gdt + SPARE + 4
  FAULTS 11, SPARE, lcall *gate_pointer

  # INT n: DPL of the gate, IST, presence.
  USER user_int
  CAME 13, 0x202, INT 40h with DPL 0
  movb $0xee, idt + 0x40 * 16 + 5
  USER user_int
  CAME 0x40, -1, INT 40h with DPL 3
  movb $1, idt + 0x40 * 16 + 4
  movl $note_stack, hook
  movq $0, noted
  int $0x40
  movq $0, hook
  mov noted, %rax
  sub $ist1_top, %rax
  IS %rax, -56, IST
  movb $0, idt + 0x40 * 16 + 4
  movb $0x6e, idt + 0x40 * 16 + 5
  FAULTS 11, 0x202, int $0x40
  movb $0x8e, idt + 0x40 * 16 + 5
  # Trap gates leave IF alone, interrupt gates clear it; the stack is aligned to 16.
  movl $note_flags, hook
  sti
  int $0x40
  cli
  mov noted, %rax
  and $0x200, %rax
  IS %rax, 0, interrupt gate
  movb $0x8f, idt + 0x40 * 16 + 5
  sti
  int $0x40
  cli
  mov noted, %rax
  and $0x200, %rax
  IS %rax, 0x200, trap gate
  movq $0, hook
  movb $0x8e, idt + 0x40 * 16 + 5

  # IRET refuses wrong selectors.
  mov %rsp, %r15
  pushq $0
  pushq $stack_top - 64
  pushq $2
  pushq $DATA
  pushq $1f
  FAULTS 13, DATA, iretq
1: mov %r15, %rsp
  pushq $USER_DATA
  pushq $user_stack_top
  pushq $2
  pushq $USER64 - 3
  pushq $1f
  FAULTS 13, USER64 - 3, iretq
1: mov %r15, %rsp
  pushq $0
  pushq $stack_top - 64
  pushq $2
  pushq $CODE64
  mov $0x8000, %eax
  shl $32, %rax
  push %rax
  FAULTS 13, 0, iretq
  mov %r15, %rsp
  pushq $0x4002
  popfq
  FAULTS 13, 0, iretq
  pushq $2
  popfq
  mov %r15, %rsp

  # Stack segments and data segments.
  xor %eax, %eax
  lldt %ax
  SPARE_IS 2, 0x00cf9b000000ffff     # code, readable
  SPARE_IS 3, 0x00cf13000000ffff     # data, not present
  SPARE_IS 4, 0x00cf99000000ffff     # code, execute only
  mov $SPARE + 16, %eax
  FAULTS 13, SPARE + 16, mov %eax, %ss
  RUNS mov %eax, %fs
  mov $SPARE + 24, %eax
  FAULTS 12, SPARE + 24, mov %eax, %ss
  FAULTS 11, SPARE + 24, mov %eax, %fs
  mov $SPARE + 32, %eax
  FAULTS 13, SPARE + 32, mov %eax, %fs
  mov $0x1000, %eax
  FAULTS 13, 0x1000, mov %eax, %fs
  mov $4, %eax
  FAULTS 13, 4, mov %eax, %fs
  xor %eax, %eax
  mov %eax, %fs

  # LAR, LSL, VERR, VERW.
  mov $DATA, %ecx
  lar %ecx, %eax
  IS %rax, 0x00cf9300, lar
  lsl %ecx, %eax
  IS %rax, 0xffffffff, lsl
  mov $SPARE + 32, %eax
  verr %ax
  setz %al
  movzx %al, %eax
  IS %rax, 0, verr of execute-only code
  mov $CODE32, %eax
  verw %ax
  setz %al
  movzx %al, %eax
  IS %rax, 0, verw of code
  mov $DATA, %eax
  verw %ax
  setz %al
  movzx %al, %eax
  IS %rax, 1, verw of data
  mov $SPARE, %ecx
  movw $0x8600, gdt + SPARE + 4      # an interrupt gate: not for LAR
  lar %ecx, %eax
  setz %al
  movzx %al, %eax
  IS %rax, 0, lar of a gate

  # LTR: only an available TSS.
  mov $TSS, %eax
  FAULTS 13, TSS, ltr %ax
  mov $DATA, %eax
  FAULTS 13, DATA, ltr %ax
  xor %eax, %eax
  FAULTS 13, 0, ltr %ax
  RUNS lldt %ax
  mov $DATA, %eax
  FAULTS 13, DATA, lldt %ax

  # SYSCALL and SYSRET.
  WRMSR 0xc0000081, 0x0023001800000000   # SYSRET: 23h + 16 = 33h; SYSCALL: 18h
  mov $0xc0000082, %ecx
  mov $syscall_target, %eax
  xor %edx, %edx
  wrmsr
  WRMSR 0xc0000084, 0x700
  movq $0x302, user_flags
  USER user_syscall
  movq $2, user_flags
  CAME 1, -1, TF comes back with SYSRET
  IS last_cs, USER64, sysret
  mov syscall_flags, %rax
  and $0x700, %rax
  IS %rax, 0, FMASK
  mov syscall_r11, %rax
  and $0x300, %rax
  IS %rax, 0x300, R11
  mov $0xc0000080, %ecx
  rdmsr
  and $~1, %eax
  wrmsr
  FAULTS 6, -1, syscall
  or $1, %eax
  wrmsr

  # SYSENTER into 64-bit mode, SYSEXIT back to level 3 in both widths.
  xor %eax, %eax
  cpuid
  cmp $0x756e6547, %ebx              # AMD has it in legacy mode only
  jne no_sysenter
  WRMSR 0x174, CODE64 - 0
  mov $0x175, %ecx
  mov $inner_stack_top, %eax
  wrmsr
  mov $0x176, %ecx
  mov $sysenter_target, %eax
  wrmsr
  USER user_sysenter
  CAME 3, -1, sysexit
  mov $0x174, %ecx
  xor %eax, %eax
  xor %edx, %edx
  wrmsr
  FAULTS 13, 0, sysenter
no_sysenter:
  ret

gate_target:
  mov 8(%rsp), %rax
  mov %rax, gate_cs
  lretq
note_stack:
  mov %rdi, noted
  ret
note_flags:
  pushfq
  popq noted
  ret
syscall_target:
  pushfq
  popq syscall_flags
  mov %r11, syscall_r11
  sysretq
sysenter_target:
  mov $user_after_sysexit, %edx
  mov $user_stack_top, %ecx
  sysexitq

.section .data
gate_pointer: .long 0
  .word SPARE
.balign 8
gate_cs: .quad 0
noted: .quad 0
syscall_flags: .quad 0
syscall_r11: .quad 0

.section .user
user_gate: lcall *user_pointer
  int3
user_pointer: .long 0
  .word SPARE + 3
user_int: int $0x40
  int3
user_syscall: syscall
  nop
  nop
  int3
user_sysenter: sysenter
  int3
user_after_sysexit: int3
.section .text
