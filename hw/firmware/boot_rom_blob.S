// The assembled boot ROM (boot_rom.s) as bytes of the binary.
    .section .rodata
    .globl vmm_boot_rom, vmm_boot_rom_end
    .balign 16
vmm_boot_rom:
    .incbin "boot_rom.bin"
vmm_boot_rom_end:
    .section .note.GNU-stack,"",@progbits
