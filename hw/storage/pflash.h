// cfi.pflash01: NOR flash with the Intel command set, as PC boards hold their firmware and its variables in.
#pragma once

#include "block/core/backend.h"
#include "hw/core/device.h"

namespace vmm::hw {

// What a read shows, and what the next write means.
enum class PflashMode : u8 { array, status, id, cfi, program, erase, buffer_count, buffer_data, buffer_confirm, lock };

class Pflash final : public Device, private block::BackendClient {
 public:
  static const TypeInfo type;
  ~Pflash() override;

  // For the board, before attach(): the drive (null: contents are lost at the end), and what the block info calls it.
  void set_drive(block::BackendRef drive, std::string name);
  bool has_drive() const { return drive_ != nullptr; }
  const block::BackendRef& drive() const { return drive_; }
  u64 size_bytes() const { return u64{block_count_} * sector_bytes_; }
  // What everyone sees. With `secure` it cannot be written, and smm_region() is what a CPU in SMM sees in its place.
  memory::MemoryRegion& region() { return secure_ ? public_ : flash_; }
  memory::MemoryRegion* smm_region() { return secure_ ? &flash_ : nullptr; }

  void reset() override;
  Result<> after_load() override;

 private:
  Result<> realize() override;
  Task<> unrealize() override;
  std::string qom_path() const override { return path(); }
  u64 read(u64 at, unsigned size);
  void write(u64 at, unsigned size, u64 value);
  void command(u64 at, u8 code);
  void program(u64 at, unsigned size, u64 value);
  void erase(u64 at);
  void set_mode(PflashMode mode);
  void stored(u64 at, u64 length);
  Task<> store();
  u8 cfi(u64 index) const;
  u8* bytes() { return flash_.ram()->host(); }

  static const Field properties[13], state[];
  block::BackendRef drive_;
  std::string name_;
  u32 block_count_ = 0, width_ = 1, device_width_ = 0, max_device_width_ = 0;
  u64 sector_bytes_ = 0;
  u16 id0_ = 0x89, id1_ = 0x18, id2_ = 0, id3_ = 0;
  bool secure_ = false, big_endian_ = false;
  PflashMode mode_ = PflashMode::array;
  u8 status_ = 0x80;
  u64 buffer_at_ = 0;
  u32 buffer_left_ = 0;
  std::vector<u8> buffer_;  // buffer_bytes of the block at buffer_at_
  // Range of the array that the drive does not have yet; one writer at a time works it off.
  u64 dirty_from_ = ~u64{0}, dirty_to_ = 0;
  bool storing_ = false;
  WaitList stored_;
  memory::MemoryRegion flash_, public_;
};

}  // namespace vmm::hw

namespace vmm {
template <>
inline constexpr std::array enum_names<hw::PflashMode> = {
    EnumNameOf<hw::PflashMode>{hw::PflashMode::array, "array"},
    EnumNameOf<hw::PflashMode>{hw::PflashMode::status, "status"},
    EnumNameOf<hw::PflashMode>{hw::PflashMode::id, "id"},
    EnumNameOf<hw::PflashMode>{hw::PflashMode::cfi, "cfi"},
    EnumNameOf<hw::PflashMode>{hw::PflashMode::program, "program"},
    EnumNameOf<hw::PflashMode>{hw::PflashMode::erase, "erase"},
    EnumNameOf<hw::PflashMode>{hw::PflashMode::buffer_count, "buffer-count"},
    EnumNameOf<hw::PflashMode>{hw::PflashMode::buffer_data, "buffer-data"},
    EnumNameOf<hw::PflashMode>{hw::PflashMode::buffer_confirm, "buffer-confirm"},
    EnumNameOf<hw::PflashMode>{hw::PflashMode::lock, "lock"},
};
}  // namespace vmm
