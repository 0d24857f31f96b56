// Interrupt controllers that an accelerator has itself (KVM's: in the host's kernel). The board's devices stay what the monitor, a reset
// and a stream see; while such a twin is there, they hold no more than what they were told last, ask it for its registers before they are
// looked at, and give it theirs when they were reset or loaded. Both forms below say it in the registers of the chips' data sheets.
#pragma once

#include <array>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::vm {

class Vcpu;

struct LocalApicImage {
  u64 base = 0;               // IA32_APIC_BASE
  u64 tsc_deadline = 0;       // IA32_TSC_DEADLINE
  std::array<u32, 64> reg{};  // of every 16 bytes of its page the first four
  u32 at(u32 offset) const { return reg[offset / 16]; }
  u32& at(u32 offset) { return reg[offset / 16]; }
};
struct PicImage {
  u8 last_irr = 0, irr = 0, imr = 0, isr = 0, priority_add = 0, irq_base = 0, init_state = 0, elcr = 0, elcr_mask = 0;
  bool read_reg_select = false, poll = false, special_mask = false, auto_eoi = false, rotate_on_auto_eoi = false;
  bool special_fully_nested_mode = false, init4 = false;
};
struct IoApicImage {
  u32 id = 0, select = 0, irr = 0;
  std::array<u64, 24> redirection{};
};
struct PitImage {
  struct Channel {
    u32 count = 0x10000;
    u16 latched_count = 0;
    u8 count_latched = 0, status_latched = 0, status = 0, read_state = 0, write_state = 0, write_latch = 0, rw_mode = 0, mode = 0, bcd = 0,
       gate = 0;
    i64 ran_ns = 0;  // since its count was loaded
  };
  std::array<Channel, 3> channel{};
  bool hpet_legacy = false;  // the HPET has its line
};

class Irqchip {
 public:
  virtual ~Irqchip() = default;
  // The PIC pair, the I/O APIC and (once begun) the PIT are in there too. Else the local APICs alone are, and the board has the others.
  virtual bool full() const = 0;

  // A message to the local APICs (SDM 3A §11.11). Any thread, no lock.
  virtual void send(u64 address, u32 data) = 0;
  // Not full: what a pin of the board's I/O APIC sends, so that the end of its level-triggered interrupts is told
  // (LocalInterrupts::ended()). Machine lock held.
  virtual void set_pin(unsigned pin, u64 address, u32 data) = 0;
  // Of one CPU, which does not run or is made to leave guest code for it. Machine lock held.
  virtual LocalApicImage local_apic(Vcpu& vcpu) = 0;
  virtual void set_local_apic(Vcpu& vcpu, const LocalApicImage& image) = 0;

  // Full; machine lock held. Lines of the board: the PIC pair hears the first 16, the I/O APIC all (0 on its pin 2).
  virtual void set_line(unsigned gsi, bool level) = 0;
  virtual PicImage pic(unsigned chip) = 0;  // 0: the master
  virtual void set_pic(unsigned chip, const PicImage& image) = 0;
  virtual IoApicImage io_apic() = 0;
  virtual void set_io_apic(const IoApicImage& image) = 0;
  virtual Result<> begin_pit(bool reinject) = 0;  // with port 61h
  virtual PitImage pit() = 0;
  virtual void set_pit(const PitImage& image) = 0;
};

}  // namespace vmm::vm
