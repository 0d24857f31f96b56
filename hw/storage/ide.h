// ATA and ATAPI drives and the bus that they plug into. Sources: ATA8-ACS (commands, registers), SFF-8020i and MMC-5 (CD-ROM).
//
// A drive knows commands, not wires: a controller (an IDE channel, an AHCI port) collects registers and the bytes that the host sends by
// programmed I/O, calls execute(), and hands out what comes back. No command waits for the guest. Main loop, machine lock held.
#pragma once

#include "hw/core/device.h"
#include "hw/storage/disk.h"

namespace vmm::hw {

namespace ata {
enum Status : u8 { err = 0x01, drq = 0x08, dsc = 0x10, df = 0x20, drdy = 0x40, bsy = 0x80 };
enum Error : u8 { abrt = 0x04, idnf = 0x10, unc = 0x40 };
}  // namespace ata

// The register file. 48-bit commands use what was written last and what was written before it.
struct AtaRegisters {
  u8 command = 0, device = 0, status = 0, error = 0;
  u16 features = 0, count = 0;  // low byte: written last; high byte: before
  u64 lba = 0;                  // bits 0–23: LBA low, mid, high as written last; 24–47: before
  void set_mid_high(u16 value) { lba = (lba & ~u64{0xffff00}) | u64{value} << 8; }
  u16 mid_high() const { return static_cast<u16>(lba >> 8); }
};

// The host's scatter list of a DMA command.
class AtaDma {
 public:
  virtual ~AtaDma() = default;
  // The next bytes of it; false: it ends before, or the engine was stopped.
  virtual bool put(std::span<const u8> from) = 0;
  virtual bool get(std::span<u8> into) = 0;
};

struct AtaCommand {
  AtaRegisters registers;       // in: as the host wrote them; out: results
  AtaDma* dma = nullptr;        // DMA commands: data goes here
  std::vector<u8> data;         // PIO: what the host has sent; then what it is to get
  u32 block_bytes = 512;        // PIO: how much the host gets at once
  bool packet_in = false;       // ATAPI: data goes in blocks with a byte count, and ends with an interrupt
  std::array<u8, 16> packet{};  // AHCI: the packet comes with the command
  bool have_packet = false;
  void done(u8 status = ata::drdy | ata::dsc) { registers.status = status, registers.error = 0; }
  void abort(u8 error = ata::abrt) { registers.status = ata::drdy | ata::dsc | ata::err, registers.error = error; }
};

class IdeDevice;

class IdeBus final : public Bus {
 public:
  static const TypeInfo type;
  std::string_view bus_type() const override { return "IDE"; }
  Result<> may_plug(Device& device) override;
  Result<> plugged(Device& device) override;
  void unplugged(Device& device) override;
  IdeDevice* drive(unsigned unit) const { return drives_[unit & 1]; }
  unsigned units = 2;                                // AHCI ports have one
  unsigned channel = 0;                              // for firmware paths
  bool queues = false;                               // the controller can do native command queueing
  std::function<void(unsigned unit)> drive_changed;  // plugged, unplugged

 private:
  std::array<IdeDevice*, 2> drives_{};
};

class IdeDevice : public Device, public block::BackendClient {
 public:
  static const TypeInfo type;
  u32 unit() const { return static_cast<u32>(unit_); }
  IdeBus& ide() const { return static_cast<IdeBus&>(*bus()); }
  virtual bool packets() const { return false; }
  // Bytes that the host sends by PIO before execute(), and in what blocks; 0: none.
  virtual u32 bytes_from_host(const AtaRegisters& registers) const = 0;
  virtual u32 block_from_host(const AtaRegisters&) const { return 512; }
  // Does the command move its data by DMA? (`packet_dma`: a PACKET command says so in features.)
  virtual bool by_dma(const AtaRegisters& registers) const = 0;
  // Registers hold the outcome when it ends; it does not fail.
  virtual Task<> execute(AtaCommand& command) = 0;
  void signature(AtaRegisters& registers) const;
  // SATA's signature register: LBA high, mid, low, count.
  u32 sata_signature() const { return packets() ? 0xeb14'0101 : 0x0000'0101; }

  void reset() override;
  std::string firmware_node() const override { return format("drive@{:x}", ide().channel); }
  std::vector<BootEntry> boot_entries() const override;
  std::string qom_path() const override { return path(); }

 protected:
  friend class IdeBus;
  Result<> realize() override;
  Task<> unrealize() override;
  virtual Result<> realize_drive() { return {}; }
  virtual bool needs_medium() const { return true; }
  DiskProperties disk_;
  std::string version_, model_;
  u64 wwn_ = 0;
  i32 unit_ = -1;
  DiskRequests requests_;
};

inline constexpr usize ide_field_count = disk_field_count + 4;

}  // namespace vmm::hw
