// One IDE channel: task file, programmed I/O, and the bus master that moves DMA data. Sources: ATA8-APT (host's view of PIO and DMA
// protocols), "Programming Interface for Bus Master IDE Controller" 1.0. Machine lock held.
#pragma once

#include "hw/storage/ide.h"

namespace vmm::hw {

class IdeChannel final : private AtaDma {
 public:
  // `dma` is the memory that scatter lists live in; null answer: bus mastering is off.
  void init(Device& owner, std::string bus_name, unsigned number, std::function<memory::AddressSpace*()> dma);
  void reset();
  void settle();
  bool idle() const { return !running_; }
  Irq irq;
  memory::MemoryRegion command_ports;  // 8 ports
  memory::MemoryRegion control_port;   // 1 port
  // The bus master's 8 ports.
  u64 master_read(u64 at, unsigned size);
  void master_write(u64 at, unsigned size, u64 value);
  // State, for the controller's fields.
  std::vector<u64> words() const;
  Result<> set_words(const std::vector<u64>& words);
  const std::vector<u8>& bytes() const { return under_way_ && !under_way_->data.empty() ? under_way_->data : buffer_; }
  Result<> set_bytes(const std::vector<u8>& bytes) {
    if (bytes.size() > 32 * MiB) return fail("an IDE channel's buffer of {} bytes", bytes.size());
    buffer_ = bytes;
    return {};
  }
  Result<> loaded() const;
  void go_on();  // the machine runs: a loaded state's command starts again

 private:
  bool put(std::span<const u8> from) override;
  bool get(std::span<u8> into) override;
  template <class F>
  bool move(usize bytes, F part);
  IdeDevice* drive() const { return bus_->drive(select_); }
  u64 read(u64 at, unsigned size);
  void write(u64 at, unsigned size, u64 value);
  u64 data_read(unsigned size);
  void data_write(unsigned size, u64 value);
  void next_block();
  u64 control_read(u64, unsigned);
  void control_write(u64, unsigned, u64 value);
  void start(u8 command);
  void run();
  void finished(u64 epoch, AtaCommand command);
  void soft_reset();
  void raise();
  void lower();

  Device* owner_ = nullptr;
  IdeBus* bus_ = nullptr;
  std::function<memory::AddressSpace*()> dma_;
  AtaRegisters& selected() { return registers_[select_]; }
  std::array<AtaRegisters, 2> registers_;  // of the two drives
  u8 select_ = 0, control_ = 0;
  bool interrupt_ = false;
  // Programmed I/O.
  enum class Phase : u8 { none, to_drive, packet, to_host, packet_to_host };
  Phase phase_ = Phase::none;
  std::vector<u8> buffer_;
  usize position_ = 0, block_end_ = 0;
  u32 block_bytes_ = 512;
  // A command that executes; what comes of it counts only if no reset came between.
  u8 running_unit_ = 0;
  bool running_ = false, waiting_dma_ = false, run_after_ = false;
  bool again_ = false;                     // a loaded state had a command under way (werror=stop)
  std::shared_ptr<AtaCommand> under_way_;  // of this epoch; its data are those that the host sent
  u64 epoch_ = 0;
  // Bus master.
  u8 master_command_ = 0, master_status_ = 0;
  u32 table_ = 0, next_entry_ = 0, entry_at_ = 0, entry_left_ = 0;
  bool last_entry_ = false;
};

}  // namespace vmm::hw
