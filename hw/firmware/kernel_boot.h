// Direct kernel boot: from -kernel/-initrd/-append to fw_cfg items and a boot script that the boot ROM carries out.
#pragma once

#include <string>
#include <vector>

#include "hw/firmware/kept_file.h"
#include "hw/firmware/kernel_image.h"

namespace vmm::hw {

// What fw_cfg must hold. The option ROM goes in as file `rom_name`, and "/rom@" + rom_name heads the boot order.
struct KernelBoot {
  struct Item {
    u16 key;
    std::vector<u8> bytes;
    FileSlice slice{};  // instead of bytes: of load_kernel_boot()
  };
  std::vector<Item> items;
  std::string rom_name;  // "genroms/linuxboot_dma.bin"
  std::vector<u8> rom;
};

struct KernelBootInput {
  std::span<const u8> kernel, initrd;
  std::vector<std::pair<std::string, std::vector<u8>>> modules;  // Multiboot: "file args" and bytes
  std::string command_line;
  u64 ram_below_4g = 0;
  u64 reserved_top_bytes = 0x40000;  // kept free for the firmware's tables below ram_below_4g
};
Result<KernelBoot> prepare_kernel_boot(const KernelBootInput& input);
// Multiboot's -initrd: "file args,file args".
std::vector<std::string> split_modules(std::string_view list);

// Reads the files (at most 1 GiB each) and prepares. For Multiboot, `initrd` is a comma-separated list of "file args".
Result<KernelBoot> load_kernel_boot(const std::string& kernel, const std::string& initrd, const std::string& command_line,
                                    u64 ram_below_4g);

}  // namespace vmm::hw
