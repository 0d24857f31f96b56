// SCSI: the bus, its targets, and commands as tasks. Sources: SAM-5 (model), SPC-5 (common commands), SBC-4 (disks), MMC-6 (CD).
// A host adapter hands a command with its buffers to a device and gets the answer; both live on one loop (the main one; machine lock).
#pragma once

#include "block/core/io_vector.h"
#include "hw/core/device.h"
#include "hw/storage/disk.h"

namespace vmm::hw {

struct ScsiSense {
  u8 key = 0, code = 0, qualifier = 0;
};
namespace sense {
inline constexpr ScsiSense none{}, no_medium{2, 0x3a, 0}, becoming_ready{2, 4, 1}, medium_error{3, 0x11, 0}, invalid_opcode{5, 0x20, 0},
    out_of_range{5, 0x21, 0}, invalid_field{5, 0x24, 0}, lun_not_supported{5, 0x25, 0}, invalid_parameter{5, 0x26, 0},
    parameter_length{5, 0x1a, 0}, locked{5, 0x53, 2}, reset{6, 0x29, 0}, medium_changed{6, 0x28, 0}, capacity_changed{6, 0x2a, 9},
    luns_changed{6, 0x3f, 0xe}, write_protected{7, 0x27, 0}, no_space{7, 0x27, 7}, io_error{0xb, 0, 6};
}
enum ScsiStatus : u8 { scsi_good = 0, scsi_check_condition = 2, scsi_busy = 8, scsi_conflict = 0x18, scsi_aborted = 0x40 };

struct ScsiCommand {
  std::array<u8, 32> cdb{};
  u32 lun = 0;          // that the initiator named; a device hears of others than its own too
  block::IoVector out;  // from the initiator
  block::IoVector in;   // to it
};
struct ScsiAnswer {
  u8 status = scsi_good;
  ScsiSense sense;               // with check condition
  u64 transferred = 0;           // bytes of `in` or `out` that were used
  std::vector<u8> sense_data{};  // as a device of the host gave them; else they are made of `sense`
  static ScsiAnswer check(ScsiSense s) { return {.status = scsi_check_condition, .sense = s}; }
};
// Fixed format, 18 bytes.
std::array<u8, 18> fixed_sense(ScsiSense s);
// What the guest is told of a drive's failure.
ScsiSense sense_of(const Error& error);

class ScsiDevice;

// What a host adapter hears of its bus.
class ScsiAdapter {
 public:
  virtual ~ScsiAdapter() = default;
  virtual void scsi_plugged(ScsiDevice&) {}
  virtual void scsi_unplugged(ScsiDevice&) {}
  virtual void scsi_changed(ScsiDevice&, ScsiSense) {}  // a unit attention waits
};

class ScsiBus final : public Bus {
 public:
  static const TypeInfo type;  // "SCSI"
  std::string_view bus_type() const override { return "SCSI"; }
  Result<> may_plug(Device& device) override;
  Result<> plugged(Device& device) override;  // takes scsi-id and lun, or gives them
  std::string address_of(const Device& device) const override;
  // The unit itself, or another one of the same target; null: no such target.
  ScsiDevice* find(u32 channel, u32 target, u32 lun) const;
  std::vector<u32> luns(u32 channel, u32 target) const;
  ScsiAdapter* adapter = nullptr;
  u32 most_targets = 255, most_luns = 16383;
};

class ScsiDevice : public Device {
 public:
  static const TypeInfo type;  // "scsi-device"
  u32 channel() const { return channel_; }
  u32 target() const { return id_on_bus_; }
  u32 lun() const { return lun_; }
  ScsiBus& scsi() const { return *static_cast<ScsiBus*>(bus()); }
  // One command, from its bytes to its answer: common ones here, the rest in carry_out(). The buffers live until it ends.
  Task<ScsiAnswer> execute(ScsiCommand& command);
  virtual void reset_unit();        // LOGICAL UNIT RESET: a unit attention
  virtual void cancel_waiting() {}  // commands that wait for the machine to run give up
  virtual block::Backend* drive() const { return nullptr; }
  virtual bool passes() const { return false; }  // INQUIRY and REQUEST SENSE too are for carry_out()

 protected:
  virtual Task<ScsiAnswer> carry_out(ScsiCommand& command) = 0;
  virtual std::vector<u8> inquiry() const { return {}; }
  virtual std::optional<std::vector<u8>> vital_page(u8 /*page*/) const { return std::nullopt; }
  void attention(ScsiSense s);  // for the next command
  static ScsiAnswer answer(ScsiCommand& command, std::span<const u8> data, u64 limit);
  void reset() override;

  std::vector<u32> saved_attentions() const;
  Result<> load_attentions(const std::vector<u32>& attentions);
  static constexpr usize address_field_count = 3;
  static const Field address_properties[address_field_count], unit_state[1];

 private:
  friend class ScsiBus;
  Task<ScsiAnswer> dispatch(ScsiCommand& command);
  ScsiAnswer report_luns(ScsiCommand& command) const;
  ScsiAnswer inquire(ScsiCommand& command) const;
  u32 channel_ = 0, id_on_bus_ = ~u32{0}, lun_ = ~u32{0};
  std::vector<ScsiSense> attentions_;
};

}  // namespace vmm::hw
