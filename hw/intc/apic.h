// Local APICs and the fabric that carries messages between them. Source: Intel SDM vol. 3A, chapter 11 (APIC), 11.12 (x2APIC).
//
// Threads: a CPU's own accesses come on its vCPU thread without the machine lock; messages from other CPUs, devices and timers may
// arrive on any thread and touch only atomics, then post Request::interrupt.
#pragma once

#include <array>
#include <atomic>

#include "hw/core/device.h"

namespace vmm::hw {

class Apic;
class PicPair;

enum class DeliveryMode : u8 { fixed, lowest_priority, smi, reserved, nmi, init, startup, extint };

struct ApicMessage {
  u32 destination = 0;  // ~0: every CPU
  bool logical = false;
  DeliveryMode mode = DeliveryMode::fixed;
  u8 vector = 0;
  bool level = false;  // trigger mode
};

// Hears of the end of level-triggered interrupts. Machine lock held.
class EoiListener {
 public:
  virtual ~EoiListener() = default;
  virtual void end_of_interrupt(u8 vector) = 0;
};

// Owned by the board. CPUs and listeners are added while nothing runs.
class ApicFabric {
 public:
  ApicFabric();
  ApicFabric(const ApicFabric&) = delete;
  void add(Apic& apic);
  void remove(Apic& apic);
  // The PIC pair whose INTR is LINT0 of every CPU (used where LINT0 is unmasked: as a rule the first CPU).
  void set_pic(PicPair& pic);
  // Local APICs that the accelerator has; before any is added.
  void set_kernel(vm::Irqchip* chips) { kernel_ = chips; }
  vm::Irqchip* kernel() const { return kernel_; }
  void add_eoi_listener(EoiListener& listener) { listeners_.push_back(&listener); }
  void remove_eoi_listener(EoiListener& listener) { std::erase(listeners_, &listener); }

  // Any thread, lock-free.
  void deliver(const ApicMessage& message);
  void deliver_msi(u64 address, u32 data);
  // "apic-msi": 1 MiB that the board places at 0xfee00000 with priority 4096, for writes of devices.
  memory::MemoryRegion& msi_region() { return msi_region_; }
  Apic* by_index(unsigned index) const { return apics_[index].load(std::memory_order_acquire); }
  unsigned count() const { return count_.load(std::memory_order_acquire); }
  void inject_nmi();  // LINT1 of every CPU

  // For the APICs.
  void broadcast_eoi(u8 vector);  // takes the machine lock if this thread does not hold it
  bool pic_intr() const;
  int pic_acknowledge();  // likewise

 private:
  static constexpr unsigned limit = 512;
  u64 msi_read(u64 offset, unsigned size) { return 0; }
  void msi_write(u64 offset, unsigned size, u64 value);
  std::array<std::atomic<Apic*>, limit> apics_{};
  std::atomic<unsigned> count_{0};
  std::vector<EoiListener*> listeners_;
  PicPair* pic_ = nullptr;
  vm::Irqchip* kernel_ = nullptr;
  memory::MemoryRegion msi_region_;
};

// Migrated state of one local APIC.
struct ApicState {
  u64 base = 0, icr = 0, tsc_deadline = 0;
  u32 tpr = 0, ldr = 0, dfr = 0, svr = 0, esr = 0, errors = 0, divide = 0, initial_count = 0;
  i64 timer_start_ns = 0, timer_due_ns = 0;  // due: 0 while not armed
  bool extint = false;
  std::array<u32, 6> lvt{};
  std::array<u32, 8> isr{}, tmr{}, irr{};
};

class Apic final : public Device, public vm::LocalInterrupts {
 public:
  static const TypeInfo type;  // "apic", properties id, vapic, version
  // Before attach. Sets itself as the vCPU's interrupt controller and joins the fabric at realize.
  void wire(vm::Vcpu& vcpu, ApicFabric& fabric, bool bootstrap, bool has_x2apic = true) {
    vcpu_ = &vcpu, fabric_ = &fabric, bootstrap_ = bootstrap, has_x2apic_ = has_x2apic;
    id_ = vcpu.apic_id();
  }

  // --- vm::LocalInterrupts
  bool pending() const override;
  int acknowledge() override;
  u8 tpr() const override { return tpr_.load(std::memory_order_relaxed); }
  void set_tpr(u8 value) override;
  u64 base_msr() const override { return base_.load(std::memory_order_acquire); }
  bool set_base_msr(u64 value) override;
  bool read_x2apic(u32 msr, u64& value) override;
  bool write_x2apic(u32 msr, u64 value) override;
  u64 tsc_deadline() const override;
  void set_tsc_deadline(u64 tsc) override;
  void reset(bool init) override;
  void ended(u8 vector) override {
    if (fabric_) fabric_->broadcast_eoi(vector);
  }
  u32 read_page(u32 offset) override;
  void write_page(u32 offset, u32 value) override;

  // --- The fabric's side; any thread.
  u32 id() const { return id_; }
  bool matches(const ApicMessage& message) const;
  void accept(DeliveryMode mode, u8 vector, bool level);
  u8 arbitration_priority() const { return tpr_.load(std::memory_order_relaxed); }
  void local_input(unsigned pin, bool level);  // LINT0, LINT1
  bool accepts_pic() const;
  vm::Vcpu& vcpu() const { return *vcpu_; }

  // --- Device
  void reset() override { reset(false); }
  void before_save() override { pull(); }
  Result<> after_load() override {
    push();
    return {};
  }
  std::string describe() const override;  // `info lapic`

 private:
  enum Lvt : unsigned { timer, thermal, performance, lint0, lint1, error };
  using Words = std::array<std::atomic<u32>, 8>;
  Result<> realize() override;
  Task<> unrealize() override;
  bool hardware_enabled() const { return base_msr() & 1 << 11; }
  bool x2apic() const { return (base_msr() & 3 << 10) == 3 << 10; }
  bool software_enabled() const { return svr_.load(std::memory_order_acquire) & 1 << 8; }
  static int highest(const Words& words);
  u8 processor_priority() const;
  int deliverable() const;
  void recheck();
  void set_request(u8 vector, bool level);
  void report_error(u32 bit);
  void end_of_interrupt();
  void send_ipi(u64 command);
  bool read_register(unsigned index, u32& value);
  bool write_register(unsigned index, u32 value);
  void write_lvt(unsigned n, u32 value);
  void deliver_local(unsigned n);
  // With the accelerator's twin: what that has, and what that shall have.
  vm::Irqchip* kernel() const { return fabric_ && vcpu_ ? fabric_->kernel() : nullptr; }
  void pull();
  void push();
  // Timer; timer_lock_ held.
  unsigned timer_mode() const { return lvt_[timer].load(std::memory_order_relaxed) >> 17 & 3; }
  u32 divisor() const;
  u32 current_count();
  void arm_timer(bool starts = false);
  void timer_expired();
  ApicState saved() const;
  Result<> restore(const ApicState& state);
  static const Field properties[], state[];

  u32 id_ = 0;
  bool vapic_ = true;
  u8 version_ = 0x14;
  vm::Vcpu* vcpu_ = nullptr;
  ApicFabric* fabric_ = nullptr;
  bool bootstrap_ = false, has_x2apic_ = true;

  std::atomic<u64> base_{0};
  std::atomic<u8> tpr_{0};
  std::atomic<u32> ldr_{0}, dfr_{~u32{0}}, svr_{0xff}, errors_{0};
  std::atomic<u32> esr_{0};
  std::atomic<u64> icr_{0};
  std::array<std::atomic<u32>, 6> lvt_{};
  Words isr_{}, tmr_{}, irr_{};
  std::atomic<bool> extint_{false};        // an ExtINT message has arrived
  mutable std::atomic<bool> hint_{false};  // pending() may be true; cleared by a scan that finds nothing

  mutable Mutex timer_lock_;
  u32 divide_ = 0, initial_count_ = 0;
  i64 timer_start_ns_ = 0;
  u64 tsc_deadline_ = 0;
  Timer timer_{Clock::guest, on<&Apic::timer_expired>, *this};
};

}  // namespace vmm::hw
