# Virtual-8086 mode: IOPL, segments, the I/O map, interrupts; with VME the virtual interrupt flag and the redirection map. Source: SDM 3A
# chapter 20.
.include "lib32.inc"
.set SEG, 0x1000           # the code is copied there

.macro FLAGS value:req
  movl $(\value | 0x20002), v86_flags
.endm
.macro DOS label:req       # runs 16-bit code from there
  V86 SEG, \label - dos
.endm

.globl main
main:
  mov $dos, %esi
  mov $SEG * 16, %edi
  mov $dos_end - dos, %ecx
  rep movsb
  # Its vector 21h of the real-mode table.
  movl $(SEG << 16) + (own_int - dos), 0x21 * 4

  # IOPL 0: everything that touches IF faults.
  FLAGS 0
  DOS do_cli
  CAME 13, 0, cli
  mov last_flags, %eax
  and $0x20000, %eax
  IS %eax, 0x20000, VM on the stack
  IS last_cs, SEG, CS on the stack
  IS last_ss, SEG, SS on the stack
  IS last_esp, 0xff00, ESP on the stack
  DOS do_sti
  CAME 13, 0, sti
  DOS do_pushf
  CAME 13, 0, pushf
  DOS do_popf
  CAME 13, 0, popf
  DOS do_iret
  CAME 13, 0, iret
  DOS do_int21
  CAME 13, 0, int 21h
  DOS do_hlt
  CAME 13, 0, hlt
  DOS do_cr0
  CAME 13, 0, mov from cr0
  DOS do_arpl
  CAME 6, -1, arpl
  DOS do_lar
  CAME 6, -1, lar
  DOS do_sldt
  CAME 6, -1, sldt
  DOS do_ud
  CAME 6, -1, ud2
  # INT3 is told by the gate alone: DPL 3.
  DOS do_int3
  CAME 3, -1, int3

  # Segments are paragraphs with a limit of 64 KiB.
  DOS do_segment
  CAME 3, -1, segments
  mov last_seen, %eax
  IS %eax, 0x5a5a5a5a, what DS 1001h:0 shows
  DOS do_limit
  CAME 13, 0, over the limit
  DOS do_stack_limit
  CAME 12, 0, over the limit of the stack
  DOS do_far
  CAME 3, -1, far jump
  IS last_cs, SEG + 1, paragraph in CS

  # IOPL 3: IF is the real one.
  FLAGS 0x3200
  DOS do_cli
  CAME 3, -1, cli with IOPL 3
  mov last_flags, %eax
  and $0x200, %eax
  IS %eax, 0, cli cleared IF
  FLAGS 0x3000
  DOS do_sti
  CAME 3, -1, sti with IOPL 3
  mov last_flags, %eax
  and $0x200, %eax
  IS %eax, 0x200, sti set IF
  DOS do_popf
  CAME 3, -1, popf with IOPL 3
  mov last_flags, %eax
  and $0x23200, %eax
  IS %eax, 0x23000, popf leaves IOPL and VM alone
  DOS do_int21
  CAME 13, 0x10a, int 21h by a gate with DPL 0
  movb $0xee, idt + 0x21 * 8 + 5
  DOS do_int21
  CAME 0x21, -1, int 21h by a gate with DPL 3
  movb $0x8e, idt + 0x21 * 8 + 5

  # The I/O map, whatever IOPL.
  DOS do_out
  CAME 13, 0, no I/O map
  movw $0x100, tss + 0x66
  movb $0xff, tss + 0x100 + 0x80 / 8 + 1
  DOS do_out
  CAME 3, -1, port 80h allowed
  movb $1, tss + 0x100 + 0x80 / 8
  DOS do_out
  CAME 13, 0, port 80h refused
  movb $0, tss + 0x100 + 0x80 / 8
  DOS do_out16
  CAME 13, 0, the second of two ports refused
  movw $0xdfff, tss + 0x66

  # VME.
  NEEDS 1, 0, edx, 1, no_vme
  SET_CR4 1
  movw $0x200, tss + 0x66          # the redirection map lies before it
  FLAGS 0x80000
  DOS do_cli
  CAME 3, -1, cli with VME
  mov last_flags, %eax
  and $0x80000, %eax
  IS %eax, 0, cli cleared VIF
  FLAGS 0x200
  DOS do_sti
  CAME 3, -1, sti with VME
  mov last_flags, %eax
  and $0x80200, %eax
  IS %eax, 0x80200, sti set VIF
  FLAGS 0x100000
  DOS do_sti
  CAME 13, 0, sti with an interrupt pending
  FLAGS 0x80000
  DOS do_pushf
  CAME 3, -1, pushf with VME
  mov last_seen, %eax
  and $0x3200, %eax
  IS %eax, 0x3200, the image has VIF as IF and IOPL 3
  FLAGS 0x80200
  DOS do_popf
  CAME 3, -1, popf with VME
  mov last_flags, %eax
  and $0x80200, %eax
  IS %eax, 0x200, popf cleared VIF alone
  DOS do_pushfl
  CAME 13, 0, pushfl is not helped by VME
  # INT 21h: bit clear: its own handler; set: here.
  DOS do_int21
  CAME 3, -1, redirected
  IS last_eip, 1 + own_int - dos, in its own handler
  mov last_flags, %eax
  and $0x80000, %eax
  IS %eax, 0, VIF is clear there
  mov SEG * 16 + 0xff00 - 2, %ax
  movzwl %ax, %eax
  and $0x3200, %eax
  IS %eax, 0x3200, the flags that it pushed
  DOS do_int21_iret
  CAME 3, -1, and back by its IRET
  IS last_eip, 1 + back_from_int - dos, behind the INT
  movb $2, tss + 0x200 - 32 + 4
  DOS do_int21
  CAME 13, 0, not redirected
  movb $0, tss + 0x200 - 32 + 4
  CLEAR_CR4 1
no_vme:
  # PVI: the same flag for level 3 in protected mode.
  NEEDS 1, 0, edx, 1, no_pvi
  SET_CR4 2
  movl $0x80002, user_flags
  USER user_cli
  CAME 3, -1, cli with PVI
  mov last_flags, %eax
  and $0x80000, %eax
  IS %eax, 0, PVI: cli cleared VIF
  movl $0x100002, user_flags
  USER user_sti
  CAME 13, 0, PVI: sti with an interrupt pending
  movl $2, user_flags
  CLEAR_CR4 2
  USER user_cli
  CAME 13, 0, cli at level 3
no_pvi:
  ret
user_cli: cli
  int3
user_sti: sti
  int3

.section .data
.balign 16
.code16
dos:
do_cli: cli
  int3
do_sti: sti
  int3
do_pushf: pushf
  pop %ax
  movzwl %ax, %eax
  mov $0x1ff0, %bx
  mov %bx, %ds
  mov %eax, seen_offset
  int3
do_pushfl: pushfl
  int3
do_popf: pushw $0
  popf
  int3
do_iret: pushw $0
  pushw $SEG
  pushw $(do_int3 - dos)
  iret
do_int21: int $0x21
  int3
do_int21_iret:
  mov $SEG, %bx
  mov %bx, %ds
  movb $0xcf, own_int - dos
  int $0x21
back_from_int: int3
do_hlt: hlt
do_cr0: mov %cr0, %eax
do_arpl: .byte 0x63, 0xc3
do_lar: lar %ax, %bx
do_sldt: sldt %ax
do_ud: ud2
do_int3: int3
do_segment:
  mov $SEG, %bx
  mov %bx, %ds
  movl $0x5a5a5a5a, 0xe010
  mov $SEG + 0xe00 + 1, %bx
  mov %bx, %ds
  mov 0, %eax
  mov $0x1ff0, %bx
  mov %bx, %ds
  mov %eax, seen_offset
  int3
do_limit: mov 0xffff, %ax
  int3
do_stack_limit:
  mov $0xffff, %bp
  mov (%bp), %ax
  int3
do_far: ljmp $SEG + 1, $(do_int3 - dos - 16)
do_out: out %al, $0x80
  int3
do_out16: out %ax, $0x87
  int3
own_int: int3
dos_end:
.code32
.set last_seen, 0x1ff00
.set seen_offset, 0
.section .text
