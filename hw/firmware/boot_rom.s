# The boot ROM: an option ROM whose bootstrap entry carries out the boot script that kernel_boot.cpp lays in fw_cfg item 0x80f0.
# Sources: BIOS Boot Specification 1.01 (PnP header, BEV), fw_cfg DMA interface, Linux boot protocol, Multiboot 1, Xen PVH.
# A script is rows of four dwords {op, a, b, c}:
#   1 copy   fw_cfg item a, c bytes, to physical address b
#   2 map    the firmware's memory map to address b, 24 bytes a row; a=1: Multiboot rows, byte count stored at c; a=2: PVH rows, row count at c
#   3 real   ds=es=fs=gs=ss=a, sp=c, jump to b:0
#   4 flat   32-bit protected mode, eax=b, ebx=c, jump to a
    .code16
    .section .text
    .globl _start
_start:
    .byte 0x55, 0xaa, 4             # 4 × 512 bytes
    lretw                            # initialisation: nothing to do
    .org 0x1a
    .word pnp
    .align 16
pnp:
    .ascii "$PnP"
    .byte 1, 2                      # revision, length in 16 bytes
    .word 0                         # no further header
    .byte 0, 0                      # reserved, checksum (SeaBIOS does not look)
    .long 0
    .word maker, product
    .byte 0, 0, 0, 0                # class, flags
    .word 0, 0, boot, 0, 0          # BCV, disconnect, BEV, reserved, resources
maker:   .asciz "vmm"
product: .asciz "Linux loader"

# Low memory that is free while booting: the script and a DMA descriptor.
    .set script, 0x6000
    .set descriptor, 0x5fe0
    .align 16
boot:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x5f00, %esp
    movl $0x80f0, %eax              # the script itself
    movl $script, %ebx
    movl $512, %ecx
    call fetch
    movw $script, %si
next:
    movl (%si), %eax
    cmpl $1, %eax
    je copy
    cmpl $2, %eax
    je map
    cmpl $3, %eax
    je real
    cmpl $4, %eax
    je flat
dead:
    hlt
    jmp dead

copy:
    movl 4(%si), %eax
    movl 8(%si), %ebx
    movl 12(%si), %ecx
    call fetch
advance:
    addw $16, %si
    jmp next

# fw_cfg item eax, ecx bytes, to ebx. Descriptor and port are big endian.
fetch:
    shll $16, %eax
    orl $0x0a, %eax                 # select and read
    bswapl %eax
    movl %eax, descriptor
    bswapl %ecx
    movl %ecx, descriptor + 4
    movl $0, descriptor + 8
    bswapl %ebx
    movl %ebx, descriptor + 12
    movw $0x514, %dx
    xorl %eax, %eax
    outl %eax, %dx
    addw $4, %dx
    movl $descriptor, %eax
    bswapl %eax
    outl %eax, %dx
1:  movl descriptor, %eax
    bswapl %eax
    andl $~1, %eax
    jnz 1b
    ret

map:
    movl 4(%si), %ebp               # form
    movl 8(%si), %edi               # below 64 KiB
    xorl %ebx, %ebx
    pushl $0                        # rows so far
row:
    movl $20, %ecx
    movl $0xe820, %eax
    movl $0x534d4150, %edx
    cmpl $1, %ebp
    jne 2f
    movl $20, (%di)
    addw $4, %di
2:  int $0x15
    jc mapped
    cmpl $0x534d4150, %eax
    jne mapped
    addw $20, %di
    cmpl $1, %ebp
    je 3f
    movl $0, (%di)
    addw $4, %di
3:  popl %eax
    incl %eax
    pushl %eax
    cmpl $120, %eax
    jae mapped
    testl %ebx, %ebx
    jnz row
mapped:
    cli
    popl %eax
    cmpl $1, %ebp
    jne 4f
    imull $24, %eax, %eax
4:  movl 12(%si), %edi
    movl %eax, (%di)
    jmp advance

real:
    movw 4(%si), %ax
    movw 8(%si), %bx
    movl 12(%si), %ecx
    movw %ax, %ss
    movl %ecx, %esp
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    pushw %bx
    pushw $0
    lretw

flat:
    movl 4(%si), %ecx
    movl 8(%si), %eax
    movl 12(%si), %ebx
    movl %ecx, %edi                 # entry
    movl %eax, %esi
    lgdtl %cs:gdt_pointer
    xorl %ecx, %ecx                 # linear address of `flat32`: our segment × 16 + offset
    movw %cs, %cx
    shll $4, %ecx
    addl $flat32, %ecx
    movl %ecx, descriptor
    movw $8, descriptor + 4
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl *descriptor
    .code32
flat32:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movl %esi, %eax
    jmp *%edi

    .align 8
gdt_pointer:
    .word 23
    .long 0x5f80                    # copied there by the script (op 1 of item 0x80f1), since our own address is not known before
    .org 2048
