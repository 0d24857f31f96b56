// A debugger outside the machine, under KVM. Source: Linux, Documentation/virt/kvm/api.rst (KVM_SET_GUEST_DEBUG); SDM 3B 17.2.4.
#include <sys/ioctl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "accel/kvm/cpu.h"
#include "src/base/log.h"

namespace vmm::kvm {
namespace {

using vm::DebugPoint;
using vm::DebugStop;
constexpr usize debug_registers = 4;
constexpr u8 vector_db = 1, vector_bp = 3;

// Its enable bit, type (0 execute, 1 write, 3 access) and length (0: 1, 1: 2, 3: 4, 2: 8 bytes) in DR7.
u64 control_of(usize number, const DebugPoint& p) {
  const u64 type = p.code() ? 0 : p.kind == DebugPoint::Kind::write ? 1 : 3;
  const u64 length = p.code() || p.length == 1 ? 0 : p.length == 2 ? 1 : p.length == 4 ? 3 : 2;
  return u64{2} << (2 * number) | (type | length << 2) << (16 + 4 * number);
}

}  // namespace

// A register tells no read from a write of the same value: reads alone are not watched.
bool KvmCpu::holds(std::span<const DebugPoint> points) {
  return std::ranges::count_if(points, [](const DebugPoint& p) { return !p.code(); }) <= static_cast<std::ptrdiff_t>(debug_registers) &&
         std::ranges::all_of(points, [](const DebugPoint& p) {
           return p.code() ||
                  (p.kind != DebugPoint::Kind::read && std::has_single_bit(p.length) && p.length <= 8 && p.address % p.length == 0);
         });
}

void KvmCpu::set_debug(std::span<const DebugPoint> points, const vm::StepOptions* step) {
  debug_registers_.clear();  // they name points
  points_.assign(points.begin(), points.end());
  step_ = step != nullptr;
  hold_interrupts_ = step && step->hold_interrupts;
  debug_due_ = step_ || !points_.empty() || debugging_;
}

// With the registers already in the kernel.
Result<> KvmCpu::put_debug() {
  debug_due_ = false;
  complete_state();
  lift();
  const u64 here = linear_rip();
  over_ = !step_ && std::exchange(resumed_, false) &&
          std::ranges::any_of(points_, [&](const DebugPoint& p) { return p.code() && p.address == here; });
  debug_registers_.clear();
  kvm_guest_debug debug = {};
  for (const DebugPoint& p : points_)
    if (!p.code()) debug_registers_.push_back(&p);
  if (!step_ && !over_) plant();
  u64 control = 0;
  for (usize n = 0; n < debug_registers_.size(); n++) {
    debug.arch.debugreg[n] = debug_registers_[n]->address;
    control |= control_of(n, *debug_registers_[n]);
  }
  if (control) debug.arch.debugreg[7] = control | 0x600;
  if (step_ || over_) debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
  if (step_ && hold_interrupts_ && apic_in_kernel_ && accelerator_.can_hold_interrupts()) debug.control |= KVM_GUESTDBG_BLOCKIRQ;
  if (control) debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
  if (!planted_.empty()) debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
  if (::ioctl(fd_.get(), KVM_SET_GUEST_DEBUG, &debug) < 0) return fail("KVM cannot be debugged here: {}", std::strerror(errno));
  debugging_ = debug.control != 0;
  return {};
}

// Where the guest's tables have a place for it now: a point in a program's memory is planted when this CPU runs that program.
void KvmCpu::plant() {
  for (const DebugPoint& p : points_) {
    if (!p.code()) continue;
    const auto at = translate(GuestVirt{p.address});
    if (at && accelerator_.planted().plant(memory(), *at)) planted_.emplace_back(p.address, *at);
    // In a register too: a KVM that interprets takes int3 in real mode for the guest's own.
    if (debug_registers_.size() < debug_registers) debug_registers_.push_back(&p);
  }
}

void KvmCpu::lift() {
  for (const auto& [linear, at] : planted_) accelerator_.planted().lift(memory(), at);
  planted_.clear();
}

bool KvmCpu::met_planted(u64 linear) {
  if (std::ranges::none_of(planted_, [&](const auto& p) { return p.first == linear; })) return false;
  left_ = Left::debug;
  stop_ = {.why = DebugStop::Why::code};
  return true;
}

bool KvmCpu::debug_exit() {
  const auto& met = run_->debug.arch;
  complete_state();
  if (met.exception == vector_bp) {
    if (met_planted(met.pc)) return false;
    return give_back(vector_bp), true;  // an int3 of the guest's own
  }
  for (usize n = 0; n < debug_registers_.size(); n++) {
    if (!(met.dr6 >> n & 1)) continue;
    const DebugPoint& p = *debug_registers_[n];
    stop_ = {.why = p.code() ? DebugStop::Why::code : DebugStop::Why::watch, .kind = p.kind, .address = p.address};
    return left_ = Left::debug, false;
  }
  if (step_) {
    stop_ = {.why = DebugStop::Why::step};
    return left_ = Left::debug, false;
  }
  if (over_) return debug_due_ = true;  // now with the points
  return give_back(vector_db), true;
}

// The guest's own exception, which came to us because we look for ours.
void KvmCpu::give_back(u8 exception) {
  kvm_vcpu_events events = {};
  if (::ioctl(fd_.get(), KVM_GET_VCPU_EVENTS, &events) < 0) return;
  events.exception.injected = 1, events.exception.nr = exception, events.exception.has_error_code = 0;
  if (::ioctl(fd_.get(), KVM_SET_VCPU_EVENTS, &events) < 0) report_error(format("KVM takes no exception: {}", std::strerror(errno)));
}

}  // namespace vmm::kvm
