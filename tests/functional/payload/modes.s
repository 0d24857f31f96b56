# What irqchips.test starts from a disk: a boot sector that loads the rest, and one set of checks done in 16-bit (with segments of 4 GiB), in
# 32-bit and in 64-bit mode. What came is printed to port E9h: the same text wherever it runs. The end is port F4h (isa-debug-exit).
# Sources: Intel 8259A, 8254, 82093AA; SDM 3A chapter 11; PCI 3.0 §6.8.1; QEMU's docs/specs/edu.
.set APIC, 0xfee00000
.set IOAPIC, 0xfec00000
.set SECTORS, 31

.section .text
.code16
.globl _start
_start:
  ljmp $0, $1f
1: xor %ax, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  mov $0x7c00, %sp
  sti
  cld
  mov $packet, %si
  mov $0x42, %ah
  int $0x13
  jnc begin
1: hlt
  jmp 1b
.balign 4
packet: .byte 16, 0
  .word SECTORS
  .word 0x7e00, 0
  .quad 1
.org 510
.word 0xaa55

# The second CPU, in real mode: at 8000h, vector 8 of its SIPI.
.org 0x400
ap:
  cli
  xor %ax, %ax
  mov %ax, %ds
  mov %ax, %ss
  mov $0x7000, %sp
  lock incl ap_starts
1: hlt
  jmp 1b
ap_nmi:
  lock incl ap_nmis
  iretw

# ---- the checks, for one width. The device's causes (1) are counted, as drivers do, not its interrupts: a KVM that interprets was seen to end
# level-triggered ones too early, under QEMU too, so that one came twice. Interrupts come in HLT only, with nothing in the flags; so that a handler can return without IRET, which a KVM
# that interprets (without VT-x or SVM) knows in real mode only.

.macro RETURN16
  iretw
.endm
.macro RETURN32
  addl $12, %esp
  jmpl *-12(%esp)
.endm
.macro RETURN64
  popq saved_rip
  movq 16(%rsp), %rsp
  jmpq *saved_rip
.endm

.macro HANDLER m, name, acknowledge:vararg
\name\m:
  movl %eax, saved_eax
  .ifnc \name, causes
  incl \name
  .endif
  \acknowledge
  movl saved_eax, %eax
  RETURN\m
.endm
.macro END_APIC
  movl $APIC + 0xb0, %eax
  movl $0, (%eax)
.endm
.macro END_PIC
  movb $0x20, %al
  outb %al, $0x20
.endm
.macro END_EDU                # its cause, before the end of the interrupt that it holds
  movl %ebx, saved_ebx
  movl edu, %ebx
  movl 0x24(%ebx), %eax
  movl %eax, 0x64(%ebx)
  addl %eax, causes
  movl saved_ebx, %ebx
  END_APIC
.endm

# Waits in HLT until so many have come.
.macro AWAIT counter, n
9: cli
  cmpl $\n, \counter
  jae 8f
  sti
  hlt
  jmp 9b
8:
.endm
.macro SAY m, text
  jmp 7f
6: .asciz "\text"
7: movl $6b, %esi
  call puts\m
.endm
.macro STORE address, value   # through a register: far above the segment's first 64 KiB
  movl $\address, %ebx
  movl $\value, (%ebx)
.endm

.macro SUITE m
.globl in\m
puts\m:                       # keeps eax
  movl %eax, %ebp
1: movb (%esi), %al
  incl %esi
  testb %al, %al
  jz 2f
  outb %al, $0xe9
  jmp 1b
2: movl %ebp, %eax
  ret
hex\m:                        # eax
  movl %eax, %edi
  movl $8, %ecx
1: roll $4, %edi
  movl %edi, %eax
  andb $15, %al
  addb $'0', %al
  cmpb $'9', %al
  jbe 2f
  addb $39, %al
2: outb %al, $0xe9
  decl %ecx
  jnz 1b
  movb $10, %al
  outb %al, $0xe9
  ret
config\m:                     # esi: offset in the edu device's configuration space; leaves the port ready
  movl edu_config, %eax
  orl %esi, %eax
  movw $0xcf8, %dx
  outl %eax, %dx
  movw $0xcfc, %dx
  ret
  HANDLER \m, ticks, END_PIC
  HANDLER \m, timers, END_APIC
  HANDLER \m, selfs, END_APIC
  HANDLER \m, messages, END_EDU
  HANDLER \m, causes, END_EDU
  HANDLER \m, calls

in\m:
  cld
  movl $counters, %edi
  movl $8, %ecx
1: movl $0, (%edi)
  addl $4, %edi
  decl %ecx
  jnz 1b
.if \m == 16                  # a KVM that interprets does it in real mode only
  int $0x30
  movl calls, %eax
  SAY \m, "calls "
  call hex\m
.endif

  # Ports: a byte of CMOS, four bytes of configuration space, a string.
  movb $0x0d, %al
  outb %al, $0x70
  inb $0x71, %al
  movzbl %al, %eax
  SAY \m, "cmos "
  call hex\m
  xorl %esi, %esi
  call config\m
  inl %dx, %eax
  SAY \m, "edu "
  call hex\m
  movl $string, %esi
  movl $7, %ecx
  movw $0xe9, %dx
  rep outsb

  # The timer by the PIC pair: vectors 20h and 28h.
  movb $0x11, %al
  outb %al, $0x20
  outb %al, $0xa0
  movb $0x20, %al
  outb %al, $0x21
  movb $0x28, %al
  outb %al, $0xa1
  movb $4, %al
  outb %al, $0x21
  movb $2, %al
  outb %al, $0xa1
  movb $1, %al
  outb %al, $0x21
  outb %al, $0xa1
  movb $0xff, %al
  outb %al, $0xa1
  movb $0x34, %al
  outb %al, $0x43
  movb $0xa9, %al             # 1193: a millisecond
  outb %al, $0x40
  movb $4, %al
  outb %al, $0x40
  movb $0xfe, %al
  outb %al, $0x21
  AWAIT ticks, 5
  movb $0xff, %al
  outb %al, $0x21
  SAY \m, "pit\n"

  # The local APIC: one shot, periods, a message to itself.
  STORE APIC + 0xf0, 0x1ff
  STORE APIC + 0x3e0, 0xb
  STORE APIC + 0x320, 0x40
  STORE APIC + 0x380, 500000
  AWAIT timers, 1
  movl $APIC + 0x390, %ebx
  movl (%ebx), %eax
  SAY \m, "one shot, left "
  call hex\m
  STORE APIC + 0x320, 0x20040
  STORE APIC + 0x380, 300000
  AWAIT timers, 4
  STORE APIC + 0x320, 0x10040
  STORE APIC + 0x380, 0
  SAY \m, "periods\n"
  STORE APIC + 0x300, 0x44041
  AWAIT selfs, 1
  movl selfs, %eax
  SAY \m, "to itself "
  call hex\m

  # Memory of a device, and its message.
  movl edu, %ebx
  movl (%ebx), %eax
  SAY \m, "edu's memory "
  call hex\m
  movl edu, %ebx
  movl $0x12345678, 4(%ebx)
  movl 4(%ebx), %eax
  SAY \m, "edu's not "
  call hex\m
  movl edu_msi, %esi
  addl $4, %esi
  call config\m
  movl $APIC, %eax
  outl %eax, %dx
  movl edu_msi, %esi
  addl $8, %esi
  call config\m
  xorl %eax, %eax
  outl %eax, %dx
  movl edu_msi, %esi
  addl $12, %esi
  call config\m
  movl $0x50, %eax
  outl %eax, %dx
  movl edu_msi, %esi
  call config\m
  inl %dx, %eax
  orl $0x10000, %eax
  outl %eax, %dx
  movl edu, %ebx
  movl $0x80, 0x20(%ebx)
  movl $5, 8(%ebx)
  AWAIT causes, 1
  movl edu, %ebx
  movl 8(%ebx), %eax
  SAY \m, "message, 5! "
  call hex\m
  movl edu_msi, %esi
  call config\m
  inl %dx, %eax
  andl $~0x10000, %eax
  outl %eax, %dx

  # Its line, by the I/O APIC, level-triggered: the second time comes only if the end of the first was heard.
  movl edu_line, %esi
  addl %esi, %esi
  addl $0x10, %esi
  movl $IOAPIC, %ebx
  incl %esi
  movl %esi, (%ebx)
  movl $0, 0x10(%ebx)
  decl %esi
  movl %esi, (%ebx)
  movl $0x8051, 0x10(%ebx)
  movl edu, %ebx
  movl $6, 8(%ebx)
  AWAIT causes, 2
  movl edu, %ebx
  movl $7, 8(%ebx)
  AWAIT causes, 3
  movl edu, %ebx
  movl 8(%ebx), %eax
  SAY \m, "line twice, 7! "
  call hex\m
  movl $IOAPIC, %ebx
  movl %esi, (%ebx)
  movl edu_line, %esi
  addl %esi, %esi
  addl $0x10, %esi
  movl %esi, (%ebx)
  movl $0x10000, 0x10(%ebx)

  # The other CPUs: started, and woken by an NMI.
  movb $0x5f, %al
  outb %al, $0x70
  inb $0x71, %al
  testb %al, %al
  jz 2f
  STORE APIC + 0x300, 0xc4500
  STORE APIC + 0x300, 0xc4608
1: pause
  cmpl $0, ap_starts
  je 1b
  STORE APIC + 0x300, 0xc4400
1: pause
  cmpl $0, ap_nmis
  je 1b
  movl ap_nmis, %eax
  SAY \m, "other CPU "
  call hex\m
2: ret
.endm

# ---- 16 bits

.code16
begin:
  cli
  movl $ap_nmi, 8
  # The device: of the first bus, by its identity.
  movl $0x80000000, %ebp
1: movl %ebp, %eax
  movw $0xcf8, %dx
  outl %eax, %dx
  movw $0xcfc, %dx
  inl %dx, %eax
  cmpl $0x11e81234, %eax
  je 2f
  addl $0x800, %ebp
  cmpl $0x80010000, %ebp
  jb 1b
  jmp end
2: movl %ebp, edu_config
  movl $4, %esi               # memory, master
  call config16
  inl %dx, %eax
  orl $6, %eax
  outl %eax, %dx
  movl $0x10, %esi
  call config16
  inl %dx, %eax
  andl $~15, %eax
  movl %eax, edu
  movl $0x3c, %esi
  call config16
  inl %dx, %eax
  andl $0xff, %eax
  movl %eax, edu_line
  movl $0x34, %esi
3: call config16
  inl %dx, %eax
  movl %esi, %edi
  cmpl $0x34, %esi
  je 4f
  cmpb $5, %al
  je 5f
  shrl $8, %eax
4: andl $0xfc, %eax
  movl %eax, %esi
  jnz 3b
  jmp end
5: movl %esi, edu_msi
  # Segments of 4 GiB.
  lgdt gdt_pointer
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  jmp 1f
1: movw $0x10, %bx
  movw %bx, %ds
  movw %bx, %es
  andb $0xfe, %al
  movl %eax, %cr0
  jmp 1f
1: xorw %bx, %bx
  movw %bx, %ds
  movw %bx, %es
  # Vectors.
  movl $gates16, %esi
1: movzwl (%esi), %eax
  testl %eax, %eax
  jz 2f
  movzwl 2(%esi), %edx
  movl %edx, (, %eax, 4)
  addl $4, %esi
  jmp 1b
2: SAY 16, "--- 16 bits\n"
  call in16
  lgdt gdt_pointer
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  ljmpl $8, $protected

# ---- 32 bits

.code32
protected:
  movw $0x10, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movl $0x7c00, %esp
  movl $gates32, %esi
1: movzwl (%esi), %eax
  testl %eax, %eax
  jz 2f
  movzwl 2(%esi), %edx
  movl %edx, idt(, %eax, 8)
  movw $8, idt + 2(, %eax, 8)
  movl $0x8e00, idt + 4(, %eax, 8)
  addl $4, %esi
  jmp 1b
2: lidt idt32
  SAY 32, "--- 32 bits\n"
  call in32
  # The first 4 GiB for 64-bit mode, by 2 MiB: tables from 10000h on.
  movl $0x10000, %edi
  movl $0x11003, (%edi)
  movl $0, 4(%edi)
  movl $0x11000, %edi
  movl $0x12003, %eax
  movl $4, %ecx
1: movl %eax, (%edi)
  movl $0, 4(%edi)
  addl $0x1000, %eax
  addl $8, %edi
  decl %ecx
  jnz 1b
  movl $0x12000, %edi
  movl $0x83, %eax
  movl $2048, %ecx
1: movl %eax, (%edi)
  movl $0, 4(%edi)
  addl $0x200000, %eax
  addl $8, %edi
  decl %ecx
  jnz 1b
  movl $0x10000, %eax
  movl %eax, %cr3
  movl $0x20, %eax
  movl %eax, %cr4
  movl $0xc0000080, %ecx
  rdmsr
  orl $0x100, %eax
  wrmsr
  movl %cr0, %eax
  orl $0x80000000, %eax
  movl %eax, %cr0
  ljmpl $0x18, $long

# ---- 64 bits

.code64
long:
  movl $0x10, %eax
  movl %eax, %ss
  movl $0x7c00, %esp
  movl $gates64, %esi
1: movzwl (%esi), %eax
  testl %eax, %eax
  jz 2f
  movzwl 2(%esi), %edx
  shll $4, %eax
  movl %edx, idt(%eax)
  movw $0x18, idt + 2(%eax)
  movl $0x8e00, idt + 4(%eax)
  movl $0, idt + 8(%eax)
  movl $0, idt + 12(%eax)
  addl $4, %esi
  jmp 1b
2: lidt idt64
  SAY 64, "--- 64 bits\n"
  call in64
  SAY 64, "all\n"
  movl $0x10, %eax
  outl %eax, $0xf4
1: cli
  hlt
  jmp 1b

.code16
end:
  movl $0x11, %eax
  outl %eax, $0xf4
1: cli
  hlt
  jmp 1b

.code16
SUITE 16
.code32
SUITE 32
.code64
SUITE 64

.macro GATES m
gates\m:
  .word 0x20, ticks\m, 0x30, calls\m, 0x40, timers\m, 0x41, selfs\m, 0x50, messages\m, 0x51, causes\m, 0
.endm
GATES 16
GATES 32
GATES 64

string: .ascii "string\n"
.balign 8
gdt: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff
gdt_pointer: .word 31
  .long gdt
idt32: .word 0x52 * 8 - 1
  .long idt
idt64: .word 0x52 * 16 - 1
  .quad idt
.balign 4
.balign 8
saved_rip: .quad 0
saved_eax: .long 0
saved_ebx: .long 0
edu: .long 0
edu_config: .long 0
edu_line: .long 0
edu_msi: .long 0
counters:
ticks: .long 0
timers: .long 0
selfs: .long 0
messages: .long 0
causes: .long 0
calls: .long 0
ap_starts: .long 0
ap_nmis: .long 0
.globl in16, in32, in64
.org (SECTORS + 1) * 512
.set idt, 0xc000
