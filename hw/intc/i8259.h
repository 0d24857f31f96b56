// Two cascaded 8259A interrupt controllers with ELCR, as on every PC. Source: Intel 8259A data sheet; 82371SB (ELCR). Machine lock held.
#pragma once

#include <array>
#include <atomic>

#include "hw/isa/isa.h"

namespace vmm::hw {

class I8259 final : public IsaDevice, public IrqSink {
 public:
  static const TypeInfo type;  // properties iobase, elcr_addr, elcr_mask, master
  // Input lines 0–7 of this chip.
  void set_input(unsigned line, bool level) override;
  Irq& intr() { return intr_; }  // INT output
  // The INTA cycle: the vector, now in service. On the master it asks the slave. Spurious requests give vector base + 7.
  u8 acknowledge();
  void set_slave(I8259* slave) { slave_ = slave; }

  void reset() override;
  void settle() override { update(); }
  bool has_twin() const { return twin_; }  // in the accelerator (src/vm/irqchip.h), which then hears the lines
  void before_save() override;
  Result<> after_load() override;
  std::string describe() const override;  // one line of `info pic`

 private:
  Result<> realize() override;
  u64 read(u64 offset, unsigned size);
  void write(u64 offset, unsigned size, u64 value);
  u64 elcr_read(u64 offset, unsigned size);
  void elcr_write(u64 offset, unsigned size, u64 value);
  int highest_request() const;
  int first_by_priority(u8 lines) const;
  void update();
  void take(unsigned line);
  void command_written(u8 value);
  void data_written(u8 value);
  void init_reset();
  void push() const;
  static const Field properties[], state[];

  u32 iobase_ = 0xffff'ffff, elcr_addr_ = 0xffff'ffff;
  u8 elcr_mask_ = 0xff;
  bool master_ = false;
  I8259* slave_ = nullptr;
  vm::Irqchip* twin_ = nullptr;

  u8 inputs_ = 0, irr_ = 0, imr_ = 0, isr_ = 0;
  u8 lowest_plus_one_ = 0;  // the line of highest priority
  u8 vector_base_ = 0, init_step_ = 0, elcr_ = 0;
  bool read_isr_ = false, poll_ = false, special_mask_ = false, auto_eoi_ = false, rotate_on_auto_eoi_ = false;
  bool special_fully_nested_ = false, init4_ = false, single_ = false;

  memory::MemoryRegion ports_, elcr_port_;
  Irq intr_;
};

// The pair as the rest of the machine sees it: 16 inputs (2 is the cascade), one output, one INTA.
class PicPair final : public IrqSink {
 public:
  PicPair() = default;
  ~PicPair() override;
  PicPair(const PicPair&) = delete;
  // Makes both chips under /machine/unattached on the bus. `vm::Machine` must be in the tree.
  Result<> make(vm::Machine& machine, IsaBus& bus);
  void set_input(unsigned line, bool level) override {
    if (line < 16) {
      const u32 mask = u32{1} << line;
      raised_[line] += level && !(levels_ & mask);
      levels_ = level ? levels_ | mask : levels_ & ~mask;
    }
    if (master_->has_twin()) return;
    if (line < 8) {
      if (line != 2) master_->set_input(line, level);
    } else if (line < 16) {
      slave_->set_input(line - 8, level);
    }
  }
  // INTR as the CPU sees it. Any thread.
  bool intr() const { return intr_level_.load(std::memory_order_acquire); }
  u8 acknowledge() { return master_->acknowledge(); }
  // Called (machine lock held) when INTR changes; the local APICs' LINT0.
  void on_intr(std::function<void(bool)> f) { changed_ = std::move(f); }
  std::string describe() const;         // `info pic`
  std::string describe_counts() const;  // `info irq`: how often each line rose
  I8259& master() { return *master_; }
  I8259& slave() { return *slave_; }

 private:
  Ref<I8259> master_, slave_;
  std::array<u64, 16> raised_{};
  u32 levels_ = 0;
  std::atomic<bool> intr_level_{false};
  std::function<void(bool)> changed_;
  std::unique_ptr<IrqCall> intr_sink_;
};

}  // namespace vmm::hw
