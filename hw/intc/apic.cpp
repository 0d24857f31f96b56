// Local APIC. Source: Intel SDM vol. 3A, chapter 11; register indices are offset / 16, MSR - 0x800 (§11.12.1.2). The timer's bus clock is
// 1 GHz, which is also what QEMU gives.
#include "hw/intc/apic.h"

#include <bit>

#include "hw/intc/i8259.h"
#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm {
template <>
inline constexpr std::array fields<hw::ApicState> = {
    field<&hw::ApicState::base>("base", "IA32_APIC_BASE"),
    field<&hw::ApicState::icr>("icr", "interrupt command"),
    field<&hw::ApicState::tsc_deadline>("tsc-deadline", "TSC at which the timer is due"),
    field<&hw::ApicState::tpr>("tpr", "task priority"),
    field<&hw::ApicState::ldr>("ldr", "logical destination"),
    field<&hw::ApicState::dfr>("dfr", "destination format"),
    field<&hw::ApicState::svr>("svr", "spurious vector"),
    field<&hw::ApicState::esr>("esr", "errors as read"),
    field<&hw::ApicState::errors>("errors", "errors not yet latched"),
    field<&hw::ApicState::divide>("divide", "timer divide configuration"),
    field<&hw::ApicState::initial_count>("initial-count", "timer initial count"),
    field<&hw::ApicState::timer_start_ns>("timer-start", "guest time at which the count began"),
    field<&hw::ApicState::timer_due_ns>("timer-due", "guest time at which the timer is due"),
    field<&hw::ApicState::extint>("extint", "ExtINT message waiting"),
    field<&hw::ApicState::lvt>("lvt", "local vector table"),
    field<&hw::ApicState::isr>("isr", "in service"),
    field<&hw::ApicState::tmr>("tmr", "trigger modes"),
    field<&hw::ApicState::irr>("irr", "requests"),
};
}  // namespace vmm

namespace vmm::hw {

namespace {
constexpr u32 lvt_masked = 1 << 16;
constexpr u32 lvt_level = 1 << 15;
constexpr u32 lvt_remote_irr = 1 << 14;
enum ErrorBit : u32 { send_illegal = 1 << 5, receive_illegal = 1 << 6, illegal_register = 1 << 7 };
enum Index : unsigned {
  r_id = 0x02,
  r_version = 0x03,
  r_tpr = 0x08,
  r_apr = 0x09,
  r_ppr = 0x0a,
  r_eoi = 0x0b,
  r_rrd = 0x0c,
  r_ldr = 0x0d,
  r_dfr = 0x0e,
  r_svr = 0x0f,
  r_isr = 0x10,
  r_tmr = 0x18,
  r_irr = 0x20,
  r_esr = 0x28,
  r_icr = 0x30,
  r_icr_high = 0x31,
  r_lvt = 0x32,
  r_initial = 0x38,
  r_current = 0x39,
  r_divide = 0x3e,
  r_self_ipi = 0x3f,
};
constexpr u32 lvt_writable[6] = {0x710ff, 0x117ff, 0x117ff, 0x1b7ff, 0x1b7ff, 0x110ff};
// A periodic timer faster than this would only starve the main loop.
constexpr i64 shortest_period_ns = 20'000;
}  // namespace

// --- Fabric ----------------------------------------------------------------------------------------------------------------------
ApicFabric::ApicFabric() {
  msi_region_.init_io(nullptr, "apic-msi", 1 * MiB,
                      memory::MemoryRegion::member_ops<&ApicFabric::msi_read, &ApicFabric::msi_write, ApicFabric>(), this,
                      {.min = 4, .max = 4, .valid_min = 4, .valid_max = 8, .machine_lock = false});
}

void ApicFabric::add(Apic& apic) {
  const unsigned n = count();
  ASSERT(n < limit);
  apics_[n].store(&apic, std::memory_order_release);
  count_.store(n + 1, std::memory_order_release);
}

void ApicFabric::remove(Apic& apic) {
  const unsigned n = count();
  for (unsigned i = 0; i < n; i++)
    if (by_index(i) == &apic) {
      apics_[i].store(by_index(n - 1), std::memory_order_release);
      count_.store(n - 1, std::memory_order_release);
      return;
    }
}

void ApicFabric::set_pic(PicPair& pic) {
  pic_ = &pic;
  pic.on_intr([this](bool level) {
    for (unsigned i = 0; i < count(); i++) by_index(i)->local_input(0, level);
  });
}

bool ApicFabric::pic_intr() const { return pic_ && pic_->intr(); }

int ApicFabric::pic_acknowledge() {
  const MachineLockedIfNot locked;
  return pic_ ? pic_->acknowledge() : -1;
}

void ApicFabric::broadcast_eoi(u8 vector) {
  const MachineLockedIfNot locked;
  for (auto* listener : listeners_) listener->end_of_interrupt(vector);
}

void ApicFabric::inject_nmi() {
  for (unsigned i = 0; i < count(); i++) by_index(i)->local_input(1, true);
}

void ApicFabric::deliver(const ApicMessage& m) {
  if (kernel_)
    return kernel_->send(0xfee0'0000 | (m.destination & 0xff) << 12 | u32{m.logical} << 2,
                         u32{m.vector} | static_cast<u32>(m.mode) << 8 | u32{m.level} << 15 | 1u << 14);
  const ApicMessage& message = m;
  const unsigned n = count();
  if (message.mode == DeliveryMode::lowest_priority) {
    Apic* best = nullptr;
    for (unsigned i = 0; i < n; i++) {
      Apic* apic = by_index(i);
      if (apic->matches(message) && (!best || apic->arbitration_priority() < best->arbitration_priority())) best = apic;
    }
    if (best) best->accept(message.mode, message.vector, message.level);
    return;
  }
  for (unsigned i = 0; i < n; i++) {
    Apic* apic = by_index(i);
    if (apic->matches(message)) apic->accept(message.mode, message.vector, message.level);
  }
}

// SDM 3A §11.11: address bits 12–19 destination, 3 redirection hint, 2 logical; data 0–7 vector, 8–10 mode, 15 trigger.
void ApicFabric::deliver_msi(u64 address, u32 data) {
  if (kernel_) return kernel_->send(address, data);
  const u32 destination = bits(address, 19, 12);
  deliver({.destination = destination == 0xff && !bit(address, 2) ? ~u32{0} : destination,
           .logical = bit(address, 2),
           .mode = static_cast<DeliveryMode>(bits(data, 10, 8)),
           .vector = static_cast<u8>(data),
           .level = bit(data, 15)});
}

void ApicFabric::msi_write(u64 offset, unsigned, u64 value) { deliver_msi(0xfee0'0000 + offset, static_cast<u32>(value)); }

// --- Type and life -----------------------------------------------------------------------------------------------------------------
constexpr Field Apic::properties[] = {
    field<&Apic::id_>("id", "APIC id, which is how messages find this CPU."),
    field<&Apic::vapic_>("vapic", "Taken for compatibility; without effect."),
    field<&Apic::version_>("version", "Low byte of the version register."),
};
constexpr Field Apic::state[] = {computed<&Apic::saved, &Apic::restore>("registers", "every register and the timer")};
constinit const TypeInfo Apic::type{
    .name = "apic",
    .doc = "Local interrupt controller of one CPU.",
    .parent = &Device::type,
    .properties = properties,
    .state = state,
    .make = make<Apic>,
    .user_creatable = false,
    .load_order = 1,
};
static Registered registered{Apic::type};

Result<> Apic::realize() {
  if (vcpu_) vcpu_->set_interrupts(this);
  if (fabric_) fabric_->add(*this);
  reset(false);
  return {};
}

Task<> Apic::unrealize() {
  if (fabric_) fabric_->remove(*this);
  if (vcpu_) vcpu_->set_interrupts(nullptr);
  timer_.cancel();
  co_return Result<>{};
}

void Apic::reset(bool init) {
  if (!init) base_ = 0xfee0'0000 | 1 << 11 | (bootstrap_ ? 1 << 8 : 0);
  tpr_ = 0;
  ldr_ = x2apic() ? (id_ >> 4) << 16 | 1 << (id_ & 15) : 0;
  dfr_ = ~u32{0};
  svr_ = 0xff;
  errors_ = 0, esr_ = 0, icr_ = 0;
  for (auto& l : lvt_) l = lvt_masked;
  // Firmware finds the PIC wired through, as a BIOS of old left it ("virtual wire", MP spec 1.4 §3.6.2.2).
  if (bootstrap_) lvt_[lint0] = 0x700;
  for (usize i = 0; i < 8; i++) isr_[i] = 0, tmr_[i] = 0, irr_[i] = 0;
  extint_ = false;
  {
    const Lock lock{timer_lock_};
    divide_ = 0, initial_count_ = 0, tsc_deadline_ = 0, timer_start_ns_ = 0;
    timer_.cancel();
  }
  hint_ = true;
  if (!init) push();
}

ApicState Apic::saved() const {
  ApicState s;
  s.base = base_, s.icr = icr_, s.tpr = tpr_, s.ldr = ldr_, s.dfr = dfr_, s.svr = svr_, s.esr = esr_, s.errors = errors_;
  s.extint = extint_;
  for (usize i = 0; i < 6; i++) s.lvt[i] = lvt_[i];
  for (usize i = 0; i < 8; i++) s.isr[i] = isr_[i], s.tmr[i] = tmr_[i], s.irr[i] = irr_[i];
  const Lock lock{timer_lock_};
  s.divide = divide_, s.initial_count = initial_count_, s.tsc_deadline = tsc_deadline_, s.timer_start_ns = timer_start_ns_;
  s.timer_due_ns = timer_.armed() ? timer_.due().count() : 0;
  return s;
}

Result<> Apic::restore(const ApicState& s) {
  base_ = s.base, icr_ = s.icr, tpr_ = static_cast<u8>(s.tpr), ldr_ = s.ldr, dfr_ = s.dfr, svr_ = s.svr, esr_ = s.esr;
  errors_ = s.errors, extint_ = s.extint;
  for (usize i = 0; i < 6; i++) lvt_[i] = s.lvt[i] & (lvt_writable[i] | lvt_remote_irr | 0xfff);
  for (usize i = 0; i < 8; i++) isr_[i] = s.isr[i], tmr_[i] = s.tmr[i], irr_[i] = s.irr[i];
  const Lock lock{timer_lock_};
  divide_ = s.divide & 0xb, initial_count_ = s.initial_count, tsc_deadline_ = s.tsc_deadline;
  timer_start_ns_ = std::clamp<i64>(s.timer_start_ns, 0, INT64_MAX / 4);
  if (s.timer_due_ns > 0)
    timer_.arm(Nanoseconds{s.timer_due_ns});
  else
    timer_.cancel();
  hint_ = true;
  return {};
}

// --- Requests and priorities ---------------------------------------------------------------------------------------------------------
int Apic::highest(const Words& words) {
  for (int i = 7; i >= 0; i--)
    if (const u32 w = words[i].load(std::memory_order_acquire)) return i * 32 + 31 - std::countl_zero(w);
  return -1;
}

u8 Apic::processor_priority() const {
  const int serving = highest(isr_);
  const u8 task = tpr();
  return serving < 0 || task >> 4 >= serving >> 4 ? task : static_cast<u8>(serving & 0xf0);
}

// The vector that may interrupt now, or -1.
int Apic::deliverable() const {
  if (!hardware_enabled() || !software_enabled()) return -1;
  const int request = highest(irr_);
  return request >= 0 && request >> 4 > processor_priority() >> 4 ? request : -1;
}

bool Apic::accepts_pic() const {
  if (!hardware_enabled()) return bootstrap_;
  return (lvt_[lint0].load(std::memory_order_relaxed) & (lvt_masked | 0x700)) == 0x700;
}

bool Apic::pending() const {
  if (kernel()) return !kernel()->full() && fabric_->pic_intr();  // whether this CPU hears the PIC, the twin knows
  if (!hint_.load(std::memory_order_relaxed)) return false;
  // A request that arrives after the exchange sets the hint again, so none is lost.
  hint_.exchange(false, std::memory_order_acq_rel);
  const bool found = deliverable() >= 0 || ((accepts_pic() || extint_.load(std::memory_order_acquire)) && fabric_ && fabric_->pic_intr());
  if (found) hint_.store(true, std::memory_order_relaxed);
  return found;
}

int Apic::acknowledge() {
  if (kernel()) return fabric_->pic_intr() ? fabric_->pic_acknowledge() : -1;
  const int vector = deliverable();
  hint_.store(true, std::memory_order_relaxed);
  if (vector >= 0) {
    const u32 mask = u32{1} << (vector & 31);
    irr_[vector / 32].fetch_and(~mask, std::memory_order_acq_rel);
    isr_[vector / 32].fetch_or(mask, std::memory_order_relaxed);
    return vector;
  }
  if (!fabric_ || !fabric_->pic_intr()) return -1;
  if (!accepts_pic() && !extint_.exchange(false)) return -1;
  return fabric_->pic_acknowledge();
}

// On our own thread: what was held back may now be let through.
void Apic::recheck() {
  hint_.store(true, std::memory_order_relaxed);
  if (vcpu_ && pending()) vcpu_->post(vm::Request::interrupt);
}

void Apic::set_tpr(u8 value) {
  const u8 before = tpr_.exchange(value, std::memory_order_relaxed);
  if (value >> 4 < before >> 4) recheck();
}

void Apic::set_request(u8 vector, bool level) {
  if (vector < 16) return report_error(receive_illegal);
  const u32 mask = u32{1} << (vector & 31);
  if (level)
    tmr_[vector / 32].fetch_or(mask, std::memory_order_relaxed);
  else
    tmr_[vector / 32].fetch_and(~mask, std::memory_order_relaxed);
  irr_[vector / 32].fetch_or(mask, std::memory_order_acq_rel);
  hint_.store(true, std::memory_order_release);
  if (vcpu_) vcpu_->post(vm::Request::interrupt);
}

void Apic::report_error(u32 error_bit) {
  if (errors_.fetch_or(error_bit) & error_bit) return;  // also ends the recursion of an error vector that is illegal itself
  deliver_local(error);
}

bool Apic::matches(const ApicMessage& m) const {
  if (!hardware_enabled()) return false;
  if (m.destination == ~u32{0}) return true;
  if (!m.logical) return m.destination == id_;
  const u32 ldr = ldr_.load(std::memory_order_relaxed);
  if (x2apic()) return ldr >> 16 == m.destination >> 16 && (ldr & m.destination & 0xffff);
  const u8 mine = static_cast<u8>(ldr >> 24), wanted = static_cast<u8>(m.destination);
  if (m.destination > 0xff) return false;
  if (dfr_.load(std::memory_order_relaxed) >> 28 == 0xf) return mine & wanted;       // flat
  return (wanted >> 4 == 0xf || mine >> 4 == wanted >> 4) && (mine & wanted & 0xf);  // cluster
}

void Apic::accept(DeliveryMode mode, u8 vector, bool level) {
  switch (mode) {
    case DeliveryMode::fixed:
    case DeliveryMode::lowest_priority:
      if (software_enabled()) set_request(vector, level);
      return;
    case DeliveryMode::smi: return vcpu_ ? vcpu_->post(vm::Request::smi) : void();
    case DeliveryMode::nmi: return vcpu_ ? vcpu_->post(vm::Request::nmi) : void();
    case DeliveryMode::init: return vcpu_ ? vcpu_->post(vm::Request::init) : void();
    case DeliveryMode::startup: return vcpu_ ? vcpu_->post_sipi(vector) : void();
    case DeliveryMode::extint:
      extint_ = true;
      hint_.store(true, std::memory_order_release);
      return vcpu_ ? vcpu_->post(vm::Request::interrupt) : void();
    case DeliveryMode::reserved: return;
  }
}

// A local source (timer, LINT pin, error) by its LVT entry.
void Apic::deliver_local(unsigned n) {
  const u32 entry = lvt_[n].load(std::memory_order_relaxed);
  if (entry & lvt_masked || !hardware_enabled()) return;
  const auto mode = n == timer || n == error ? DeliveryMode::fixed : static_cast<DeliveryMode>(entry >> 8 & 7);
  switch (mode) {
    case DeliveryMode::fixed: {
      const bool level = (n == lint0 || n == lint1) && entry & lvt_level;
      if (level) {
        if (lvt_[n].fetch_or(lvt_remote_irr) & lvt_remote_irr) return;
      }
      return accept(mode, static_cast<u8>(entry), level);
    }
    case DeliveryMode::smi:
    case DeliveryMode::nmi: return accept(mode, 0, false);
    case DeliveryMode::extint:  // the PIC: pending() asks for its level
      hint_.store(true, std::memory_order_release);
      return vcpu_ ? vcpu_->post(vm::Request::interrupt) : void();
    default: return;
  }
}

void Apic::local_input(unsigned pin, bool level) {
  if (!level) return;
  if (kernel()) {
    if (pin == 0) return vcpu_->post(vm::Request::interrupt);
    pull();
    const u32 entry = lvt_[lint1];
    if (!hardware_enabled() || (entry & (lvt_masked | 0x700)) == 0x400) vcpu_->post(vm::Request::nmi);
    return;
  }
  if (!hardware_enabled()) {  // pins are INTR and NMI of the CPU then (SDM 3A §11.4.3)
    if (pin == 1) return vcpu_ ? vcpu_->post(vm::Request::nmi) : void();
    hint_.store(true, std::memory_order_release);
    return vcpu_ && bootstrap_ ? vcpu_->post(vm::Request::interrupt) : void();
  }
  deliver_local(pin == 0 ? lint0 : lint1);
}

void Apic::end_of_interrupt() {
  const int vector = highest(isr_);
  if (vector < 0) return;
  const u32 mask = u32{1} << (vector & 31);
  isr_[vector / 32].fetch_and(~mask, std::memory_order_relaxed);
  if (tmr_[vector / 32].load(std::memory_order_relaxed) & mask) {
    for (const unsigned n : {lint0, lint1}) {
      const u32 entry = lvt_[n].load(std::memory_order_relaxed);
      if ((entry & 0xff) == static_cast<u32>(vector) && entry & lvt_remote_irr) {
        lvt_[n].fetch_and(~lvt_remote_irr);
        if (n == lint0 && fabric_ && fabric_->pic_intr()) deliver_local(lint0);
      }
    }
    if (fabric_) fabric_->broadcast_eoi(static_cast<u8>(vector));
  }
  recheck();
}

void Apic::send_ipi(u64 command) {
  const auto mode = static_cast<DeliveryMode>(command >> 8 & 7);
  const u8 vector = static_cast<u8>(command);
  const bool level = bit(command, 15), assert_level = bit(command, 14);
  if (mode == DeliveryMode::init && level && !assert_level) return;  // INIT level de-assert: only arbitration ids, which we have not
  if ((mode == DeliveryMode::fixed || mode == DeliveryMode::lowest_priority) && vector < 16) return report_error(send_illegal);
  if (!fabric_) return;
  ApicMessage message{.logical = bit(command, 11), .mode = mode, .vector = vector, .level = false};
  switch (bits(command, 19, 18)) {
    case 0:
      if (x2apic()) {
        message.destination = static_cast<u32>(command >> 32);
      } else {
        const u32 d = static_cast<u32>(command >> 56);
        message.destination = d == 0xff && !message.logical ? ~u32{0} : d;
      }
      return fabric_->deliver(message);
    case 1: return accept(mode, vector, false);
    case 2: message.destination = ~u32{0}; return fabric_->deliver(message);
    case 3:
      for (unsigned i = 0; i < fabric_->count(); i++) {
        Apic* apic = fabric_->by_index(i);
        if (apic != this && apic->hardware_enabled()) apic->accept(mode, vector, false);
      }
      return;
  }
}

// --- Timer -----------------------------------------------------------------------------------------------------------------------
u32 Apic::divisor() const {
  const unsigned code = (divide_ & 3) | (divide_ >> 1 & 4);
  return code == 7 ? 1 : 2u << code;
}

u32 Apic::current_count() {
  if (timer_mode() == 2 || !initial_count_) return 0;
  const u64 elapsed = static_cast<u64>(std::max<i64>(0, timer_.now().count() - timer_start_ns_)) / divisor();
  if (timer_mode() == 1) return initial_count_ - static_cast<u32>(elapsed % initial_count_);
  return elapsed >= initial_count_ ? 0 : initial_count_ - static_cast<u32>(elapsed);
}

// Arms for the next expiry after now, if the timer counts and is wanted. A count that starts now always expires: this thread may have stood
// still, by the host's scheduler, for longer than the count takes (a one-shot lost so is a guest that sleeps for ever).
void Apic::arm_timer(bool starts) {
  if (timer_mode() == 2) return;
  if (!initial_count_ || lvt_[timer].load(std::memory_order_relaxed) & lvt_masked) return timer_.cancel();
  const i64 now = timer_.now().count();
  const i64 period = static_cast<i64>(u64{initial_count_} * divisor());
  if (timer_mode() == 0) {
    if (!starts && now - timer_start_ns_ >= period) return;  // told, or due and still to be told
    return timer_.arm(Nanoseconds{timer_start_ns_ + period});
  }
  i64 passed = std::max<i64>(0, now - timer_start_ns_) / period + 1;
  if (timer_start_ns_ + passed * period < now + shortest_period_ns && period < shortest_period_ns)
    passed += (shortest_period_ns + period - 1) / period;
  timer_.arm(Nanoseconds{timer_start_ns_ + passed * period});
}

void Apic::timer_expired() {
  if (kernel()) return;  // the twin's own fires
  {
    const Lock lock{timer_lock_};
    if (timer_.armed()) return;  // re-armed by the CPU between expiry and here
    if (timer_mode() == 2) {
      if (!tsc_deadline_) return;
      tsc_deadline_ = 0;
    } else if (!initial_count_) {
      return;
    } else if (timer_mode() == 1) {
      arm_timer();
    }
  }
  deliver_local(timer);
}

u64 Apic::tsc_deadline() const {
  const Lock lock{timer_lock_};
  return timer_mode() == 2 ? tsc_deadline_ : 0;
}

void Apic::set_tsc_deadline(u64 tsc) {
  bool now_due = false;
  {
    const Lock lock{timer_lock_};
    if (timer_mode() != 2) return;
    tsc_deadline_ = tsc;
    if (!tsc || !vcpu_) return timer_.cancel();
    const u64 now = vcpu_->read_tsc(), hz = std::max<u64>(vcpu_->tsc_hz(), 1);
    if (tsc <= now) {
      timer_.cancel();
      tsc_deadline_ = 0;
      now_due = true;
    } else {
      const u128 ns = (u128{tsc - now} * 1'000'000'000 + hz - 1) / hz;
      timer_.arm_in(Nanoseconds{ns > u64{1} << 61 ? i64{1} << 61 : static_cast<i64>(ns)});
    }
  }
  if (now_due) deliver_local(timer);
}

// --- Registers -------------------------------------------------------------------------------------------------------------------
void Apic::write_lvt(unsigned n, u32 value) {
  value &= lvt_writable[n];
  if (!software_enabled()) value |= lvt_masked;
  const u32 before = lvt_[n].load(std::memory_order_relaxed);
  if (n == lint0 || n == lint1) value |= before & lvt_remote_irr & (value & lvt_level ? ~0u : 0u);
  lvt_[n].store(value, std::memory_order_relaxed);
  if (n == timer) {
    const Lock lock{timer_lock_};
    if ((before >> 17 & 3) != (value >> 17 & 3) && ((before | value) >> 18 & 1)) {  // into or out of TSC-deadline mode: disarmed
      timer_.cancel();
      tsc_deadline_ = 0;
      initial_count_ = 0;
    } else if (before != value) {
      arm_timer();
    }
  }
  if (n == lint0 && fabric_ && fabric_->pic_intr()) deliver_local(lint0);
}

// False: there is no such register, or it may not be read.
bool Apic::read_register(unsigned index, u32& value) {
  value = 0;
  switch (index) {
    case r_id: return value = x2apic() ? id_ : id_ << 24, true;
    case r_version: return value = version_ | 5 << 16, true;
    case r_tpr: return value = tpr(), true;
    case r_apr: return value = 0, !x2apic();
    case r_ppr: return value = processor_priority(), true;
    case r_eoi: return !x2apic();
    case r_rrd: return !x2apic();
    case r_ldr: return value = ldr_, true;
    case r_dfr: return value = dfr_, !x2apic();
    case r_svr: return value = svr_, true;
    case r_esr: return value = esr_, true;
    case r_icr: return value = static_cast<u32>(icr_), true;
    case r_icr_high: return value = static_cast<u32>(icr_ >> 32), !x2apic();
    case r_divide: {
      const Lock lock{timer_lock_};
      return value = divide_, true;
    }
    case r_initial: {
      const Lock lock{timer_lock_};
      return value = timer_mode() == 2 ? 0 : initial_count_, true;
    }
    case r_current: {
      const Lock lock{timer_lock_};
      return value = current_count(), true;
    }
    default: break;
  }
  if (index >= r_isr && index < r_isr + 8) return value = isr_[index - r_isr], true;
  if (index >= r_tmr && index < r_tmr + 8) return value = tmr_[index - r_tmr], true;
  if (index >= r_irr && index < r_irr + 8) return value = irr_[index - r_irr], true;
  if (index >= r_lvt && index < r_lvt + 6) return value = lvt_[index - r_lvt], true;
  return false;
}

bool Apic::write_register(unsigned index, u32 value) {
  switch (index) {
    case r_tpr: return set_tpr(static_cast<u8>(value)), true;
    case r_eoi: return end_of_interrupt(), true;
    case r_id: return !x2apic();  // read-only since the P4; software may write what it read
    case r_ldr:
      if (x2apic()) return false;
      return ldr_ = value & 0xff00'0000, true;
    case r_dfr:
      if (x2apic()) return false;
      return dfr_ = value | 0x0fff'ffff, true;
    case r_svr: {
      svr_.store(value & 0x1ff, std::memory_order_release);
      if (!software_enabled())
        for (unsigned n = 0; n < 6; n++) write_lvt(n, lvt_[n] | lvt_masked);
      recheck();
      return true;
    }
    case r_esr: return esr_ = errors_.exchange(0), true;
    case r_icr: icr_ = (icr_ & ~u64{0xffff'ffff}) | (value & 0xccfff); return send_ipi(icr_), true;
    case r_icr_high:
      if (x2apic()) return false;
      return icr_ = (icr_ & 0xffff'ffff) | u64{value & 0xff00'0000} << 32, true;
    case r_initial: {
      const Lock lock{timer_lock_};
      if (timer_mode() == 2) return true;
      initial_count_ = value;
      timer_start_ns_ = timer_.now().count();
      return arm_timer(true), true;
    }
    case r_divide: {
      const Lock lock{timer_lock_};
      divide_ = value & 0xb;
      return arm_timer(), true;
    }
    default: break;
  }
  if (index >= r_lvt && index < r_lvt + 6) return write_lvt(index - r_lvt, value), true;
  return false;
}

u32 Apic::read_page(u32 offset) {
  u32 value = 0;
  if (offset & 0xf) return 0;  // only the first of 16 bytes counts
  if (!read_register(offset >> 4, value)) report_error(illegal_register);
  return value;
}

void Apic::write_page(u32 offset, u32 value) {
  if (offset & 0xf) return;
  if (!write_register(offset >> 4, value)) {
    guest_error(type.name, "write of {:#x} to offset {:#x}", value, offset);
    report_error(illegal_register);
  }
}

bool Apic::read_x2apic(u32 msr, u64& value) {
  if (!x2apic()) return false;
  const unsigned index = msr & 0xff;
  if (index == r_icr) return value = icr_, true;
  if (index == r_icr_high || index == r_self_ipi || index == r_eoi) return false;
  u32 low = 0;
  if (!read_register(index, low)) return false;
  return value = low, true;
}

// Reserved bits that are set are #GP (§11.12.1.2).
bool Apic::write_x2apic(u32 msr, u64 value) {
  if (!x2apic()) return false;
  const unsigned index = msr & 0xff;
  if (index == r_icr) {
    if (value & 0xfff3'2000) return false;
    icr_ = value;
    return send_ipi(icr_), true;
  }
  if (index == r_self_ipi) {
    if (value > 0xff) return false;
    return send_ipi(1 << 18 | value), true;
  }
  if (value >> 32) return false;
  if ((index == r_eoi || index == r_esr) && value) return false;
  if (index == r_tpr && value > 0xff) return false;
  if (index == r_id || index == r_icr_high) return false;
  if (index >= r_lvt && index < r_lvt + 6 && value & ~u64{lvt_writable[index - r_lvt] | lvt_remote_irr | 1 << 12}) return false;
  return write_register(index, static_cast<u32>(value));
}

// §11.4.4 and figure 11-27: the transitions that are allowed.
bool Apic::set_base_msr(u64 value) {
  const u64 before = base_msr();
  if (value & (0x2ff | (has_x2apic_ ? 0 : 1 << 10)) || value >> 52) return false;
  const bool was_on = before & 1 << 11, was_x2 = before & 1 << 10, on = value & 1 << 11, x2 = value & 1 << 10;
  if (x2 && !on) return false;
  if (was_x2 && on && !x2) return false;
  if (!was_on && x2) return false;
  base_.store(value, std::memory_order_release);
  if (was_on && !on) {
    reset(true);
  } else if (x2 && !was_x2) {
    ldr_ = (id_ >> 4) << 16 | 1 << (id_ & 15);
    icr_ &= 0xffff'ffff;
  }
  recheck();
  return true;
}

std::string Apic::describe() const {
  static constexpr std::string_view names[6] = {"LVTT", "LVTTHMR", "LVTPC", "LVT0", "LVT1", "LVTERR"};
  static constexpr std::string_view modes[8] = {"Fixed", "lowest", "SMI", "reserved", "NMI", "INIT", "SIPI", "ExtINT"};
  std::string text = format("dumping local APIC state for CPU {:<2}\n\n", vcpu_ ? vcpu_->index() : 0);
  for (unsigned n : {lint0, lint1, performance, error, thermal, timer}) {
    const u32 l = lvt_[n];
    text += format("{}\t 0x{:08x} {} {} {}", names[n], l, bit(l, 13) ? "active-lo" : "active-hi", l & lvt_level ? "level" : "edge ",
                   l & lvt_masked ? "masked" : "      ");
    text += format(" {:8} (vec {})\n",
                   n == timer ? (l >> 17 & 3) == 2   ? "tsc-deadline"
                                : (l >> 17 & 3) == 1 ? "periodic"
                                                     : "one-shot"
                              : modes[l >> 8 & 7],
                   l & 0xff);
  }
  {
    const Lock lock{timer_lock_};
    text += format("Timer\t DCR=0x{:x} (divide by {}) initial_count = {} current_count = {}\n", divide_, divisor(), initial_count_,
                   const_cast<Apic*>(this)->current_count());
  }
  text += format("SPIV\t 0x{:08x} APIC {}, focus=off, spurious vec {}\n", svr_.load(), software_enabled() ? "enabled" : "disabled",
                 svr_ & 0xff);
  text += format("ICR\t 0x{:08x}\nICR2\t 0x{:08x}\nESR\t 0x{:08x}\n", static_cast<u32>(icr_), static_cast<u32>(icr_ >> 32), esr_.load());
  const auto list = [](const Words& words) {
    std::string s;
    for (unsigned v = 0; v < 256; v++)
      if (words[v / 32] >> (v % 32) & 1) s += format(" {}", v);
    return s.empty() ? std::string{" (none)"} : s;
  };
  text += format("ISR\t{}\nIRR\t{}\n\n", list(isr_), list(irr_));
  text += format("APR 0x00 TPR 0x{:02x} DFR 0x{:02x} LDR 0x{:02x}PPR 0x{:02x}\n", tpr(), dfr_ >> 24, ldr_ >> 24, processor_priority());
  return text;
}

}  // namespace vmm::hw
