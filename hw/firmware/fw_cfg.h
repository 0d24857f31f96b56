// fw_cfg: how the board hands items and files to the firmware. Source: QEMU's docs/specs/fw_cfg (the published interface).
#pragma once

#include <map>

#include "hw/core/device.h"
#include "hw/firmware/kept_file.h"

namespace vmm::hw {

namespace fw_cfg_key {
inline constexpr u16 signature = 0x00, id = 0x01, uuid = 0x02, ram_size = 0x03, nographic = 0x04, nb_cpus = 0x05, kernel_address = 0x07,
                     kernel_size = 0x08, initrd_address = 0x0a, initrd_size = 0x0b, boot_device = 0x0c, numa = 0x0d, boot_menu = 0x0e,
                     max_cpus = 0x0f, kernel_entry = 0x10, kernel_data = 0x11, initrd_data = 0x12, cmdline_address = 0x13,
                     cmdline_size = 0x14, cmdline_data = 0x15, setup_address = 0x16, setup_size = 0x17, setup_data = 0x18,
                     file_directory = 0x19, first_file = 0x20, acpi_tables = 0x8000, smbios_entries = 0x8001, irq0_override = 0x8002,
                     e820 = 0x8003, hpet = 0x8004;
}

class FwCfg final : public Device {
 public:
  static const TypeInfo type;
  FwCfg();
  using Bytes = std::vector<u8>;
  // Called when the guest selects the item, before it reads; may replace the bytes (replace_file).
  using Selected = std::function<void()>;
  // Called after the guest has written into a writable file.
  using Written = std::function<void(std::span<const u8>)>;

  // Items with a number. Numbers go as little endian.
  void add_item(u16 key, Bytes bytes);
  void add_slice(u16 key, FileSlice slice);       // read when the guest asks
  void add_text(u16 key, std::string_view text);  // with its terminating zero
  void add_u16(u16 key, u16 value);
  void add_u32(u16 key, u32 value);
  void add_u64(u16 key, u64 value);
  // Files; names up to 55 characters. The directory is sorted by name. Fails for a name that is taken or too long, or when the 4000
  // slots are used up.
  Result<> add_file(std::string name, Bytes bytes, Selected selected = {});
  Result<> add_writable_file(std::string name, usize size, Written written, Bytes initial = {});
  Result<> replace_file(std::string_view name, Bytes bytes);
  bool has_file(std::string_view name) const { return files_.contains(name); }
  const Bytes* file(std::string_view name) const;

  void reset() override;
  static constexpr u16 port = 0x510, dma_port = 0x514;

 protected:
  Result<> realize() override;

 private:
  static const Field properties[2], state[3];
  struct Item {
    Bytes bytes;
    Selected selected;
    Written written;
    bool writable = false;
    FileSlice slice{};  // instead of bytes
    u64 size() const { return slice.file ? slice.size : bytes.size(); }
  };
  Item* item(u16 key);
  void select(u16 key);
  void build_directory();
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  u64 dma_read(u64 offset, unsigned size);
  void dma_write(u64 offset, unsigned size, u64 value);
  void transfer(u64 control_block);

  std::map<u16, Item> items_;
  std::map<std::string, Item, std::less<>> files_;
  std::vector<Item*> by_slot_;  // files in the order of the directory
  Item directory_;
  bool directory_stale_ = true;
  bool dma_enabled_ = true;
  u32 file_slots_ = 0x20;
  u16 key_ = 0;
  u32 offset_ = 0;
  u64 dma_address_ = 0;
  memory::MemoryRegion ports_, dma_ports_;
};

}  // namespace vmm::hw
